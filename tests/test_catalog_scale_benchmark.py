"""The machinery of the catalog's benchmark; what it measures of a large catalog is never asserted here."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from benchmarks import catalog_scale
from benchmarks.catalog_scale import TASKS, scale_figures
from benchmarks.catalog_scale_child import build, resident
from benchmarks.catalog_synthetic import DOMAIN, ID_LENGTH, SIZES, made_up_items, made_up_sids, new_items
from sidera.catalog import Catalog


def test_made_up_items_have_ids_of_their_own_and_are_the_same_every_time() -> None:
    columns = made_up_items(5_000)
    ids = columns.item_ids.to_pylist()
    assert len(set(ids)) == 5_000
    assert {len(item_id) for item_id in ids} == {ID_LENGTH}
    assert made_up_items(5_000).item_ids.equals(columns.item_ids)
    assert columns.titles is not None
    assert columns.titles[7].as_py() == "Made-up item 7 of 5,000"
    assert columns.fields is not None
    assert json.loads(columns.fields[998].as_py()) == {"brand": "Maker 1", "price": 98.99}


def test_made_up_sids_are_different_and_fill_their_tree_unevenly() -> None:
    sids_NL = made_up_sids(40_000, SIZES)
    assert len(np.unique(sids_NL, axis=0)) == len(sids_NL) == 40_000
    count_V = np.sort(np.bincount(sids_NL[:, 0], minlength=256))
    assert count_V[:26].sum() < 0.05 * 40_000
    assert count_V[-26:].sum() > 0.25 * 40_000
    below = [np.bincount(sids_NL[sids_NL[:, 0] == code, 1], minlength=256).argmax() for code in range(0, 256, 16)]
    assert len(set(below)) > 4, "other children are taken below other nodes"


def test_every_task_runs_and_its_figures_are_told(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    catalog_scale.main(out, items=2_000, work=None, quick=False)
    told = json.loads(out.read_text())
    figures = told["figures"]
    assert told["items"] == 2_000
    assert figures["build_seconds"]["to_reach"] == "<= 60"
    assert figures["open_seconds"]["to_reach"] == "<= 2"
    assert figures["used_bytes_per_item"]["to_reach"] == figures["whole_bytes_per_item"]["to_reach"] == "<= 24"
    assert all(figure["value"] is not None for figure in figures.values())
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"], "the catalog is removed"


def test_what_a_process_found_becomes_bytes_an_item() -> None:
    found: dict[str, Any] = {
        "build": {
            "seconds": 3.0,
            "cpu_seconds": 2.0,
            "save_seconds": 1.0,
            "nodes": [2, 4],
            "trie_bytes": 300,
            "number_bytes": 800,
            "file_bytes": {"item_ids.marisa": 600, "items.arrow": 5_000},
        },
        "open": {
            "seconds": 0.5,
            "cpu_seconds": 0.4,
            "lookup_seconds": 1e-5,
            "opened_anonymous": 100,
            "opened_file": 900,
            "used_anonymous": 150,
            "used_file": 2_450,
        },
        "change": {f"{state}_{name}": 0.002 for state in ("one", "later") for name in ("add", "remove", "hide")},
        "search": {"ratio": 1.01, "note": "a note", "added": 10, "removed": 9},
        "fold": {
            **dict.fromkeys(("seconds", "cpu_seconds", "longest", "median", "quiet_longest", "quiet_median"), 0.02),
            "moved_seconds": 0.001,
            "bytes": 1_300,
            "searches": 60,
            "ratio": 1.02,
            "note": "",
            "added": 5,
            "removed": 5,
        },
    }
    figures = scale_figures(100, found)
    assert (figures["opened_bytes_per_item"].value, figures["used_bytes_per_item"].value) == (10.0, 26.0)
    assert "1.50 of its own (RssAnon), 24.50 of files (RssFile)" in figures["used_bytes_per_item"].note
    assert figures["used_bytes_per_item"].holds is False
    assert (figures["whole_bytes_per_item"].value, figures["whole_bytes_per_item"].holds) == (17.0, True)
    assert figures["add_one_ms"].value == 2.0
    assert (figures["fold_longest_pause_ms"].value, figures["fold_bytes_per_item"].value) == (20.0, 13.0)
    assert set(TASKS) == set(found)


def test_a_catalog_of_the_benchmark_is_one_that_a_bundle_holds(tmp_path: Path) -> None:
    build(tmp_path, 2_000)
    catalog = Catalog.load(tmp_path, [DOMAIN], SIZES)
    assert len(catalog) == 2_000
    assert catalog.item(5).title is not None
    assert resident()["anonymous"] > 2**20
    new = new_items(catalog, 50)
    assert len({item.sid for item in new}) == 50
    assert not any(catalog.holder(DOMAIN, item.sid) for item in new)


def test_a_process_that_fails_is_told_with_what_it_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(catalog_scale, "TASKS", ("open",))
    with pytest.raises(typer.Exit):
        catalog_scale.main(tmp_path / "figures.json", items=2_000, work=None, quick=False)
    told = capsys.readouterr().err
    assert "the process that does 'open' failed" in told
    assert "item_ids.marisa cannot be read" in told
