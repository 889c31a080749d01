"""Items drawn without replacement, against the distribution that they are drawn from."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from sidera.decoding.diversity import Diversity
from sidera.decoding.sampling import Sampler, Sampling
from sidera.errors import SearchError
from sidera.language_model import LanguageModel
from tests.sidera.worlds import Request, Sid, World, adapted_model, random_backbone, random_sids

HISTORY: tuple[tuple[str, Sid], ...] = (("films", (1, 2, 3)),)
FEW: list[Sid] = [(0, 0, 0), (0, 0, 3), (0, 2, 1), (1, 1, 1), (3, 0, 0), (3, 0, 2), (3, 3, 5)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """Weights so small that no item is nearly certain."""
    backbone = random_backbone(initializer_range=0.1)
    return LanguageModel(backbone, adapted_model(tmp_path_factory.mktemp("adapters")).vocabulary)


@pytest.fixture(scope="module")
def small(model: LanguageModel) -> World:
    return World(model, {"films": FEW})


@pytest.fixture(scope="module")
def large(model: LanguageModel) -> World:
    return World(model, {"films": random_sids(np.random.default_rng(0), 60)})


def drawn(world: World, draws: int, width: int = 2, temperature: float = 1.0, **asked: Any) -> list[list[Sid]]:
    """What so many seeds draw; many to a batch."""
    request: dict[str, Any] = {"history": HISTORY, "num_results": 2} | asked
    answers = []
    for begin in range(0, draws, 500):
        batch = [Request(**request, sampling=Sampling(begin + seed, temperature)) for seed in range(500)]
        answers += [found.sids for found in world.search(batch, width)]
    return answers


def assert_drawn_from(outcomes: Sequence[Any], chances: Mapping[Any, float]) -> None:
    assert math.isclose(sum(chances.values()), 1, abs_tol=1e-5)
    counts = Counter(outcomes)
    assert set(counts) <= set(chances)
    observed = [counts[one] for one in chances]
    expected = np.array([*chances.values()]) * len(outcomes) / sum(chances.values())
    assert chisquare(observed, expected).pvalue > 1e-3


def chances(world: World, **asked: Any) -> dict[Sid, float]:
    return {sid: math.exp(score) for score, sid in world.exhaustive(Request(history=HISTORY, **asked))}


def in_turn(chance: Mapping[Sid, float]) -> dict[tuple[Sid, Sid], float]:
    """The probability of every pair, the second drawn from what the first leaves over."""
    total = sum(chance.values())
    return {
        (first, second): chance[first] / total * chance[second] / (total - chance[first])
        for first in chance
        for second in chance
        if first != second
    }


@pytest.mark.parametrize(
    "asked",
    [{}, {"known": ((FEW[1], 0.2), (FEW[6], 0.1)), "shared": 0.2}],
    ids=["plain", "with known mass"],
)
def test_pairs_are_drawn_one_after_the_other_without_replacement(small: World, asked: dict[str, Any]) -> None:
    pairs = [tuple(sids) for sids in drawn(small, 4000, **asked)]
    assert_drawn_from(pairs, in_turn(chances(small, **asked)))


def test_pairs_of_a_mixture_follow_the_mixture(tmp_path_factory: pytest.TempPathFactory) -> None:
    world = World(adapted_model(tmp_path_factory.mktemp("adapters")), {"films": FEW})
    pairs = [tuple(sids) for sids in drawn(world, 2000, gamma=0.5)]
    likely = {pair: chance for pair, chance in in_turn(chances(world, gamma=0.5)).items() if chance > 0.003}
    rest = 1 - sum(likely.values())
    assert_drawn_from([pair if pair in likely else "others" for pair in pairs], likely | {"others": rest})


def test_a_filtered_draw_follows_the_distribution_of_what_is_allowed(small: World) -> None:
    allowed = frozenset([FEW[0], FEW[2], FEW[3], FEW[6]])
    pairs = [tuple(sids) for sids in drawn(small, 3000, width=len(FEW), allowed=allowed)]
    assert_drawn_from(pairs, in_turn(chances(small, allowed=allowed)))


@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_temperature_bends_the_distribution_of_every_code_given_those_before_it(
    small: World, temperature: float
) -> None:
    request = Request(history=HISTORY)
    bent = {}
    for sid in FEW:
        bent[sid] = 1.0
        for depth in range(len(sid)):
            siblings = {own[: depth + 1] for own in FEW if own[:depth] == sid[:depth]}
            power = {one: math.exp(small.prefix_score(request, one) / temperature) for one in siblings}
            bent[sid] *= power[sid[: depth + 1]] / sum(power.values())
    pairs = [tuple(sids) for sids in drawn(small, 3000, temperature=temperature)]
    assert_drawn_from(pairs, in_turn(bent))


def test_drawn_items_come_with_their_true_scores_and_a_certificate(large: World) -> None:
    score_of = {sid: score for score, sid in large.exhaustive(Request(history=HISTORY))}
    found = large.search([Request(history=HISTORY, num_results=10, sampling=Sampling(3, 2.0))], 10)[0]
    assert found.scores == pytest.approx([score_of[sid] for sid in found.sids], rel=0, abs=1e-4)
    assert found.scores != sorted(found.scores, reverse=True)
    assert found.certified


def test_the_same_seed_draws_the_same_at_every_width_alone_and_in_any_batch(large: World) -> None:
    asked = [Request(history=HISTORY, num_results=5, sampling=Sampling(seed, 1.5)) for seed in (1, 2, 2**63 - 1)]
    alone = [large.search([request], 5)[0].sids for request in asked]
    assert len({tuple(sids) for sids in alone}) == 3
    plain = Request(num_results=5)
    for width in (5, 12, 60):
        together = large.search([plain, *asked, asked[0]], width, padding=3)
        assert [found.sids for found in together[1:]] == [*alone, alone[0]]
        assert together[0].sids == large.search([plain], width)[0].sids


def test_a_filter_takes_items_out_of_a_draw_and_puts_none_in(large: World) -> None:
    whole = large.search([Request(history=HISTORY, num_results=60, sampling=Sampling(7))], 60)[0].sids
    allowed = frozenset(large.sids["films"][::4])
    asked = Request(history=HISTORY, num_results=5, allowed=allowed, sampling=Sampling(7))
    found = large.search([asked], 60)[0]
    assert found.sids == [sid for sid in whole if sid in allowed][:5]
    assert found.certified
    narrow = large.search([asked], 5)[0]
    assert len(narrow.sids) == 5
    assert allowed.issuperset(narrow.sids)
    if narrow.certified:
        assert narrow.sids == found.sids


def test_a_draw_with_capped_prefixes_is_the_greedy_list_over_the_draw(large: World) -> None:
    sampling = Sampling(11)
    whole = large.search([Request(history=HISTORY, num_results=60, sampling=sampling)], 60)[0].sids
    kept = [sid for place, sid in enumerate(whole) if sid[0] not in {own[0] for own in whole[:place]}]
    capped = Request(history=HISTORY, num_results=5, sampling=sampling, diversity=Diversity(1, 1))
    assert large.search([capped], 60)[0].sids == kept[:5]
    assert len(large.search([capped], 5)[0].sids) == len(kept[:5])


def test_the_noise_of_a_node_belongs_to_its_codes_and_not_to_the_items_around_it(model: LanguageModel) -> None:
    sids = [(code, 1, 1) for code in range(5)]
    asked = Request(num_results=1, sampling=Sampling(5))
    first = [World(model, {"films": own}).search([asked], 1)[0].sids[0] for own in (sids, [*sids, (4, 1, 2)])]
    assert first[0][0] == first[1][0]
    two = World(model, {"books": [(0, 0, 0)], "films": sids})
    assert two.search([asked], 1)[0].sids[0] == first[0]


def test_uniform_noise_is_uniform() -> None:
    sampler = Sampler.build([Sampling(seed) for seed in range(2000)])
    assert sampler is not None
    codes_BKC = torch.arange(5).expand(2000, 1, 5)
    draws = sampler.children(sampler.root(), torch.full((2000, 1, 5), math.log(0.2)), codes_BKC)
    won = draws.perturbed.argmax(dim=2).flatten().tolist()
    assert_drawn_from(won, dict.fromkeys(range(5), 0.2))
    assert draws.perturbed.amax(dim=2) == pytest.approx(0.0, abs=1e-12)
    assert len(set(draws.state.flatten().tolist())) == 10_000


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_outside_its_range_is_refused(seed: int) -> None:
    with pytest.raises(SearchError, match="seed"):
        Sampling(seed)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_a_temperature_that_is_none_is_refused(temperature: float) -> None:
    with pytest.raises(SearchError, match="temperature"):
        Sampling(1, temperature)


def test_scores_that_are_not_numbers_are_refused_in_a_draw(tmp_path_factory: pytest.TempPathFactory) -> None:
    model = adapted_model(tmp_path_factory.mktemp("adapters"))
    dict(model.backbone.named_parameters())["lm_head.weight"].data.fill_(math.nan)
    world = World(model, {"films": FEW})
    with pytest.raises(SearchError, match="NaN"):
        world.search([Request(num_results=2, sampling=Sampling(1))], 3)
