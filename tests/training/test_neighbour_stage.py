"""The stage that makes the neighbours' lists and weighs them, and what a bundle makes of them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sidera.catalog import Catalog, CatalogItem, create_catalog
from sidera.items.neighbours import Shares, load_neighbours
from sidera.language_model import LanguageModel
from sidera.model.vocabulary import Vocabulary
from tests import tiny
from tests.sidera.worlds import random_sids
from training.backbones import new_backbone
from training.config import load_config
from training.data import read_dataset
from training.evaluation import query_of, recommend_for
from training.neighbour_stage import neighbour_stage
from training.run import Run
from training.split import Part, split_events, targets
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
    world = build(recent=1, window=1, backward=0.0, smoothing=1.0, discount=0.0, borrowing=0.0, reader_width=0)
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
        ({"reader_steps": 2}, True),
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
