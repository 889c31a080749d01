from pathlib import Path

import pytest

from training.data import read_dataset
from training.data_check import SHOWN_PER_FILE, check_folder
from training.errors import DataError

HEADER = "user_id,item_id,timestamp\n"
NOON = 1_000_000_000
ITEMS = '{"item_id": "a", "title": "Ant"}\n{"item_id": "b", "title": "Bee"}\n'


def write_domain(folder: Path, name: str, items: str, rows: str) -> Path:
    domain = folder / name
    domain.mkdir(parents=True)
    (domain / "items.jsonl").write_text(items)
    (domain / "interactions.csv").write_text(rows)
    return domain


def test_good_rows_are_counted_and_bad_rows_are_told_together(tmp_path: Path) -> None:
    shop = write_domain(
        tmp_path,
        "shop",
        ITEMS + '{"item_id": "c", "title": 1}\n{"item_id": "a", "title": "Again"}\n',
        f"{HEADER}u,a,{NOON}\nu,a,{NOON + 9}\nv,c,{NOON}\nu,z,{NOON}\nw,a,never\nw\nv,b,3\n",
    )
    write_domain(tmp_path, "video", ITEMS, f"{HEADER}u,b,1\nu,b,2\n")
    report = check_folder(tmp_path, min_interactions=2)
    bad, good = report.domains

    assert [line.split(": ")[0] for line in bad.refused] == [
        f"{shop / 'items.jsonl'}:3",
        f"{shop / 'items.jsonl'}:4",
        *(f"{shop / 'interactions.csv'}:{line}" for line in (5, 6, 7)),
    ]
    assert (bad.name, bad.refused_rows, bad.users, bad.items, bad.events) == ("shop", 5, 2, 3, 4)
    assert (bad.repeated_events, bad.position_users, bad.position_events) == (1, 1, 2)
    assert (bad.dropped_users, bad.dropped_events) == (0, 0)
    assert (good.name, good.refused, good.refused_rows, good.repeated_events) == ("video", (), 0, 1)
    assert report.refused_rows == 5


def test_what_min_interactions_would_drop_is_what_reading_drops(tmp_path: Path) -> None:
    rows = "".join(f"u{user},{item},{NOON}\n" for user in range(5) for item in "ab" * user)
    write_domain(tmp_path, "shop", ITEMS, HEADER + rows)
    (report,) = check_folder(tmp_path, min_interactions=5).domains
    assert (report.users, report.events) == (4, 20)
    assert (report.dropped_users, report.dropped_events) == (2, 6)
    dataset = read_dataset(tmp_path, min_interactions=5)
    assert len(dataset.users) == report.users - report.dropped_users
    assert len(dataset.domains[0].user_E) == report.events - report.dropped_events


def test_items_without_text_are_counted_and_those_without_train_events_refused_by_line(tmp_path: Path) -> None:
    items = ITEMS + '\n{"item_id": "c"}\n{"item_id": "d"}\n{"item_id": "e"}\n{"item_id": "f"}\n'
    walks = {"u": "cabd", "v": "abc", "w": "e", "x": "dd"}
    rows = "".join(f"{user},{item},{NOON + at}\n" for user, own in walks.items() for at, item in enumerate(own))
    shop = write_domain(tmp_path, "shop", items, HEADER + rows)
    (report,) = check_folder(tmp_path).domains
    assert (report.items, report.items_without_text, report.refused_rows) == (6, 4, 3)
    assert [line.split(" has ")[0] for line in report.refused] == [
        f'{shop / "items.jsonl"}:{line}: item "{item}"' for line, item in ((5, "d"), (6, "e"), (7, "f"))
    ]
    assert "neither text nor an event in the train part" in report.refused[0]
    assert "give it a title or another text field, or remove it and its interactions" in report.refused[0]
    (fewer,) = check_folder(tmp_path, min_interactions=5).domains
    assert (fewer.items_without_text, fewer.refused_rows) == (4, 4)


def test_only_the_first_bad_rows_of_a_file_are_shown_and_how_many_more_there_are(tmp_path: Path) -> None:
    shop = write_domain(tmp_path, "shop", ITEMS, HEADER + f"u,z,{NOON}\nu\n" * 50)
    interactions = shop / "interactions.csv"
    (report,) = check_folder(tmp_path).domains
    assert report.refused_rows == 100
    assert [line.split(": ")[0] for line in report.refused[:-1]] == [
        f"{interactions}:{line}" for line in range(2, 2 + SHOWN_PER_FILE)
    ]
    assert report.refused[-1] == f"{interactions}: 80 more rows are refused; --limit 100 names them too"
    (all_of_them,) = check_folder(tmp_path, limit=100).domains
    assert [line.split(": ")[0] for line in all_of_them.refused] == [f"{interactions}:{line}" for line in range(2, 102)]
    (one,) = check_folder(tmp_path, limit=1).domains
    assert [line.split(": ")[0] for line in one.refused] == [f"{interactions}:2", str(interactions)]


def test_the_first_row_told_is_the_one_that_reading_stops_at(tmp_path: Path) -> None:
    write_domain(tmp_path, "shop", ITEMS, f"{HEADER}u,a,{NOON}\nu,a,-3\nu,z,1\n")
    with pytest.raises(DataError) as caught:
        read_dataset(tmp_path)
    assert check_folder(tmp_path).domains[0].refused[0] == str(caught.value)


def test_a_file_refused_as_a_whole_does_not_end_the_check(tmp_path: Path) -> None:
    (write_domain(tmp_path, "music", ITEMS, HEADER) / "items.jsonl").unlink()
    write_domain(tmp_path, "shop", ITEMS, HEADER)
    write_domain(tmp_path, "video", ITEMS, f"{HEADER}u,a,{NOON}\n")
    music, shop, video = check_folder(tmp_path).domains
    assert (music.refused_rows, music.items, music.events) == (1, 0, 0)
    assert "there is no items.jsonl" in music.refused[0]
    assert (shop.refused_rows, shop.items, shop.events) == (1, 2, 0)
    assert "holds no interaction" in shop.refused[0]
    assert (video.refused_rows, video.events) == (0, 1)


def test_a_domain_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no domain 'music'"):
        check_folder(tmp_path, ["music"])
