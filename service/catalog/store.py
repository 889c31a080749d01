"""Keeps changes of the catalog in a database, by SQLAlchemy: the same statements for SQLite and PostgreSQL.

The one row that holds the version puts commits in order: a commit names the version that it was made from, and is
refused when another one came first. So versions are seen in the order of their commits, and whoever has read up to
version V finds all that came later by ``changed_version > V``.

Shapes: D item vector dim.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from service.catalog.database import Database
from service.catalog.rows import CatalogStore, Changes, ItemVector, Key, Sid, StoredCatalog, StoredItem
from service.catalog.tables import ITEMS, NOTES, SIDS, STATE
from service.errors import StaleCatalogError

_KEYS_AT_ONCE = 500
_TURN_LOCK = 0x51DE7B


class SqlStore(CatalogStore):
    """The store of a path, an SQLite URL or a PostgreSQL URL."""

    def __init__(self, database: str) -> None:
        """Open the database; see :class:`service.catalog.database.Database` for what is allowed and raised."""
        self._database = Database(database)

    @property
    def database(self) -> Database:
        return self._database

    @property
    def name(self) -> str:
        """What to call the database before people."""
        return self._database.name

    def version(self) -> int:
        with self._database.reading() as connection:
            return int(connection.execute(sa.select(STATE.c.catalog_version)).scalar_one())

    def load(self, tokenizer: str, since: int = -1) -> StoredCatalog:
        own_sid = sa.and_(
            SIDS.c.tokenizer == tokenizer,
            SIDS.c.domain == ITEMS.c.domain,
            SIDS.c.item_id == ITEMS.c.item_id,
            SIDS.c.is_current,
        )
        query = (
            sa.select(
                ITEMS.c.domain,
                ITEMS.c.item_id,
                ITEMS.c.fields,
                ITEMS.c.hidden,
                ITEMS.c.deleted,
                SIDS.c.sid,
                SIDS.c.moved,
                SIDS.c.retokenized,
            )
            .select_from(ITEMS.outerjoin(SIDS, own_sid))
            .order_by(ITEMS.c.added_version, ITEMS.c.position)
        )
        retired_query = sa.select(SIDS.c.domain, SIDS.c.sid).where(SIDS.c.tokenizer == tokenizer, ~SIDS.c.is_current)
        if since >= 0:
            changed = sa.union(
                sa.select(ITEMS.c.domain, ITEMS.c.item_id).where(ITEMS.c.changed_version > since),
                sa.select(SIDS.c.domain, SIDS.c.item_id).where(
                    SIDS.c.tokenizer == tokenizer, SIDS.c.changed_version > since
                ),
            )
            query = query.where(sa.tuple_(ITEMS.c.domain, ITEMS.c.item_id).in_(changed))
            retired_query = retired_query.where(SIDS.c.changed_version > since)
        with self._database.reading() as connection:
            version = int(connection.execute(sa.select(STATE.c.catalog_version)).scalar_one())
            items = tuple(_stored_item(row) for row in connection.execute(query))
            retired: dict[str, list[Sid]] = defaultdict(list)
            for domain, sid in connection.execute(retired_query):
                retired[domain].append(_sid(sid))
        return StoredCatalog(version, items, retired)

    def vectors(self, keys: Sequence[Key]) -> dict[Key, ItemVector]:
        key = sa.tuple_(ITEMS.c.domain, ITEMS.c.item_id)
        query = sa.select(ITEMS.c.domain, ITEMS.c.item_id, ITEMS.c.encoder, ITEMS.c.vector)
        query = query.where(ITEMS.c.encoder.is_not(None))
        found = dict[Key, ItemVector]()
        with self._database.reading() as connection:
            for begin in range(0, len(keys), _KEYS_AT_ONCE):
                for row in connection.execute(query.where(key.in_(keys[begin : begin + _KEYS_AT_ONCE]))):
                    vector_D = np.frombuffer(row.vector, dtype="<f4").astype(np.float32)
                    found[row.domain, row.item_id] = ItemVector(row.encoder, vector_D)
        return found

    def commit(self, changes: Changes, *, tokenizer: str, expected_version: int, version: int) -> None:
        try:
            with self._database.writing() as connection:
                found = connection.execute(
                    STATE.update().where(STATE.c.catalog_version == expected_version).values(catalog_version=version)
                )
                if found.rowcount != 1:
                    raise StaleCatalogError(f"the catalog is not at version {expected_version} any more")
                self._write_items(connection, changes.items, version)
                self._write_vectors(connection, changes.vectors)
                self._write_sids(connection, changes, tokenizer, version)
        except sa.exc.IntegrityError as error:
            raise StaleCatalogError("a SID was taken by another process") from error

    @contextmanager
    def turn(self) -> Iterator[None]:
        if not self._database.is_postgres:  # writers of one file are few, and try again
            yield
            return
        with self._database.writing() as connection:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_TURN_LOCK)))
            yield

    def note(self, name: str) -> str | None:
        with self._database.reading() as connection:
            return connection.scalar(sa.select(NOTES.c.text).where(NOTES.c.name == name))

    def write_note(self, name: str, text: str) -> None:
        insert = self._insert(NOTES).values(name=name, text=text)
        with self._database.writing() as connection:
            connection.execute(insert.on_conflict_do_update(index_elements=[NOTES.c.name], set_={"text": text}))

    def close(self) -> None:
        self._database.close()

    def _write_items(self, connection: sa.Connection, items: Sequence[StoredItem], version: int) -> None:
        rows = [
            {
                "domain": item.domain,
                "item_id": item.item_id,
                "fields": None if item.fields is None else dict(item.fields),
                "hidden": item.hidden,
                "deleted": item.deleted,
                "added_version": version,
                "position": position,
                "changed_version": version,
            }
            for position, item in enumerate(items)
        ]
        if rows:
            insert = self._insert(ITEMS)
            new = insert.excluded
            replaced = {name: new[name] for name in ("hidden", "deleted", "changed_version")}
            # Fields that a bundle holds too are still those of an item that other bundles do not hold.
            replaced["fields"] = sa.case((new.deleted, new.fields), else_=sa.func.coalesce(new.fields, ITEMS.c.fields))
            keys = [ITEMS.c.domain, ITEMS.c.item_id]
            connection.execute(insert.on_conflict_do_update(index_elements=keys, set_=replaced), rows)

    def _write_vectors(self, connection: sa.Connection, vectors: Mapping[Key, ItemVector | None]) -> None:
        rows = [
            {
                "of_domain": domain,
                "of_item": item_id,
                "encoder": None if vector is None else vector.encoder,
                "vector": None if vector is None else vector.vector_D.astype("<f4").tobytes(),
            }
            for (domain, item_id), vector in vectors.items()
        ]
        if rows:
            one = sa.and_(ITEMS.c.domain == sa.bindparam("of_domain"), ITEMS.c.item_id == sa.bindparam("of_item"))
            values: dict[str, Any] = {"encoder": sa.bindparam("encoder"), "vector": sa.bindparam("vector")}
            connection.execute(ITEMS.update().where(one).values(values), rows)

    def _write_sids(self, connection: sa.Connection, changes: Changes, tokenizer: str, version: int) -> None:
        if changes.given:
            one = sa.and_(
                SIDS.c.tokenizer == tokenizer,
                SIDS.c.domain == sa.bindparam("of_domain"),
                SIDS.c.item_id == sa.bindparam("of_item"),
                SIDS.c.is_current,
            )
            retired = SIDS.update().where(one).values(is_current=False, changed_version=version)
            connection.execute(retired, [{"of_domain": item.domain, "of_item": item.item_id} for item in changes.given])
            rows = [_sid_row(item, tokenizer, version, is_current=True) for item in changes.given]
            connection.execute(SIDS.insert(), rows)
        if changes.reserved:
            rows = [_sid_row(item, tokenizer, version, is_current=False) for item in changes.reserved]
            connection.execute(self._insert(SIDS).on_conflict_do_nothing(), rows)

    def _insert(self, table: sa.Table) -> Any:
        return postgresql.insert(table) if self._database.is_postgres else sqlite.insert(table)


def _stored_item(row: Any) -> StoredItem:
    return StoredItem(
        row.domain,
        row.item_id,
        row.fields,
        None if row.sid is None else _sid(row.sid),
        moved=bool(row.moved),
        retokenized=bool(row.retokenized),
        hidden=row.hidden,
        deleted=row.deleted,
    )


def _sid(text: str) -> Sid:
    return tuple(int(code) for code in text.split(","))


def _sid_row(item: StoredItem, tokenizer: str, version: int, *, is_current: bool) -> dict[str, object]:
    return {
        "tokenizer": tokenizer,
        "domain": item.domain,
        "item_id": item.item_id,
        "sid": ",".join(str(code) for code in item.sid or ()),
        "moved": item.moved,
        "retokenized": item.retokenized,
        "is_current": is_current,
        "changed_version": version,
    }
