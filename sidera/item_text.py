"""The text that an item has: what an encoder reads of its fields.

Knows nothing of encoders.
"""

import math
from collections.abc import Mapping, Sequence

from sidera.errors import EmbeddingError

_LEADING_FIELDS = ("title", "brand", "categories", "description")


def item_text(fields: Mapping[str, object]) -> str:
    """Make the one text of an item: title, brand, categories, description, then its other fields in alphabetical order.

    ``item_id`` is never part of it; null and blank fields are left out, so the text of an item without any is ``""``.

    Raises:
        EmbeddingError: a field is of a kind that has no text: anything but text, a finite number or a list of texts.
    """
    parts = [_field_text(name, fields[name]) for name in _LEADING_FIELDS if name in fields]
    others = sorted(set(fields) - set(_LEADING_FIELDS) - {"item_id"})
    labelled = [(name, _field_text(name, fields[name])) for name in others]
    parts += [f"{name}: {text}" for name, text in labelled if text]
    return ". ".join(part for part in parts if part)


def item_texts(
    items: Sequence[Mapping[str, object]], item_ids: Sequence[str] | None = None, blank: bool = False
) -> list[str]:
    """Make the text of every item, and refuse items without any.

    Args:
        items: the fields of each item.
        item_ids: what errors call the items; without it, their own ``item_id`` or else their row.
        blank: let items without text through; theirs is ``""``.

    Raises:
        EmbeddingError: an item has no text, or a field that has none; the message names the item.
    """
    if item_ids is not None and len(item_ids) != len(items):
        raise EmbeddingError(f"{len(items)} items came with {len(item_ids)} item ids; give one id per item")
    texts = []
    for row, fields in enumerate(items):
        item_id = item_ids[row] if item_ids is not None else fields.get("item_id")
        name = f"item {item_id!r}" if item_id is not None else f"item in row {row}"
        try:
            text = item_text(fields)
        except EmbeddingError as error:
            raise EmbeddingError(f"{name}: {error}") from None
        if not text and not blank:
            raise EmbeddingError(f"{name} has no text; give it a title or another text field")
        texts.append(text)
    return texts


def _field_text(name: str, value: object) -> str:
    if value is None:
        return ""
    if name == "categories":
        kinds, expected = "list", "a list of texts"
    elif name in _LEADING_FIELDS:
        kinds, expected = "text", "text"
    else:
        kinds, expected = "text list number", "text, a number or a list of texts"
    if isinstance(value, str) and "text" in kinds:
        return _one_line(value)
    if isinstance(value, (list, tuple)) and "list" in kinds and all(isinstance(part, str) for part in value):
        return ", ".join(part for part in map(_one_line, value) if part)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and "number" in kinds:
        if isinstance(value, float) and not math.isfinite(value):
            raise EmbeddingError(f"field {name!r} is {value}; numbers must be finite")
        return str(value)
    raise EmbeddingError(f"field {name!r} holds {type(value).__name__}; expected {expected}")


def _one_line(text: str) -> str:
    return " ".join(text.split())
