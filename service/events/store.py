"""Keeps events in the database of the catalog: the same few statements for SQLite and PostgreSQL, however many rows.

Rows go in and come out as a few long texts, which the database takes apart or makes (:mod:`service.events.texts`). So a
thousand events are one statement and one row of answer, and Python computes next to nothing meanwhile: a driver that
fetches row by row lets other threads run, and waits for them, once a row. Every transaction raises the one version
first, which orders writers (``tables``). Of each user the newest ``most`` events count. Older ones are pruned as new
ones come: an eighth more is left at most, a writer.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import attrgetter, itemgetter

import sqlalchemy as sa

from service.catalog.database import Database
from service.events.rows import DeletedUser, Event, NewEvents, Outcome, StoredEvent
from service.events.tables import DELETED_USERS, EVENT_STATE, EVENTS
from service.events.texts import COLUMNS, Texts, events_in

_MOST_COUNTED_USERS = 100_000
_FETCHED = 20_000
_PAGE = 2_000
"""Events that memory takes over at once: what is deleted meanwhile waits for so many."""

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
        self._texts = Texts(database.is_postgres)
        of_users = self._texts.in_users
        self._insert = sa.text(
            f"INSERT INTO user_events (event_id, {COLUMNS}) SELECT event_id, user_id, domain, item_id, kind, "  # noqa: S608
            f"happened_us, CAST(:version AS BIGINT), place FROM {self._texts.rows} WHERE NOT EXISTS (SELECT 1 FROM "
            "deleted_users AS gone WHERE gone.user_id = given.user_id AND gone.deleted_us >= given.happened_us) "
            "ON CONFLICT (event_id) DO NOTHING"
        ).execution_options(preserve_rowcount=True)
        found = f"SELECT {self._texts.joined} FROM user_events WHERE"  # noqa: S608
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
        count = len(events)
        first = dict(zip((event.event_id for event in reversed(events)), range(count - 1, -1, -1), strict=True))
        kept = events if len(first) == count else [events[place] for place in sorted(first.values())]
        with self._database.writing() as connection:
            version = connection.execute(_RAISE).scalar_one()
            inserted = connection.execute(self._insert, {"version": version, **self._texts.given(kept)}).rowcount
            stored = set(first)
            if inserted < len(first):
                stored = set(connection.execute(_STORED_AT, {"version": version}).scalars())
            forgotten = self._forgotten_of(connection, [event for event in kept if event.event_id not in stored])
            grown = self._grown(connection, [event.user_id for event in kept if event.event_id in stored])
        self._counts.update(grown)
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

        A database that went back to an older state tells its own version, and no events.

        Args:
            page: so many events are enough; whole transactions are told, so the last one may bring some more.
        """
        with self._database.reading() as connection:
            now = int(connection.execute(_VERSION).scalar_one())
            if now == version:
                return None
            if now < version:
                return NewEvents(now, (), ())
            end = connection.scalar(_PAGE_END, {"after": version, "last": page - 1})
            span = {"after": version, "until": now if end is None else end}
            deleted = tuple(connection.execute(_DELETED_WITHIN, span).scalars())
            joined = connection.execute(self._within, span).one()
        events = sorted(events_in(joined), key=itemgetter(5, 6))
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
        columns = [EVENTS.c[name] for name in StoredEvent._fields]
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
            How many events were removed, and the time that the list says: now, or that of a later event, as a sender's
            clock may be fast and the event be sent again.
        """
        newest = sa.select(sa.func.max(EVENTS.c.happened_us)).where(EVENTS.c.user_id == user_id)
        before = sa.select(DELETED_USERS.c.deleted_us).where(DELETED_USERS.c.user_id == user_id)
        gone = EVENTS.delete().where(EVENTS.c.user_id == user_id)
        with self._database.writing() as connection:
            version = connection.execute(_RAISE).scalar_one()
            known = (connection.scalar(newest), connection.scalar(before))
            deleted_us = max(time.time_ns() // 1000, *(one or 0 for one in known))
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
            for event in events_in(connection.execute(self._of_users, self._texts.users(users)).one()):
                found.setdefault(event.user_id, []).append(event)
        for events in found.values():
            events.sort(key=_order)
            del events[: -self._most]
        return found

    def _forgotten_of(self, connection: sa.Connection, events: Sequence[Event]) -> set[str]:
        """The ids of those that happened before their user was deleted."""
        if not events:
            return set()
        users = self._texts.users(sorted({event.user_id for event in events}))
        deleted = {row[0]: row[1] for row in connection.execute(self._forgotten, users)}
        return {event.event_id for event in events if event.happened_us <= deleted.get(event.user_id, -1)}

    def _grown(self, connection: sa.Connection, added: Sequence[str]) -> dict[str, int]:
        """How many events the users of added ones have now; who has too many is pruned."""
        new = Counter(added)
        grown = {user_id: count + new[user_id] for user_id, count in self._counts.of(new).items()}
        if unknown := new.keys() - grown.keys():
            found = connection.execute(self._count, self._texts.users(sorted(unknown)))
            grown |= {row[0]: row[1] for row in found}
        full = [user_id for user_id, count in grown.items() if count > self._counts.most]
        if full:
            connection.execute(self._prune, self._texts.users(full) | {"most": self._most})
        return grown | dict.fromkeys(full, self._most)


class _Counts:
    """How many events the users have who sent some lately, so that pruning need not count them each time."""

    def __init__(self, most: int) -> None:
        """More than ``most`` are too many."""
        self.most = most
        self._counts: dict[str, int] = {}

    def of(self, users: Iterable[str]) -> dict[str, int]:
        """The counts of users, as far as they are known."""
        return {user_id: count for user_id in users if (count := self._counts.get(user_id)) is not None}

    def update(self, counts: Mapping[str, int]) -> None:
        """Users have so many events now; who came first is forgotten first."""
        self._counts.update(counts)
        while len(self._counts) > _MOST_COUNTED_USERS:
            self._counts.pop(next(iter(self._counts)), None)  # another thread may forget a user meanwhile

    def forget(self, user_id: str) -> None:
        """The count of a user is not known any more."""
        self._counts.pop(user_id, None)


def _order(event: StoredEvent) -> tuple[int, int, int]:
    return event.happened_us, event.version, event.position
