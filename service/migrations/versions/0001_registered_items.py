"""Registered items and their SIDs. A SQLite file of a release before migrations is as if this step had been taken."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    state = op.create_table(
        "catalog_state",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("schema_version", sa.Integer, nullable=False),
        sa.Column("catalog_version", sa.Integer, nullable=False),
    )
    op.create_table(
        "live_items",
        sa.Column("domain", sa.String(64), primary_key=True),
        sa.Column("item_id", sa.String(256), primary_key=True),
        sa.Column("fields", sa.JSON, nullable=False),
        sa.Column("encoder", sa.String(64), nullable=False),
        sa.Column("vector", sa.LargeBinary, nullable=False),
        sa.Column("added_version", sa.Integer, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
    )
    op.create_table(
        "live_sids",
        sa.Column("tokenizer", sa.String(64), primary_key=True),
        sa.Column("domain", sa.String(64), primary_key=True),
        sa.Column("item_id", sa.String(256), primary_key=True),
        sa.Column("sid", sa.String(128), nullable=False),
        sa.Column("moved", sa.Boolean, nullable=False),
        sa.ForeignKeyConstraint(["domain", "item_id"], ["live_items.domain", "live_items.item_id"]),
        sa.UniqueConstraint("tokenizer", "domain", "sid"),
    )
    op.bulk_insert(state, [{"id": 1, "schema_version": 1, "catalog_version": 0}])
