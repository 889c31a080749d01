"""The list of users to forget: what it takes away, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests import tiny
from training.config import TrainConfig, load_config
from training.data import Dataset, read_dataset
from training.errors import DataError
from training.forgetting import Deletions, read_deletions
from training.pipeline import train

NOON = 1_000_000_000
ITEMS = [{"item_id": "a", "title": "Ant"}, {"item_id": "b", "title": "Bee"}]


def write_list(folder: Path, *rows: object) -> Path:
    path = folder / "deleted.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def write_shop(folder: Path) -> Path:
    events = [("u", "a", NOON), ("u", "b", NOON + 10), ("u", "a", NOON + 20), ("v", "a", NOON), ("w", "b", 3)]
    tiny.write_domain(folder / "shop", ITEMS, events)
    tiny.write_domain(folder / "video", ITEMS, [("u", "b", NOON + 5), ("v", "b", NOON)])
    return folder


def listed(dataset: Dataset) -> list[tuple[str, str, int]]:
    return [
        (dataset.users[user], domain.item_ids[item], time)
        for domain in dataset.domains
        for user, item, time in zip(
            *(column.tolist() for column in (domain.user_E, domain.item_E, domain.time_E)), strict=True
        )
    ]


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_deletions(path)
    return str(caught.value)


def test_events_up_to_the_deletion_are_dropped_in_all_domains_and_later_ones_stay(tmp_path: Path) -> None:
    data = write_shop(tmp_path / "data")
    forget = write_list(tmp_path, {"user_id": "u", "deleted_at": NOON + 10}, {"user_id": "nobody", "deleted_at": NOON})
    dataset = read_dataset(data, forget=forget)
    assert listed(dataset) == [("u", "a", NOON + 20), ("v", "a", NOON), ("w", "b", 3), ("v", "b", NOON)]
    assert (dataset.forgotten_events, dataset.forgotten_users) == (3, 1)
    assert dataset.domains[0].item_ids == ("a", "b")


def test_positions_for_times_are_dropped_whenever_the_user_was_deleted(tmp_path: Path) -> None:
    forget = write_list(tmp_path, {"user_id": "w", "deleted_at": "1990-01-01"})
    dataset = read_dataset(write_shop(tmp_path / "data"), ["shop"], forget=forget)
    assert "w" not in dataset.users
    assert dataset.forgotten_events == 1


def test_the_least_number_of_interactions_is_counted_after_the_forgetting(tmp_path: Path) -> None:
    forget = write_list(tmp_path, {"user_id": "u", "deleted_at": NOON + 10})
    with pytest.raises(DataError, match="no user has 3 interactions"):
        read_dataset(write_shop(tmp_path / "data"), ["shop"], min_interactions=3, forget=forget)


def test_the_digest_of_the_data_is_another_one_with_another_list(tmp_path: Path) -> None:
    data = write_shop(tmp_path / "data")
    digests = {read_dataset(data).digest}
    for time in (NOON, NOON + 10):
        forget = write_list(tmp_path, {"user_id": "u", "deleted_at": time})
        digests.add(read_dataset(data, forget=forget).digest)
    assert len(digests) == 3


def test_a_domain_of_which_nothing_is_left_is_refused(tmp_path: Path) -> None:
    forget = write_list(tmp_path, *({"user_id": user, "deleted_at": NOON + 99} for user in "uvw"))
    with pytest.raises(DataError, match="all of its users are to be forgotten; leave the domain out"):
        read_dataset(write_shop(tmp_path / "data"), forget=forget)


def test_the_newest_of_several_deletions_counts_and_times_may_be_text(tmp_path: Path) -> None:
    path = write_list(
        tmp_path,
        {"user_id": "u", "deleted_at": "2001-09-09T01:46:50Z"},
        "",
        {"user_id": "u", "deleted_at": NOON + 0.5},
        {"user_id": "v", "deleted_at": NOON},
    )
    assert read_deletions(path).deleted_at == {"u": NOON + 10, "v": NOON}


def test_an_empty_list_names_nobody(tmp_path: Path) -> None:
    assert read_deletions(write_list(tmp_path)).deleted_at == {}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("no json", "the line is not JSON"),
        ("\udcff", "the line is not JSON"),
        ("[1]", "the line is no object"),
        ({"deleted_at": NOON}, 'there is no "user_id"'),
        ({"user_id": "u"}, 'there is no "deleted_at"'),
        ({"user_id": 7, "deleted_at": NOON}, '"user_id" is no text, or empty'),
        ({"user_id": " ", "deleted_at": NOON}, '"user_id" is no text, or empty'),
        ({"user_id": "u", "deleted_at": "soon"}, '"deleted_at" "soon" is not a time'),
        ({"user_id": "u", "deleted_at": True}, '"deleted_at" "True" is not a time'),
        ({"user_id": "u", "deleted_at": 12}, '"deleted_at" "12" is no time of this age'),
        ({"user_id": "u", "deleted_at": NOON * 1000}, '"deleted_at" "1000000000000" is no time'),
        ('{"user_id": "u", "deleted_at": NaN}', '"deleted_at" "nan" is not a time'),
    ],
)
def test_a_bad_row_is_refused_with_file_and_line(tmp_path: Path, row: object, reason: str) -> None:
    path = tmp_path / "deleted.jsonl"
    text = row if isinstance(row, str) else json.dumps(row)
    good = json.dumps({"user_id": "v", "deleted_at": NOON})
    path.write_bytes(f"{good}\n{text}\n".encode(errors="surrogateescape"))
    told = refusal(path)
    assert told.startswith(f"{path}:2: {reason}")
    assert "; " in told, "what to do is told too"


def test_a_list_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "cannot be read: No such file or directory; name a file" in refusal(tmp_path / "none.jsonl")


def test_an_event_at_the_very_time_of_the_deletion_is_forgotten() -> None:
    deletions = Deletions({"u": NOON}, "digest")
    found_E = deletions.forgets(["v", "u"], np.array([1, 1, 0]), np.array([NOON, NOON + 1, NOON]))
    assert found_E.tolist() == [True, False, False]


def test_a_run_that_forgets_says_how_much_and_leaves_the_user_out_of_the_counts(
    tmp_path: Path, tiny_data: Path, tiny_encoder: Path
) -> None:
    dataset = read_dataset(tiny_data, ["films"])
    path = write_list(tmp_path, {"user_id": dataset.users[0], "deleted_at": "2100-01-01"})
    config = tiny.config_of(tiny_data, tmp_path / "bundle", tiny_encoder)
    config |= {"domains": ["films"], "forget": str(path), "neighbours": {"enabled": False}}
    settings: TrainConfig = load_config(tiny.write_config(tmp_path / "config.yaml", config))
    assert "forget" not in settings.digestible(), "the place changes nothing; the content is in the data's digest"
    told: list[str] = []
    manifest = train(settings, told.append)
    events = int((dataset.domains[0].user_E == 0).sum())
    assert f"forgotten: {events} events of 1 users" in told
    assert manifest.metrics["domains"]["films"]["rankers"]["sidera"]["targets"] == len(dataset.users) - 1
