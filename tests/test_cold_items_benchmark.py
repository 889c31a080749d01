"""The benchmark of borrowing: whose targets it asks, what it switches, and what it reads off."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from benchmarks import cold_items
from benchmarks.cold_items import Cold, cold_figures, main, scored
from sidera.loading import load_bundle
from tests import tiny
from training.config import load_config
from training.data import read_dataset
from training.evaluation import recommend_for
from training.metrics import ABSENT
from training.pipeline import train
from training.split import Part, split_events, targets


@pytest.fixture(scope="module")
def borrowing(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path) -> tuple[Path, Path]:
    """A bundle of one domain in which most items have few events; and its data."""
    folder = tmp_path_factory.mktemp("cold")
    data = tiny.write_data(folder / "data", {"books": 30}, users=20)
    document = tiny.config_of(data, folder / "bundle", tiny_encoder)
    train(load_config(tiny.write_config(folder / "config.yaml", document)), lambda told: None)
    return folder / "bundle", data


def test_cold_targets_are_those_whose_item_has_few_train_events_and_only_borrowing_is_switched(
    borrowing: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, data = borrowing
    loaded = load_bundle(bundle, "cpu")
    served = loaded.recommender.neighbours
    assert served is not None
    asked: list[tuple[float, list[int]]] = []

    def noted(recommender: Any, domains: Any, own: Any, label: str) -> Any:
        assert recommender.neighbours.transitions is served.transitions
        asked.append((recommender.neighbours.reading.borrowing, [target.item for target in own]))
        return recommend_for(recommender, domains, own, label)

    monkeypatch.setattr(cold_items, "recommend_for", noted)
    found = scored(loaded, data, ["books"], 0, 1000)["books"]
    dataset = read_dataset(data, ["books"])
    events = split_events(dataset)
    every = [target.item for target in targets(events, Part.TEST)]
    train_E = np.isin(events.part_E, (Part.TRAIN, Part.ROUTER))
    count_I = np.bincount(events.item_E[train_E], minlength=30)
    cold, warm = ([item for item in every if bool(count_I[item] < 5) == few] for few in (True, False))
    assert len(cold) > 3
    on = served.reading.borrowing
    assert on > 0
    assert asked == [(on, cold), (on, warm), (0.0, cold), (0.0, warm)]
    assert {name: len(rank_N) for name, rank_N in found.cold.items()} == {"with": len(cold), "without": len(cold)}


def test_the_ratio_is_to_be_reached_only_where_enough_is_hit_without_borrowing() -> None:
    hit, missed = np.zeros(50, np.int64), np.full(50, ABSENT)
    few = np.where(np.arange(50) < 19, 0, ABSENT)
    warm = {"with": hit, "without": hit}
    enough = cold_figures("a", Cold({"with": hit, "without": np.where(np.arange(50) < 20, 0, ABSENT)}, warm), 0)
    assert (enough["cold_recall10_ratio_a"].value, enough["cold_recall10_ratio_a"].holds) == (2.5, True)
    assert enough["cold_recall10_difference_a"].holds is True
    assert cold_figures("a", Cold({"with": hit, "without": few}, warm), 0)["cold_recall10_ratio_a"].to_reach is None
    nothing = cold_figures("a", Cold({"with": missed, "without": missed}, warm), 0)
    assert nothing["cold_recall10_ratio_a"].value is None
    assert nothing["cold_recall10_difference_a"].holds is False
    assert nothing["other_ndcg10_difference_a"].value == 0.0


def test_the_program_writes_its_figures_and_refuses_in_one_sentence(
    borrowing: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, data = borrowing
    main(bundle, data, "books", tmp_path / "out.json", targets=3, others=2, threads=0)
    figures = json.loads((tmp_path / "out.json").read_text())["figures"]
    assert "of 3 targets" in figures["cold_recall10_with_books"]["note"]
    assert "2 targets of other items" in figures["other_ndcg10_difference_books"]["note"]
    with pytest.raises(typer.Exit):
        main(bundle, data, "music", tmp_path / "out.json", targets=3, others=2, threads=0)
    assert "'music'; choose among books" in capsys.readouterr().err
