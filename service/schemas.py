"""What requests and answers look like. Fields that are not named here are refused.

Numbers and texts are taken as they are: ``"10"`` is no number. A row of a batch that does not fit becomes an
``InvalidRow``, so that its neighbours go on. Limits that an operator sets are checked in ``limits``.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PlainValidator,
    StringConstraints,
    Tag,
    ValidationError,
    field_validator,
)

from service.errors import InvalidRequestError
from service.settings import MAX_NUM_RESULTS

_SENTENCES = {
    "extra_forbidden": "there is no such field; remove it",
    "missing": "this field is needed",
    "model_type": "expected a JSON object",
    "model_attributes_type": "expected a JSON object",
    "string_unicode": "a text holds half of a surrogate pair; send whole characters",
}

ItemId = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Domain = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Sid = Annotated[list[int], Field(description="semantic ID: one code a level", examples=[[17, 203, 4, 88]])]

_RequestModel = TypeVar("_RequestModel", bound=BaseModel)


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _absent(value: object) -> bool:
    return value is None


class InvalidRow(BaseModel):
    """A row that does not fit its schema, and why."""

    item_id: str | None
    field: str | None
    message: str


class ErrorDetail(_Answer):
    """What went wrong, for the person who must act."""

    code: str = Field(description="stable, machine-readable", examples=["unknown_domain"])
    message: str = Field(examples=["there is no domain 'cinema'; /v1/info lists the domains"])
    field: str | None = Field(
        None, exclude_if=_absent, description="path of the offending field", examples=["history.3.item_id"]
    )
    retryable: bool = Field(description="whether the same request may succeed later")


class ErrorAnswer(_Answer):
    """The one shape of every error."""

    error: ErrorDetail


class HistoryItem(_Request):
    """One item that the user interacted with."""

    item_id: ItemId
    domain: Domain | None = Field(None, description="its domain; the target domain if left out")


class RecommendRequest(_Request):
    """Asks for the next items of one user in one domain."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"domain": "drama", "history": [{"item_id": "50"}, {"item_id": "181"}], "num_results": 3}]
        }
    )

    domain: Domain = Field(description="the domain to recommend from")
    history: list[HistoryItem] = Field(default=[], description="what the user interacted with, oldest first")
    num_results: int = Field(10, ge=1, le=MAX_NUM_RESULTS, description="how many items to return at most")
    exclude: list[ItemId] = Field(default=[], description="item ids of the target domain that must not come back")
    exclude_history: bool = Field(True, description="whether items of the history must not come back")
    beam_width: int | None = Field(None, ge=1, description="width of the beam search; the bundle's own if left out")


class RecommendBatch(_Request):
    """Several requests, answered row by row."""

    requests: list[
        Annotated[
            RecommendRequest | InvalidRow,
            PlainValidator(lambda value: _row(RecommendRequest, value), json_schema_input_type=RecommendRequest),
        ]
    ] = Field(min_length=1)


def _single_or_batch(value: Any) -> str:
    return "batch" if isinstance(value, dict) and "requests" in value else "single"


RecommendBody = Annotated[
    Annotated[RecommendRequest, Tag("single")] | Annotated[RecommendBatch, Tag("batch")],
    Discriminator(_single_or_batch),
]


class RecommendedItem(_Answer):
    """One item of an answer."""

    item_id: str
    score: float = Field(description="log-probability; higher is better")
    rank: int = Field(description="1 is the best")
    sid: Sid
    title: str | None = Field(None, exclude_if=_absent)


class RecommendAnswer(_Answer):
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
        None, exclude_if=_absent, description="why fewer items came back than asked for"
    )


class RecommendBatchAnswer(_Answer):
    """One answer or error a row, in the order of the rows."""

    results: list[RecommendAnswer | ErrorAnswer]


class TokenizeItem(BaseModel):
    """An item: its id, and any other fields that are text, a number or a list of texts (see ``limits``)."""

    model_config = ConfigDict(
        extra="allow",
        strict=True,
        frozen=True,
        json_schema_extra={
            "additionalProperties": {
                "anyOf": [
                    {"type": "string"},
                    {"type": "number"},
                    {"type": "array", "items": {"type": "string"}},
                    {"type": "null"},
                ]
            }
        },
    )

    item_id: ItemId
    title: str | None = None
    brand: str | None = None
    categories: list[str] | None = None
    description: str | None = None

    @field_validator("item_id")
    @classmethod
    def _no_control_characters(cls, value: str) -> str:
        if any(character < " " for character in value):
            raise ValueError("an item_id holds no control characters")
        return value

    def fields(self) -> dict[str, object]:
        """All that was given, apart from the id; what was given as null is left out."""
        return {name: value for name, value in self.model_dump(exclude={"item_id"}).items() if value is not None}


class TokenizeRequest(_Request):
    """Asks for the SIDs of items, and registers them if wanted."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "domain": "western",
                    "items": [{"item_id": "w1", "title": "High Noon (1952)", "categories": ["Western"]}],
                    "register": True,
                }
            ]
        }
    )

    domain: Domain
    items: list[
        Annotated[
            TokenizeItem | InvalidRow,
            PlainValidator(lambda value: _row(TokenizeItem, value), json_schema_input_type=TokenizeItem),
        ]
    ] = Field(min_length=1)
    register_: bool = Field(False, alias="register", description="whether the items join the catalog")


class TokenizedItem(_Answer):
    """The SID of one item, or why it has none."""

    item_id: str | None = Field(description="null if the row had no readable one")
    sid: Sid | None
    moved: bool = Field(description="whether the item's own leaf was taken, so that it got the nearest free one")
    registered: bool = Field(description="whether the item is in the catalog now")
    error: ErrorDetail | None = Field(None, exclude_if=_absent)


class TokenizeAnswer(_Answer):
    """One entry an item, in the order of the items."""

    items: list[TokenizedItem]
    tokenizer_version: str
    catalog_version: int


class DomainInfo(_Answer):
    """A domain that can be asked for."""

    name: str
    items: int


class TokenizerInfo(_Answer):
    """How items get their SIDs."""

    method: str
    version: str
    codebook_sizes: list[int]


class Info(_Answer):
    """What this service serves."""

    bundle_version: str
    catalog_version: int
    domains: list[DomainInfo]
    backbone: str
    tokenizer: TokenizerInfo
    limits: dict[str, int]


class Health(_Answer):
    """Whether the service lives, or is ready."""

    status: Literal["live", "ready"]


def field_path(location: Sequence[int | str]) -> str | None:
    """``("history", 3, "item_id")`` to ``history.3.item_id``; None for the whole."""
    path = ".".join(str(part) for part in location).encode("utf-8", "replace").decode()[:200]
    return path or None


def body_field_path(location: Sequence[int | str]) -> str | None:
    """The same without what the framework puts in front: ``body``, and the kind of /recommend body."""
    inner = list(location[1:])
    return field_path(inner[1:] if inner[:1] in (["single"], ["batch"]) else inner)


def sentence(kind: str, message: str) -> str:
    """What is wrong, in our words where the schema library's do not help the sender."""
    return _SENTENCES.get(kind, message.removeprefix("Value error, "))


def first_problem(error: ValidationError) -> tuple[str | None, str]:
    """The field and the sentence of the first thing that a schema refuses."""
    problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return field_path(problem["loc"]), sentence(problem["type"], problem["msg"])


def invalid(row: InvalidRow) -> InvalidRequestError:
    """The error that a row's sender gets."""
    return InvalidRequestError(row.message, field=row.field)


def _row(model: type[_RequestModel], value: object) -> _RequestModel | InvalidRow:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        item_id = value.get("item_id") if isinstance(value, dict) else None
        field, message = first_problem(error)
        return InvalidRow(item_id=_printable(item_id), field=field, message=message)


def _printable(item_id: object) -> str | None:
    return item_id.encode("utf-8", "replace").decode()[:256] if isinstance(item_id, str) else None
