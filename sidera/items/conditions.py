"""What a request demands of items' fields, and one field of many items as an index that answers it.

A condition names a field and either values (an item passes if its field is one of them, or a list that holds one) or a
range of numbers (an item passes if its field, or a number of its list, lies in it). An item without the field never
passes.

Shapes: R rows (items), V different values, X entries: a row and a value of it.
"""

import math
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from sidera.errors import FilterError

_ENTRY_BYTES = 100
"""Of a value in a list or a dictionary, the value itself aside."""

Value = str | int | float | tuple[bool]
"""A value that items are compared by. 1 and 1.0 are equal; true is ``(True,)``, as it must not be equal to 1."""


@dataclass(frozen=True)
class Condition:
    """One field's demand; made by :func:`conditions_of`.

    Attributes:
        any_of: the values that pass; None: a range.
        least: the smallest number that passes; None: any.
        most: the largest number that passes; None: any.
    """

    field: str
    any_of: tuple[Value, ...] | None = None
    least: float | None = None
    most: float | None = None


def conditions_of(filters: Mapping[str, object]) -> tuple[Condition, ...]:
    """Read conditions as they stand in JSON; an item must meet all of them.

    Args:
        filters: by field: a value (text, number, true or false), a list of values, or ``{"min": 5, "max": 20}`` with
            one of the two or both; both ends pass.

    Raises:
        FilterError: a condition is none of these, is empty, or its min is above its max.
    """
    return tuple(_condition(field, filters[field]) for field in sorted(filters))


def _condition(field: str, wanted: object) -> Condition:
    name = f"the filter of field {field[:80]!r}"
    if isinstance(wanted, Mapping):
        if not wanted or not wanted.keys() <= {"min", "max"}:
            raise FilterError(f'{name} is no range; give {{"min": number, "max": number}} or one of the two', field)
        least, most = (_bound(field, wanted, end) for end in ("min", "max"))
        if least is None and most is None:
            raise FilterError(f"{name} has neither min nor max; give one of the two as a number", field)
        if least is not None and most is not None and least > most:
            raise FilterError(f"{name} has a min of {least} above its max of {most}; no item can pass", field)
        return Condition(field, least=least, most=most)
    values = wanted if isinstance(wanted, list | tuple) else [wanted]
    keys = [_key(value) for value in values]
    if not keys:
        raise FilterError(f"{name} lists no value; give at least one, or leave the filter out", field)
    if None in keys:
        raise FilterError(
            f"{name} asks for something that is no value; give text, finite numbers, true or false", field
        )
    return Condition(field, any_of=tuple(dict.fromkeys(key for key in keys if key is not None)))


def _bound(field: str, wanted: Mapping[str, object], end: str) -> float | None:
    bound = wanted.get(end)
    if bound is not None and (isinstance(bound, bool) or not isinstance(bound, int | float) or not _is_finite(bound)):
        raise FilterError(
            f"the filter of field {field[:80]!r} has a {end} that is no finite number; give numbers", field
        )
    return bound


def _key(value: object) -> Value | None:
    """What a value is compared by; None for what is no value."""
    if isinstance(value, bool):
        return (value,)
    if isinstance(value, str) or (isinstance(value, int | float) and _is_finite(value)):
        return value
    return None


def _is_finite(number: int | float) -> bool:
    return isinstance(number, int) or math.isfinite(number)


@dataclass(frozen=True)
class FieldColumn:
    """One field of many items, by value.

    Attributes:
        numbers: the numbers that occur, ascending: the first values.
        place_of: where the other values stand.
        begin: where the entries of each value begin, and where the last ones end. Shape: int64[V + 1].
        rows: the row of each entry; those of one value ascend. Shape: int32[X].
        has_field: whether any item has the field at all, be it as an object, which no condition can name.
    """

    numbers: list[int | float]
    place_of: dict[Value, int]
    begin: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int32]
    has_field: bool

    @classmethod
    def build(cls, items: Iterable[Mapping[str, object]], field: str) -> "FieldColumn":
        """The column of a field; the items are the rows."""
        code_of: dict[Value, int] = {}
        rows, codes = array("i"), array("i")
        has_field = False
        for row, item in enumerate(items):
            held = item.get(field)
            if held is None:
                continue
            has_field = True
            for value in held if isinstance(held, list | tuple) else (held,):
                key = _key(value)
                if key is not None:
                    rows.append(row)
                    codes.append(code_of.setdefault(key, len(code_of)))
        numbers = sorted(value for value in code_of if isinstance(value, int | float))
        ordered = [*numbers, *(value for value in code_of if not isinstance(value, int | float))]
        place_of_code = np.empty(len(ordered), dtype=np.int32)
        place_of_code[[code_of[value] for value in ordered]] = np.arange(len(ordered))
        places_X = place_of_code[np.asarray(codes, dtype=np.int32)]
        counts_V = np.bincount(places_X, minlength=len(ordered))
        return cls(
            numbers=numbers,
            place_of={value: place for place, value in enumerate(ordered) if place >= len(numbers)},
            begin=np.concatenate([[0], np.cumsum(counts_V)]),
            rows=np.asarray(rows, dtype=np.int32)[np.argsort(places_X, kind="stable")],
            has_field=has_field,
        )

    @cached_property
    def num_bytes(self) -> int:
        """The memory that it takes, about."""
        numbers = len(self.numbers) * (sys.getsizeof(1.0) + _ENTRY_BYTES)
        others = sum(sys.getsizeof(value) + _ENTRY_BYTES for value in self.place_of)
        return self.begin.nbytes + self.rows.nbytes + numbers + others

    def matching(self, condition: Condition) -> npt.NDArray[np.int32]:
        """The rows that meet a condition on this field, in any order, some perhaps more than once."""
        if condition.any_of is None:
            first = 0 if condition.least is None else bisect_left(self.numbers, condition.least)
            end = len(self.numbers) if condition.most is None else bisect_right(self.numbers, condition.most)
            return self.rows[self.begin[first] : self.begin[max(first, end)]]
        places = [place for value in condition.any_of if (place := self._place(value)) is not None]
        parts = [self.rows[self.begin[place] : self.begin[place + 1]] for place in places]
        return np.concatenate(parts) if parts else self.rows[:0]

    def _place(self, value: Value) -> int | None:
        if not isinstance(value, int | float):
            return self.place_of.get(value)
        place = bisect_left(self.numbers, value)
        return place if place < len(self.numbers) and self.numbers[place] == value else None
