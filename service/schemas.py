"""What requests and answers look like, those of ``/recommend`` apart (``recommend_schemas``).

Fields that are not named here are refused. Numbers and texts are taken as they are: ``"10"`` is no number. A row of a
batch that does not fit becomes an ``InvalidRow``, so that its neighbours go on. Limits that an operator sets are
checked in ``limits``.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    StringConstraints,
    ValidationError,
    field_validator,
)

from service.errors import InvalidRequestError

_SENTENCES = {
    "extra_forbidden": "there is no such field; remove it",
    "missing": "this field is needed",
    "model_type": "expected a JSON object",
    "model_attributes_type": "expected a JSON object",
    "dict_type": "expected a JSON object",
    "list_type": "expected a list",
    "string_type": "expected a text",
    "int_type": "expected a whole number",
    "int_parsing": "expected a whole number",
    "int_parsing_size": "the number is too large",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "finite_number": "expected a finite number",
    "bool_type": "expected true or false",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "string_too_short": "must have at least {min_length} character(s)",
    "string_too_long": "must have at most {max_length} character(s)",
    "too_short": "must have {min_length} or more entries",
    "string_unicode": "a text holds half of a surrogate pair; send whole characters",
}

ItemId = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Domain = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Sid = Annotated[list[int], Field(description="semantic ID: one code a level", examples=[[17, 203, 4, 88]])]

_RowModel = TypeVar("_RowModel", bound=BaseModel)


class Request(BaseModel):
    """Root of what is sent: no unknown fields, no conversions."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Answer(BaseModel):
    """Root of what comes back."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def is_absent(value: object) -> bool:
    """Whether a field of an answer is left out."""
    return value is None


class InvalidRow(BaseModel):
    """A row that does not fit its schema, and why; ``item_id`` is the id that it gave."""

    item_id: str | None
    field: str | None
    message: str


class ErrorDetail(Answer):
    """What went wrong, for the person who must act."""

    code: str = Field(description="stable, machine-readable", examples=["unknown_domain"])
    message: str = Field(examples=["there is no domain 'cinema'; /v1/info lists the domains"])
    field: str | None = Field(
        None, exclude_if=is_absent, description="path of the offending field", examples=["history.3.item_id"]
    )
    retryable: bool = Field(description="whether the same request may succeed later")


class ErrorAnswer(Answer):
    """The one shape of every error."""

    error: ErrorDetail


class ItemFields(BaseModel):
    """Any fields of an item that are text, a number or a list of texts (see ``limits``)."""

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

    title: str | None = None
    brand: str | None = None
    categories: list[str] | None = None
    description: str | None = None


class TokenizeItem(ItemFields):
    """An item: its id, and its other fields."""

    item_id: ItemId

    @field_validator("item_id")
    @classmethod
    def _no_control_characters(cls, value: str) -> str:
        if any(character < " " for character in value):
            raise ValueError("an item_id holds no control characters")
        return value

    def fields(self) -> dict[str, object]:
        """All that was given, apart from the id; what was given as null is left out."""
        return {name: value for name, value in self.model_dump(exclude={"item_id"}).items() if value is not None}


class TokenizeRequest(Request):
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
            PlainValidator(lambda value: row_or_invalid(TokenizeItem, value), json_schema_input_type=TokenizeItem),
        ]
    ] = Field(min_length=1)
    register_: bool = Field(False, alias="register", description="whether the items join the catalog")


class TokenizedItem(Answer):
    """The SID of one item, or why it has none."""

    item_id: str | None = Field(description="null if the row had no readable one")
    sid: Sid | None
    moved: bool = Field(description="whether the item's own leaf was taken, so that it got the nearest free one")
    registered: bool = Field(description="whether the item is in the catalog now")
    error: ErrorDetail | None = Field(None, exclude_if=is_absent)


class TokenizeAnswer(Answer):
    """One entry an item, in the order of the items."""

    items: list[TokenizedItem]
    tokenizer_version: str
    catalog_version: int


class DomainInfo(Answer):
    """A domain that can be asked for."""

    name: str
    items: int


class TokenizerInfo(Answer):
    """How items get their SIDs."""

    method: str
    version: str
    codebook_sizes: list[int]


class Info(Answer):
    """What this service serves."""

    bundle_version: str
    catalog_version: int
    domains: list[DomainInfo]
    backbone: str
    tokenizer: TokenizerInfo
    limits: dict[str, int]


class Health(Answer):
    """Whether the service lives, or is ready."""

    status: Literal["live", "ready"]


def field_path(location: Sequence[int | str]) -> str | None:
    """``("history", 3, "item_id")`` to ``history.3.item_id``; None for the whole."""
    path = ".".join(str(part) for part in location if part != "[key]").encode("utf-8", "replace").decode()[:200]
    return path or None


def body_field_path(location: Sequence[int | str]) -> str | None:
    """The same without what the framework puts in front: ``body``, and the kind of /recommend body."""
    inner = list(location[1:])
    return field_path(inner[1:] if inner[:1] in (["single"], ["batch"]) else inner)


def sentence(kind: str, message: str, context: Mapping[str, Any] | None = None) -> str:
    """What is wrong, in our words where the schema library's do not help the sender."""
    known = _SENTENCES.get(kind)
    return message.removeprefix("Value error, ") if known is None else known.format_map(context or {})


def first_problem(error: ValidationError) -> tuple[str | None, str]:
    """The field and the sentence of the first thing that a schema refuses."""
    problem = error.errors(include_url=False, include_input=False)[0]
    return field_path(problem["loc"]), sentence(problem["type"], problem["msg"], problem.get("ctx"))


def invalid(row: InvalidRow) -> InvalidRequestError:
    """The error that a row's sender gets."""
    return InvalidRequestError(row.message, field=row.field)


def row_or_invalid(model: type[_RowModel], value: object, id_field: str = "item_id") -> _RowModel | InvalidRow:
    """A row of a batch, or why it is none; ``id_field`` is where it names itself."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        row_id = value.get(id_field) if isinstance(value, dict) else None
        field, message = first_problem(error)
        return InvalidRow(item_id=_printable(row_id), field=field, message=message)


def _printable(row_id: object) -> str | None:
    return row_id.encode("utf-8", "replace").decode()[:256] if isinstance(row_id, str) else None
