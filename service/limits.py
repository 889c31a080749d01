"""Checks requests against the limits that the operator set; the schemas check everything else."""

from collections.abc import Mapping

from service.engine import EngineLimits
from service.errors import InvalidRequestError
from service.recommend_schemas import RecommendRequest
from service.schemas import TokenizeItem
from service.settings import Settings
from sidera.errors import EmbeddingError
from sidera.item_text import item_text

_MAX_FIELDS = 64


def recommend_limits(settings: Settings) -> EngineLimits:
    """How much the engine of /recommend takes; its work is counted in tokens."""
    return EngineLimits(
        queue_rows=settings.max_queue,
        queue_work=settings.max_queue_tokens,
        batch_work=settings.max_batch_tokens,
        wait_seconds=settings.batch_wait_ms / 1000,
        stuck_seconds=settings.stuck_ms / 1000,
        keeps_deadlines=True,
    )


def tokenize_limits(settings: Settings) -> EngineLimits:
    """How much the engine of /tokenize takes: one request at a time, each as much work as the others."""
    return EngineLimits(
        queue_rows=settings.max_tokenize_queue,
        queue_work=settings.max_tokenize_queue,
        batch_work=1,
        stuck_seconds=settings.stuck_ms / 1000,
    )


def check_recommend(request: RecommendRequest, settings: Settings) -> None:
    """Refuse what is over a limit.

    Raises:
        InvalidRequestError: it names the field and the limit.
    """
    for field, size, limit in (
        ("num_results", request.num_results, settings.max_num_results),
        ("beam_width", request.beam_width or 1, settings.max_beam_width),
        ("history", len(request.history), settings.max_history_items),
        ("exclude", len(request.exclude), settings.max_exclude_items),
        ("allow", len(request.allow or ()), settings.max_allow_items),
        ("filters", len(request.filters), settings.max_filters),
    ):
        check_size(field, size, limit)
    values = sum(len(wanted) if isinstance(wanted, list) else 1 for wanted in request.filters.values())
    if values > settings.max_filter_values:
        raise InvalidRequestError(
            f"the filters list {values} values, but at most {settings.max_filter_values} are allowed here",
            field="filters",
        )
    if request.explain and request.num_results > settings.max_explained_items:
        raise InvalidRequestError(
            f"explanations of {request.num_results} items are asked for, but at most {settings.max_explained_items} "
            "are allowed here; lower num_results",
            field="explain",
        )


def check_item(item: TokenizeItem, settings: Settings) -> None:
    """Refuse an item with a field that has no text, holds characters that are none, or is too long.

    Raises:
        InvalidRequestError: it names the field, and what is wrong or the limit.
    """
    check_fields(item.fields(), settings)


def check_fields(fields: Mapping[str, object], settings: Settings) -> None:
    """The same of the fields of an item, without those that are null."""
    if len(fields) > _MAX_FIELDS:
        raise InvalidRequestError(f"the item has {len(fields)} fields, but at most {_MAX_FIELDS} are allowed")
    for name, value in fields.items():
        texts = [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]
        if not all(map(_is_unicode, [name, *texts])):
            shown = name.encode("utf-8", "replace").decode()
            raise InvalidRequestError("a text holds half of a surrogate pair; send whole characters", field=shown)
        check_size(name, sum(map(len, texts)) + len(name), settings.max_text_chars)
    try:
        text = item_text(fields)
    except EmbeddingError as error:
        raise InvalidRequestError(str(error)) from error
    if not text:
        raise InvalidRequestError("the item has no text; give it a title or another text field", field="title")


def check_size(field: str, size: int, limit: int) -> None:
    """Refuse a size over its limit.

    Raises:
        InvalidRequestError: it names the field and the limit.
    """
    if size > limit:
        raise InvalidRequestError(f"{field} is {size}, but at most {limit} is allowed here", field=field)


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)
