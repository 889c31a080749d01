"""Histories of both layouts, cut into parts."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import sidera.jobs.histories
import training.split
from sidera.errors import BatchError
from sidera.jobs.histories import UserHistory, count_rows, part_path, read_part, write_parts

DAY = 86_400
NOW = 1_600_000_000


def users_file(path: Path, users: dict[str, list[tuple[str, str]]]) -> Path:
    rows = [
        {"user_id": user, "history": [{"domain": domain, "item_id": item} for domain, item in history]}
        for user, history in users.items()
    ]
    entry = pa.struct([("domain", pa.string()), ("item_id", pa.string())])
    schema = pa.schema([("user_id", pa.string()), ("history", pa.list_(entry))])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    return path


def events_file(path: Path, events: list[tuple[str, str, str, int]], **write: Any) -> Path:
    rows = [dict(zip(sidera.jobs.histories.EVENT_COLUMNS, event, strict=True)) for event in events]
    pq.write_table(pa.Table.from_pylist(rows), path, **write)
    return path


def parts_of(path: Path, folder: Path, users_a_part: int = 100) -> list[list[UserHistory]]:
    folder.mkdir()
    parts = write_parts(path, folder, users_a_part, lambda rows: None)
    assert sorted(folder.iterdir()) == [part_path(folder, number) for number in range(parts)]
    return [read_part(part_path(folder, number)) for number in range(parts)]


def test_a_row_a_user_keeps_the_files_order_and_is_cut_into_parts(tmp_path: Path) -> None:
    told = {f"u{number}": [("books", f"b{step}") for step in range(number)] for number in range(5)}
    parts = parts_of(users_file(tmp_path / "users.parquet", told), tmp_path / "parts", 2)
    assert [len(part) for part in parts] == [2, 2, 1]
    read = [user for part in parts for user in part]
    assert [user.user_id for user in read] == list(told)
    assert [list(user.before("books")) for user in read] == list(told.values())


def test_events_anywhere_in_the_file_come_together_by_user_sorted_by_time_and_file_order(tmp_path: Path) -> None:
    events = [
        ("ann", "books", "late", NOW + 9),
        ("bob", "films", "x", NOW),
        ("ann", "films", "tie-1", NOW + 1),
        ("ann", "books", "tie-2", NOW + 1),
        ("bob", "films", "y", NOW + 5),
        ("ann", "books", "first", NOW),
    ]
    path = events_file(tmp_path / "events.parquet", events, row_group_size=2)
    read = {user.user_id: user for part in parts_of(path, tmp_path / "parts") for user in part}
    assert read["ann"].before("books") == (
        ("books", "first"),
        ("films", "tie-1"),
        ("books", "tie-2"),
        ("books", "late"),
    )
    assert read["bob"].before("books") == (("films", "x"), ("films", "y"))


def test_events_spread_over_several_files_give_every_user_once_with_all_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = [(f"u{row % 17}", "books", f"b{row}", NOW + row) for row in range(200)]
    path = events_file(tmp_path / "events.parquet", events)
    monkeypatch.setattr(sidera.jobs.histories, "_EVENTS_A_BUCKET", 30)
    monkeypatch.setattr(sidera.jobs.histories, "_ROWS_AT_ONCE", 11)
    read = [user for part in parts_of(path, tmp_path / "parts", 4) for user in part]
    assert len(read) == 17
    assert {user.user_id: [item for _, item in user.before("books")] for user in read} == {
        f"u{user}": [f"b{row}" for row in range(200) if row % 17 == user] for user in range(17)
    }


def test_domains_with_positions_for_times_are_never_merged_with_others(tmp_path: Path) -> None:
    events = [
        ("ann", "books", "b", NOW),
        ("ann", "films", "f1", 1),
        ("ann", "films", "f2", NOW),
        ("ann", "cds", "c", 0),
    ]
    ((ann,),) = parts_of(events_file(tmp_path / "events.parquet", events), tmp_path / "parts")
    assert ann.before("books") == (("books", "b"),)
    assert ann.before("films") == (("films", "f1"), ("films", "f2"))
    assert ann.before("games") == (("books", "b"),)


def test_the_limit_of_positions_is_that_of_training() -> None:
    assert training.split.POSITION_LIMIT == sidera.jobs.histories.POSITION_LIMIT


def test_time_types_and_dictionaries_of_text_are_read_too(tmp_path: Path) -> None:
    seconds = [NOW + DAY, NOW]
    table = pa.table(
        {
            "user_id": pa.array(["ann", "ann"]).dictionary_encode(),
            "domain": pa.array(["books", "books"], pa.large_string()),
            "item_id": ["later", "sooner"],
            "timestamp": pa.array([second * 1000 for second in seconds], pa.timestamp("ms", tz="UTC")),
        }
    )
    pq.write_table(table, tmp_path / "events.parquet")
    ((ann,),) = parts_of(tmp_path / "events.parquet", tmp_path / "parts")
    assert ann.before("books") == (("books", "sooner"), ("books", "later"))


def test_every_row_is_counted_as_read(tmp_path: Path) -> None:
    told: list[int] = []
    (tmp_path / "parts").mkdir()
    path = events_file(tmp_path / "events.parquet", [("u", "books", "b", NOW)] * 7)
    write_parts(path, tmp_path / "parts", 3, told.append)
    assert sum(told) == count_rows(path) == 7


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (
            {"user": ["a"], "items": ["b"]},
            r"the columns are user, items; give user_id, history \(a row a user\) or user_id, domain, item_id, "
            r"timestamp \(a row an event\)",
        ),
        ({"user_id": ["a"], "history": ["b"]}, '"history" holds string; write it as a list of structs of domain and'),
        ({"user_id": [1], "history": [[]]}, '"user_id" holds int64; write it as text'),
        (
            {"user_id": ["a"], "domain": ["b"], "item_id": ["c"], "timestamp": ["noon"]},
            '"timestamp" holds string; write it as unix seconds or a time type',
        ),
    ],
)
def test_wrong_columns_are_one_sentence_with_the_file_what_was_found_and_what_is_expected(
    tmp_path: Path, table: dict[str, Any], sentence: str
) -> None:
    pq.write_table(pa.table(table), tmp_path / "wrong.parquet")
    with pytest.raises(BatchError, match=r"wrong\.parquet: .*" + sentence):
        count_rows(tmp_path / "wrong.parquet")


def test_a_file_that_is_no_parquet_or_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("user_id,history\n")
    for name in ("text.parquet", "none.parquet"):
        with pytest.raises(BatchError, match=rf"{name}: the file cannot be read as parquet"):
            count_rows(tmp_path / name)


@pytest.mark.parametrize(
    ("column", "sentence"),
    [
        ("user_id", "row 3 has no user_id; fill it in or remove the row"),
        ("domain", "row 3 has no domain"),
        ("item_id", "row 3 has no item_id"),
        ("timestamp", "row 3 has no timestamp"),
    ],
)
def test_an_event_with_an_empty_value_is_refused_by_row(tmp_path: Path, column: str, sentence: str) -> None:
    rows: list[dict[str, Any]] = [
        {"user_id": "u", "domain": "books", "item_id": "b", "timestamp": NOW} for _ in range(3)
    ]
    rows[2][column] = None
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "events.parquet", row_group_size=2)
    with pytest.raises(BatchError, match=sentence):
        parts_of(tmp_path / "events.parquet", tmp_path / "parts")


@pytest.mark.parametrize(
    ("history", "sentence"),
    [
        (None, "row 2 has no history; write an empty list where nothing is known"),
        ([("books", "b"), ("books", "")], "row 2 has an entry without item_id"),
        ([(None, "b")], "row 2 has an entry without domain"),
    ],
)
def test_a_user_with_an_empty_value_is_refused_by_row(tmp_path: Path, history: Any, sentence: str) -> None:
    path = users_file(tmp_path / "users.parquet", {"ann": [("books", "b")], "bob": []})
    rows = pq.read_table(path).to_pylist()
    rows[1]["history"] = history and [{"domain": domain, "item_id": item} for domain, item in history]
    pq.write_table(pa.Table.from_pylist(rows, schema=pq.read_schema(path)), path)
    with pytest.raises(BatchError, match=sentence):
        parts_of(path, tmp_path / "parts")
