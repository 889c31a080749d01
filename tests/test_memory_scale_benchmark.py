"""The machinery of the memory's benchmark; what it measures of a large memory is never asserted here."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from benchmarks import memory_scale
from benchmarks.memory_scale import scale_figures
from benchmarks.memory_scale_child import DOMAIN, build, followers, lengths, skewed
from sidera.items.neighbours import load_neighbours


def test_lists_have_so_many_followers_in_all_and_none_is_too_long() -> None:
    length_N = lengths(1_000, 20_123, np.random.default_rng(0))
    assert int(length_N.sum()) == 20_123
    assert 0 <= length_N.min() < 5
    assert 60 < length_N.max() <= 100
    with pytest.raises(SystemExit, match="ask for 50000 or fewer"):
        lengths(1_000, 60_000, np.random.default_rng(0))


def test_a_list_is_sorted_and_names_each_item_once_and_some_items_often() -> None:
    length_C = np.array([60, 0, 100, 1])
    item_X = followers(length_C, 300, np.random.default_rng(0))
    for own in np.split(item_X, np.cumsum(length_C)[:-1]):
        assert (np.diff(own) > 0).all()
    drawn = skewed(np.random.default_rng(0).random(50_000), 1_000)
    assert 0 <= drawn.min() < drawn.max() < 1_000
    assert 0.4 < (drawn < 100).mean() < 0.5


def test_what_is_built_is_what_a_bundle_holds(tmp_path: Path) -> None:
    made = build(tmp_path, 1_000, 10_000)
    assert [path.name for path in tmp_path.iterdir()] == ["neighbours.safetensors"]
    assert made["file_bytes"] > 10_000 * 8
    neighbours = load_neighbours(tmp_path / "neighbours.safetensors")
    assert len(neighbours.transitions.item) == 10_000
    _, mass_S = neighbours.known(DOMAIN, [0, 1, 2, 3])
    assert 0 < mass_S.sum() <= 0.4


def test_both_processes_run_and_their_figures_are_told(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    memory_scale.main(out, items=2_000, transitions=20_000, work=None, quick=False)
    told = json.loads(out.read_text())
    assert (told["items"], told["transitions"]) == (2_000, 20_000)
    assert told["figures"]["load_seconds"]["to_reach"] == "<= 2"
    assert told["figures"]["whole_mebibytes"]["to_reach"] == "<= 2048"
    assert all(figure["value"] is not None for figure in told["figures"].values())
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"], "the lists are removed"


def test_memory_of_its_own_and_pages_of_files_both_count() -> None:
    read: dict[str, Any] = {"load_seconds": 0.1, "load_cpu_seconds": 0.1, "reads": 10, "delta_entries": 5}
    for state in ("loaded", "read", "grown", "whole"):
        read |= {f"{state}_anonymous": 2**30, f"{state}_file": 2**30, f"{state}_p50": 1e-5, f"{state}_p99": 2e-5}
    read |= {"whole_file": 2**30 + 2**20, "swap_seconds": 1e-4}
    figures = scale_figures({"build": {"seconds": 3.0, "file_bytes": 2**21}, "read": read})
    assert (figures["grown_mebibytes"].value, figures["grown_mebibytes"].holds) == (2048.0, True)
    assert (figures["whole_mebibytes"].value, figures["whole_mebibytes"].holds) == (2049.0, False)
    assert figures["read_lookup_p99_us"].value == pytest.approx(20)
    assert figures["file_mebibytes"].value == 2.0


def test_a_process_that_fails_is_told_with_what_it_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memory_scale, "TASKS", ("read",))
    with pytest.raises(typer.Exit):
        memory_scale.main(tmp_path / "figures.json", items=2_000, transitions=20_000, work=None, quick=False)
    told = capsys.readouterr().err
    assert "the process that does 'read' failed" in told
    assert "no neighbours can be read" in told
