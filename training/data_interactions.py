"""Reads ``interactions.{csv,csv.gz,parquet}`` column by column and finds the rows to refuse.

Columns ``user_id``, ``item_id`` and ``timestamp``; others are ignored. Line numbers are looked up only for rows that
are refused. Shape legend: E events.
"""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from training.data_files import BadRow, BadRows, FileContent, quoted, read_content
from training.data_times import REASONS, is_text_type, is_time_type, parse_times
from training.errors import DataError

COLUMNS = ("user_id", "item_id", "timestamp")
_BLOCK_BYTES = 64 * 1024 * 1024

_NO_USER, _NO_ITEM, _UNKNOWN_ITEM = -1, -2, -3


@dataclass(frozen=True, eq=False)
class InteractionRows:
    """The good rows of one file, in file order.

    user_E: int32[E] into ``users`` (in the order of first appearance). item_E: int32[E] into the given item ids.
    time_E: int64[E], unix seconds.
    """

    users: tuple[str, ...]
    user_E: npt.NDArray[np.int32]
    item_E: npt.NDArray[np.int32]
    time_E: npt.NDArray[np.int64]
    bad: BadRows
    sha256: str


@dataclass(frozen=True)
class _Table:
    """The three columns, how many rows have another number of fields, and who knows the lines of rows."""

    user: Any
    item: Any
    time: Any
    misshapen: int
    locate: Callable[[Sequence[int]], tuple[list[int], list[BadRow]]]


def read_interactions(path: Path, item_ids: Sequence[str], limit: int = 1) -> InteractionRows:
    """Read all interactions of a file with the items ``item_ids``; the first ``limit`` bad rows are told in ``bad``.

    Raises:
        DataError: the file cannot be read, holds no row, is not UTF-8, or lacks a column.
    """
    content = read_content(path)
    table = _read_parquet(content) if path.suffix == ".parquet" else _read_csv(content)
    if not len(table.user) and not table.misshapen:
        raise DataError(f"{path}:1: the file holds no interaction; write its rows or remove the domain")

    times = parse_times(table.time)
    item = pc.index_in(table.item, value_set=pa.array(item_ids, type=pa.large_string()))
    problem_E = times.problem_E.copy()
    problem_E[pc.is_null(item).to_numpy()] = _UNKNOWN_ITEM
    problem_E[_is_empty(table.item)] = _NO_ITEM
    problem_E[_is_empty(table.user)] = _NO_USER

    bad = _bad_rows(path, table, problem_E, limit)
    good_E = problem_E == 0
    user = pc.dictionary_encode(_one_array(table.user.filter(pa.array(good_E))))
    return InteractionRows(
        users=tuple(user.dictionary.to_pylist()),
        user_E=user.indices.to_numpy().astype(np.int32),
        item_E=pc.fill_null(item, -1).to_numpy()[good_E].astype(np.int32),
        time_E=times.seconds_E[good_E],
        bad=bad,
        sha256=content.sha256,
    )


def _bad_rows(path: Path, table: _Table, problem_E: npt.NDArray[np.int8], limit: int) -> BadRows:
    bad_E = np.flatnonzero(problem_E)
    total = len(bad_E) + table.misshapen
    if not total:
        return BadRows((), 0)
    shown = bad_E[:limit].tolist()
    lines, rows = table.locate(shown)
    for row, line in zip(shown, lines, strict=True):
        rows.append(BadRow(path, line, _reason(int(problem_E[row]), table, row)))
    return BadRows(tuple(sorted(rows, key=lambda bad: bad.line)[:limit]), total)


def _reason(problem: int, table: _Table, row: int) -> str:
    if problem == _NO_USER:
        return "user_id is empty; name the user or remove the row"
    if problem == _NO_ITEM:
        return "item_id is empty; name the item or remove the row"
    if problem == _UNKNOWN_ITEM:
        return f"item_id {quoted(table.item[row].as_py())} is not among the items; add the item or remove the row"
    return REASONS[problem].format(value=quoted(table.time[row].as_py()))


def _read_csv(content: FileContent) -> _Table:
    path, data = content.path, content.data
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.line_at(error.start)
        raise DataError(f"{path}:{line}: the line is not UTF-8; write the file as UTF-8") from error
    _, header = next(_csv_rows(path, text), (1, []))
    _check_columns(path, header)

    skipped = 0

    def skip(_row: object) -> str:
        nonlocal skipped
        skipped += 1
        return "skip"

    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(data),
            read_options=pyarrow.csv.ReadOptions(block_size=_BLOCK_BYTES, use_threads=False),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=b'"' in data, invalid_row_handler=skip),
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=list(COLUMNS), column_types=dict.fromkeys(COLUMNS, pa.large_string())
            ),
        )
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}:1: the file is not CSV ({error}); write it anew with commas and quotes") from error

    def locate(rows: Sequence[int]) -> tuple[list[int], list[BadRow]]:
        return _locate_csv(path, text, len(header), rows)

    user, item, time = (table.column(name) for name in COLUMNS)
    return _Table(user, item, time, misshapen=skipped, locate=locate)


def _locate_csv(path: Path, text: str, fields: int, rows: Sequence[int]) -> tuple[list[int], list[BadRow]]:
    """The line of each of ``rows`` (ascending, counted from 0 without the header), and the rows of another length."""
    wanted = set(rows)
    lines: list[int] = []
    misshapen: list[BadRow] = []
    index = -1  # the header's
    for line, row in _csv_rows(path, text):
        if len(row) != fields:
            reason = f"the row has {len(row)} fields and the header has {fields}; quote fields that hold commas"
            misshapen.append(BadRow(path, line, reason))
            continue
        if index in wanted:
            lines.append(line)
        index += 1
    return lines, misshapen


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """Each row that is not blank and the line where it begins, one by one: slow, for the header and for bad rows."""
    reader = csv.reader(io.StringIO(text, newline=""))
    begins = 1
    try:
        for row in reader:
            if row:
                yield begins, row
            begins = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}:{begins}: the row is not CSV ({error}); look for a quote that is not closed"
        ) from error


def _read_parquet(content: FileContent) -> _Table:
    path = content.path
    try:
        file = pyarrow.parquet.ParquetFile(pa.BufferReader(content.data))
        _check_columns(path, file.schema_arrow.names)
        table = file.read(columns=list(COLUMNS))
        table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}:1: the file is not whole parquet data ({error}); write it again") from error
    for name in COLUMNS:
        kind = table.column(name).type
        if not (is_time_type(kind) if name == "timestamp" else is_text_type(kind)):
            expected = "seconds, times or text" if name == "timestamp" else "text"
            raise DataError(f'{path}:1: column "{name}" holds {kind}; write it as {expected}')

    def locate(rows: Sequence[int]) -> tuple[list[int], list[BadRow]]:
        return [row + 1 for row in rows], []

    user, item = (pc.cast(table.column(name), pa.large_string()) for name in COLUMNS[:2])
    return _Table(user, item, table.column("timestamp"), misshapen=0, locate=locate)


def _check_columns(path: Path, found: Sequence[str]) -> None:
    for name in COLUMNS:
        if found.count(name) != 1:
            problem = "there is no column" if name not in found else "there is more than one column"
            columns = ", ".join(quoted(column) for column in found)
            raise DataError(
                f'{path}:1: {problem} "{name}" among {columns}; the first row names the columns: '
                f"{', '.join(COLUMNS)}, separated by commas"
            )


def _is_empty(column: Any) -> npt.NDArray[np.bool_]:
    trimmed = pc.utf8_trim_whitespace(pc.fill_null(column, ""))
    empty: npt.NDArray[np.bool_] = pc.equal(trimmed, "").to_numpy()
    return empty


def _one_array(column: Any) -> Any:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
