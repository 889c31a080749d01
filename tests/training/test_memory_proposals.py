"""What is proposed for targets: by all parts of the mixture, without what the counts have learned of the target."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidera.items.neighbours import GrownLists, Neighbours, Reading, Shares
from tests.training.test_neighbour_stage import World
from training.memory_proposals import Proposals
from training.neighbour_lists import counts_of, joined, popularity_of, rule_of, transitions_of
from training.split import Part, Target, hold_out, targets

Build = Callable[..., World]


@pytest.fixture
def world(tmp_path: Path, tiny_data: Path, tiny_encoder: Path) -> World:
    made = World(tmp_path / "one", tiny_data, tiny_encoder, longest=1000)
    made.run = replace(made.run, events=hold_out(made.run.events, 0.5, 1000, 0))
    return made


def listed(world: World, counted: tuple[Part, ...]) -> Neighbours:
    """The lists of domain 0, of the train events and of those that were held out, or not."""
    run, catalog = world.run, world.catalog
    events, domain = run.events, run.dataset.domains[0]
    parts = np.where(np.isin(events.part_E, counted), Part.TRAIN, Part.CONTEXT).astype(np.int8)
    events = replace(events, part_E=parts)
    rule = rule_of(run.config.neighbours, events)
    numbers = np.array([catalog.find(domain.name, item_id) for item_id in domain.item_ids], dtype=np.int64)
    count, name = len(domain.item_ids), domain.name
    lists = joined({name: transitions_of(events, 0, count, rule)}, {name: numbers}, len(catalog))
    popularity = np.zeros(len(catalog), dtype=np.float32)
    popularity[numbers] = popularity_of(events, 0, count)
    nothing = replace(lists, begin=0 * lists.begin, item=lists.item[:0], weight=lists.weight[:0])
    return Neighbours(lists, GrownLists(nothing), popularity, {}, Shares(), Reading(smoothing=1.0), rule)


def proposals(world: World, known: Neighbours) -> Proposals:
    run = world.run
    counted = int(counts_of(run.events, 0, len(run.dataset.domains[0].item_ids)).sum())
    return Proposals(run.recommender(world.model, world.catalog), known, run.dataset.domains, 0, counted)


def held_out(world: World) -> list[Target]:
    return [target for target in targets(world.run.events, Part.ROUTER) if target.domain == 0]


def test_the_counts_leave_out_the_transitions_of_the_target_exactly(world: World) -> None:
    user = held_out(world)[0].user
    asked = [target for target in held_out(world) if target.user == user]
    every = listed(world, (Part.TRAIN, Part.ROUTER))
    # Beside this target all that is held out is counted.
    own = (world.run.events.user_E == user) & (world.run.events.domain_E == 0)
    part_E = np.where(own & (world.run.events.part_E == Part.ROUTER), Part.CONTEXT, world.run.events.part_E)
    other = World.__new__(World)
    other.__dict__ |= world.__dict__
    other.run = replace(world.run, events=replace(world.run.events, part_E=part_E.astype(np.int8)))
    without = listed(other, (Part.TRAIN, Part.ROUTER))
    found = proposals(world, every).asked(asked, {user: 0.0})
    expected = proposals(world, without).asked(asked)
    np.testing.assert_allclose(found.candidates[0].mass_GC[0], expected.candidates[0].mass_GC[0], atol=1e-5)
    np.testing.assert_allclose(found.features_XF[0, :10], expected.features_XF[0, :10], atol=1e-4)


def test_the_target_is_less_popular_by_its_own_event(world: World) -> None:
    asked = held_out(world)[:3]
    known = listed(world, (Part.TRAIN, Part.ROUTER))
    plain = proposals(world, known).asked(asked)
    left = proposals(world, known).asked(asked, dict.fromkeys([target.user for target in asked], 0.0))
    events = world.run.events
    counted = np.isin(events.part_E, (Part.TRAIN, Part.ROUTER)) & (events.domain_E == 0)
    for one, other in zip(plain.alone, left.alone, strict=True):
        moved_C = one[2, : other.shape[1]] - other[2, : one.shape[1]]
        assert moved_C.max() == pytest.approx(1 / counted.sum(), rel=1e-4)
        assert np.count_nonzero(moved_C > 1e-9) == 1


def test_what_followers_leave_is_the_language_models_but_not_where_they_stand_alone(world: World) -> None:
    asked: Any = proposals(world, listed(world, (Part.TRAIN,))).asked(held_out(world)[:4])
    for own, alone_GC in zip(asked.candidates, asked.alone, strict=True):
        assert (own.mass_GC[3] == alone_GC[3]).all()
        assert (own.mass_GC[0] >= alone_GC[0]).all()
        assert own.mass_GC[1] == pytest.approx(alone_GC[3]), "nothing is alike: all of it is left"
