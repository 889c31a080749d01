"""What comes back, typed. An answer may have more fields, so that a newer service is understood."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class Answer(BaseModel):
    """Root of what comes back."""

    model_config = ConfigDict(extra="allow", frozen=True)


class CodeExplained(Answer):
    """The probability of one code of the semantic ID, given the codes before it."""

    code: int
    universal: float
    domain: float | None


class HistoryEffect(Answer):
    """What one item of the history did: how much log-probability is lost without it; None: all of it."""

    place: int
    domain: str
    item_id: str
    effect: float | None


class Explanation(Answer):
    """Why an item has its score; ``parts`` of its probability by name."""

    codes: tuple[CodeExplained, ...]
    gamma: float
    parts: dict[str, float]
    history: tuple[HistoryEffect, ...]


class RecommendedItem(Answer):
    """One item of an answer; ``score`` is a log-probability, ``rank`` counts from 1."""

    item_id: str
    score: float
    rank: int
    sid: tuple[int, ...]
    title: str | None = None
    explanation: Explanation | None = None


class Recommendation(Answer):
    """The next items, best first.

    Attributes:
        missing_ids: item ids of the history that the catalog does not hold.
        exact: whether these are certainly the best items, not only the best that were found.
        fallback: why the history could not be used; None when it was.
        returned_reason: why fewer items came back than asked for.
    """

    items: tuple[RecommendedItem, ...]
    missing_ids: tuple[str, ...]
    domain: str
    request_id: str
    bundle_version: str
    catalog_version: int
    exact: bool
    fallback: str | None = None
    returned_reason: str | None = None


class Validation(Answer):
    """A request that would be computed, and how much work it would be."""

    tokens: int
    missing_ids: tuple[str, ...]
    domain: str
    request_id: str
    bundle_version: str
    catalog_version: int


class ErrorDetail(Answer):
    """What went wrong with a request, or with one of its rows."""

    code: str
    message: str
    retryable: bool
    field: str | None = None


class ErrorAnswer(Answer):
    """The one shape of every error."""

    error: ErrorDetail


class RecommendBatchAnswer(Answer):
    """One answer or error a row."""

    results: tuple[Recommendation | ErrorAnswer, ...]


class TokenizedItem(Answer):
    """The SID of one item, or why it has none."""

    item_id: str | None
    sid: tuple[int, ...] | None
    moved: bool
    registered: bool
    error: ErrorDetail | None = None


class Tokenized(Answer):
    """One entry an item, in the order of the items."""

    items: tuple[TokenizedItem, ...]
    tokenizer_version: str
    catalog_version: int


class CatalogItem(Answer):
    """One item of the catalog as it is now; a hidden one is never recommended."""

    domain: str
    item_id: str
    sid: tuple[int, ...]
    moved: bool
    hidden: bool
    fields: dict[str, Any]
    tokenizer_version: str
    catalog_version: int


class Deleted(Answer):
    """An item that is gone; replicas at this version of the catalog or a later one do not have it."""

    domain: str
    item_id: str
    catalog_version: int


class EventResult(Answer):
    """What became of an event.

    Attributes:
        outcome: ``accepted`` (it survives a crash), ``duplicate`` or ``rejected``, which ``error`` explains.
        unknown: ``domain`` or ``item`` where the catalog does not hold it; it counts once it is registered.
    """

    event_id: str | None
    outcome: str
    unknown: str | None = None
    error: ErrorDetail | None = None


class EventsStored(Answer):
    """One result an event, in the order of the events."""

    results: tuple[EventResult, ...]


class HistoryEvent(Answer):
    """One stored event of a user; ``timestamp`` is in unix seconds."""

    domain: str
    item_id: str
    type: str
    timestamp: float


class UserHistory(Answer):
    """What is stored of a user, oldest first."""

    user_id: str
    events: tuple[HistoryEvent, ...]


class DeletedUser(Answer):
    """A user who is forgotten; training leaves out the events up to ``deleted_at``, in unix seconds."""

    user_id: str
    deleted_at: float
    removed_events: int


class DomainInfo(Answer):
    """A domain that can be asked for."""

    name: str
    items: int


class Info(Answer):
    """What the service serves."""

    bundle_version: str
    catalog_version: int
    domains: tuple[DomainInfo, ...]
    limits: dict[str, int]
