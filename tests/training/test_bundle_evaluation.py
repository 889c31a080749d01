"""A bundle on disk, scored on a data folder."""

import json
import shutil
from pathlib import Path

import pytest

from sidera.bundle import open_bundle
from sidera.errors import BundleError
from tests import tiny
from training.bundle_evaluation import evaluate_bundle
from training.errors import DataError


def test_a_bundle_on_its_own_data_gets_the_report_that_training_wrote(tiny_bundle: Path, tiny_data: Path) -> None:
    report, notes = vars(evaluate_bundle(tiny_bundle, tiny_data, "cpu")).values()
    assert notes == ()
    assert report == open_bundle(tiny_bundle).manifest.metrics
    assert report == json.loads((tiny_bundle / "report" / "metrics.json").read_text())


def test_domains_that_the_bundle_does_not_know_are_left_out(tiny_bundle: Path, tiny_data: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_data / "films", tmp_path / "films")
    shutil.copytree(tiny_data / "books", tmp_path / "unknown")
    evaluated = evaluate_bundle(tiny_bundle, tmp_path, "cpu")
    assert list(evaluated.report["domains"]) == ["films"]
    assert evaluated.report["domains"]["films"]["targets"] == 60
    assert evaluated.notes[0] == "left out, since the bundle does not hold them: unknown; --new scores them too."
    assert "histories hold what these domains say" in evaluated.notes[1]
    with pytest.raises(DataError, match="the bundle does not hold unknown; score unseen domains with --new, or choose"):
        evaluate_bundle(tiny_bundle, tmp_path, "cpu", ["films", "unknown"])


def test_data_without_any_of_the_bundles_domains_are_refused_and_the_domains_named(
    tiny_bundle: Path, tiny_data: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_data / "films", tmp_path / "data" / "unknown")
    with pytest.raises(DataError, match="no folder is named as one of the bundle's domains, books, films, games"):
        evaluate_bundle(tiny_bundle, tmp_path / "data", "cpu")
    with pytest.raises(DataError, match="there is no such folder"):
        evaluate_bundle(tiny_bundle, tmp_path / "missing", "cpu")


def test_a_domain_that_training_never_saw_is_tokenized_and_scored_over_all_of_its_items(
    tiny_bundle: Path, tiny_data: Path, tmp_path: Path
) -> None:
    data = tiny.write_data(tmp_path, {"books": 30, "plays": 24}, users=20)
    evaluated = evaluate_bundle(tiny_bundle, data, "cpu", ["plays"], new=True)
    (name, part), *others = evaluated.report["domains"].items()
    assert (name, others) == ("plays", [])
    assert part["targets"] == 20
    assert part["rankers"]["sidera"]["coverage@10"] > 10 / 24, "different users get different items of the domain"
    assert evaluated.notes == (
        "plays, a domain that training never saw: 24 items got their SIDs from the bundle's tokenizer.",
    )
    both = evaluate_bundle(tiny_bundle, data, "cpu", new=True)
    assert list(both.report["domains"]) == ["books", "plays"]


def test_new_items_of_a_known_domain_get_sids_beside_those_that_exist_where_asked(
    tiny_bundle: Path, tiny_data: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_data / "films", tmp_path / "films")
    with (tmp_path / "films" / "items.jsonl").open("a") as file:
        file.write('{"item_id": "new-1", "title": "blue boat"}\n{"item_id": "new-2", "title": "green lamp"}\n')
    evaluated = evaluate_bundle(tiny_bundle, tmp_path, "cpu", new=True)
    assert evaluated.notes[0] == "films: 2 items got their SIDs from the bundle's tokenizer."
    assert "films may have been learned from these targets" in evaluated.notes[1]
    coverage = evaluated.report["domains"]["films"]["rankers"]["popularity"]["coverage@10"]
    assert round(coverage * 42) == pytest.approx(coverage * 42), "shares are of the 40 known items and 2 new ones"


def test_other_data_than_those_trained_on_are_told(tiny_bundle: Path, tiny_data: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_data, tmp_path / "data")
    path = tmp_path / "data" / "films" / "interactions.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    (note,) = evaluate_bundle(tiny_bundle, tmp_path / "data", "cpu").notes
    assert "not those that the bundle was trained on" in note
    assert "may have been learned from these targets" in note


def test_events_of_forgotten_users_are_neither_targets_nor_counted(
    tiny_bundle: Path, tiny_data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    shutil.copytree(tiny_data / "films", folder / "films")
    rows = (folder / "films" / "interactions.csv").read_text().splitlines()
    user = rows[1].split(",")[0]
    forget = tmp_path / "forget.jsonl"
    forget.write_text(json.dumps({"user_id": user, "deleted_at": "2100-01-01"}) + "\n")
    evaluated = evaluate_bundle(tiny_bundle, folder, "cpu", forget=forget)
    events = sum(row.split(",")[0] == user for row in rows[1:])
    assert evaluated.notes[0] == f"forgotten: {events} events of 1 users do not count."
    (folder / "films" / "interactions.csv").write_text(
        "\n".join([rows[0], *(row for row in rows[1:] if row.split(",")[0] != user), ""])
    )
    without = evaluate_bundle(tiny_bundle, folder, "cpu").report
    assert evaluated.report == without
    assert without["domains"]["films"]["targets"] == 59


def test_items_that_are_not_in_the_bundle_are_refused_by_number_domain_and_first_id(
    tiny_bundle: Path, tiny_data: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_data / "films", tmp_path / "films")
    with (tmp_path / "films" / "items.jsonl").open("a") as file:
        file.write('{"item_id": "new-1", "title": "new"}\n{"item_id": "new-2", "title": "new"}\n')
    with pytest.raises(DataError, match="2 items of 'films' are not in the bundle, 'new-1' the first of them"):
        evaluate_bundle(tiny_bundle, tmp_path, "cpu")


def test_a_folder_without_a_bundle_is_refused(tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a bundle"):
        evaluate_bundle(tmp_path, tiny_data)


def test_experts_are_reported_alone_in_pairs_and_together(tiny_bundle: Path, tiny_data: Path) -> None:
    plain = evaluate_bundle(tiny_bundle, tiny_data, "cpu").report
    report = evaluate_bundle(tiny_bundle, tiny_data, "cpu", experts=True).report
    for name, part in report["domains"].items():
        experts = part.pop("experts")
        assert len(experts) == 5 + 10 + 1
        assert {"universal", "domain", "followers", "universal + domain", "domain + followers", "all"} <= set(experts)
        assert experts["all"]["ndcg@10"] == pytest.approx(part["rankers"]["sidera"]["ndcg@10"], abs=0.02), name
        assert set(experts["all"]["slices"]) == set(part["slices"])
    assert report == plain


def test_no_experts_are_told_of_a_domain_that_training_never_saw(tiny_bundle: Path, tmp_path: Path) -> None:
    data = tiny.write_data(tmp_path, {"plays": 24}, users=20)
    report = evaluate_bundle(tiny_bundle, data, "cpu", ["plays"], new=True, experts=True).report
    assert report["domains"]["plays"]["experts"] == {}, "its parts are mixed by another rule"
