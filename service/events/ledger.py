"""What memory has counted of each user, so that it can be taken back: exactly what was added, whatever happened since.

A user's events are few numbers each, in the order of a history. They are kept as the bytes of an array, since thousands
of small arrays of records take numpy long to put together. Knows neither the database nor the recommender.
Bounded: where it would hold more than ``most_bytes``, the users who were quiet for longest are let go.

Shapes: E events.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

RECORD = np.dtype(
    [
        ("happened_us", np.int64),
        ("version", np.int64),
        ("position", np.int32),
        ("number", np.int32),
        ("domain", np.int32),
        ("weight", np.float32),
        ("counted", np.bool_),
    ]
)
"""One event. ``number``: of the item, -1 of one that the catalog does not hold; ``domain``: of those seen so far;
``counted``: whether it is newer than what the bundle was trained on."""

Events = bytes
"""Of an array of :data:`RECORD`."""

Records = npt.NDArray[np.void]
"""Of the type :data:`RECORD`. Shape: [E]."""

_USER_BYTES = 300
"""What a user takes beside the events: entries of dictionaries, the head of its bytes, the id."""


class Ledger:
    """The events of those users who did something since the bundle was trained. Not thread-safe."""

    def __init__(self, most_events: int, most_bytes: int) -> None:
        """``most_events`` of a user are kept: the newest."""
        self._most_events = most_events
        self._most_bytes = most_bytes
        self._users: OrderedDict[str, Events] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._users)

    def __contains__(self, user_id: str) -> bool:
        return user_id in self._users

    def of(self, users: Iterable[str]) -> list[Events]:
        """What is kept of users; nothing of those who are not there."""
        return [self._users.get(user_id, b"") for user_id in users]

    def put(self, changed: Mapping[str, Events]) -> dict[str, Events]:
        """Keep these events of users in place of what was kept; no events: nothing is kept of the user.

        Returns:
            What was kept of other users, who were let go to make room.
        """
        for user_id, events in changed.items():
            self._drop(user_id)
            if events:
                self._users[user_id] = events
                self.bytes += len(events) + _USER_BYTES
        gone: dict[str, Events] = {}
        while self.bytes > self._most_bytes and len(self._users) > 1:
            user_id = next(iter(self._users))
            gone[user_id] = self._users[user_id]
            self._drop(user_id)
        return gone

    def merged(self, known: Sequence[Events], new: Sequence[Events]) -> list[Events]:
        """Each user's known and new events as one history; an event that is in both is there once.

        A user of whom no event is counted needs none: pairs count where the latter event does.
        """
        later = self._only_later(known, new)
        rest = [user for user, is_later in enumerate(later) if not is_later]
        mixed = iter(self._mixed([known[user] for user in rest], [new[user] for user in rest]) if rest else ())
        return [known[user] + new[user] if is_later else next(mixed) for user, is_later in enumerate(later)]

    def _only_later(self, known: Sequence[Events], new: Sequence[Events]) -> list[bool]:
        """Of which users all new events are later than the known ones, in their order, counted, and not too many."""
        most = self._most_events * RECORD.itemsize
        later = [bool(a and b) and len(a) + len(b) <= most for a, b in zip(known, new, strict=True)]
        users = [user for user, is_later in enumerate(later) if is_later]
        after_E, user_E = records_of([new[user] for user in users])
        last_U, _ = records_of([known[user][-RECORD.itemsize :] for user in users])
        before_E = np.roll(after_E, 1)
        begin_U = np.searchsorted(user_E, np.arange(len(users)))
        before_E[begin_U] = last_U
        good_E = after_E["counted"].copy()
        is_less_E = np.zeros(len(after_E), dtype=np.bool_)
        for name in ("position", "version", "happened_us"):  # the more a field weighs, the later it is asked
            one_E, two_E = before_E[name], after_E[name]
            is_less_E = (one_E < two_E) | ((one_E == two_E) & is_less_E)
        good_E &= is_less_E
        for user in {users[place] for place in user_E[~good_E].tolist()}:
            later[user] = False
        return later

    def _mixed(self, known: Sequence[Events], new: Sequence[Events]) -> list[Events]:
        every_E, user_E = records_of([a + b for a, b in zip(known, new, strict=True)])
        order = np.lexsort((every_E["position"], every_E["version"], every_E["happened_us"], user_E))
        every_E, user_E = every_E[order], user_E[order]
        first_E = np.ones(len(every_E), dtype=np.bool_)
        first_E[1:] = (np.diff(user_E) != 0) | (np.diff(every_E["version"]) != 0) | (np.diff(every_E["position"]) != 0)
        every_E, user_E = every_E[first_E], user_E[first_E]
        ends_U = np.searchsorted(user_E, np.arange(len(known)), side="right")
        age_E = ends_U[user_E] - np.arange(len(user_E))
        newest_E = age_E <= self._most_events
        every_E, user_E = every_E[newest_E], user_E[newest_E]
        counted_U = np.bincount(user_E, weights=every_E["counted"], minlength=len(known)).tolist()
        begins_U = (np.searchsorted(user_E, np.arange(len(known) + 1)) * RECORD.itemsize).tolist()
        merged = every_E.tobytes()
        return [merged[begins_U[user] : begins_U[user + 1]] if counted_U[user] else b"" for user in range(len(known))]

    def _drop(self, user_id: str) -> None:
        events = self._users.pop(user_id, None)
        if events is not None:
            self.bytes -= len(events) + _USER_BYTES


def records_of(histories: Sequence[Events]) -> tuple[Records, npt.NDArray[np.int64]]:
    """Several users' events as one array of records, and the place of the user of each: int64[E]."""
    sizes_U = np.array([len(own) for own in histories], dtype=np.int64) // RECORD.itemsize
    return np.frombuffer(b"".join(histories), dtype=RECORD), np.repeat(np.arange(len(histories)), sizes_U)
