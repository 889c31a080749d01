"""What requests and answers about events and users look like."""

import re
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
    WithJsonSchema,
)

from service.schemas import Answer, Domain, ErrorDetail, InvalidRow, ItemId, Request, is_absent, row_or_invalid

_CONTROL = re.compile("[\x00-\x1f]")
_NO_TIME = 1e18
"""Seconds that are nobody's mistake of a unit; JSON has integers that no float holds."""


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


def _deletable(value: str) -> str:
    if value.endswith("/history"):
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
    type: Kind = Field("view", description="what was done; the service's settings say which types there are")


class EventBatch(Request):
    """Several events, each answered by itself."""

    events: list[
        Annotated[
            EventRow | InvalidRow,
            PlainValidator(lambda value: row_or_invalid(EventRow, value, "event_id"), json_schema_input_type=EventRow),
        ]
    ] = Field(min_length=1)


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
