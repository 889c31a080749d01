"""Keeps events in the database of the catalog: the same few statements for SQLite and PostgreSQL, however many rows.

Rows go in and come out as one JSON text, which the database takes apart or makes. So a thousand events are one
statement and one row of answer, and Python computes next to nothing meanwhile: a driver that fetches row by row lets
other threads run, and waits for them, once a row. Every transaction raises the one version first, which orders writers
(``tables``). Of each user the newest ``most`` events count. Older ones are pruned as new ones come: an eighth more is
left at most, a writer.
"""

import json
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Any

import sqlalchemy as sa

from service.catalog.database import Database
from service.events.rows import DeletedUser, Event, NewEvents, Outcome, StoredEvent
from service.events.tables import DELETED_USERS, EVENT_STATE, EVENTS

_MOST_COUNTED_USERS = 100_000
_FETCHED = 20_000
_PAGE = 10_000
"""Events that memory takes over at once: what is deleted meanwhile waits for so many."""

_COLUMNS = "user_id, domain, item_id, kind, happened_us, version, position"
_NEWEST_FIRST = "happened_us DESC, version DESC, position DESC"
_RAISE = sa.text("UPDATE event_state SET version = version + 1 RETURNING version")
_VERSION = sa.select(EVENT_STATE.c.version)
_WITHIN = "version > :after AND version <= :until"
_PAGE_END = sa.text("SELECT version FROM user_events WHERE version > :after ORDER BY version LIMIT 1 OFFSET :last")
_STORED_AT = sa.text("SELECT event_id FROM user_events WHERE version = :version")
_DELETED_WITHIN = sa.text(f"SELECT user_id FROM deleted_users WHERE {_WITHIN}")  # noqa: S608


class EventStore:
    """Where events survive. All methods may be called from any thread.

    All of them raise :class:`service.errors.StoreUnavailableError` when the database does not answer.
    """

    def __init__(self, database: Database, most: int) -> None:
        """``most`` events of a user count: the newest."""
        self._database = database
        self._most = most
        self._counts = _Counts(most + max(1, most // 8))
        rows, of_users = "json_each(:rows)", "user_id IN (SELECT value FROM json_each(:users))"
        if database.is_postgres:
            rows, of_users = "json_array_elements(CAST(:rows AS json))", "user_id = ANY(CAST(:users AS text[]))"
        fields = ", ".join(f"value->>{place}" for place in range(5))
        self._insert = sa.text(
            f"INSERT INTO user_events (event_id, {_COLUMNS}) SELECT {fields}, CAST(value->>5 AS BIGINT), "  # noqa: S608
            f"CAST(:version AS BIGINT), CAST(value->>6 AS INTEGER) FROM {rows} WHERE NOT EXISTS (SELECT 1 FROM "
            "deleted_users AS gone WHERE gone.user_id = value->>1 AND gone.deleted_us >= CAST(value->>5 AS BIGINT)) "
            "ON CONFLICT (event_id) DO NOTHING"
        ).execution_options(preserve_rowcount=True)
        array, row = ("json_agg", "json_build_array") if database.is_postgres else ("json_group_array", "json_array")
        found = f"SELECT CAST({array}({row}({_COLUMNS})) AS TEXT) FROM user_events WHERE"  # noqa: S608
        self._of_users = sa.text(f"{found} {of_users}")
        self._within = sa.text(f"{found} {_WITHIN}")
        self._forgotten = sa.text(f"SELECT user_id, deleted_us FROM deleted_users WHERE {of_users}")  # noqa: S608
        self._count = sa.text(
            f"SELECT user_id, count(*) FROM user_events WHERE {of_users} GROUP BY user_id"  # noqa: S608
        )
        self._prune = sa.text(
            "DELETE FROM user_events WHERE event_id IN (SELECT event_id FROM (SELECT event_id, row_number() OVER "  # noqa: S608
            f"(PARTITION BY user_id ORDER BY {_NEWEST_FIRST}) AS place FROM user_events WHERE {of_users}) "
            "AS ranked WHERE place > :most)"
        )

    def version(self) -> int:
        """The version of the last transaction that wrote."""
        with self._database.reading() as connection:
            return int(connection.execute(_VERSION).scalar_one())

    def add(self, events: Sequence[Event]) -> list[Outcome]:
        """Store events in one transaction; each has survived a crash, or is no new one, once this returns.

        Returns:
            One outcome an event, in order; of equal ids the first one is stored.
        """
        first: dict[str, int] = {}
        for place, event in enumerate(events):
            first.setdefault(event.event_id, place)
        text = json.dumps([(*events[place], place) for place in first.values()], ensure_ascii=False)
        with self._database.writing() as connection:
            version = connection.execute(_RAISE).scalar_one()
            inserted = connection.execute(self._insert, {"rows": text, "version": version}).rowcount
            stored = set(first)
            if inserted < len(first):
                stored = set(connection.execute(_STORED_AT, {"version": version}).scalars())
            known = [events[place] for event_id, place in first.items() if event_id not in stored]
            forgotten = self._forgotten_of(connection, known)
            added = [events[place].user_id for event_id, place in first.items() if event_id in stored]
            grown = self._grown(connection, added)
        for user_id, count in grown.items():
            self._counts.set(user_id, count)
        return [
            "forgotten"
            if event.event_id in forgotten
            else "accepted"
            if event.event_id in stored and first[event.event_id] == place
            else "duplicate"
            for place, event in enumerate(events)
        ]

    def histories(self, users: Sequence[str]) -> dict[str, list[StoredEvent]]:
        """The newest events of users, oldest first; users without any are left out."""
        with self._database.reading() as connection:
            return self._histories(connection, users)

    def since(self, version: int, page: int = _PAGE) -> NewEvents | None:
        """What was committed after a version, the oldest first; None if nothing was.

        Args:
            page: so many events are enough; whole transactions are told, so the last one may bring some more.
        """
        with self._database.reading() as connection:
            now = int(connection.execute(_VERSION).scalar_one())
            if now == version:
                return None
            end = connection.scalar(_PAGE_END, {"after": version, "last": page - 1})
            span = {"after": version, "until": now if end is None else end}
            deleted = tuple(connection.execute(_DELETED_WITHIN, span).scalars())
            text = connection.execute(self._within, span).scalar_one()
        events = sorted(_events_in(text), key=itemgetter(5, 6))
        return NewEvents(span["until"], deleted, events, is_page=span["until"] < now)

    def all_beyond(self, learnt_us: Mapping[str, int]) -> Iterator[tuple[int, list[list[StoredEvent]]]]:
        """The histories of all users who did something in a domain after the time given for it, some users at once.

        Args:
            learnt_us: a time of each domain, in microseconds; of other domains everything is meant.

        Yields:
            The version that all of them are read at, and one list of events a user, oldest first.
        """
        beyond = [sa.and_(EVENTS.c.domain == domain, EVENTS.c.happened_us > time) for domain, time in learnt_us.items()]
        users = sa.select(EVENTS.c.user_id).where(sa.or_(EVENTS.c.domain.not_in(list(learnt_us)), *beyond))
        order = (EVENTS.c.user_id, EVENTS.c.happened_us, EVENTS.c.version, EVENTS.c.position)
        columns = [EVENTS.c[name] for name in _COLUMNS.split(", ")]
        query = sa.select(*columns).where(EVENTS.c.user_id.in_(users)).order_by(*order)
        with self._database.reading() as connection:
            version = int(connection.execute(_VERSION).scalar_one())
            rows = connection.execution_options(yield_per=_FETCHED).execute(query)
            batch: list[list[StoredEvent]] = []
            size = 0
            for _, own in groupby((StoredEvent(*row) for row in rows), key=attrgetter("user_id")):
                batch.append(list(own)[-self._most :])
                size += len(batch[-1])
                if size >= _FETCHED:
                    yield version, batch
                    batch, size = [], 0
            yield version, batch

    def delete_user(self, user_id: str) -> tuple[int, int]:
        """Remove a user's events, and put the user on the list of deleted ones.

        Returns:
            How many events were removed, and the time that the list says.
        """
        gone = EVENTS.delete().where(EVENTS.c.user_id == user_id)
        with self._database.writing() as connection:
            version = connection.execute(_RAISE).scalar_one()
            deleted_us = time.time_ns() // 1000
            removed = connection.execute(gone).rowcount
            connection.execute(DELETED_USERS.delete().where(DELETED_USERS.c.user_id == user_id))
            values = {"user_id": user_id, "deleted_us": deleted_us, "version": version}
            connection.execute(DELETED_USERS.insert().values(values))
        self._counts.forget(user_id)
        return removed, deleted_us

    def deleted(self, after: str, limit: int) -> list[DeletedUser]:
        """The list of deleted users, in the order of their ids, from behind one of them."""
        query = sa.select(DELETED_USERS.c.user_id, DELETED_USERS.c.deleted_us).order_by(DELETED_USERS.c.user_id)
        with self._database.reading() as connection:
            found = connection.execute(query.where(DELETED_USERS.c.user_id > after).limit(limit))
            return [DeletedUser(*row) for row in found]

    def _histories(self, connection: sa.Connection, users: Sequence[str]) -> dict[str, list[StoredEvent]]:
        found: dict[str, list[StoredEvent]] = {}
        if users:
            for event in _events_in(connection.execute(self._of_users, self._named(users)).scalar_one()):
                found.setdefault(event.user_id, []).append(event)
        for events in found.values():
            events.sort(key=_order)
            del events[: -self._most]
        return found

    def _named(self, users: Sequence[str]) -> dict[str, Any]:
        """Users as the parameter of a statement; however many they are, it stays the same statement."""
        return {"users": list(users) if self._database.is_postgres else json.dumps(list(users), ensure_ascii=False)}

    def _forgotten_of(self, connection: sa.Connection, events: Sequence[Event]) -> set[str]:
        """The ids of those that happened before their user was deleted."""
        if not events:
            return set()
        users = self._named(sorted({event.user_id for event in events}))
        deleted = {row[0]: row[1] for row in connection.execute(self._forgotten, users)}
        return {event.event_id for event in events if event.happened_us <= deleted.get(event.user_id, -1)}

    def _grown(self, connection: sa.Connection, added: Sequence[str]) -> dict[str, int]:
        """How many events the users of added ones have now; who has too many is pruned."""
        grown: dict[str, int] = {}
        unknown = set()
        for user_id in added:
            count = grown.get(user_id, self._counts.get(user_id))
            if count is None:
                unknown.add(user_id)
            else:
                grown[user_id] = count + 1
        if unknown:
            grown |= {row[0]: row[1] for row in connection.execute(self._count, self._named(sorted(unknown)))}
        full = [user_id for user_id, count in grown.items() if count > self._counts.most]
        if full:
            connection.execute(self._prune, self._named(full) | {"most": self._most})
        return grown | dict.fromkeys(full, self._most)


class _Counts:
    """How many events the users have who sent some lately, so that pruning need not count them each time."""

    def __init__(self, most: int) -> None:
        """More than ``most`` are too many."""
        self.most = most
        self._counts: OrderedDict[str, int] = OrderedDict()

    def get(self, user_id: str) -> int | None:
        """The count of a user; None if it is not known."""
        return self._counts.get(user_id)

    def set(self, user_id: str, count: int) -> None:
        """A user has so many events now."""
        self._counts.pop(user_id, None)  # to the end; another thread may forget the user meanwhile
        self._counts[user_id] = count
        if len(self._counts) > _MOST_COUNTED_USERS:
            self._counts.popitem(last=False)

    def forget(self, user_id: str) -> None:
        """The count of a user is not known any more."""
        self._counts.pop(user_id, None)


def _events_in(text: str | None) -> Iterator[StoredEvent]:
    """The events of a JSON array of rows; PostgreSQL gives none for no rows."""
    return map(StoredEvent._make, json.loads(text or "[]"))


def _order(event: StoredEvent) -> tuple[int, int, int]:
    return event.happened_us, event.version, event.position
