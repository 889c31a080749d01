"""What requests and answers about events and users look like.

A batch whose rows are all plain, as nearly all are, is read from its bytes by one call of the schema library. What that
call refuses is read row by row, which tells each row's sender what is wrong with it.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainValidator,
    StringConstraints,
    Tag,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    with_config,
)

from service.events.rows import Event
from service.schemas import Answer, Domain, ErrorDetail, InvalidRow, ItemId, Request, is_absent, row_or_invalid

_CONTROL = re.compile("[\x00-\x1f]")
_NO_TIME = 1e18
"""Seconds that are nobody's mistake of a unit; JSON has integers that no float holds."""

_PLAIN_TIME = 9e9
"""Seconds below which a whole number of microseconds is exact as a float."""

_HISTORY = "/history"
_STEPS = (".", "..")
_VIEW = "view"


def _printable(value: str) -> str:
    if _CONTROL.search(value):
        raise ValueError("an id holds no control characters")
    return value


def _microseconds(value: object) -> int:
    """Microseconds since 1970 of unix seconds or of a text as in RFC 3339."""
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError("this is no time; send unix seconds, or a text like 2026-11-22T06:00:00Z") from None
        if moment.tzinfo is None:
            raise ValueError("the time has no zone; write it like 2026-11-22T06:00:00Z")
        value = moment.timestamp()
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _NO_TIME:
        raise ValueError("this is no time; send unix seconds, or a text like 2026-11-22T06:00:00Z")
    if value < 0:
        raise ValueError("the time is before 1970; send unix seconds")
    return round(value * 1_000_000)


def _is_deletable(user_id: str) -> bool:
    """Whether a path can name the user, so that what is stored can be forgotten."""
    return not user_id.endswith(_HISTORY) and user_id not in _STEPS


def _deletable(value: str) -> str:
    if value in _STEPS:
        raise ValueError("'.' and '..' are steps of a path, which clients leave out; send another user id")
    if not _is_deletable(value):
        raise ValueError("'/history' ends the path of a user's history; leave it out of the user id")
    return value


EventId = Annotated[str, StringConstraints(min_length=1, max_length=128), AfterValidator(_printable)]
UserId = Annotated[
    str, StringConstraints(min_length=1, max_length=256), AfterValidator(_printable), AfterValidator(_deletable)
]
Timestamp = Annotated[
    int,
    PlainValidator(_microseconds),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "format": "date-time"}]}),
    Field(description="when it happened: unix seconds, or a text as in RFC 3339"),
]
Kind = Annotated[str, StringConstraints(min_length=1, max_length=32)]


class EventRow(Request):
    """One thing that a user did with an item."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "event_id": "0b0c-1",
                    "user_id": "anna",
                    "domain": "drama",
                    "item_id": "50",
                    "timestamp": 1795366752.5,
                    "type": "view",
                }
            ]
        }
    )

    event_id: EventId = Field(description="the sender's own name for it; what is sent again is counted once")
    user_id: UserId
    domain: Annotated[Domain, AfterValidator(_printable)]
    item_id: Annotated[ItemId, AfterValidator(_printable)]
    timestamp: Timestamp
    type: Kind = Field(_VIEW, description="what was done; the service's settings say which types there are")

    def event(self) -> Event:
        """The same as the database keeps it."""
        return Event(self.event_id, self.user_id, self.domain, self.item_id, self.type, self.timestamp)


_PLAIN = "^[^\\x00-\\x1f]*$"


@with_config(ConfigDict(extra="forbid"))
@dataclass(slots=True)
class _PlainRow:
    """Takes what an :class:`EventRow` takes, but for times that are texts, and for user ids that nobody can delete."""

    event_id: Annotated[str, Field(strict=True, min_length=1, max_length=128, pattern=_PLAIN)]
    user_id: Annotated[str, Field(strict=True, min_length=1, max_length=256, pattern=_PLAIN)]
    domain: Annotated[str, Field(strict=True, min_length=1, max_length=64, pattern=_PLAIN)]
    item_id: Annotated[str, Field(strict=True, min_length=1, max_length=256, pattern=_PLAIN)]
    timestamp: Annotated[float, Field(strict=True, ge=0, lt=_PLAIN_TIME, allow_inf_nan=False)]
    type: Annotated[str, Field(strict=True, min_length=1, max_length=32)] = _VIEW


@with_config(ConfigDict(extra="forbid"))
@dataclass(slots=True)
class _PlainBatch:
    events: Annotated[list[_PlainRow], Field(strict=True, min_length=1)]


_PLAIN_BATCH = TypeAdapter(_PlainBatch)


def plain_events(body: bytes) -> list[Event] | None:
    """The events of a batch in which every row is plain, as an :class:`EventBatch` has them; None of another body."""
    try:
        rows = _PLAIN_BATCH.validate_json(body).events
    except ValidationError:
        return None
    if not all(_is_deletable(row.user_id) for row in rows):
        return None
    return [
        Event(row.event_id, row.user_id, row.domain, row.item_id, row.type, round(row.timestamp * 1_000_000))
        for row in rows
    ]


def _event_or_invalid(value: object) -> Event | InvalidRow:
    row = row_or_invalid(EventRow, value, "event_id")
    return row if isinstance(row, InvalidRow) else row.event()


class EventBatch(Request):
    """Several events, each answered by itself."""

    events: Annotated[
        list[
            Annotated[
                Any,  # an Event or an InvalidRow: neither is part of the description
                PlainValidator(_event_or_invalid, json_schema_input_type=EventRow),
            ]
        ],
        Field(min_length=1),
    ]


def _single_or_batch(value: Any) -> str:
    return "batch" if isinstance(value, dict) and "events" in value else "single"


EventsBody = Annotated[
    Annotated[EventRow, Tag("single")] | Annotated[EventBatch, Tag("batch")], Discriminator(_single_or_batch)
]


class EventResult(Answer):
    """What became of one event."""

    event_id: str | None = Field(description="null if the row had no readable one")
    outcome: Literal["accepted", "duplicate", "rejected"] = Field(
        description="accepted: it is stored, and survives a crash; duplicate: it was before; rejected: see error"
    )
    unknown: Literal["domain", "item"] | None = Field(
        None,
        exclude_if=is_absent,
        description="what the catalog does not hold; the event is kept, and counts once the item is registered",
    )
    error: ErrorDetail | None = Field(None, exclude_if=is_absent)


class EventsAnswer(Answer):
    """One result an event, in the order of the events."""

    results: list[EventResult]


class HistoryEvent(Answer):
    """One stored event of a user."""

    domain: str
    item_id: str
    type: str
    timestamp: float = Field(description="unix seconds")


class UserHistoryAnswer(Answer):
    """What is stored of a user."""

    user_id: str
    events: list[HistoryEvent] = Field(description="oldest first; of many the newest")


class DeletedUserAnswer(Answer):
    """A user who is forgotten."""

    user_id: str
    deleted_at: float = Field(description="unix seconds; training leaves out the user's events up to this time")
    removed_events: int


class DeletedUserRow(Answer):
    """A line of the list of deleted users."""

    user_id: str
    deleted_at: float = Field(description="unix seconds")


class DeletedUsers(Answer):
    """A page of the list of deleted users, for training."""

    users: list[DeletedUserRow]
    next: str | None = Field(description="what to send as `after` for the next page; null: this is the last one")
