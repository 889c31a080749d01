"""The benchmark of borrowing: whose targets it asks, what it switches, and what it reads off."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from benchmarks import cold_items
from benchmarks.cold_items import Cold, Ranks, cold_figures, main, scored
from benchmarks.harness import Figure
from sidera.loading import LoadedBundle, load_bundle
from tests import tiny
from training.config import load_config
from training.data import read_dataset
from training.evaluation import recommend_for
from training.metrics import ABSENT
from training.pipeline import train
from training.split import Events, Part, Target, split_events, targets


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
    assert found.share == len(cold) / len(every)
    off = replace(served, reading=replace(served.reading, borrowing=0.0))
    own = [target for target in targets(events, Part.TEST) if count_I[target.item] < 5]
    for switch, known in (("with", served), ("without", off)):
        for target, rank in zip(own, found.cold_alone[switch].tolist(), strict=True):
            history = [number_of(loaded, item) for _, item in target.history]
            listed = dict(zip(*(part.tolist() for part in known.followers(history)), strict=True))
            mass = listed.pop(number_of(loaded, target.item), 0.0)
            before = sum(other > mass for number, other in listed.items() if number not in history)
            assert rank == (before if mass else ABSENT)


def number_of(loaded: LoadedBundle, item: int) -> int:
    """The number of an item of the tiny data's books."""
    number = loaded.recommender.catalog.find("books", f"books-{item}")
    assert number is not None
    return number


def test_validation_targets_are_asked_where_wanted_and_forgotten_users_never(
    borrowing: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, data = borrowing
    users = {row.split(",")[0] for row in (data / "books" / "interactions.csv").read_text().splitlines()[1:]}
    forget = tmp_path / "forget.jsonl"
    forget.write_text(
        "".join(json.dumps({"user_id": user, "deleted_at": "2100-01-01"}) + "\n" for user in sorted(users)[:5])
    )
    loaded = load_bundle(bundle, "cpu")
    served = loaded.recommender.neighbours
    assert served is not None
    parts = []

    def noted(events: Events, part: Part) -> list[Target]:
        parts.append(part)
        return targets(events, Part.TEST)

    monkeypatch.setattr(cold_items, "targets", noted)
    counts = []
    for part, listed in ((Part.TEST, None), (Part.VALIDATION, None), (Part.TEST, forget)):
        found = scored(loaded, data, ["books"], 0, 1000, part, listed)["books"]
        counts.append(len(found.cold["with"]) + len(found.warm["with"]))
        loaded.recommender.replace_neighbours(served)
    assert parts == [Part.TEST, Part.VALIDATION, Part.TEST]
    assert counts == [20, 20, 15]


def test_the_ratio_is_to_be_reached_only_where_enough_is_hit_without_borrowing() -> None:
    hit, missed = np.zeros(50, np.int64), np.full(50, ABSENT)
    few = np.where(np.arange(50) < 19, 0, ABSENT)
    warm = {"with": hit, "without": hit}

    def figures(cold: Ranks) -> dict[str, Figure]:
        return cold_figures("a", Cold(cold, warm, cold, warm), 0)

    enough = figures({"with": hit, "without": np.where(np.arange(50) < 20, 0, ABSENT)})
    assert (enough["cold_recall10_ratio_a"].value, enough["cold_recall10_ratio_a"].holds) == (2.5, True)
    assert enough["cold_recall10_difference_a"].holds is True
    assert enough["cold_followers_recall10_ratio_a"] == enough["cold_recall10_ratio_a"]
    assert figures({"with": hit, "without": few})["cold_recall10_ratio_a"].to_reach is None
    nothing = figures({"with": missed, "without": missed})
    assert nothing["cold_recall10_ratio_a"].value is None
    assert nothing["cold_recall10_difference_a"].holds is False
    assert nothing["cold_ndcg10_difference_a"].holds is False
    assert nothing["other_ndcg10_difference_a"].value == 0.0
    assert nothing["all_ndcg10_difference_a"].value == 0.0


def test_all_targets_are_weighed_as_there_are_cold_ones_and_others_among_them() -> None:
    hit, missed = np.zeros(50, np.int64), np.full(50, ABSENT)
    gained, lost = {"with": hit, "without": missed}, {"with": missed, "without": hit}
    told = cold_figures("a", Cold(gained, lost, gained, gained, share=0.25), 0)
    assert told["all_ndcg10_difference_a"].value == pytest.approx(0.25 - 0.75)
    assert told["all_ndcg10_difference_a"].holds is False
    assert told["all_followers_ndcg10_difference_a"].value == pytest.approx(1.0)
    assert told["all_followers_ndcg10_difference_a"].holds is True


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
