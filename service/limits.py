"""Checks requests against the limits that the operator set; the schemas check everything else."""

from service.errors import InvalidRequestError
from service.schemas import RecommendRequest, TokenizeItem
from service.settings import Settings


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
    """Refuse an item with a text that is too long, or with too many of them.

    Raises:
        InvalidRequestError: it names the field and the limit.
    """
    for name, value in item.fields().items():
        texts = value if isinstance(value, list) else [value]
        check_size(name, sum(len(text) for text in texts if isinstance(text, str)), settings.max_text_chars)


def check_size(field: str, size: int, limit: int) -> None:
    """Refuse a size over its limit.

    Raises:
        InvalidRequestError: it names the field and the limit.
    """
    if size > limit:
        raise InvalidRequestError(f"{field} is {size}, but at most {limit} is allowed here", field=field)
