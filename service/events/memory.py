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

from service.catalog.state import Numbered
from service.events.changes import changed_pairs
from service.events.counting import Counting
from service.events.ledger import RECORD, Events, Ledger
from service.events.numbers import ItemNumbers
from service.events.rows import NewEvents, StoredEvent
from service.events.store import EventStore
from service.events.unknown import Key, UnknownItems
from sidera.catalog import Catalog
from sidera.items.transitions import TransitionDelta

Use = Callable[[TransitionDelta, float, int], None]
"""Puts counts into use, and says what time it is and which numbering of the items they are of; returns once they are.

They are let go if the items that serve have another numbering by then.
"""

_ENTRY_BYTES = 16
_USERS_AT_ONCE = 256
"""Between so many users, memory gives way to what is more urgent."""

_FADE_SECONDS = 600.0
"""How often old counts fade where nothing happens."""


@dataclass(frozen=True)
class Bounds:
    """How much is kept: events of one user, and bytes, of which counts and ledger may have one half each."""

    user_events: int
    memory_bytes: int


class EventMemory:
    """The counts that events added to one bundle. All methods may be called from any thread.

    Attributes:
        is_behind: whether more was stored than the page that was learnt last.
    """

    def __init__(
        self,
        store: EventStore,
        counting: Counting,
        weights: Mapping[str, float],
        bounds: Bounds,
        catalog: Callable[[], Numbered],
        use: Use,
        give_way: Callable[[], object] = lambda: None,
    ) -> None:
        """``weights`` are those of the kinds of events; ``catalog`` gives the snapshot in use, and its numbering.

        ``give_way`` is called now and then while events are learnt, and waits while there is more urgent work.
        Numbers of two snapshots of one numbering mean the same items; those of another one are counted anew.
        """
        self._store = store
        self._counting = counting
        self._weights = weights
        self._bounds = bounds
        self._catalog = catalog
        self._use = use
        self._give_way = give_way
        self._round = threading.Lock()  # one thread learns at a time
        self._lock = threading.Lock()  # held for a page of events at the most, so forgetting waits for no more
        self._snapshot = catalog()
        self._is_whole = True
        self._forgotten: set[str] = set()
        self._domains: dict[str, tuple[int, int]] = {}
        self._numbers = ItemNumbers()
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
        with self._round:
            self._rebuild(proceed)

    def refresh(self) -> bool:
        """Take over what was stored since, a page at the most; says whether there was anything.

        Raises:
            StoreUnavailableError: the database does not answer.
        """
        with self._round:
            snapshot = self._catalog()
            if not self._is_whole or snapshot.numbering != self._snapshot.numbering:
                self._rebuild(lambda: None)
                return True
            self._give_way()
            with self._lock:
                self._snapshot = snapshot
                new = self._store.since(self._version)
                if new is None or new.version > self._version:
                    return self._take_page(new)
            self._rebuild(lambda: None)  # the database went back to an older state
            return True

    def forget(self, user_id: str) -> None:
        """Take back at once what a deleted user added; waits for a page of events that is being learnt, no longer."""
        with self._lock:
            if not self._is_whole:
                self._forgotten.add(user_id)
            self._unknown.forget(user_id)
            if user_id in self._ledger:
                self._change([user_id], [b""])
            elif self._is_whole:
                return
            self._put_into_use()

    def _begin(self) -> None:
        half = self._bounds.memory_bytes // 2
        self._ledger = Ledger(self._bounds.user_events, half)
        self._delta = TransitionDelta(most=max(1, half // _ENTRY_BYTES))
        self._unknown = UnknownItems()
        self._checked: Catalog | None = None
        self._version, self._used_at = 0, 0.0
        self.is_behind = False

    def _rebuild(self, proceed: Callable[[], None]) -> None:
        with self._lock:
            self._begin()
            self._is_whole = False  # until the end; where it is cut off, the next look begins again
            self._forgotten.clear()
            self._snapshot = self._catalog()
            self._checked = self._snapshot.catalog
        learnt_us = {name: self._learnt_us(name) for name in self._counting.trained_until}
        for version, histories in self._store.all_beyond(learnt_us):
            proceed()
            with self._lock:
                self._version = version
                kept = [events for events in histories if events[0].user_id not in self._forgotten]
                users = [events[0].user_id for events in kept]
                self._change(users, self._ledger.merged([b""] * len(users), self._events(kept)))
        with self._lock:
            if self._forgotten:  # they may have come back as new users before the first history was read
                self._take(NewEvents(self._version, (), ()), self._forgotten)
            self._is_whole = True
            self._put_into_use()

    def _take_page(self, new: NewEvents | None) -> bool:
        registered = self._registered()
        again = {user_id for user_id in self._unknown.users_of(registered) if user_id in self._ledger}
        changed = new is not None or bool(again)
        if changed:
            try:
                self._take(new or NewEvents(self._version, (), ()), again)
            except BaseException:
                self._checked = None  # what was registered is looked for again
                raise
        self.is_behind = new is not None and new.is_page
        self._unknown.drop(registered)
        if changed or time.time() - self._used_at > _FADE_SECONDS:
            self._put_into_use()
        return changed

    def _take(self, committed: NewEvents, again: set[str]) -> None:
        """Count new events; of the users ``again`` everything anew."""
        deleted = set(committed.deleted)
        for user_id in deleted:
            self._unknown.forget(user_id)
        new: dict[str, list[StoredEvent]] = {}
        for event in committed.events:
            new.setdefault(event.user_id, []).append(event)
        users = list(new.keys() | {user_id for user_id in deleted if user_id in self._ledger} | again)
        for begin in range(0, len(users), _USERS_AT_ONCE):
            self._give_way()
            some = users[begin : begin + _USERS_AT_ONCE]
            kept = dict(zip(some, self._ledger.of(some), strict=True)) | dict.fromkeys(deleted.intersection(some), b"")
            # A user without counted events has none in the ledger, and needs none before the first one that counts.
            first = [
                user_id
                for user_id in some
                if user_id in again or (user_id not in self._ledger and any(map(self._counts, new.get(user_id, ()))))
            ]
            read = self._store.histories(first)
            kept |= zip(first, self._events([read.get(user_id, ()) for user_id in first]), strict=True)
            added = self._events([new.get(user_id, ()) for user_id in some])
            self._change(some, self._ledger.merged(list(kept.values()), added))
        self._version = committed.version

    def _change(self, users: Sequence[str], after: Sequence[Events]) -> None:
        """Let users have these counted events in place of those that the ledger holds."""
        before = self._ledger.of(users)
        gone = self._ledger.put(dict(zip(users, after, strict=True)))
        changed = changed_pairs([*before, *gone.values()], [*after, *(b"" for _ in gone)], self._counting.rule)
        self._delta = self._delta.added(*changed)

    def _put_into_use(self) -> None:
        self._used_at = time.time()
        self._use(self._delta, self._used_at, self._snapshot.numbering)

    def _registered(self) -> list[Key]:
        """The items with events that the catalog did not hold, and now does."""
        catalog = self._snapshot.catalog
        if catalog is self._checked:
            return []
        self._checked = catalog
        return self._unknown.found_in(catalog)

    def _events(self, histories: Sequence[Sequence[StoredEvent]]) -> list[Events]:
        """Each user's events as the ledger keeps them."""
        every = list(chain.from_iterable(histories))
        record_E = np.empty(len(every), dtype=RECORD)
        if every:
            users, domains, items, kinds, happened_us, versions, positions = zip(*every, strict=True)
            numbers = self._numbers.of_all(self._snapshot.catalog, list(zip(domains, items, strict=True)))
            for place in (place for place, number in enumerate(numbers) if number is None):
                self._unknown.add((domains[place], items[place]), users[place])
            known = {domain: self._domain(domain) for domain in dict.fromkeys(domains)}
            record_E["happened_us"], record_E["version"], record_E["position"] = happened_us, versions, positions
            record_E["number"] = [-1 if number is None else number for number in numbers]
            record_E["domain"] = [known[domain][0] for domain in domains]
            record_E["weight"] = [self._weights.get(kind, 0.0) for kind in kinds]
            record_E["counted"] = record_E["happened_us"] > np.array([known[domain][1] for domain in domains])
        ends = accumulate((len(own) * RECORD.itemsize for own in histories), initial=0)
        taken = record_E.tobytes()
        return [taken[begin:end] for begin, end in pairwise(ends)]

    def _domain(self, domain: str) -> tuple[int, int]:
        """Which of the domains seen so far it is, and until when the bundle was trained in it, in microseconds."""
        known = self._domains.get(domain)
        if known is None:
            known = self._domains[domain] = len(self._domains), self._learnt_us(domain)
        return known

    def _counts(self, event: StoredEvent) -> bool:
        return event.happened_us > self._domain(event.domain)[1]

    def _learnt_us(self, domain: str) -> int:
        until = self._counting.trained_until.get(domain)
        return -1 if until is None else int(until * 1e6)
