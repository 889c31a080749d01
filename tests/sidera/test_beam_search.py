"""Beam search against exhaustive scoring, and against the slow and obvious beam search of ``worlds``."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from sidera.beam_search import SearchBatch, beam_search
from sidera.decoding.diversity import Diversity
from sidera.decoding.sampling import Sampling
from sidera.errors import SearchError
from sidera.language_model import LanguageModel
from sidera.model.user_router import Mixture
from tests.sidera.worlds import (
    SIZES,
    VOCABULARY,
    Found,
    Request,
    Sid,
    World,
    adapted_model,
    random_backbone,
    random_sids,
)

NUM_LEAVES = math.prod(SIZES)

one_sid = st.tuples(*[st.integers(0, size - 1) for size in SIZES])
crowds = st.builds(
    lambda seed, count: set(random_sids(np.random.default_rng(seed), count)), st.integers(0, 999), st.integers(20, 60)
)
some_sids = st.sets(one_sid, min_size=1, max_size=12) | crowds
HISTORIES: tuple[tuple[tuple[str, Sid], ...], ...] = (
    (),
    (("films", (1, 2, 3)),),
    (("books", (0, 0, 5)), ("films", (4, 3, 0)), ("films", (2, 2, 2))),
    (("songs", (3, 1, 4)), ("books", (1, 1, 1))),
)
"""Few of them, so that the slow way finds most logits where it left them."""

MakeWorld = Callable[[Mapping[str, Iterable[Sid]]], World]

slow = settings(
    deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@dataclass(frozen=True)
class Sampled:
    """Domains and requests for them."""

    domains: dict[str, set[Sid]]
    requests: list[Request]


few_sids = st.just(frozenset[Sid]()) | st.frozensets(one_sid, max_size=8)


@st.composite
def samples(draw: st.DrawFn, max_requests: int = 4, filtered: bool = True, varied: bool = False) -> Sampled:
    domains = draw(st.fixed_dictionaries(dict.fromkeys(("books", "films", "songs"), some_sids)))

    def request() -> Request:
        domain = draw(st.sampled_from(sorted(domains)))
        own = st.frozensets(st.sampled_from(sorted(domains[domain])) | one_sid)
        return Request(
            domain=domain,
            history=draw(st.sampled_from(HISTORIES)),
            num_results=draw(st.integers(1, 8)),
            gamma=0.0 if domain == "songs" else draw(st.sampled_from([0.0, 0.25, 0.9, 1.0])),
            blocked=draw(own) if filtered and draw(st.booleans()) else frozenset(),
            allowed=draw(own) if filtered and draw(st.booleans()) else None,
            known=tuple((sid, draw(st.sampled_from([0.01, 0.1]))) for sid in draw(few_sids)),
            shared=draw(st.sampled_from([0.0, 0.0, 0.2])),
            diversity=draw(st.none() | st.builds(Diversity, st.integers(1, 2), st.integers(1, 3))) if varied else None,
            sampling=draw(st.none() | st.builds(Sampling, st.integers(0, 9))) if varied else None,
        )

    return Sampled(domains, [request() for _ in range(draw(st.integers(1, max_requests)))])


@pytest.fixture(scope="module")
def make_world(tmp_path_factory: pytest.TempPathFactory) -> MakeWorld:
    model = adapted_model(tmp_path_factory.mktemp("adapters"))
    logits: dict[Any, Any] = {}
    return lambda domains: World(model, domains, logits)


def assert_same(found: Found, expected: Sequence[tuple[float, Sid]]) -> None:
    """The same scores in the same order, and the same SIDs but for neighbours as close as rounding."""
    assert len(found.sids) == len(expected)
    assert found.scores == pytest.approx([score for score, _ in expected], rel=0, abs=1e-4)
    score_of = {sid: score for score, sid in expected}
    for sid, score in zip(found.sids, found.scores, strict=True):
        assert score_of.get(sid, score) == pytest.approx(score, rel=0, abs=1e-4)


# Exact scores


@slow
@given(samples())
def test_with_a_beam_for_every_leaf_the_result_is_the_exhaustive_ranking(
    make_world: MakeWorld, sample: Sampled
) -> None:
    world = make_world(sample.domains)
    for request, found in zip(sample.requests, world.search(sample.requests, NUM_LEAVES), strict=True):
        assert_same(found, world.exhaustive(request)[: request.num_results])
        assert found.certified


@slow
@given(samples(), st.integers(0, 12))
def test_at_every_width_scores_are_exhaustive_and_items_valid_allowed_and_all_different(
    make_world: MakeWorld, sample: Sampled, more: int
) -> None:
    world = make_world(sample.domains)
    width = max(request.num_results for request in sample.requests) + more
    for request, found in zip(sample.requests, world.search(sample.requests, width), strict=True):
        ranking = world.exhaustive(request)
        score_of = {sid: score for score, sid in ranking}
        assert len(found.sids) == min(request.num_results, len(ranking))
        assert len(set(found.sids)) == len(found.sids)
        assert set(found.sids) <= set(score_of)
        assert all(math.isfinite(score) for score in found.scores)
        assert found.scores == sorted(found.scores, reverse=True)
        assert found.scores == pytest.approx([score_of[sid] for sid in found.sids], rel=0, abs=1e-4)
        if found.certified:
            assert_same(found, ranking[: request.num_results])


@slow
@given(samples(max_requests=2), st.integers(0, 10))
def test_it_finds_what_the_obvious_beam_search_finds_at_every_width(
    make_world: MakeWorld, sample: Sampled, more: int
) -> None:
    world = make_world(sample.domains)
    width = max(request.num_results for request in sample.requests) + more
    expected = []
    for request in sample.requests:
        beams, clear = world.naive_beams(request, width)
        assume(clear)
        expected.append(beams)
    for found, beams in zip(world.search(sample.requests, width), expected, strict=True):
        assert found.sids == [sid for _, sid in beams]
        assert found.scores == pytest.approx([score for score, _ in beams], rel=0, abs=1e-4)


def test_it_finds_what_the_obvious_beam_search_finds_from_one_beam_to_one_a_leaf(make_world: MakeWorld) -> None:
    world = make_world({"films": random_sids(np.random.default_rng(0), 40)})
    for width in range(1, 41):
        requests = [Request(history=history, num_results=width, gamma=0.3) for history in HISTORIES]
        for request, found in zip(requests, world.search(requests, width), strict=True):
            beams, clear = world.naive_beams(request, width)
            assert clear
            assert found.sids == [sid for _, sid in beams]
            assert found.scores == pytest.approx([score for score, _ in beams], rel=0, abs=1e-4)


@pytest.mark.parametrize("gamma", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("domain", ["films", "books", "songs"])
def test_the_probabilities_of_a_whole_domain_sum_to_one(make_world: MakeWorld, domain: str, gamma: float) -> None:
    world = make_world({domain: random_sids(np.random.default_rng(1), 50), "other": [(0, 0, 0)]})
    found = world.search([Request(domain, HISTORIES[2], num_results=50, gamma=gamma)], 50)[0]
    assert len(found.sids) == 50
    assert sum(map(math.exp, found.scores)) == pytest.approx(1.0, abs=1e-5)


def test_a_filter_changes_no_score(make_world: MakeWorld) -> None:
    sids = random_sids(np.random.default_rng(2), 40)
    world = make_world({"films": sids})
    everything = Request(history=HISTORIES[1], num_results=40, gamma=0.25)
    scores = dict(zip(*world_answer(world, everything), strict=True))
    some = frozenset(sids[::3])
    for kept in (
        Request(history=HISTORIES[1], num_results=40, gamma=0.25, allowed=some),
        Request(history=HISTORIES[1], num_results=40, gamma=0.25, blocked=frozenset(sids) - some),
        Request(
            history=HISTORIES[1],
            num_results=40,
            gamma=0.25,
            allowed=some | set(sids[:20]),
            blocked=frozenset(sids) - some,
        ),
    ):
        found, own = world_answer(world, kept)
        assert set(found) == some
        assert own == pytest.approx([scores[sid] for sid in found], rel=0, abs=1e-5)


def world_answer(world: World, request: Request) -> tuple[list[Sid], list[float]]:
    found = world.search([request], request.num_results)[0]
    return found.sids, found.scores


def test_as_many_items_as_allowed_come_back_from_the_narrowest_beam_and_none_if_none_is(make_world: MakeWorld) -> None:
    sids = random_sids(np.random.default_rng(3), 60)
    world = make_world({"films": sids, "books": sids})
    least = [sid for _, sid in world.exhaustive(Request(history=HISTORIES[1]))[-5:]]
    requests = [
        Request(history=HISTORIES[1], num_results=7, allowed=frozenset(least)),
        Request("books", num_results=7, allowed=frozenset()),
        Request(num_results=7, blocked=frozenset(sids)),
        Request(num_results=7, allowed=frozenset(least), blocked=frozenset(least[1:])),
        Request(num_results=7),
    ]
    found = world.search(requests, 7)
    assert [len(one.sids) for one in found] == [5, 0, 0, 1, 7]
    assert set(found[0].sids) == set(least)
    assert [one.certified for one in found[:4]] == [True] * 4


# Certificates


class Scripted(LanguageModel):
    """A language model whose logits are written down: the same at each level whatever came before."""

    def __init__(self, logits: Sequence[Sequence[float]]) -> None:
        super().__init__(random_backbone(), VOCABULARY)
        self.written = [torch.tensor(level) for level in logits]

    def code_logits(self, hidden_XD: Tensor, level: int) -> Tensor:
        return self.written[level].expand(*hidden_XD.shape[:-1], -1)


def test_a_beam_that_is_too_narrow_misses_the_best_item_and_says_so() -> None:
    # The likelier first code has six equal leaves below it, the other one a single leaf.
    model = Scripted([[0.2, 0.0, 0.0, 0.0, 0.0], [0.0] * 4, [0.0] * 6])
    world = World(model, {"films": [(0, 0, code) for code in range(6)] + [(1, 0, 0)]})
    best = Request(num_results=1)
    narrow, wide = world.search([best], 1)[0], world.search([best], 2)[0]
    assert narrow.sids[0] != (1, 0, 0)
    assert not narrow.certified
    assert wide.sids == [(1, 0, 0)]
    assert wide.certified


def test_equal_scores_at_the_edge_still_come_back_as_often_as_asked() -> None:
    world = World(
        Scripted([[0.0] * size for size in SIZES]), {"films": random_sids(np.random.default_rng(4), NUM_LEAVES)}
    )
    for width in (1, 2, 7, 30):
        found = world.search([Request(num_results=width)], width)[0]
        assert len(set(found.sids)) == width
        assert found.scores == pytest.approx([-math.log(NUM_LEAVES)] * width, abs=1e-5)


def test_certificates_are_given_and_withheld_on_random_worlds(make_world: MakeWorld) -> None:
    given_and_missed = set()
    for seed in range(12):
        world = make_world({"films": random_sids(np.random.default_rng(seed), 40)})
        requests = [Request(history=history, num_results=2, gamma=0.25) for history in HISTORIES]
        for request, found in zip(requests, world.search(requests, 2), strict=True):
            missed = found.sids != [sid for _, sid in world.exhaustive(request)[:2]]
            assert not (missed and found.certified)
            given_and_missed.add((found.certified, missed))
    assert (True, False) in given_and_missed
    assert (False, True) in given_and_missed


# Batches


@pytest.fixture(scope="module")
def precise_model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """So precise that rounding of these large weights stays far below the tolerance, and hides no leak between rows."""
    return adapted_model(tmp_path_factory.mktemp("adapters"), dtype=torch.float64)


@slow
@given(samples(max_requests=3, varied=True), st.integers(0, 9))
def test_a_request_is_answered_alone_as_in_any_batch_and_padding(
    precise_model: LanguageModel, sample: Sampled, padding: int
) -> None:
    world = World(precise_model, sample.domains)
    width = 9
    alone = [world.search([request], width)[0] for request in sample.requests]
    longest = Request("books", HISTORIES[2] * 3, num_results=1, gamma=0.5)
    for batch, first in (
        (sample.requests, 0),
        ([longest, *sample.requests], 1),
        ([*reversed(sample.requests), longest], None),
    ):
        together = world.search(batch, width, padding)
        own = together[first:][: len(alone)] if first is not None else together[: len(alone)][::-1]
        for request, one, many in zip(sample.requests, alone, own, strict=True):
            assert many.scores == pytest.approx(one.scores, rel=0, abs=1e-5)
            gaps = [a - b for a, b in zip(one.scores, one.scores[1:], strict=False)]
            if request.sampling is not None or min(gaps, default=1.0) > 1e-4:
                assert many.sids == one.sids


@slow
@given(samples(max_requests=2, varied=True), st.integers(0, 12))
def test_whatever_is_asked_for_items_are_valid_allowed_all_different_and_their_scores_exhaustive(
    make_world: MakeWorld, sample: Sampled, more: int
) -> None:
    world = make_world(sample.domains)
    width = max(request.num_results for request in sample.requests) + more
    for request, found in zip(sample.requests, world.search(sample.requests, width), strict=True):
        score_of = {sid: score for score, sid in world.exhaustive(request)}
        kept = list(score_of) if request.diversity is None else [sid for _, sid in world.greedy(request)]
        assert len(set(found.sids)) == len(found.sids) == min(request.num_results, len(kept))
        assert all(map(math.isfinite, found.scores))
        assert found.scores == pytest.approx([score_of[sid] for sid in found.sids], rel=0, abs=1e-4)


# Strange and bad input


@pytest.mark.parametrize("sids", [[(2, 1, 3)], [(0, 0, 0), (0, 3, 1)], [(4, 3, code) for code in range(6)]])
@pytest.mark.parametrize("gamma", [0.0, 0.25, 1.0])
def test_tries_of_one_item_and_of_a_root_with_one_child_are_searched_exactly(
    make_world: MakeWorld, sids: list[Sid], gamma: float
) -> None:
    world = make_world({"films": sids})
    for width in (1, 3, 100_000):
        request = Request(history=HISTORIES[1], num_results=min(width, 3), gamma=gamma)
        found = world.search([request], width)[0]
        assert_same(found, world.exhaustive(request)[: min(width, 3)])


def test_a_hundred_thousand_beams_on_a_small_trie_are_no_more_than_its_leaves(make_world: MakeWorld) -> None:
    world = make_world({"films": random_sids(np.random.default_rng(5), 100), "books": [(1, 1, 1)]})
    requests = [Request(history=HISTORIES[1], num_results=100_000, gamma=0.25), Request("books", num_results=5)]
    found = world.search(requests, 100_000)
    assert_same(found[0], world.exhaustive(requests[0]))
    assert found[1].sids == [(1, 1, 1)]
    assert found[1].scores == pytest.approx([0.0], abs=1e-6)
    assert world.raw_search(requests, 100_000).leaves_BK.shape[1] <= 101


@pytest.mark.parametrize("width", [-1, 0, 3])
def test_fewer_beams_than_results_are_refused(make_world: MakeWorld, width: int) -> None:
    with pytest.raises(SearchError, match=f"beam_width {width} is below the results"):
        make_world({"films": [(0, 0, 0)]}).search([Request(num_results=4)], width)


def test_no_beams_at_all_are_refused_even_for_no_results(make_world: MakeWorld) -> None:
    with pytest.raises(SearchError, match="beam_width 0"):
        make_world({"films": [(0, 0, 0)]}).search([Request(num_results=0)], 0)


@pytest.mark.parametrize("broken", ["head", "layer", "adapter"])
def test_weights_that_are_not_numbers_are_refused(tmp_path: Path, broken: str) -> None:
    model = adapted_model(tmp_path)
    name = {"head": "lm_head.weight", "layer": "layers.1.mlp.up_proj.weight", "adapter": "up_ArO"}[broken]
    tensors = [*model.backbone.named_parameters(), *model.backbone.named_buffers()]
    next(tensor for own, tensor in tensors if own.endswith(name)).data.fill_(math.nan)
    world = World(model, {"films": random_sids(np.random.default_rng(6), 30)})
    for width in (3, 30):
        with pytest.raises(SearchError, match="NaN"):
            world.search([Request(history=HISTORIES[1], gamma=0.25)], width)


@pytest.mark.parametrize("infinite", [math.inf, -math.inf, math.nan])
def test_scores_that_are_not_finite_give_an_error_or_finite_results(infinite: float) -> None:
    sids = random_sids(np.random.default_rng(7), 60)
    for level in range(len(SIZES)):
        logits = [[0.1 * code for code in range(size)] for size in SIZES]
        logits[level][1] = infinite
        world = World(Scripted(logits), {"films": sids})
        if infinite < 0:
            found = world.search([Request(num_results=60)], 60)[0]
            assert 0 < len(found.sids) < 60
            assert all(map(math.isfinite, found.scores))
            assert all(sid[level] != 1 or sum(own[:level] == sid[:level] for own in sids) == 1 for sid in found.sids)
        else:
            with pytest.raises(SearchError, match="NaN"):
                world.search([Request(num_results=60)], 60)


def test_a_distribution_of_weight_zero_changes_nothing_and_is_never_nan(make_world: MakeWorld) -> None:
    world = make_world({"films": random_sids(np.random.default_rng(8), 30), "books": [(1, 1, 1), (2, 2, 2)]})
    only_universal = Request(history=HISTORIES[1], num_results=30)
    only_domain = Request(history=HISTORIES[1], num_results=30, gamma=1.0)
    mixed = Request("books", num_results=2, gamma=0.5)
    plain = world.search([only_universal], 30)[0]
    together = world.search([only_universal, only_domain, mixed], 30)
    assert_same(together[0], list(zip(plain.scores, plain.sids, strict=True)))
    assert_same(together[1], world.exhaustive(only_domain))
    assert_same(together[2], world.exhaustive(mixed))


def test_any_number_of_distributions_can_be_mixed() -> None:
    class ThreeReaders(LanguageModel):
        """Three distributions that differ in their head's temperature alone."""

        def prefill(self, tokens_BP: Tensor, lengths_B: Tensor, adapters_B: Tensor | None, num: int) -> Any:
            hidden_MBD, history = super().prefill(tokens_BP, lengths_B, adapters_B, num)
            return hidden_MBD * factors_M[:, None, None], history

        def extend(self, *arguments: Any) -> Tensor:
            return super().extend(*arguments) * factors_M[:, None, None, None]

    factors_M = torch.tensor([1.0, 0.5, 0.1])
    sids = random_sids(np.random.default_rng(9), 40)
    plain = World(LanguageModel(random_backbone(), VOCABULARY), {"films": sids})
    three = World(ThreeReaders(random_backbone(), VOCABULARY), {"films": sids})
    batch = plain.batch([Request(num_results=40)])
    weights = torch.tensor([[0.2], [0.5], [0.3]])
    mixed = beam_search(three.model, three.tables, three_weights(batch, weights), 40)
    chances_ML = torch.zeros(3, 40)
    for which in range(3):
        alone = beam_search(three.model, three.tables, three_weights(batch, torch.eye(3)[:, which : which + 1]), 40)
        chances_ML[which, alone.leaves_BK[0]] = alone.scores_BK[0].exp()
    assert all(float((chances_ML[which] - chances_ML[which - 1]).abs().max()) > 1e-3 for which in range(3))
    total = (weights * chances_ML).sum(0)
    assert mixed.scores_BK[0].exp() == pytest.approx(total[mixed.leaves_BK[0]], abs=1e-5)
    assert float(total.sum()) == pytest.approx(1.0, abs=1e-5)


def three_weights(batch: SearchBatch, weights_MB: Tensor) -> SearchBatch:
    return replace(batch, mixture=Mixture(weights_MB.log()))
