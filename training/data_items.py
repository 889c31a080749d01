"""Reads ``items.jsonl[.gz]``: one JSON object a line, checked. Knows nothing of interactions."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Never

from sidera.errors import EmbeddingError
from sidera.item_text import item_text
from training.data_files import BadRow, BadRows, read_content
from training.errors import DataError

_KINDS = {
    dict: "an object",
    bool: "true or false",
    type(None): "null",
    int: "a number",
    float: "a number",
    list: "a list",
}


@dataclass(frozen=True)
class ItemRows:
    """The items of one file, in file order; also those that are refused, where it is not for their ids.

    ``no_text``: the line of every item without text, by item number; whether it is refused, its interactions say.
    """

    item_ids: tuple[str, ...]
    fields: tuple[Mapping[str, object], ...]
    bad: BadRows
    sha256: str
    no_text: Mapping[int, int]


class _BadItemError(Exception):
    """The reason why one line is refused."""


def read_items(path: Path, limit: int = 1) -> ItemRows:
    """Read all items of a file; the first ``limit`` bad lines are told in ``bad``.

    Raises:
        DataError: the file cannot be read or holds no line.
    """
    content = read_content(path)
    line_of: dict[str, int] = {}
    fields: list[Mapping[str, object]] = []
    bad: list[BadRow] = []
    no_text: dict[int, int] = {}
    total = 0
    for number, line in enumerate(content.data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            item = _parse(line)
            item_id = _item_id(item)
            if item_id in line_of:
                raise _BadItemError(f'item_id "{item_id}" is already on line {line_of[item_id]}; keep one of the two')
            line_of[item_id] = number
            fields.append(item)
            if not _text(item):
                no_text[len(fields) - 1] = number
        except _BadItemError as error:
            total += 1
            if len(bad) < limit:
                bad.append(BadRow(path, number, str(error)))
    if not line_of and not bad:
        raise DataError(f"{path}:1: the file holds no item; write one JSON object a line")
    return ItemRows(tuple(line_of), tuple(fields), BadRows(tuple(bad), total), content.sha256, no_text)


def _parse(line: bytes) -> dict[str, object]:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _BadItemError(f"byte {error.start + 1} of the line is not UTF-8; write the file as UTF-8") from error
    try:
        item = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise _BadItemError("the line is nested too deep; give one flat JSON object") from error
    except ValueError as error:
        raise _BadItemError(f"the line is not JSON ({error}); give one JSON object a line") from error
    if not isinstance(item, dict):
        raise _BadItemError(f"the line is {_kind(item)}; give one JSON object a line")
    if "\\u" in text and not _is_encodable(json.dumps(item, ensure_ascii=False)):
        raise _BadItemError("the line holds half of a surrogate pair; write the character itself")
    return item


def _item_id(item: Mapping[str, object]) -> str:
    if "item_id" not in item:
        raise _BadItemError('there is no "item_id"; give each item its id as text')
    item_id = item["item_id"]
    if not isinstance(item_id, str):
        raise _BadItemError(f'"item_id" is {_kind(item_id)}; expected text, so put it in quotes')
    if not item_id.strip():
        raise _BadItemError('"item_id" is empty; give each item its id as text')
    if "\0" in item_id:
        raise _BadItemError('"item_id" holds U+0000, which no catalog can hold; write the id without it')
    return item_id


def _text(item: Mapping[str, object]) -> str:
    try:
        return item_text(item)
    except EmbeddingError as error:
        raise _BadItemError(str(error)) from error


def _kind(value: object) -> str:
    return _KINDS.get(type(value), "text")


def _refuse_constant(name: str) -> Never:
    raise ValueError(f"{name} is not a JSON number")


def _is_encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
