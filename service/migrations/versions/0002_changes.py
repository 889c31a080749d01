"""Items can be hidden and deleted, SIDs are never given twice, and every row knows the version that changed it.

``schema_version`` says 2 from here on, which a release before migrations refuses.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_COPY_ITEMS = """
INSERT INTO catalog_items
    (domain, item_id, fields, encoder, vector, hidden, deleted, added_version, position, changed_version)
SELECT domain, item_id, fields, encoder, vector, false, false, added_version, position,
    (SELECT catalog_version FROM catalog_state)
FROM live_items
"""
_COPY_SIDS = """
INSERT INTO item_sids (tokenizer, domain, sid, item_id, moved, retokenized, is_current, changed_version)
SELECT tokenizer, domain, sid, item_id, moved, false, true, (SELECT catalog_version FROM catalog_state)
FROM live_sids
"""


def upgrade() -> None:
    op.create_table(
        "catalog_items",
        sa.Column("domain", sa.String(64), primary_key=True),
        sa.Column("item_id", sa.String(256), primary_key=True),
        sa.Column("fields", sa.JSON(none_as_null=True)),
        sa.Column("encoder", sa.String(64)),
        sa.Column("vector", sa.LargeBinary),
        sa.Column("hidden", sa.Boolean, nullable=False),
        sa.Column("deleted", sa.Boolean, nullable=False),
        sa.Column("added_version", sa.BigInteger, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("changed_version", sa.BigInteger, nullable=False),
    )
    op.create_index("catalog_items_by_change", "catalog_items", ["changed_version"])
    op.create_table(
        "item_sids",
        sa.Column("tokenizer", sa.String(64), primary_key=True),
        sa.Column("domain", sa.String(64), primary_key=True),
        sa.Column("sid", sa.String(512), primary_key=True),
        sa.Column("item_id", sa.String(256), nullable=False),
        sa.Column("moved", sa.Boolean, nullable=False),
        sa.Column("retokenized", sa.Boolean, nullable=False),
        sa.Column("is_current", sa.Boolean, nullable=False),
        sa.Column("changed_version", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(["domain", "item_id"], ["catalog_items.domain", "catalog_items.item_id"]),
    )
    op.create_index("item_sids_by_change", "item_sids", ["tokenizer", "changed_version"])
    op.create_index(
        "item_sids_current",
        "item_sids",
        ["tokenizer", "domain", "item_id"],
        unique=True,
        sqlite_where=sa.text("is_current"),
        postgresql_where=sa.text("is_current"),
    )
    op.execute(_COPY_ITEMS)
    op.execute(_COPY_SIDS)
    op.drop_table("live_sids")
    op.drop_table("live_items")
    op.execute("UPDATE catalog_state SET schema_version = 2")
