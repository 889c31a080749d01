"""What every expert gives, alone and beside others; against what the recommender serves."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sidera.loading import load_bundle
from sidera.recommender import Recommender
from training.data import read_dataset
from training.evaluation import query_of
from training.expert_masses import Experts, Known, known_to_experts
from training.memory_experts import _ranks
from training.metrics import ABSENT
from training.split import Part, split_events, targets

UNIVERSAL, DOMAIN, FOLLOWERS = 0, 1, 2


def experts_of(share_G: list[float], mass_GC: list[list[float]], left: float, target: int | None) -> Experts:
    left_G = np.array([0.0, 0.0, left, 0.0, 0.0])
    known = Known(np.array(mass_GC), target, np.array(share_G), left_G)
    return Experts(("universal", "domain", "followers", "alike", "popularity"), 2, (known,))


def test_what_followers_leave_goes_to_the_language_model_where_it_is_among_the_experts() -> None:
    masses = [[0.0, 0.4, 0.5], [0.0, 0.4, 0.5], [0.3, 0.0, 0.0], [0.0] * 3, [0.0] * 3]
    shares = [0.1, 0.1, 0.8, 0.0, 0.0]
    first, second = (experts_of(shares, masses, left, 0) for left in (0.0, 0.9))
    parts = (UNIVERSAL, DOMAIN, FOLLOWERS)
    assert _ranks(first, parts).tolist() == [0], "0.8 * 0.3 is above 0.2 * 0.5"
    assert _ranks(second, parts).tolist() == [2], "0.8 * 0.3 is below (0.2 + 0.8 * 0.9) * 0.4"
    assert _ranks(second, (FOLLOWERS,)).tolist() == [0]


def test_an_expert_without_a_share_can_stand_alone_and_one_that_does_not_know_the_target_misses_it() -> None:
    masses = [[0.2, 0.1, 0.0], [0.1, 0.2, 0.0], [0.0] * 3, [0.0] * 3, [0.0] * 3]
    experts = experts_of([1.0, 0.0, 0.0, 0.0, 0.0], masses, 0.0, 1)
    assert _ranks(experts, (UNIVERSAL,)).tolist() == [1]
    assert _ranks(experts, (DOMAIN,)).tolist() == [0]
    assert _ranks(experts, (FOLLOWERS,)).tolist() == [ABSENT]
    assert _ranks(experts_of([1.0, 0.0, 0.0, 0.0, 0.0], masses, 0.0, None), (UNIVERSAL,)).tolist() == [ABSENT]


def test_the_experts_masses_and_shares_give_the_probabilities_that_are_served(
    tiny_bundle: Path, tiny_data: Path
) -> None:
    loaded = load_bundle(tiny_bundle, "cpu")
    served = loaded.recommender
    assert served.neighbours is not None
    entries = loaded.manifest.domains
    dataset = read_dataset(tiny_data, sorted(entries, key=lambda name: entries[name].token))
    index = next(row for row, domain in enumerate(dataset.domains) if domain.name in served.model.adapter_index)
    name = dataset.domains[index].name
    served.model.gammas[name] = 0.4
    if served.model.router is not None:
        served.model.router.domains = tuple(own for own in served.model.router.domains if own != name)
    own = [target for target in targets(split_events(dataset), Part.TEST) if target.domain == index][:6]
    experts = known_to_experts(served, served.neighbours, dataset.domains, index, own)
    assert experts.names == ("universal", "domain", "followers", "alike", "popularity")
    for target, known in zip(own, experts.known, strict=True):
        assert known.share_G.sum() == pytest.approx(1)
        ours = known.share_G[:2]
        assert ours[1] / ours.sum() == pytest.approx(0.4)
        weight_G = known.share_G.copy()
        weight_G[:2] *= 1 + known.share_G @ known.left_G / ours.sum()
        score_C = weight_G @ known.mass_GC
        query = query_of(target, dataset.domains)
        answer = served.recommend([replace(query, num_results=len(score_C), beam_width=50)])[0]
        found = np.exp([item.score for item in answer.items])
        np.testing.assert_allclose(np.sort(score_C)[::-1][: len(found)], found, atol=1e-5)
        assert (known.target is None) == target.repeated


def test_a_domain_without_an_adapter_has_one_distribution_of_the_language_model(
    tiny_bundle: Path, tiny_data: Path
) -> None:
    loaded = load_bundle(tiny_bundle, "cpu")
    served, entries = loaded.recommender, loaded.manifest.domains
    assert served.neighbours is not None
    dataset = read_dataset(tiny_data, sorted(entries, key=lambda name: entries[name].token))
    alone = Recommender(served.model, served.catalog, served.max_history, served.beam_width, served.neighbours)
    alone.model.adapter_index, alone.model.gammas, alone.model.router = {}, {}, None
    own = [target for target in targets(split_events(dataset), Part.TEST) if target.domain == 0][:3]
    experts = known_to_experts(alone, served.neighbours, dataset.domains, 0, own)
    assert experts.names == ("universal", "followers", "alike", "popularity")
    assert all(known.mass_GC.shape[0] == 4 for known in experts.known)
