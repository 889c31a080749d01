"""Where routes hand events in and ask for histories: two threads of their own, beside those that compute.

What several requests send while a transaction runs is written by the next one, so committing costs a request next to
nothing. A request is answered once its events are committed. Lives as long as the service, whichever bundle serves.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from structlog.typing import FilteringBoundLogger

from service.engine import Engine, EngineLimits
from service.errors import DatabaseDownError, StoreUnavailableError
from service.events.kinds import read_kinds
from service.events.numbers import ItemNumbers
from service.events.rows import DeletedUser, Event, Outcome, StoredEvent
from service.events.store import EventStore
from service.job_queue import Cost
from service.metrics import Metrics
from service.settings import Settings

_COMMITTED_ROWS = 4096
"""Rows of one transaction: so few that others wait for its lock for a moment only."""

_READ_USERS = 256
_DRAIN_SECONDS = 5.0

Stored = Sequence[Outcome] | DatabaseDownError
Read = Sequence[StoredEvent] | DatabaseDownError


@dataclass(frozen=True)
class UserHistory:
    """What a user did, for the recommender.

    Attributes:
        items: (domain, item id) of what the user wanted, oldest first.
        disliked: (domain, item id) of those that must not come back, since the user did not want them.
    """

    items: tuple[tuple[str, str], ...] = ()
    disliked: frozenset[tuple[str, str]] = frozenset()


class EventDesk:
    """Writes and reads events. All methods may be called from any thread.

    Attributes:
        weights: of the kinds of events.
        numbers: of the items of events that routes look up, on the event loop.
    """

    def __init__(
        self,
        store: EventStore,
        settings: Settings,
        metrics: Metrics,
        log: FilteringBoundLogger,
        give_way: Callable[[], object] = lambda: None,
    ) -> None:
        """``give_way`` is called before events are written, and waits while there is more urgent work."""
        self.weights: Mapping[str, float] = read_kinds(settings.event_weights)
        self.numbers = ItemNumbers()
        self._store = store
        self._give_way = give_way
        self._most_history = settings.max_history_items
        self._exclude_disliked = settings.exclude_disliked
        self._writer: Engine[Sequence[Event], Stored] = Engine(
            "events",
            self._write,
            limits=EngineLimits(settings.max_event_queue, settings.max_event_queue, _COMMITTED_ROWS),
            observer=metrics.observer("events", log),
            cost=lambda events: Cost(added=max(1, len(events))),
        )
        self._reader: Engine[str, Read] = Engine(
            "users",
            self._read,
            limits=EngineLimits(settings.max_queue, settings.max_queue, _READ_USERS),
            observer=metrics.observer("users", log),
        )

    @property
    def alive(self) -> bool:
        """False once a thread has died."""
        return self._writer.alive and self._reader.alive

    def start(self) -> None:
        """Begin to write and read."""
        self._writer.start()
        self._reader.start()

    def stop(self) -> None:
        """Write what waits, and end."""
        self._writer.stop(drain=True, grace_seconds=_DRAIN_SECONDS)
        self._reader.stop()

    def put(self, events: Sequence[Event], deadline: float) -> "Future[Stored]":
        """Store the events of one request; one outcome each, once all of them are committed.

        Raises:
            QueueFullError: too many events wait.
            NotReadyError: the service is ending.
        """
        return self._writer.submit([events], deadline)[0]

    def ask(self, users: Sequence[str], deadline: float) -> "list[Future[Read]]":
        """The newest events of each of some users, oldest first.

        Raises:
            QueueFullError: too many users are asked for.
            NotReadyError: the service is ending.
        """
        return self._reader.submit(users, deadline)

    def delete(self, user_id: str) -> tuple[int, int]:
        """Remove a user; see :meth:`EventStore.delete_user`.

        Raises:
            DatabaseDownError: the database does not answer.
        """
        try:
            return self._store.delete_user(user_id)
        except StoreUnavailableError as error:
            raise _down() from error

    def deleted(self, after: str, limit: int) -> list[DeletedUser]:
        """The list of deleted users; see :meth:`EventStore.deleted`.

        Raises:
            DatabaseDownError: the database does not answer.
        """
        try:
            return self._store.deleted(after, limit)
        except StoreUnavailableError as error:
            raise _down() from error

    def history(self, events: Sequence[StoredEvent]) -> UserHistory:
        """What events say of a user's wishes."""
        weights = [self.weights.get(event.kind, 0.0) for event in events]
        # What counts nothing, like an impression, says nothing of what the user wants.
        newest = {
            (event.domain, event.item_id): weight for event, weight in zip(events, weights, strict=True) if weight
        }
        disliked = frozenset(key for key, weight in newest.items() if weight < 0)
        wanted = [
            (event.domain, event.item_id)
            for event, weight in zip(events, weights, strict=True)
            if weight > 0 and (event.domain, event.item_id) not in disliked
        ]
        return UserHistory(tuple(wanted[-self._most_history :]), disliked if self._exclude_disliked else frozenset())

    def _write(self, requests: Sequence[Sequence[Event]]) -> list[Stored]:
        self._give_way()
        try:
            outcomes = iter(self._store.add([event for events in requests for event in events]))
        except StoreUnavailableError:
            return [_down() for _ in requests]
        return [[next(outcomes) for _ in events] for events in requests]

    def _read(self, users: Sequence[str]) -> list[Read]:
        try:
            found = self._store.histories(list(dict.fromkeys(users)))
        except StoreUnavailableError:
            return [_down() for _ in users]
        return [found.get(user_id, []) for user_id in users]


def _down() -> DatabaseDownError:
    return DatabaseDownError(
        "the database of events does not answer; send the request again in a moment", retry_after=2
    )
