"""What is sent and what comes back, typed. An answer may have more fields, so that a newer service is understood."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict


@dataclass(frozen=True)
class HistoryItem:
    """One item that the user interacted with; without a domain it belongs to the target's."""

    item_id: str
    domain: str | None = None

    def as_json(self) -> dict[str, Any]:
        return {"item_id": self.item_id} | ({} if self.domain is None else {"domain": self.domain})


History = Sequence[HistoryItem | str]
"""Oldest first; a text is the id of an item of the target domain."""


@dataclass(frozen=True)
class Diversity:
    """At most so many items whose semantic IDs share their first codes."""

    max_per_prefix: int
    prefix_length: int = 1


@dataclass(frozen=True)
class Sampling:
    """Items are drawn at random, without replacement; the same seed draws the same items."""

    seed: int
    temperature: float = 1.0


@dataclass(frozen=True)
class RecommendRequest:
    """Asks for the next items of one user in one domain.

    Attributes:
        domain: to recommend from.
        history: what the user interacted with, oldest first.
        num_results: how many items to return at most.
        exclude: item ids of the domain that must not come back.
        exclude_history: whether items of the history must not come back.
        allow: item ids of the domain that alone may come back; all may if None.
        filters: by field, what an item must have: a value, a list of which it has one, or ``{"min": 5, "max": 20}``.
        diversity: how many items that are alike may come back; any number if None.
        sampling: how to draw items; the best ones come back if None.
        beam_width: width of the search; the bundle's own if None.
        explain: whether each item says why it is recommended.
        user_id: the user whose stored events are the history, in place of ``history``.
    """

    domain: str
    history: History = ()
    num_results: int = 10
    exclude: Sequence[str] = ()
    exclude_history: bool = True
    allow: Sequence[str] | None = None
    filters: Mapping[str, Any] = field(default_factory=dict)
    diversity: Diversity | None = None
    sampling: Sampling | None = None
    beam_width: int | None = None
    explain: bool = False
    user_id: str | None = None

    def __post_init__(self) -> None:
        if self.user_id is not None and self.history:
            raise ValueError("a request has either a history or a user_id; leave one of them out")

    def as_json(self) -> dict[str, Any]:
        """The JSON object that the service reads."""
        body: dict[str, Any] = {
            "domain": self.domain,
            "history": [(HistoryItem(entry) if isinstance(entry, str) else entry).as_json() for entry in self.history],
            "num_results": self.num_results,
            "exclude": list(self.exclude),
            "exclude_history": self.exclude_history,
        }
        given = {
            "allow": None if self.allow is None else list(self.allow),
            "filters": dict(self.filters) or None,
            "diversity": None if self.diversity is None else asdict(self.diversity),
            "sampling": None if self.sampling is None else asdict(self.sampling),
            "beam_width": self.beam_width,
            "explain": self.explain or None,
            "user_id": self.user_id,
        }
        if self.user_id is not None:
            del body["history"]
        return body | {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class Item:
    """An item to tokenize: its id, and any other fields that are text, a number or a list of texts."""

    item_id: str
    fields: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """The JSON object that the service reads."""
        return {"item_id": self.item_id} | dict(self.fields)


@dataclass(frozen=True)
class Event:
    """One thing that a user did with an item.

    Attributes:
        event_id: the sender's own name for it; what is sent again is counted once.
        timestamp: when it happened, in unix seconds.
        type: what was done; the service's settings say which types there are.
    """

    event_id: str
    user_id: str
    domain: str
    item_id: str
    timestamp: float
    type: str = "view"

    def as_json(self) -> dict[str, Any]:
        """The JSON object that the service reads."""
        return asdict(self)


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
