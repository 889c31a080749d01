"""At most n items of a prefix, against the greedy list over the exhaustive ranking."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from sidera.decoding.diversity import Diversity
from sidera.errors import SearchError
from tests.sidera.worlds import SIZES, Request, Sid, World, adapted_model, random_sids

NUM_LEAVES = math.prod(SIZES)
HISTORIES: tuple[tuple[tuple[str, Sid], ...], ...] = ((), (("films", (1, 2, 3)), ("books", (0, 0, 5))))

MakeWorld = Callable[[Mapping[str, Iterable[Sid]]], World]

slow = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@pytest.fixture(scope="module")
def make_world(tmp_path_factory: pytest.TempPathFactory) -> MakeWorld:
    model = adapted_model(tmp_path_factory.mktemp("adapters"))
    logits: dict[Any, Any] = {}
    return lambda domains: World(model, domains, logits)


caps = st.none() | st.builds(Diversity, st.integers(1, 3), st.integers(1, 3))


@st.composite
def requests(draw: st.DrawFn, sids: list[Sid]) -> Request:
    some = st.frozensets(st.sampled_from(sids))
    return Request(
        history=draw(st.sampled_from(HISTORIES)),
        num_results=draw(st.integers(1, 12)),
        gamma=draw(st.sampled_from([0.0, 0.25])),
        blocked=draw(some) if draw(st.booleans()) else frozenset(),
        allowed=draw(some) if draw(st.booleans()) else None,
        known=((sids[0], 0.1),) if draw(st.booleans()) else (),
        diversity=draw(caps),
    )


def expected(world: World, request: Request) -> list[tuple[float, Sid]]:
    return (world.exhaustive(request) if request.diversity is None else world.greedy(request))[: request.num_results]


@slow
@given(st.data(), st.integers(0, 99), st.integers(1, 50))
def test_with_a_beam_for_every_leaf_the_answer_is_the_greedy_list(
    make_world: MakeWorld, data: st.DataObject, seed: int, count: int
) -> None:
    sids = random_sids(np.random.default_rng(seed), count)
    world = make_world({"films": sids, "books": [(1, 1, 1)]})
    asked = data.draw(st.lists(requests(sids), min_size=1, max_size=3))
    for request, found in zip(asked, world.search(asked, NUM_LEAVES), strict=True):
        scores = [score for score, _ in world.exhaustive(request)]
        assume(all(a - b > 1e-4 for a, b in itertools.pairwise(scores)))
        assert found.sids == [sid for _, sid in expected(world, request)]
        assert found.scores == pytest.approx([score for score, _ in expected(world, request)], rel=0, abs=1e-4)
        assert found.certified


@slow
@given(st.data(), st.integers(0, 99), st.integers(1, 50))
def test_as_many_beams_as_results_find_that_many_whenever_the_cap_leaves_so_many(
    make_world: MakeWorld, data: st.DataObject, seed: int, count: int
) -> None:
    sids = random_sids(np.random.default_rng(seed), count)
    world = make_world({"films": sids})
    asked = data.draw(st.lists(requests(sids), min_size=1, max_size=3))
    width = max(request.num_results for request in asked)
    for request, found in zip(asked, world.search(asked, width), strict=True):
        best = expected(world, request)
        assert len(found.sids) == len(best)
        assert all(request.permits(sid) for sid in found.sids)
        if request.diversity is not None:
            prefixes = [sid[: request.diversity.prefix_length] for sid in found.sids]
            assert max(map(prefixes.count, prefixes), default=0) <= request.diversity.max_per_prefix
        if found.certified:
            assert found.scores == pytest.approx([score for score, _ in best], rel=0, abs=1e-4)


def test_a_cap_on_whole_sids_changes_nothing(make_world: MakeWorld) -> None:
    world = make_world({"films": random_sids(np.random.default_rng(1), 40)})
    capped = Request(history=HISTORIES[1], num_results=8, diversity=Diversity(1, len(SIZES)))
    plain = Request(history=HISTORIES[1], num_results=8)
    assert world.search([capped], 8)[0] == world.search([plain], 8)[0]


def test_a_capped_request_changes_no_other_of_its_batch(make_world: MakeWorld) -> None:
    world = make_world({"films": random_sids(np.random.default_rng(2), 40)})
    plain = Request(history=HISTORIES[1], num_results=6)
    capped = Request(num_results=6, diversity=Diversity(1, 1))
    together = world.search([plain, capped], 6)
    assert together[0].sids == world.search([plain], 6)[0].sids
    assert [sid[0] for sid in together[1].sids] == [sid[0] for _, sid in world.greedy(capped)]
    assert len(together[1].sids) == SIZES[0] < 6


@pytest.mark.parametrize(("most", "length"), [(0, 1), (-1, 1), (1, 0), (1, -2)])
def test_caps_below_one_are_refused(most: int, length: int) -> None:
    with pytest.raises(SearchError, match="at least 1"):
        Diversity(most, length)


def test_a_prefix_longer_than_a_sid_is_refused(make_world: MakeWorld) -> None:
    world = make_world({"films": [(0, 0, 0)]})
    with pytest.raises(SearchError, match="prefix_length is 4 and a SID has 3 codes"):
        world.search([Request(diversity=Diversity(1, 4))], 3)


def test_scores_that_are_not_numbers_are_refused_where_prefixes_are_capped(tmp_path: Path) -> None:
    model = adapted_model(tmp_path)
    dict(model.backbone.named_parameters())["lm_head.weight"].data.fill_(math.nan)
    world = World(model, {"films": random_sids(np.random.default_rng(3), 20)})
    with pytest.raises(SearchError, match="NaN"):
        world.search([Request(num_results=2, diversity=Diversity(1, 1))], 3)
