"""The tables of events, as the newest migration leaves them; they lie beside those of the catalog.

``event_state`` is one row: a version that every transaction raises first, and so locks until it is committed. Versions
are therefore seen in the order of their commits, also with several writers on PostgreSQL, and whoever has read up to
version V finds all that came later by ``version > V``: no event is ever missed.
"""

import sqlalchemy as sa

from service.catalog.tables import METADATA

__all__ = ["DELETED_USERS", "EVENTS", "EVENT_STATE", "METADATA"]

EVENT_STATE = sa.Table(
    "event_state",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
)

EVENTS = sa.Table(
    "user_events",
    METADATA,
    sa.Column("event_id", sa.String(128), primary_key=True),
    sa.Column("user_id", sa.String(256), nullable=False),
    sa.Column("domain", sa.String(64), nullable=False),
    sa.Column("item_id", sa.String(256), nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("happened_us", sa.BigInteger, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Index("user_events_by_user", "user_id", "happened_us"),
    sa.Index("user_events_by_version", "version"),
)
"""``happened_us``: microseconds since 1970; ``version`` and ``position`` say when an event came, and break ties."""

DELETED_USERS = sa.Table(
    "deleted_users",
    METADATA,
    sa.Column("user_id", sa.String(256), primary_key=True),
    sa.Column("deleted_us", sa.BigInteger, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Index("deleted_users_by_version", "version"),
)
