"""What is sent, typed; what comes back: :mod:`sidera_client.answers`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


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
