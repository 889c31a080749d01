"""Turns a column of timestamps into whole unix seconds: numbers, ISO 8601 text, or the time types of parquet.

Fractions of a second are dropped. Shape legend: E events.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

LATEST_SECONDS = 1e11
"""No time of an event lies so late (year 5138): a larger number counts milliseconds."""

_NUMBER = r"^[+-]?(\d{1,18}(\.\d{0,18})?|\.\d{1,18})([eE][+-]?\d{1,2})?$"

GOOD, EMPTY, NOT_A_TIME, NOT_A_NUMBER, NEGATIVE, TOO_LARGE = range(6)
REASONS = {
    EMPTY: "timestamp is empty; give unix seconds or an ISO 8601 time",
    NOT_A_TIME: "timestamp {value} is not a time; give unix seconds or an ISO 8601 time",
    NOT_A_NUMBER: "timestamp {value} is not finite; give unix seconds or an ISO 8601 time",
    NEGATIVE: "timestamp {value} is before 1970; give unix seconds from 0 on",
    TOO_LARGE: "timestamp {value} is too large for unix seconds; give seconds, not milliseconds",
}


@dataclass(frozen=True, eq=False)
class Times:
    """Whole seconds int64[E], and for each event what is wrong with it: a key of ``REASONS`` or ``GOOD``, int8[E]."""

    seconds_E: npt.NDArray[np.int64]
    problem_E: npt.NDArray[np.int8]


def is_time_type(kind: Any) -> bool:
    """Whether a column of this arrow type can hold times."""
    return is_text_type(kind) or any(
        test(kind) for test in (pa.types.is_integer, pa.types.is_floating, pa.types.is_timestamp, pa.types.is_date)
    )


def is_text_type(kind: Any) -> bool:
    """Whether a column of this arrow type holds text."""
    if pa.types.is_dictionary(kind):
        return is_text_type(kind.value_type)
    return any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def parse_times(column: Any) -> Times:
    """Seconds of each value of an arrow column (E values) whose type passes ``is_time_type``."""
    empty_E = pc.is_null(column).to_numpy()
    if is_text_type(column.type):
        seconds_E, empty_text_E, unread_E = _parse_texts(column)
        empty_E = empty_E | empty_text_E
    else:
        seconds_E, unread_E = _to_seconds(column), np.zeros(len(column), dtype=bool)
    problem_E = np.full(len(column), GOOD, dtype=np.int8)
    with np.errstate(invalid="ignore"):
        problem_E[seconds_E > LATEST_SECONDS] = TOO_LARGE
        problem_E[seconds_E < 0] = NEGATIVE
    problem_E[~np.isfinite(seconds_E)] = NOT_A_NUMBER
    problem_E[unread_E] = NOT_A_TIME
    problem_E[empty_E] = EMPTY
    return Times(np.where(problem_E == GOOD, seconds_E, 0).astype(np.int64), problem_E)


def _to_seconds(column: Any) -> npt.NDArray[np.float64]:
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        micros = pc.cast(pc.cast(column, pa.timestamp("us"), safe=False), pa.int64())
        return _floats(micros) / 1e6
    return _floats(column)


def _floats(column: Any) -> npt.NDArray[np.float64]:
    filled = pc.fill_null(pc.cast(column, pa.float64(), safe=False), float("nan"))
    return np.array(filled.to_numpy(), dtype=np.float64)  # a copy: arrow's own memory is read-only


def _parse_texts(column: Any) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Seconds, which values are empty, and which are no time, each [E]."""
    texts = pc.utf8_trim_whitespace(pc.fill_null(pc.cast(column, pa.large_string()), ""))
    empty_E = pc.equal(texts, "").to_numpy()
    number = pc.match_substring_regex(texts, _NUMBER)
    number_E = number.to_numpy()
    nothing = pa.scalar(None, type=pa.large_string())
    seconds_E = _floats(pc.if_else(number, texts, nothing))
    unread_E = np.zeros(len(texts), dtype=bool)
    other_E = np.flatnonzero(~number_E & ~empty_E)
    if len(other_E):
        encoded = pc.dictionary_encode(texts.take(pa.array(other_E)).combine_chunks())
        values = np.array([iso_seconds(text) for text in encoded.dictionary.to_pylist()], dtype=np.float64)
        codes = encoded.indices.to_numpy()
        seconds_E[other_E] = values[codes]
        spelled_E = np.array([_is_spelled_number(text) for text in encoded.dictionary.to_pylist()])[codes]
        unread_E[other_E] = np.isnan(values[codes]) & ~spelled_E
    return seconds_E, empty_E, unread_E


def iso_seconds(text: str) -> float:
    """Unix seconds of an ISO 8601 time, UTC where it names no zone; NaN where it is none."""
    try:
        when = datetime.fromisoformat(text)
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return float("nan")


def _is_spelled_number(text: str) -> bool:
    """Whether the text is ``nan``, ``inf`` or a number too long for ``_NUMBER``."""
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text
