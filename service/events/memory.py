"""Learns from events without training: what they add to a bundle's counts of transitions, in step with the store.

An event counts if it is newer than what the bundle was trained on in its domain; older ones only stand before it. What
each user added is kept in a ledger, so a late event, a deleted user or an item that is registered after its events
takes back exactly what was added, and adds what is right: the result is what counting all stored events anew gives.

An event of an item that the catalog does not hold counts once it does. The events of a deleted item stay, and lead to
nothing while it is gone.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise

import numpy as np
import numpy.typing as npt

from service.events.counting import Counting
from service.events.ledger import RECORD, Events, Ledger, records_of
from service.events.rows import NewEvents, StoredEvent
from service.events.store import EventStore
from service.events.unknown import Key, UnknownItems
from sidera.catalog import Catalog
from sidera.items.transitions import TransitionDelta, pairs_of

Pairs = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]
Use = Callable[[TransitionDelta, float], None]
"""Puts counts into use, and says what time it is; returns once they are."""

_ENTRY_BYTES = 16
_FADE_SECONDS = 600.0
"""How often old counts fade where nothing happens."""


@dataclass(frozen=True)
class Bounds:
    """How much is kept: events of one user, and bytes, of which counts and ledger may have one half each."""

    user_events: int
    memory_bytes: int


class EventMemory:
    """The counts that events added to one bundle. All methods may be called from any thread."""

    def __init__(
        self,
        store: EventStore,
        counting: Counting,
        weights: Mapping[str, float],
        bounds: Bounds,
        catalog: Callable[[], Catalog],
        renumbered: threading.Event,
        use: Use,
    ) -> None:
        """``weights`` are those of the kinds of events; ``catalog`` gives the snapshot in use.

        ``renumbered`` is set whenever items of that snapshot may have got other numbers.
        """
        self._store = store
        self._counting = counting
        self._weights = weights
        self._bounds = bounds
        self._catalog = catalog
        self._renumbered = renumbered
        self._use = use
        self._lock = threading.Lock()
        self._domains: dict[str, int] = {}
        self._version, self._used_at = 0, 0.0
        self._checked: Catalog | None = None
        self._begin()

    @property
    def users(self) -> int:
        """How many users' events are counted."""
        return len(self._ledger)

    @property
    def entries(self) -> int:
        """How many transitions the counts hold."""
        return self._delta.entries

    @property
    def bytes(self) -> int:
        """What counts and ledger take."""
        return self._delta.bytes + self._ledger.bytes

    @property
    def delta(self) -> TransitionDelta:
        """The counts in use."""
        return self._delta

    def rebuild(self, proceed: Callable[[], None] = lambda: None) -> None:
        """Count all stored events anew; ``proceed`` is called now and then, and may end it by an error.

        Raises:
            StoreUnavailableError: the database does not answer.
        """
        with self._lock:
            self._rebuild(proceed)

    def refresh(self) -> bool:
        """Take over what was stored since; says whether there was anything.

        Raises:
            StoreUnavailableError: the database does not answer.
        """
        with self._lock:
            if (
                self._renumbered.is_set() or self._store.version() < self._version
            ):  # the database went back to an older state
                self._rebuild(lambda: None)
                return True
            new, registered = self._store.since(self._version), self._registered()
            again = {user_id for user_id in self._unknown.users_of(registered) if user_id in self._ledger}
            changed = new is not None or bool(again)
            if changed:
                try:
                    self._take(new or NewEvents(self._version, (), ()), again)
                except BaseException:
                    self._checked = None  # what was registered is looked for again
                    raise
            self._unknown.drop(registered)
            if changed or time.time() - self._used_at > _FADE_SECONDS:
                self._put_into_use()
            return changed

    def forget(self, user_id: str) -> None:
        """Take back at once what a deleted user added."""
        with self._lock:
            self._unknown.forget(user_id)
            if user_id in self._ledger:
                self._change([user_id], [b""])
                self._put_into_use()

    def _begin(self) -> None:
        half = self._bounds.memory_bytes // 2
        self._ledger = Ledger(self._bounds.user_events, half)
        self._delta = TransitionDelta(most=max(1, half // _ENTRY_BYTES))
        self._unknown = UnknownItems()
        self._checked = None
        self._version, self._used_at = 0, 0.0

    def _rebuild(self, proceed: Callable[[], None]) -> None:
        self._begin()
        self._renumbered.clear()
        try:
            self._checked = self._catalog()
            learnt_us = {name: self._learnt_us(name) for name in self._counting.trained_until}
            for version, histories in self._store.all_beyond(learnt_us):
                proceed()
                self._version = version
                users = [events[0].user_id for events in histories]
                self._change(users, self._ledger.merged([b""] * len(users), self._events(histories)))
        except BaseException:
            self._renumbered.set()  # what was counted is a part: the next look begins again
            raise
        self._put_into_use()

    def _take(self, committed: NewEvents, again: set[str]) -> None:
        """Count new events; of the users ``again`` everything anew."""
        deleted = set(committed.deleted)
        for user_id in deleted:
            self._unknown.forget(user_id)
        new: dict[str, list[StoredEvent]] = {}
        for event in committed.events:
            new.setdefault(event.user_id, []).append(event)
        users = list(new.keys() | {user_id for user_id in deleted if user_id in self._ledger} | again)
        # A user without counted events has none in the ledger, and needs none before the first one that counts.
        first = [
            user_id
            for user_id in users
            if user_id in again or (user_id not in self._ledger and any(map(self._counts, new.get(user_id, ()))))
        ]
        read = self._store.histories(first)
        stored = dict(zip(first, self._events([read.get(user_id, ()) for user_id in first]), strict=True))
        kept = dict(zip(users, self._ledger.of(users), strict=True))
        known = [stored.get(user_id, b"" if user_id in deleted else kept[user_id]) for user_id in users]
        self._change(users, self._ledger.merged(known, self._events([new.get(user_id, ()) for user_id in users])))
        self._version = committed.version

    def _change(self, users: Sequence[str], after: Sequence[Events]) -> None:
        """Let users have these counted events in place of those that the ledger holds."""
        before = self._ledger.of(users)
        gone = self._ledger.put(dict(zip(users, after, strict=True)))
        old = self._pairs([*before, *gone.values()])
        new = self._pairs(after)
        self._delta = self._delta.added(
            np.concatenate([new[0], old[0]]), np.concatenate([new[1], old[1]]), np.concatenate([new[2], -old[2]])
        )

    def _pairs(self, histories: Sequence[Events]) -> Pairs:
        every_E, user_E = records_of(histories)
        kept_E = every_E["weight"] != 0
        every_E, user_E = every_E[kept_E], user_E[kept_E]
        before_X, after_X, count_X = pairs_of(
            every_E["number"],
            every_E["happened_us"] / 1e6,
            every_E["weight"],
            self._counting.rule,
            domain_E=every_E["domain"],
            user_E=user_E,
            counted_E=every_E["counted"],
        )
        # An unknown item has its place among the others, which are no nearer to each other for its want.
        known_X = (before_X >= 0) & (after_X >= 0)
        return before_X[known_X], after_X[known_X], count_X[known_X]

    def _put_into_use(self) -> None:
        self._used_at = time.time()
        self._use(self._delta, self._used_at)

    def _registered(self) -> list[Key]:
        """The items with events that the catalog did not hold, and now does."""
        catalog = self._catalog()
        if catalog is self._checked:
            return []
        self._checked = catalog
        return self._unknown.found_in(catalog)

    def _events(self, histories: Sequence[Sequence[StoredEvent]]) -> list[Events]:
        """Each user's events as the ledger keeps them."""
        catalog, rows = self._checked or self._catalog(), []
        for event in chain.from_iterable(histories):
            number = catalog.find(event.domain, event.item_id)
            if number is None:
                self._unknown.add((event.domain, event.item_id), event.user_id)
            rows.append(
                (
                    event.happened_us,
                    event.version,
                    event.position,
                    -1 if number is None else number,
                    self._domains.setdefault(event.domain, len(self._domains)),
                    self._weights.get(event.kind, 0.0),
                    self._counts(event),
                )
            )
        every = np.array(rows, dtype=RECORD).tobytes()
        ends = accumulate((len(own) * RECORD.itemsize for own in histories), initial=0)
        return [every[begin:end] for begin, end in pairwise(ends)]

    def _counts(self, event: StoredEvent) -> bool:
        return event.happened_us > self._learnt_us(event.domain)

    def _learnt_us(self, domain: str) -> int:
        until = self._counting.trained_until.get(domain)
        return -1 if until is None else int(until * 1e6)
