import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

import training.data_interactions
from training.data import Dataset, read_dataset
from training.errors import DataError

ITEMS = '{"item_id": "a", "title": "Ant"}\n{"item_id": "b", "title": "Bee", "year": 1999}\n'
HEADER = "user_id,item_id,timestamp\n"
NOON = 1_000_000_000


def write_domain(folder: Path, name: str = "shop", items: str | bytes = ITEMS, rows: str | bytes | None = None) -> Path:
    domain = folder / name
    domain.mkdir(parents=True)
    if rows is None:
        rows = f"{HEADER}u,a,{NOON}\nu,b,{NOON + 1}\nv,a,{NOON}\n"
    (domain / "items.jsonl").write_bytes(items if isinstance(items, bytes) else items.encode())
    (domain / "interactions.csv").write_bytes(rows if isinstance(rows, bytes) else rows.encode())
    return domain


def events(dataset: Dataset, domain: int = 0) -> list[tuple[str, str, int]]:
    data = dataset.domains[domain]
    return [
        (dataset.users[user], data.item_ids[item], time)
        for user, item, time in zip(data.user_E.tolist(), data.item_E.tolist(), data.time_E.tolist(), strict=True)
    ]


def refusal(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_dataset(folder)
    return str(caught.value)


def test_rows_keep_file_order_and_items_keep_their_fields(tmp_path: Path) -> None:
    write_domain(tmp_path, rows=f"{HEADER}v,b,{NOON + 5}\nu,a,{NOON}\nv,a,{NOON}\n")
    dataset = read_dataset(tmp_path)
    assert events(dataset) == [("v", "b", NOON + 5), ("u", "a", NOON), ("v", "a", NOON)]
    assert dataset.domain("shop").item_ids == ("a", "b")
    assert dataset.domain("shop").fields[1] == {"item_id": "b", "title": "Bee", "year": 1999}
    assert dataset.domains[0].user_E.dtype == np.int32
    assert dataset.domains[0].time_E.dtype == np.int64


def test_the_same_user_id_in_two_domains_is_the_same_user(tmp_path: Path) -> None:
    write_domain(tmp_path, "shop")
    write_domain(tmp_path, "video", rows=f"{HEADER}v,a,{NOON}\nw,a,{NOON}\n")
    dataset = read_dataset(tmp_path)
    assert dataset.users == ("u", "v", "w")
    assert events(dataset, 1) == [("v", "a", NOON), ("w", "a", NOON)]


def test_domains_are_read_in_the_order_asked_and_else_by_name(tmp_path: Path) -> None:
    for name in ("video", "music", "shop"):
        write_domain(tmp_path, name)
    assert [domain.name for domain in read_dataset(tmp_path).domains] == ["music", "shop", "video"]
    assert [domain.name for domain in read_dataset(tmp_path, ["video", "music"]).domains] == ["video", "music"]


def test_gzip_plain_and_parquet_hold_the_same_events(tmp_path: Path) -> None:
    plain = write_domain(tmp_path / "plain")
    zipped = tmp_path / "zipped" / "shop"
    zipped.mkdir(parents=True)
    for name in ("items.jsonl", "interactions.csv"):
        (zipped / f"{name}.gz").write_bytes(gzip.compress((plain / name).read_bytes()))
    columnar = tmp_path / "columnar" / "shop"
    columnar.mkdir(parents=True)
    (columnar / "items.jsonl").write_text(ITEMS)
    table = {"more": [1, 2, 3], "item_id": ["a", "b", "a"], "user_id": ["u", "u", "v"]}
    pyarrow.parquet.write_table(
        pa.table({**table, "timestamp": [NOON, NOON + 1, NOON]}), columnar / "interactions.parquet"
    )
    expected = events(read_dataset(tmp_path / "plain"))
    assert events(read_dataset(tmp_path / "zipped")) == expected
    assert events(read_dataset(tmp_path / "columnar")) == expected


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("1000000000", NOON),
        (" 1000000000 ", NOON),
        ("1000000000.75", NOON),
        ("1e9", NOON),
        ("2001-09-09T01:46:40Z", NOON),
        ("2001-09-09 01:46:40", NOON),
        ("2001-09-09T03:46:40+02:00", NOON),
        ("2001-09-09", 999_993_600),
        ("0", 0),
        ("17", 17),
    ],
)
def test_seconds_and_iso_8601_are_times(tmp_path: Path, written: str, seconds: int) -> None:
    write_domain(tmp_path, rows=f"{HEADER}u,a,{written}\nu,b,{NOON}\n")
    assert events(read_dataset(tmp_path)) == [("u", "a", seconds), ("u", "b", NOON)]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([NOON], pa.int32()),
        pa.array([NOON + 0.5], pa.float64()),
        pa.array(["2001-09-09T01:46:40"]),
        pa.array(["1000000000"]).dictionary_encode(),
        pa.array([NOON * 1000], pa.timestamp("ms")),
        pa.array([NOON * 10**9], pa.timestamp("ns", "UTC")),
    ],
    ids=lambda column: str(column.type),
)
def test_parquet_times_may_be_numbers_text_or_timestamps(tmp_path: Path, column: pa.Array) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "items.jsonl").write_text(ITEMS)
    table = pa.table({"user_id": ["u"], "item_id": ["a"], "timestamp": column})
    pyarrow.parquet.write_table(table, tmp_path / "shop" / "interactions.parquet")
    assert events(read_dataset(tmp_path)) == [("u", "a", NOON)]


def test_more_columns_and_any_order_of_columns_are_fine(tmp_path: Path) -> None:
    write_domain(tmp_path, rows=f"timestamp,rating,item_id,user_id\n{NOON},4.5,b,u\n")
    assert events(read_dataset(tmp_path)) == [("u", "b", NOON)]


def test_quoted_fields_may_hold_commas_quotes_and_line_ends(tmp_path: Path) -> None:
    write_domain(tmp_path, rows=f'{HEADER}"u,""x""\ny",a,{NOON}\r\n')
    assert events(read_dataset(tmp_path)) == [('u,"x"\ny', "a", NOON)]


def test_a_quoted_line_end_is_read_wherever_the_blocks_of_the_reader_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.data_interactions, "_BLOCK_BYTES", 100)
    write_domain(tmp_path, rows=HEADER + "".join(f'"u\n{user}",a,{NOON}\n' for user in range(50)))
    assert events(read_dataset(tmp_path)) == [(f"u\n{user}", "a", NOON) for user in range(50)]


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    mark = b"\xef\xbb\xbf"
    write_domain(tmp_path, items=mark + ITEMS.encode(), rows=mark + f"{HEADER}u,a,{NOON}\n".encode())
    assert events(read_dataset(tmp_path)) == [("u", "a", NOON)]


def test_min_interactions_drops_a_user_of_one_domain_and_keeps_all_items(tmp_path: Path) -> None:
    write_domain(tmp_path, "shop")
    write_domain(tmp_path, "video", rows=f"{HEADER}v,a,{NOON}\nv,a,{NOON}\nw,a,{NOON}\n")
    dataset = read_dataset(tmp_path, min_interactions=2)
    assert dataset.users == ("u", "v")
    assert events(dataset, 0) == [("u", "a", NOON), ("u", "b", NOON + 1)]
    assert events(dataset, 1) == [("v", "a", NOON), ("v", "a", NOON)]
    assert dataset.domains[1].item_ids == ("a", "b")


def test_a_domain_that_min_interactions_would_empty_is_refused(tmp_path: Path) -> None:
    write_domain(tmp_path)
    with pytest.raises(DataError, match="no user has 3 interactions"):
        read_dataset(tmp_path, min_interactions=3)


def test_the_digest_changes_with_bytes_domains_and_options_alone(tmp_path: Path) -> None:
    for place in ("one", "two"):
        write_domain(tmp_path / place, "shop")
        write_domain(tmp_path / place, "video")
    first = read_dataset(tmp_path / "one").digest
    assert read_dataset(tmp_path / "two").digest == first
    (tmp_path / "two" / "shop" / "items.jsonl").write_text(ITEMS.replace("Ant", "Aunt"))
    others = [
        read_dataset(tmp_path / "two").digest,
        read_dataset(tmp_path / "one", min_interactions=1).digest,
        read_dataset(tmp_path / "one", ["shop"]).digest,
        read_dataset(tmp_path / "one", ["video", "shop"]).digest,
    ]
    assert len({first, *others}) == 5


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"item_id": "a", "title": "Again"}', 'item_id "a" is already on line 1'),
        (b'{"item_id": 7, "title": "Seven"}', '"item_id" is a number; expected text'),
        (b'{"item_id": " ", "title": "Blank"}', '"item_id" is empty'),
        (b'{"item_id": "c\\u0000d", "title": "x"}', '"item_id" holds U+0000'),
        (b'{"title": "Nameless"}', 'there is no "item_id"'),
        (b'{"item_id": "c", "title": 7}', "field 'title' holds int; expected text"),
        (b'{"item_id": "c", "title": "x", "more": {"k": 1}}', "field 'more' holds dict"),
        (b'{"item_id": "c", "title": "x", "tags": ["y", 1]}', "field 'tags' holds list"),
        (b'{"item_id": "c", ', "the line is not JSON"),
        (b'{"item_id": "c", "title": "x", "price": NaN}', "NaN is not a JSON number"),
        (b'["c"]', "the line is a list"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"item_id": "c", "title": "caf\xe9"}', "is not UTF-8"),
        (b'{"item_id": "c", "title": "\\ud800"}', "half of a surrogate pair"),
    ],
)
def test_a_bad_item_is_refused_with_file_line_and_reason(tmp_path: Path, line: bytes, reason: str) -> None:
    domain = write_domain(tmp_path, items=ITEMS.encode() + b"\n" + line + b'\n{"item_id": 1}\n')
    message = refusal(tmp_path)
    assert message.startswith(f"{domain / 'items.jsonl'}:4: ")
    assert reason in message


def test_items_without_text_are_kept_with_their_lines(tmp_path: Path) -> None:
    more = '\n{"item_id": "c"}\n{"item_id": "d", "title": " ", "categories": []}\n{"item_id": "e", "year": 1}\n'
    domain = write_domain(tmp_path, items=ITEMS + more)
    (read,) = read_dataset(tmp_path).domains
    assert read.item_ids == tuple("abcde")
    assert read.no_text == {2: 4, 3: 5}
    assert read.items_file == domain / "items.jsonl"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("u,z,1", 'item_id "z" is not among the items'),
        ("u,,1", "item_id is empty"),
        (",a,1", "user_id is empty"),
        ("  ,a,1", "user_id is empty"),
        ("u,a,", "timestamp is empty"),
        ("u,a,yesterday", 'timestamp "yesterday" is not a time'),
        ("u,a,2001-13-01", 'timestamp "2001-13-01" is not a time'),
        ("u,a,nan", 'timestamp "nan" is not finite'),
        ("u,a,-inf", 'timestamp "-inf" is not finite'),
        ("u,a,-1", 'timestamp "-1" is before 1970'),
        ("u,a,1969-12-31", 'timestamp "1969-12-31" is before 1970'),
        ("u,a,1000000000000", "give seconds, not milliseconds"),
        ("u,a", "the row has 2 fields and the header has 3"),
        ("u,a,1,2", "the row has 4 fields and the header has 3"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_a_bad_interaction_is_refused_with_file_line_and_reason(
    tmp_path: Path, row: str, reason: str, zipped: bool
) -> None:
    # Before the bad row: a blank line, and a quoted field over two lines. Behind it: more bad rows of each kind.
    text = f'{HEADER}u,a,{NOON}\n\n"u\nu",b,{NOON}\n{row}\nu,a\nu,z,1\nu,a,never\n'
    path = write_domain(tmp_path, rows=text) / "interactions.csv"
    if zipped:
        path.unlink()
        path = path.with_name("interactions.csv.gz")
        path.write_bytes(gzip.compress(text.encode()))
    message = refusal(tmp_path)
    assert message.startswith(f"{path}:6: ")
    assert reason in message


@pytest.mark.parametrize("bad", [None, float("nan"), -1.0, 1e12])
def test_a_bad_parquet_row_is_refused_by_its_number(tmp_path: Path, bad: float | None) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "items.jsonl").write_text(ITEMS)
    table = pa.table({"user_id": ["u", "u"], "item_id": ["a", "a"], "timestamp": pa.array([1.0, bad])})
    path = tmp_path / "shop" / "interactions.parquet"
    pyarrow.parquet.write_table(table, path)
    assert refusal(tmp_path).startswith(f"{path}:2: timestamp ")


def test_parquet_text_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "items.jsonl").write_text(ITEMS)
    user = pa.array([b"caf\xe9"]).view(pa.string())
    table = pa.table({"user_id": user, "item_id": ["a"], "timestamp": [NOON]})
    pyarrow.parquet.write_table(table, tmp_path / "shop" / "interactions.parquet")
    assert "Invalid UTF8" in refusal(tmp_path)


@pytest.mark.parametrize(("column", "values"), [("item_id", [1]), ("user_id", [1]), ("timestamp", [True])])
def test_a_parquet_column_of_another_type_is_refused(tmp_path: Path, column: str, values: list[object]) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "items.jsonl").write_text(ITEMS)
    table = {"user_id": ["u"], "item_id": ["a"], "timestamp": [1], column: values}
    pyarrow.parquet.write_table(pa.table(table), tmp_path / "shop" / "interactions.parquet")
    assert f'column "{column}" holds' in refusal(tmp_path)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ("", ":1: the file is empty"),
        ("\n \n", ":1: the file is empty"),
        (HEADER, ":1: the file holds no interaction"),
        ("user,item_id,timestamp\nu,a,1\n", ':1: there is no column "user_id" among "user", "item_id", "timestamp"'),
        ("user_id;item_id;timestamp\nu;a;1\n", "separated by commas"),
        ("user_id,item_id,item_id,timestamp\nu,a,a,1\n", 'there is more than one column "item_id"'),
        (f"{HEADER}u,a,1\nu\xe9,a,1\n".encode("latin-1"), ":3: the line is not UTF-8"),
        (b"PAR1", ':1: there is no column "user_id"'),
    ],
)
def test_a_wrong_interactions_file_is_refused(tmp_path: Path, rows: str | bytes, reason: str) -> None:
    path = write_domain(tmp_path, rows=rows) / "interactions.csv"
    message = refusal(tmp_path)
    assert message.startswith(str(path))
    assert reason in message


def rename_items(domain: Path) -> None:
    (domain / "items.jsonl").rename(domain / "items.json")


def add_parquet(domain: Path) -> None:
    (domain / "interactions.parquet").write_bytes(b"PAR1")


def cut_gzip(domain: Path) -> None:
    (domain / "items.jsonl").unlink()
    (domain / "items.jsonl.gz").write_bytes(gzip.compress(ITEMS.encode())[:-9])


def not_gzip(domain: Path) -> None:
    (domain / "items.jsonl").rename(domain / "items.jsonl.gz")


def not_parquet(domain: Path) -> None:
    (domain / "interactions.csv").rename(domain / "interactions.parquet")


def no_item(domain: Path) -> None:
    (domain / "items.jsonl").write_text("")


def bad_name(domain: Path) -> None:
    domain.rename(domain.with_name("my shop"))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (rename_items, "there is no items.jsonl or items.jsonl.gz"),
        (add_parquet, "interactions.csv and interactions.parquet are both there"),
        (cut_gzip, "items.jsonl.gz:1: the file is not whole gzip data"),
        (not_gzip, "items.jsonl.gz:1: the file is not whole gzip data"),
        (not_parquet, "interactions.parquet:1: the file is not whole parquet data"),
        (no_item, "items.jsonl:1: the file is empty"),
        (bad_name, "domain name 'my shop' is not allowed"),
    ],
)
def test_a_wrong_folder_is_refused(tmp_path: Path, spoil: Callable[[Path], None], reason: str) -> None:
    spoil(write_domain(tmp_path))
    assert reason in refusal(tmp_path)


def test_a_folder_without_domains_says_what_to_give(tmp_path: Path) -> None:
    domain = write_domain(tmp_path)
    assert f"give {tmp_path}" in refusal(domain)
    assert "there is no such folder" in refusal(tmp_path / "missing")
    (tmp_path / "empty" / ".hidden").mkdir(parents=True)
    assert "holds no domain" in refusal(tmp_path / "empty")


def test_a_domain_that_is_not_there_or_asked_for_twice_is_refused(tmp_path: Path) -> None:
    write_domain(tmp_path)
    with pytest.raises(DataError, match="there is no domain 'music'; choose among shop"):
        read_dataset(tmp_path, ["music"])
    with pytest.raises(DataError, match="'shop' is asked for twice"):
        read_dataset(tmp_path, ["shop", "shop"])
    with pytest.raises(DataError, match="choose among shop"):
        read_dataset(tmp_path).domain("music")


def test_a_null_field_is_as_good_as_none(tmp_path: Path) -> None:
    write_domain(tmp_path, items=json.dumps({"item_id": "a", "title": None, "brand": "B"}), rows=f"{HEADER}u,a,1\n")
    assert read_dataset(tmp_path).domains[0].item_ids == ("a",)
