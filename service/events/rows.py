"""What the database keeps of events, in Python's terms. Times are microseconds since 1970.

Events are named tuples: thousands come a second, and a tuple is made in a fifth of the time of a frozen dataclass.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

Outcome = Literal["accepted", "duplicate", "forgotten"]
"""Stored; stored before; or of a user who was deleted after it happened."""


class Event(NamedTuple):
    """One thing that a user did with an item.

    Attributes:
        event_id: the sender's name for it; the same one is stored once, whoever sends it again.
        kind: what was done, one of the kinds that the settings weigh.
    """

    event_id: str
    user_id: str
    domain: str
    item_id: str
    kind: str
    happened_us: int


class StoredEvent(NamedTuple):
    """What is read back. In the order of ``(happened_us, version, position)`` a user's events are a history."""

    user_id: str
    domain: str
    item_id: str
    kind: str
    happened_us: int
    version: int
    position: int


@dataclass(frozen=True)
class NewEvents:
    """What was committed after a version.

    Attributes:
        version: up to which everything is told now.
        deleted: users whose events are gone; what of them is in ``events`` came after that.
        events: in the order in which they came.
        is_page: whether more was committed after ``version``.
    """

    version: int
    deleted: tuple[str, ...]
    events: Sequence[StoredEvent]
    is_page: bool = False


@dataclass(frozen=True, slots=True)
class DeletedUser:
    """A user whose events up to a time must be forgotten."""

    user_id: str
    deleted_us: int
