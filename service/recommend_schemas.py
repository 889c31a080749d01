"""What requests and answers of ``/recommend`` look like.

Filters are only read here; :func:`service.queries.query_of` says what is wrong with one. Limits that an operator sets
are checked in ``limits``.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    ConfigDict,
    Discriminator,
    Field,
    PlainValidator,
    StringConstraints,
    Tag,
    WithJsonSchema,
    model_validator,
)

from service.event_schemas import UserId
from service.schemas import Answer, Domain, ErrorAnswer, InvalidRow, ItemId, Request, Sid, is_absent, row_or_invalid
from service.settings import MAX_NUM_RESULTS

_SCALAR = [{"type": "string"}, {"type": "number"}, {"type": "boolean"}]

FieldName = Annotated[str, StringConstraints(min_length=1, max_length=256)]

Filter = Annotated[
    Any,
    WithJsonSchema(
        {
            "description": "a value, a list of values, or a range of numbers; both ends pass",
            "anyOf": [
                *_SCALAR,
                {"type": "array", "items": {"anyOf": _SCALAR}, "minItems": 1},
                {
                    "type": "object",
                    "properties": {"min": {"type": "number"}, "max": {"type": "number"}},
                    "minProperties": 1,
                    "additionalProperties": False,
                },
            ],
        }
    ),
]


class HistoryItem(Request):
    """One item that the user interacted with."""

    item_id: ItemId
    domain: Domain | None = Field(None, description="its domain; the target domain if left out")


class DiversityRule(Request):
    """How many items of one prefix may come back: items whose semantic IDs begin alike are alike."""

    max_per_prefix: int = Field(ge=1, le=MAX_NUM_RESULTS, description="items of one prefix at most")
    prefix_length: int = Field(1, ge=1, le=64, description="codes of the prefix; at most as many as a semantic ID has")


class SamplingRule(Request):
    """How items are drawn."""

    seed: int = Field(ge=0, le=2**63 - 1, description="the same seed draws the same items")
    temperature: float = Field(
        1.0, ge=0.01, le=100, description="1 draws items by their probabilities; less is bolder, more is wilder"
    )


class RecommendRequest(Request):
    """Asks for the next items of one user in one domain."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"domain": "drama", "history": [{"item_id": "50"}, {"item_id": "181"}], "num_results": 3},
                {"domain": "drama", "filters": {"categories": ["Western", "War"], "year": {"min": 1990}}},
            ]
        }
    )

    domain: Domain = Field(description="the domain to recommend from")
    history: list[HistoryItem] = Field(default=[], description="what the user interacted with, oldest first")
    user_id: UserId | None = Field(
        None, description="the user whose stored events are the history, in place of `history`; unknown: an empty one"
    )
    num_results: int = Field(10, ge=1, le=MAX_NUM_RESULTS, description="how many items to return at most")
    exclude: list[ItemId] = Field(default=[], description="item ids of the target domain that must not come back")
    exclude_history: bool = Field(True, description="whether items of the history must not come back")
    allow: list[ItemId] | None = Field(
        None,
        min_length=1,
        description="item ids of the target domain that alone may come back; unknown ones change nothing",
    )
    filters: dict[FieldName, Filter] = Field(
        default={},
        description=(
            "what the fields of an item must be for it to come back, by field, all of them: a value, a list of values "
            'of which one must be there (categories: {"categories": ["Western"]}), or {"min": 5, "max": 20}; an item '
            "without the field does not come back; no score changes"
        ),
    )
    diversity: DiversityRule | None = Field(
        None, description="at most so many items of a prefix; any number if left out"
    )
    sampling: SamplingRule | None = Field(
        None, description="draw the items at random, without replacement, instead of returning the best ones"
    )
    beam_width: int | None = Field(None, ge=1, description="width of the beam search; the bundle's own if left out")
    explain: bool = Field(
        False, description="whether each item says why it is recommended; costs as much as a request an item of history"
    )
    validate_only: bool = Field(False, description="check everything and compute nothing")

    @model_validator(mode="after")
    def _one_history(self) -> "RecommendRequest":
        if self.user_id is not None and "history" in self.model_fields_set:
            raise ValueError("a request has either a history or a user_id; leave one of them out")
        return self


class RecommendBatch(Request):
    """Several requests, answered row by row."""

    requests: list[
        Annotated[
            RecommendRequest | InvalidRow,
            PlainValidator(
                lambda value: row_or_invalid(RecommendRequest, value), json_schema_input_type=RecommendRequest
            ),
        ]
    ] = Field(min_length=1)


def _single_or_batch(value: Any) -> str:
    return "batch" if isinstance(value, dict) and "requests" in value else "single"


RecommendBody = Annotated[
    Annotated[RecommendRequest, Tag("single")] | Annotated[RecommendBatch, Tag("batch")],
    Discriminator(_single_or_batch),
]


class OtherCodeExplained(Answer):
    """A code that could have stood there, with its probability."""

    code: int
    universal: float = Field(description="with the weights that all domains share")
    domain: float | None = Field(description="with the domain's own weights; null where it has none")


class CodeExplained(OtherCodeExplained):
    """The probability of one code of the semantic ID, given the codes before it."""

    others: list[OtherCodeExplained] = Field([], description="the likeliest other codes there, at most 3")


class PartsExplained(Answer):
    """What each part of the mixture adds to the item's probability; they sum to it."""

    language_model: float
    followed: float = Field(description="from items that followed those of the history")
    alike: float = Field(description="from items like those of the history")
    popular: float = Field(description="from what the domain's users take")


class HistoryEffect(Answer):
    """What one item of the history did for the recommended item."""

    place: int = Field(description="in the request's history, from 0")
    domain: str
    item_id: str
    effect: float | None = Field(
        description="how much log-probability is lost without it; below 0 it speaks against; null: all of it"
    )


class Explanation(Answer):
    """Why an item has its score."""

    codes: list[CodeExplained]
    gamma: float = Field(description="share of the domain's own weights in the language model")
    parts: PartsExplained
    history: list[HistoryEffect] = Field(description="the items that were read, those of the largest effect first")


class RecommendedItem(Answer):
    """One item of an answer."""

    item_id: str
    score: float = Field(description="log-probability; higher is better")
    rank: int = Field(description="1 is the best; of drawn items: the first drawn")
    sid: Sid
    title: str | None = Field(None, exclude_if=is_absent)
    explanation: Explanation | None = Field(None, exclude_if=is_absent, description="if asked for")


class RecommendAnswer(Answer):
    """The next items, best first."""

    items: list[RecommendedItem]
    missing_ids: list[str] = Field(description="item ids of the history that the catalog does not hold")
    domain: str
    request_id: str
    bundle_version: str
    catalog_version: int
    exact: bool = Field(description="whether these are certainly the best items, not only the best that were found")
    fallback: Literal["prior"] | None = Field(
        description="prior: nothing of the history could be used, so these are what the domain's users take first"
    )
    returned_reason: str | None = Field(
        None, exclude_if=is_absent, description="why fewer items came back than asked for, such as filters"
    )


class ValidAnswer(Answer):
    """A request with ``validate_only`` that would be computed."""

    valid: Literal[True]
    tokens: int = Field(description="work of the request, of which max_request_tokens of /v1/info are allowed")
    missing_ids: list[str] = Field(description="item ids of the history that the catalog does not hold")
    domain: str
    request_id: str
    bundle_version: str
    catalog_version: int


class RecommendBatchAnswer(Answer):
    """One answer or error a row, in the order of the rows."""

    results: list[RecommendAnswer | ValidAnswer | ErrorAnswer]
