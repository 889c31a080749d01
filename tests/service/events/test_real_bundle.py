"""A real bundle learns from events: what followed an item lately is more likely after it, until it is taken back."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from service.model import BundleModel
from sidera.items.neighbours import Shares
from sidera.items.transitions import TransitionDelta
from sidera.loading import load_bundle
from sidera.recommender import Query


@pytest.fixture
def model(tiny_bundle: Path) -> BundleModel:
    """The bundle of the tests, with a fixed share for followers in every domain."""
    loaded = load_bundle(tiny_bundle, "cpu")
    neighbours = loaded.recommender.neighbours
    assert neighbours is not None
    fixed = replace(neighbours, shares=dict.fromkeys(neighbours.shares, Shares(transitions=0.5)), routers={})
    loaded.recommender.replace_neighbours(fixed)
    assert loaded.alike is not None
    loaded = replace(loaded, alike=replace(loaded.alike, neighbours=fixed))
    return BundleModel(loaded)


def scores(model: BundleModel, domain: str, history: list[str]) -> dict[str, float]:
    [found] = model.recommend(
        [Query(domain, tuple((domain, item_id) for item_id in history), num_results=5, exclude_history=False)]
    )
    return {item.item_id: item.score for item in found.items}


def test_what_was_learnt_is_in_the_scores_survives_a_new_snapshot_and_can_be_taken_back(model: BundleModel) -> None:
    catalog = model.catalog
    domain = catalog.domains[0]
    before, after = (int(number) for number in catalog.index(domain).number_of_leaf[[0, -1]])
    names = [catalog.name(number)[0] for number in (before, after)]
    untaught = scores(model, domain, names[:1])
    taught = TransitionDelta().added(np.array([before]), np.array([after]), np.array([100_000.0]))
    model.learn(taught, 0.0)
    learnt = scores(model, domain, names[:1])
    assert max(learnt, key=learnt.__getitem__) == names[1]
    assert learnt[names[1]] > untaught.get(names[1], -np.inf)
    model.stage(catalog, {}, anew=False)()
    assert scores(model, domain, names[:1]) == learnt
    model.learn(TransitionDelta(), 0.0)
    assert scores(model, domain, names[:1]) == untaught
    model.learn(taught, 0.0)
    model.stage(catalog, {}, anew=True)()
    assert scores(model, domain, names[:1]) == untaught, "it went by numbers that may be of other items now"


def test_a_bundle_says_until_when_it_was_trained(model: BundleModel) -> None:
    counting = model.counting
    assert counting is not None
    assert set(counting.trained_until) == set(model.catalog.domains)
