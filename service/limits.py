"""Checks requests against the limits that the operator set; the schemas check everything else."""

from service.errors import InvalidRequestError
from service.schemas import RecommendRequest, TokenizeItem
from service.settings import Settings
from sidera.embedding import item_text
from sidera.errors import EmbeddingError

_MAX_FIELDS = 64


def check_recommend(request: RecommendRequest, settings: Settings) -> None:
    """Refuse what is over a limit.

    Raises:
        InvalidRequestError: it names the field and the limit.
    """
    sizes = (
        ("num_results", request.num_results, settings.max_num_results),
        ("beam_width", request.beam_width or 1, settings.max_beam_width),
        ("history", len(request.history), settings.max_history_items),
        ("exclude", len(request.exclude), settings.max_exclude_items),
    )
    for field, size, limit in sizes:
        check_size(field, size, limit)


def check_item(item: TokenizeItem, settings: Settings) -> None:
    """Refuse an item with a field that has no text, holds characters that are none, or is too long.

    Raises:
        InvalidRequestError: it names the field, and what is wrong or the limit.
    """
    fields = item.fields()
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
