"""A bundle on disk, scored on a data folder."""

import json
import shutil
from pathlib import Path

import pytest

from sidera.bundle import open_bundle
from sidera.errors import BundleError
from training.bundle_evaluation import evaluate_bundle
from training.errors import DataError


def test_a_bundle_on_its_own_data_gets_the_report_that_training_wrote(tiny_bundle: Path, tiny_data: Path) -> None:
    report = evaluate_bundle(tiny_bundle, tiny_data, "cpu")
    assert report == open_bundle(tiny_bundle).manifest.metrics
    assert report == json.loads((tiny_bundle / "report" / "metrics.json").read_text())


def test_domains_that_the_bundle_does_not_know_are_left_out(tiny_bundle: Path, tiny_data: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_data / "films", tmp_path / "films")
    shutil.copytree(tiny_data / "books", tmp_path / "unknown")
    report = evaluate_bundle(tiny_bundle, tmp_path, "cpu")
    assert list(report["domains"]) == ["films"]
    assert report["domains"]["films"]["targets"] == 60


@pytest.mark.parametrize("folder", ["data", "missing"])
def test_data_without_any_of_the_bundles_domains_are_refused_and_the_domains_named(
    folder: str, tiny_bundle: Path, tiny_data: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_data / "films", tmp_path / "data" / "unknown")
    with pytest.raises(DataError, match="no folder is named as one of the bundle's domains, books, films, games"):
        evaluate_bundle(tiny_bundle, tmp_path / folder, "cpu")


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
