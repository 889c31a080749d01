"""The histories of many users: a parquet file of either layout, checked and cut into parts of so many users.

Two layouts are read, told apart by their columns:

* a row a user: ``user_id``, and ``history``, a list of structs ``domain``, ``item_id``, oldest first (a user with two
  rows counts as two users);
* a row an event: ``user_id``, ``domain``, ``item_id`` and ``timestamp`` (unix seconds or a time type). A user's events
  may stand anywhere in the file; they are sorted by time, and file order settles ties.

Both are read batch by batch. The events of the second layout are spread over files by a hash of the user, and each of
those is sorted alone; so memory grows with none of them. Every row is checked before the first part counts.

A part is a parquet file with ``user_id`` and ``history``, a list of structs ``domain``, ``item_id``, ``real_time``.

Shapes: E events, U users.
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sidera.digests import sync_file
from sidera.errors import BatchError

POSITION_LIMIT = 10**8
"""A time below this many seconds (before March 1973) is a position in the user's sequence."""

EVENT_COLUMNS = ("user_id", "domain", "item_id", "timestamp")
USER_COLUMNS = ("user_id", "history")

_ENTRY = pa.struct([("domain", pa.string()), ("item_id", pa.string()), ("real_time", pa.bool_())])
PART_SCHEMA = pa.schema([("user_id", pa.string()), ("history", pa.list_(_ENTRY))])

_ROWS_AT_ONCE = 65_536
_EVENTS_A_BUCKET = 1_000_000
_MOST_BUCKETS = 512

Advance = Callable[[int], None]


@dataclass(frozen=True)
class UserHistory:
    """One user: (domain, item id) and whether its time is real, oldest first."""

    user_id: str
    entries: tuple[tuple[str, str, bool], ...]

    def before(self, domain: str) -> tuple[tuple[str, str], ...]:
        """What a target of ``domain`` may follow: its own events, and others' where both have real times."""
        own_real = all(real for own, _, real in self.entries if own == domain)
        return tuple((own, item) for own, item, real in self.entries if own == domain or (own_real and real))


def count_rows(path: Path) -> int:
    """Rows of a parquet file of histories, its columns checked.

    Raises:
        BatchError: it cannot be read, or has neither layout's columns.
    """
    with _opened(path) as file:
        _layout(path, file.schema_arrow)
        return int(file.metadata.num_rows)


def write_parts(path: Path, folder: Path, users_a_part: int, advance: Advance) -> int:
    """Write all users of ``path`` into ``folder``, so many a part; the number of parts.

    Args:
        folder: empty; also holds the sorted files while the second layout is read.
        advance: is told the rows that were read.

    Raises:
        BatchError: a row lacks a user, a domain, an item or a time.
    """
    with _opened(path) as file:
        if _layout(path, file.schema_arrow) == USER_COLUMNS:
            tables = _user_tables(path, file, advance)
        else:
            tables = _event_tables(path, file, folder, advance)
        return _cut(tables, folder, users_a_part)


def read_part(path: Path) -> list[UserHistory]:
    """The users of one part."""
    table = pq.read_table(path)
    return [
        UserHistory(user, tuple((entry["domain"], entry["item_id"], entry["real_time"]) for entry in history))
        for user, history in zip(table["user_id"].to_pylist(), table["history"].to_pylist(), strict=True)
    ]


def part_path(folder: Path, number: int) -> Path:
    """Where a part lies."""
    return folder / f"part-{number:06d}.parquet"


def _opened(path: Path) -> Any:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise BatchError(f"{path}: the file cannot be read as parquet ({error}); write it again") from error


def _layout(path: Path, schema: Any) -> tuple[str, ...]:
    """The columns of the layout that a file has."""
    layout = USER_COLUMNS if "history" in schema.names else EVENT_COLUMNS
    if any(schema.names.count(name) != 1 for name in layout):
        raise BatchError(
            f"{path}: the columns are {', '.join(schema.names) or 'none'}; give {', '.join(USER_COLUMNS)} (a row a "
            f"user) or {', '.join(EVENT_COLUMNS)} (a row an event)"
        )
    for name in layout:
        kind = schema.field(name).type
        if name == "history":
            good, expected = _is_history(kind), "a list of structs of domain and item_id, both text"
        elif name == "timestamp":
            good, expected = pa.types.is_integer(kind) or pa.types.is_timestamp(kind), "unix seconds or a time type"
        else:
            good, expected = _is_text(kind), "text"
        if not good:
            raise BatchError(f'{path}: column "{name}" holds {kind}; write it as {expected}')
    return layout


def _is_text(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def _is_history(kind: Any) -> bool:
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not pa.types.is_struct(kind.value_type):
        return False
    fields = {field.name: field.type for field in kind.value_type}
    return all(name in fields and _is_text(fields[name]) for name in ("domain", "item_id"))


def _texts(path: Path, column: Any, name: str, first_row: int) -> Any:
    """A column of text without an empty value.

    Raises:
        BatchError: a value is null or empty; names the row, counted from 1.
    """
    text = pc.cast(column, pa.string())
    empty = np.flatnonzero(pc.equal(pc.fill_null(text, ""), "").to_numpy(zero_copy_only=False))
    if len(empty):
        raise BatchError(f"{path}: row {first_row + int(empty[0]) + 1} has no {name}; fill it in or remove the row")
    return text


def _user_tables(path: Path, file: Any, advance: Advance) -> Iterator[Any]:
    """Tables of ``PART_SCHEMA`` from a file with a row a user, in its order."""
    row = 0
    for batch in file.iter_batches(_ROWS_AT_ONCE, columns=list(USER_COLUMNS)):
        user_U = _texts(path, batch.column("user_id"), "user_id", row)
        history = batch.column("history")
        if history.null_count:
            first = row + int(np.flatnonzero(pc.is_null(history).to_numpy(zero_copy_only=False))[0]) + 1
            raise BatchError(f"{path}: row {first} has no history; write an empty list where nothing is known")
        entries, size_U = pc.list_flatten(history), pc.list_value_length(history).to_numpy()
        of_entry = np.repeat(np.arange(len(user_U)), size_U)
        texts = []
        for name in ("domain", "item_id"):
            text = pc.fill_null(pc.cast(pc.struct_field(entries, name), pa.string()), "")
            empty = np.flatnonzero(pc.equal(text, "").to_numpy(zero_copy_only=False))
            if len(empty):
                at = row + int(of_entry[empty[0]]) + 1
                raise BatchError(f"{path}: row {at} has an entry without {name}; fill it in or remove the entry")
            texts.append(text)
        yield _table(user_U, size_U, texts[0], texts[1], np.ones(len(entries), dtype=bool))
        row += len(user_U)
        advance(len(user_U))


def _event_tables(path: Path, file: Any, folder: Path, advance: Advance) -> Iterator[Any]:
    """Tables of ``PART_SCHEMA`` from a file with a row an event: one for each of the files by hash of the user."""
    buckets = [folder / f"bucket-{number:04d}.arrow" for number in range(_bucket_count(file.metadata.num_rows))]
    schema = pa.schema([(name, pa.string()) for name in EVENT_COLUMNS[:3]] + [("timestamp", pa.int64())])
    with ExitStack() as open_files:
        writers = [open_files.enter_context(pa.ipc.new_stream(bucket, schema)) for bucket in buckets]
        row = 0
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=list(EVENT_COLUMNS)):
            columns = [_texts(path, batch.column(name), name, row) for name in EVENT_COLUMNS[:3]]
            time_E = _seconds(path, batch.column("timestamp"), row)
            events = pa.record_batch([*columns, time_E], schema=schema)
            bucket_E = _bucket_of(columns[0], len(buckets))
            for number in np.unique(bucket_E).tolist():
                writers[number].write_batch(events.take(pa.array(np.flatnonzero(bucket_E == number))))
            row += len(events)
            advance(len(events))
    for bucket in buckets:
        with pa.ipc.open_stream(bucket) as stream:
            events = stream.read_all()
        bucket.unlink()
        if len(events):
            yield _grouped(events)


def _bucket_count(rows: int) -> int:
    return min(_MOST_BUCKETS, 1 + rows // _EVENTS_A_BUCKET)


def _bucket_of(user_E: Any, buckets: int) -> npt.NDArray[np.int64]:
    """The bucket int64[E] of each event, by its user."""
    coded = pc.dictionary_encode(user_E)
    of_user = np.array([zlib.crc32(user.encode()) % buckets for user in coded.dictionary.to_pylist()], dtype=np.int64)
    found: npt.NDArray[np.int64] = of_user[coded.indices.to_numpy()]
    return found


def _seconds(path: Path, time_E: Any, first_row: int) -> Any:
    """Unix seconds of a column of integers or times.

    Raises:
        BatchError: a value is null; names the row, counted from 1.
    """
    if time_E.null_count:
        empty = int(np.flatnonzero(pc.is_null(time_E).to_numpy(zero_copy_only=False))[0])
        raise BatchError(f"{path}: row {first_row + empty + 1} has no timestamp; fill it in or remove the row")
    if pa.types.is_timestamp(time_E.type):
        time_E = pc.cast(time_E, pa.timestamp("s", tz=time_E.type.tz), safe=False)
    return pc.cast(time_E, pa.int64())


def _grouped(events: Any) -> Any:
    """A row a user from some users' events; the sort is stable, so file order settles ties of time."""
    coded = pc.dictionary_encode(events["user_id"].combine_chunks())
    user_E = coded.indices.to_numpy()
    time_E = events["timestamp"].to_numpy()
    order = np.lexsort((time_E, user_E))
    user_E, time_E = user_E[order], time_E[order]
    domain = events["domain"].take(order).combine_chunks()
    _, dense_E = np.unique(
        np.stack([user_E, pc.dictionary_encode(domain).indices.to_numpy()]), axis=1, return_inverse=True
    )
    real_E = np.bincount(dense_E, weights=time_E < POSITION_LIMIT)[dense_E] == 0
    size_U = np.bincount(user_E)
    return _table(coded.dictionary, size_U, domain, events["item_id"].take(order).combine_chunks(), real_E)


def _table(user_U: Any, size_U: npt.NDArray[Any], domain_E: Any, item_E: Any, real_E: npt.NDArray[np.bool_]) -> Any:
    """A table of ``PART_SCHEMA``; the events are those of the first user, the second and so on."""
    offsets = pa.array(np.concatenate([[0], np.cumsum(size_U)]).astype(np.int32))
    entries = pa.StructArray.from_arrays([domain_E, item_E, pa.array(real_E)], fields=list(_ENTRY))
    return pa.table([user_U, pa.ListArray.from_arrays(offsets, entries)], schema=PART_SCHEMA)


def _cut(tables: Iterator[Any], folder: Path, users_a_part: int) -> int:
    """Write tables as parts of so many users, in their order; how many parts."""
    waiting: list[Any] = []
    waiting_users = parts = 0

    def write(users: Sequence[Any]) -> None:
        path = part_path(folder, parts)
        pq.write_table(pa.concat_tables(users), path)
        sync_file(path)

    for table in tables:
        while len(table):
            piece = table.slice(0, users_a_part - waiting_users)
            table = table.slice(len(piece))
            waiting.append(piece)
            waiting_users += len(piece)
            if waiting_users == users_a_part:
                write(waiting)
                waiting, waiting_users, parts = [], 0, parts + 1
    if waiting:
        write(waiting)
        parts += 1
    return parts
