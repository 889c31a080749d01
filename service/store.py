"""Keeps registered items: an interface, and its SQLite form.

An item is kept with its text and vector; its SID is a row of its own per tokenizer, so a bundle with another tokenizer
places the same items anew, and going back to the first one finds its rows again. A catalog version counts the changes.
Knows nothing of bundles, tries or encoders.

Shapes: D dim.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from service.errors import StaleCatalogError, StoreError

SCHEMA_VERSION = 1

_KEYS_AT_ONCE = 500


@dataclass(frozen=True)
class StoredItem:
    """A registered item; its SID under one tokenizer, if it has been given one."""

    domain: str
    item_id: str
    fields: Mapping[str, object]
    sid: tuple[int, ...] | None = None
    moved: bool = False


@dataclass(frozen=True)
class ItemVector:
    """float32[D] and the digest of the encoder that made it."""

    encoder: str
    vector_D: npt.NDArray[np.float32]


@dataclass(frozen=True)
class StoredCatalog:
    """All registered items in the order of their registration, and the version of the catalog; 0 before the first."""

    version: int
    items: tuple[StoredItem, ...]


@dataclass(frozen=True)
class Changes:
    """What one change writes. ``vectors`` belong to ``items``, one each; ``sids`` may name other stored items too."""

    items: Sequence[StoredItem] = ()
    vectors: Sequence[ItemVector] = ()
    sids: Sequence[StoredItem] = ()


class CatalogStore(ABC):
    """Where registered items survive. One instance is used by one thread at a time."""

    @abstractmethod
    def load(self, tokenizer: str) -> StoredCatalog:
        """Everything that is registered, with the SIDs under the tokenizer of this digest."""

    @abstractmethod
    def vectors(self, keys: Sequence[tuple[str, str]]) -> list[ItemVector]:
        """The vectors of stored items ``(domain, item_id)``, in order."""

    @abstractmethod
    def commit(self, changes: Changes, *, tokenizer: str, expected_version: int, version: int) -> None:
        """Write a change as a whole; it has survived a crash once this returns.

        Args:
            changes: items to add or replace, and SIDs to add or replace.
            tokenizer: digest of the tokenizer of the SIDs.
            expected_version: the catalog version that the change was made from.
            version: the catalog version after it.

        Raises:
            StaleCatalogError: the store holds another version than expected, or a SID is taken; nothing was written.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of the database."""


_METADATA = sa.MetaData()

_STATE = sa.Table(
    "catalog_state",
    _METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("schema_version", sa.Integer, nullable=False),
    sa.Column("catalog_version", sa.Integer, nullable=False),
)
_ITEMS = sa.Table(
    "live_items",
    _METADATA,
    sa.Column("domain", sa.String(64), primary_key=True),
    sa.Column("item_id", sa.String(256), primary_key=True),
    sa.Column("fields", sa.JSON, nullable=False),
    sa.Column("encoder", sa.String(64), nullable=False),
    sa.Column("vector", sa.LargeBinary, nullable=False),
    sa.Column("added_version", sa.Integer, nullable=False),
    sa.Column("position", sa.Integer, nullable=False),
)
_SIDS = sa.Table(
    "live_sids",
    _METADATA,
    sa.Column("tokenizer", sa.String(64), primary_key=True),
    sa.Column("domain", sa.String(64), primary_key=True),
    sa.Column("item_id", sa.String(256), primary_key=True),
    sa.Column("sid", sa.String(128), nullable=False),
    sa.Column("moved", sa.Boolean, nullable=False),
    sa.ForeignKeyConstraint(["domain", "item_id"], ["live_items.domain", "live_items.item_id"]),
    sa.UniqueConstraint("tokenizer", "domain", "sid"),
)


class SqliteStore(CatalogStore):
    """Registered items in one SQLite file (WAL, ``synchronous=FULL``), which several processes may share."""

    def __init__(self, database: str) -> None:
        """Open the file, and create it and its tables where they are missing.

        Args:
            database: a path, or a URL ``sqlite:///path``.

        Raises:
            StoreError: it cannot be opened, is not SQLite, or was written by another release.
        """
        self._engine = sa.create_engine(_sqlite_url(database))
        sa.event.listen(self._engine, "connect", _prepare_connection)
        sa.event.listen(self._engine, "begin", _begin_immediate)
        try:
            with self._transaction() as connection:
                _METADATA.create_all(connection)
                written_by = connection.scalar(sa.select(_STATE.c.schema_version))
                if written_by is None:
                    connection.execute(_STATE.insert().values(id=1, schema_version=SCHEMA_VERSION, catalog_version=0))
                elif written_by != SCHEMA_VERSION:
                    raise StoreError(
                        f"database {database} has schema {written_by}, this release needs {SCHEMA_VERSION}; "
                        "choose another file with SIDERA_DATABASE"
                    )
        except sa.exc.DBAPIError as error:
            self.close()
            raise StoreError(
                f"database {database} cannot be opened ({error.orig}); set SIDERA_DATABASE to a writable file"
            ) from error
        except StoreError:
            self.close()
            raise

    def load(self, tokenizer: str) -> StoredCatalog:
        own_sid = sa.and_(
            _SIDS.c.domain == _ITEMS.c.domain, _SIDS.c.item_id == _ITEMS.c.item_id, _SIDS.c.tokenizer == tokenizer
        )
        query = (
            sa.select(_ITEMS.c.domain, _ITEMS.c.item_id, _ITEMS.c.fields, _SIDS.c.sid, _SIDS.c.moved)
            .select_from(_ITEMS.outerjoin(_SIDS, own_sid))
            .order_by(_ITEMS.c.added_version, _ITEMS.c.position)
        )
        with self._transaction() as connection:
            version = connection.scalar(sa.select(_STATE.c.catalog_version))
            items = tuple(
                StoredItem(
                    row.domain,
                    row.item_id,
                    row.fields,
                    None if row.sid is None else tuple(int(code) for code in row.sid.split(",")),
                    bool(row.moved),
                )
                for row in connection.execute(query)
            )
        return StoredCatalog(version or 0, items)

    def vectors(self, keys: Sequence[tuple[str, str]]) -> list[ItemVector]:
        key = sa.tuple_(_ITEMS.c.domain, _ITEMS.c.item_id)
        found = dict[tuple[str, str], ItemVector]()
        with self._transaction() as connection:
            for begin in range(0, len(keys), _KEYS_AT_ONCE):
                query = sa.select(_ITEMS.c.domain, _ITEMS.c.item_id, _ITEMS.c.encoder, _ITEMS.c.vector)
                for row in connection.execute(query.where(key.in_(keys[begin : begin + _KEYS_AT_ONCE]))):
                    vector_D = np.frombuffer(row.vector, dtype="<f4").astype(np.float32)
                    found[row.domain, row.item_id] = ItemVector(row.encoder, vector_D)
        return [found[wanted] for wanted in keys]

    def commit(self, changes: Changes, *, tokenizer: str, expected_version: int, version: int) -> None:
        items = [
            {
                "domain": item.domain,
                "item_id": item.item_id,
                "fields": dict(item.fields),
                "encoder": vector.encoder,
                "vector": vector.vector_D.astype("<f4").tobytes(),
                "added_version": version,
                "position": position,
            }
            for position, (item, vector) in enumerate(zip(changes.items, changes.vectors, strict=True))
        ]
        sids = [
            {
                "tokenizer": tokenizer,
                "domain": item.domain,
                "item_id": item.item_id,
                "sid": ",".join(str(code) for code in item.sid or ()),
                "moved": item.moved,
            }
            for item in changes.sids
        ]
        try:
            with self._transaction() as connection:
                found = connection.execute(
                    _STATE.update().where(_STATE.c.catalog_version == expected_version).values(catalog_version=version)
                )
                if found.rowcount != 1:
                    raise StaleCatalogError(f"the catalog is not at version {expected_version} any more")
                if items:
                    connection.execute(_upsert(_ITEMS, ("fields", "encoder", "vector")), items)
                if sids:
                    connection.execute(_upsert(_SIDS, ("sid", "moved")), sids)
        except sa.exc.IntegrityError as error:
            raise StaleCatalogError("a SID was taken by another process") from error

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        with self._engine.begin() as connection:
            yield connection


def _sqlite_url(database: str) -> sa.URL:
    if "://" not in database:
        return sa.URL.create("sqlite", database=str(Path(database)))
    try:
        url = sa.make_url(database)
    except sa.exc.ArgumentError:
        raise StoreError("SIDERA_DATABASE is not a URL; use a path or sqlite:///path") from None
    if url.get_backend_name() != "sqlite":
        raise StoreError(f"SIDERA_DATABASE names {url.get_backend_name()!r}; use a path or sqlite:///path")
    return url


def _upsert(table: sa.Table, columns: Sequence[str]) -> sqlite.Insert:
    insert = sqlite.insert(table)
    return insert.on_conflict_do_update(
        index_elements=list(table.primary_key), set_={name: insert.excluded[name] for name in columns}
    )


def _prepare_connection(connection: sa.engine.interfaces.DBAPIConnection, record: object) -> None:
    # The driver's own, late BEGIN would let two processes read before either writes; see _begin_immediate.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("busy_timeout=10000", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_immediate(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
