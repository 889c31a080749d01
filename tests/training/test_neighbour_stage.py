"""The stage that makes the neighbours' lists and weighs them, and what a bundle makes of them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import training.neighbour_stage as module
from sidera.catalog import Catalog, CatalogItem, create_catalog
from sidera.items.memory_router import MemoryRouter
from sidera.items.neighbours import Shares, load_neighbours
from sidera.language_model import LanguageModel
from sidera.model.vocabulary import Vocabulary
from tests import tiny
from tests.sidera.worlds import random_sids
from training.backbones import new_backbone
from training.config import load_config
from training.data import read_dataset
from training.evaluation import drawn_targets, query_of, recommend_for
from training.memory_proposals import Proposals
from training.memory_router import Asked
from training.mixture_shares import Candidates
from training.neighbour_stage import Weights, neighbour_stage, with_weights
from training.run import Run
from training.split import Events, Part, Target, split_events, targets
from training.stages import Stage

SIZES = (8, 8, 8)
Build = Callable[..., "World"]


class World:
    """The checkerboard world, a language model of random weights, and vectors that say nothing."""

    def __init__(self, folder: Path, data: Path, encoder: Path, **neighbours: Any) -> None:
        folder.mkdir()
        document = tiny.config_of(data, folder / "bundle", encoder) | {"neighbours": neighbours}
        config = load_config(tiny.write_config(folder / "config.yaml", document))
        dataset = read_dataset(data)
        self.said: list[str] = []
        self.run = Run(config, dataset, split_events(dataset), folder / "work", "cpu", self.said.append)
        rng = np.random.default_rng(0)
        self.catalog: Catalog = create_catalog(
            [
                CatalogItem(domain.name, item_id, sid, None, {})
                for domain in dataset.domains
                for item_id, sid in zip(domain.item_ids, random_sids(rng, len(domain.item_ids), SIZES), strict=True)
            ],
            SIZES,
        )
        self.vectors = {
            domain.name: rng.normal(size=(len(domain.item_ids), 6)).astype(np.float32) for domain in dataset.domains
        }
        vocabulary = Vocabulary(SIZES, {name: row for row, name in enumerate(self.run.names)})
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.model = LanguageModel(new_backbone("scratch:tiny", vocabulary, 60), vocabulary)

    def weigh(self, upstream: str = "mixture") -> Path | None:
        stage = Stage(self.run.work / upstream, upstream, True)
        return neighbour_stage(self.run, self.model, self.catalog, self.vectors, stage)[0]

    def hits(self, part: Part, path: Path | None) -> float:
        """How often the first of the recommended items is the target."""
        recommender = self.run.recommender(self.model, self.catalog, None if path is None else load_neighbours(path))
        asked = targets(self.run.events, part)
        top_NK = recommend_for(recommender, self.run.dataset.domains, asked, "test").top_NK
        return float(np.mean(top_NK[:, 0] == np.array([target.item for target in asked])))


@pytest.fixture
def build(tmp_path: Path, tiny_data: Path, tiny_encoder: Path) -> Build:
    return lambda name="one", **neighbours: World(tmp_path / name, tiny_data, tiny_encoder, **neighbours)


def test_what_followed_gets_the_share_where_it_says_what_comes_and_the_target_is_found(build: Build) -> None:
    # A list of one item alike, of vectors that say nothing: a longer one would be a guess at all items.
    lists = {"recent": 1, "window": 1, "backward": 0.0, "smoothing": 1.0, "discount": 0.0, "borrowing": 0.0}
    world = build(**lists, nearest=1, reader_width=0)
    path = world.weigh()
    assert path is not None
    shares = load_neighbours(path).shares
    assert set(shares) == set(world.run.names)
    assert all(own.transitions > 0.7 for own in shares.values())
    assert all(own.similar < 0.1 and own.popularity < 0.1 for own in shares.values())
    assert world.hits(Part.TEST, path) > 0.95
    assert world.hits(Part.TEST, None) < 0.3
    assert "followers 0." in world.said[-1]


def test_every_item_can_still_come_back(build: Build) -> None:
    world = build(recent=1)
    path = world.weigh()
    assert path is not None
    recommender = world.run.recommender(world.model, world.catalog, load_neighbours(path))
    domain = world.run.dataset.domains[0]
    query = query_of(targets(world.run.events, Part.TEST)[0], world.run.dataset.domains)
    everything = replace(query, domain=domain.name, num_results=len(domain.item_ids), exclude_history=False)
    [answer] = recommender.recommend([everything])
    assert {item.item_id for item in answer.items} == set(domain.item_ids)
    assert sum(np.exp(item.score) for item in answer.items) == pytest.approx(1, abs=1e-4)


def test_an_unseen_domain_has_a_share_for_items_alike_of_which_followers_take_two_thirds(build: Build) -> None:
    path = build(unseen_share=0.75).weigh()
    assert path is not None
    assert load_neighbours(path).unseen == Shares(transitions=0.5, similar=0.25)


def test_a_domain_has_a_reader_unless_the_config_says_otherwise(build: Build) -> None:
    for settings, readers in (
        ({"reader_passes": 1}, True),
        ({"reader_width": 0}, False),
        ({"reader_most_items": 1}, False),
    ):
        world = build(str(settings), **settings)
        path = world.weigh()
        assert path is not None
        made = load_neighbours(path)
        assert set(made.readers) == (set(world.run.names) if readers else set())
        if readers:
            name = world.run.names[0]
            numbers = [world.catalog.find(name, item_id) for item_id in world.run.dataset.domains[0].item_ids]
            assert sorted(made.readers[name].number_I.tolist()) == sorted(
                number for number in numbers if number is not None
            )


def best_shares_are(monkeypatch: pytest.MonkeyPatch, shares: list[float]) -> list[int]:
    """Sets the shares that are found best, of so many distributions; notes how many targets they are chosen on."""
    noted: list[int] = []

    def found(candidates: Sequence[Candidates]) -> np.ndarray:
        assert {len(own.mass_GC) for own in candidates} == {len(shares)}
        noted.append(len(candidates))
        return np.array(shares)

    monkeypatch.setattr(module, "best_shares", found)
    return noted


def test_a_readers_share_is_its_part_of_what_lists_and_reader_have_together(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    best_shares_are(monkeypatch, [0.3, 0.1, 0.3, 0.2, 0.1])
    path = build(reader_passes=1, router=False).weigh()
    assert path is not None
    made = load_neighbours(path)
    for name in made.shares:
        shares = made.shares[name]
        assert (shares.transitions, shares.similar, shares.popularity) == pytest.approx((0.3, 0.4, 0.2))
        assert made.readers[name].share == pytest.approx(0.75)


def test_where_lists_and_reader_have_no_share_the_reader_keeps_its_own(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    best_shares_are(monkeypatch, [0.7, 0.0, 0.0, 0.2, 0.1])
    path = build(reader_passes=1, router=False).weigh()
    assert path is not None
    made = load_neighbours(path)
    assert {own.similar for own in made.shares.values()} == {0.0}
    assert {reader.share for reader in made.readers.values()} == {1.0}


def test_without_a_reader_four_distributions_are_weighed(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    best_shares_are(monkeypatch, [0.5, 0.25, 0.15, 0.1])
    path = build(reader_width=0, router=False).weigh()
    assert path is not None
    made = load_neighbours(path)
    assert set(made.shares.values()) == {Shares(0.5, 0.25, 0.15)}
    assert made.readers == {}


def test_shares_are_chosen_on_all_validation_targets_and_the_router_learns_from_three_quarters_of_them(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted = best_shares_are(monkeypatch, [0.3, 0.1, 0.3, 0.2, 0.1])
    monkeypatch.setattr(module, "_CHOSEN_ON", 30)
    asked: list[tuple[Asked, Asked, Shares]] = []

    def fitted(learned: Asked, judged: Asked, base: Shares, seed: int, label: str) -> None:
        asked.append((learned, judged, base))

    monkeypatch.setattr(module, "fit_memory_router", fitted)
    path = (world := build(reader_passes=1)).weigh()
    assert path is not None
    made = load_neighbours(path)
    assert noted == [30, 30, 30], "and no more of them"
    for index, (learned, judged, base) in enumerate(asked):
        name = world.run.names[index]
        assert base == made.shares[name]
        assert (len(learned.candidates), len(judged.candidates)) == (23, 7)
        every = [target for target in targets(world.run.events, Part.VALIDATION) if target.domain == index]
        drawn = drawn_targets(every, 30, (world.run.config.seed, index))
        # The reader has its new share already in what the router reads and weighs.
        proposals = Proposals(world.run.recommender(world.model, world.catalog), made, world.run.dataset.domains, index)
        expected = proposals.asked(proposals.of(drawn))
        judges = [row for row in range(30) if row % 4 == 3]
        learners = [row for row in range(30) if row % 4 != 3]
        for own, rows in ((learned, learners), (judged, judges)):
            np.testing.assert_allclose(own.features_XF, expected.features_XF[rows])
            for found, row in zip(own.candidates, rows, strict=True):
                assert found.target == expected.candidates[row].target
                np.testing.assert_allclose(found.mass_GC, expected.candidates[row].mass_GC, rtol=1e-4, atol=1e-7)


def test_a_reader_is_fitted_for_the_passes_and_the_width_of_the_config_and_judged_by_validation_targets(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[Any, ...]] = []

    def fit(events: Events, domain: int, vectors: Any, numbers: Any, judged: list[Target], *settings: Any) -> None:
        told.append(settings)
        assert judged == [target for target in targets(events, Part.VALIDATION) if target.domain == domain]

    monkeypatch.setattr(module, "fit_reader", fit)
    world = build(reader_passes=7, reader_width=24)
    path = world.weigh()
    assert path is not None
    assert told == [(24, 7, world.run.config.seed, name, "cpu") for name in world.run.names]
    assert load_neighbours(path).readers == {}, "nothing was learned"


def test_weights_of_some_domains_leave_the_others_theirs(build: Build) -> None:
    path = build(reader_passes=1, router=False).weigh()
    assert path is not None
    listed = load_neighbours(path)
    router = MemoryRouter(*(np.zeros(1, np.float32),) * 6, bound=1.0)
    listed = replace(listed, routers={"books": router, "films": router})
    other = replace(listed.readers["films"], share=0.125)
    own = replace(router, bound=2.0)
    made = with_weights(
        listed, {"films": Weights(Shares(0.5), other, own), "plays": Weights(Shares(similar=0.5), None, None)}
    )
    assert made.shares == {**listed.shares, "films": Shares(0.5), "plays": Shares(similar=0.5)}
    assert {name: routed.bound for name, routed in made.routers.items()} == {"books": 1.0, "films": 2.0}
    assert made.readers.keys() == listed.readers.keys()
    assert made.readers["films"] is other
    assert made.readers["books"] is listed.readers["books"]
    assert made.transitions is listed.transitions


def test_nothing_is_made_where_the_config_says_so(build: Build) -> None:
    world = build(enabled=False)
    assert world.weigh() is None
    assert world.said == []


def test_the_stage_is_kept_until_its_settings_or_the_model_change(build: Build) -> None:
    world = build()
    path = world.weigh()
    assert path is not None
    written = path.stat().st_mtime_ns
    assert world.weigh() == path
    assert path.stat().st_mtime_ns == written
    world.weigh("another mixture")
    assert path.stat().st_mtime_ns > written
