"""The tables of the database of registered items, as the newest migration leaves them.

``catalog_state`` is one row: the version of the catalog, which every change raises by at least one. Each other row says
which version changed it last, so what changed since a version is one range of an index, and nothing is logged twice. A
deleted item stays as a row without text, so that no bundle brings it back; a SID that an item had stays as a row that
is not current, so that no other item gets it.
"""

import sqlalchemy as sa

METADATA = sa.MetaData()

STATE = sa.Table(
    "catalog_state",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("schema_version", sa.Integer, nullable=False),
    sa.Column("catalog_version", sa.Integer, nullable=False),
)

ITEMS = sa.Table(
    "catalog_items",
    METADATA,
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
    sa.Index("catalog_items_by_change", "changed_version"),
)

SIDS = sa.Table(
    "item_sids",
    METADATA,
    sa.Column("tokenizer", sa.String(64), primary_key=True),
    sa.Column("domain", sa.String(64), primary_key=True),
    sa.Column("sid", sa.String(512), primary_key=True),
    sa.Column("item_id", sa.String(256), nullable=False),
    sa.Column("moved", sa.Boolean, nullable=False),
    sa.Column("retokenized", sa.Boolean, nullable=False),
    sa.Column("is_current", sa.Boolean, nullable=False),
    sa.Column("changed_version", sa.BigInteger, nullable=False),
    sa.ForeignKeyConstraint(["domain", "item_id"], ["catalog_items.domain", "catalog_items.item_id"]),
    sa.Index("item_sids_by_change", "tokenizer", "changed_version"),
    sa.Index(
        "item_sids_current",
        "tokenizer",
        "domain",
        "item_id",
        unique=True,
        sqlite_where=sa.text("is_current"),
        postgresql_where=sa.text("is_current"),
    ),
)

NOTES = sa.Table(
    "service_notes",
    METADATA,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("text", sa.Text, nullable=False),
)
