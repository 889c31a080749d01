"""The best constant, and what the router learns from transitions that each distribution knows or does not."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sidera.item_scores import read_items
from tests.sidera.worlds import Request, World, adapted_model, random_sids
from training.errors import StageError
from training.model_config import RouterConfig
from training.user_router import (
    Transitions,
    best_constant,
    constant_log_likelihood,
    fit_router,
    is_likelier,
    router_log_likelihood,
    score_transitions,
)

CONFIG = RouterConfig(hidden=16, epochs=40, learning_rate=0.01)


def gamma_of(universal: list[float], domain: list[float]) -> float:
    """What is chosen where the targets have these probabilities under the two distributions."""
    log_mass_MX = torch.tensor([universal, domain]).log()
    gamma, likelihoods = best_constant(log_mass_MX)
    for share, likelihood in zip(np.linspace(0, 1, 21), likelihoods, strict=True):
        mixed = [(1 - share) * u + share * d for u, d in zip(universal, domain, strict=True)]
        expected = sum(math.log(p) if p > 0 else -math.inf for p in mixed) / len(mixed)
        assert likelihood == pytest.approx(expected, abs=1e-4)
        assert constant_log_likelihood(share, log_mass_MX) == pytest.approx(expected, abs=1e-4)
    return gamma


def test_gamma_is_0_where_the_universal_distribution_is_better_everywhere() -> None:
    assert gamma_of([0.5, 0.9, 0.2], [0.4, 0.3, 0.1]) == 0.0


def test_gamma_is_1_where_the_domains_is_better_everywhere() -> None:
    assert gamma_of([0.4, 0.3, 0.1], [0.5, 0.9, 0.2]) == 1.0


def test_gamma_is_the_share_of_the_targets_that_each_distribution_alone_knows() -> None:
    for known in (25, 50, 80, 95):
        domain = [1.0] * known + [0.0] * (100 - known)
        universal = [0.0] * known + [1.0] * (100 - known)
        assert gamma_of(universal, domain) == pytest.approx(known / 100)


def test_gamma_is_0_where_both_distributions_are_the_same() -> None:
    assert gamma_of([0.3, 0.7], [0.3, 0.7]) == 0.0


def two_kinds(count: int, seed: int, domain_knows: float = 0.9, universal_knows: float = 0.9) -> Transitions:
    """Users whose first coordinate is positive are known to the domain's distribution, the others to the universal."""
    generator = torch.Generator().manual_seed(seed)
    user_XD = 3 + 5 * torch.randn(count, 6, generator=generator)
    of_domain_X = user_XD[:, 0] > 3
    universal_X = torch.where(of_domain_X, 0.01, universal_knows)
    domain_X = torch.where(of_domain_X, domain_knows, 0.01)
    return Transitions(torch.stack([universal_X, domain_X]).log(), user_XD)


def test_the_router_tells_users_apart_that_different_distributions_know() -> None:
    fit = fit_router({"films": two_kinds(400, 0)}, {"films": two_kinds(200, 1)}, CONFIG, seed=0)
    fresh = two_kinds(500, 2)
    gamma_X = fit.router(fresh.user_XD)[1].exp()
    of_domain_X = fresh.user_XD[:, 0] > 3
    assert float(gamma_X[of_domain_X].median()) > 0.95
    assert float(gamma_X[~of_domain_X].median()) < 0.05
    constant = constant_log_likelihood(best_constant(fresh.log_mass_MX)[0], fresh.log_mass_MX)
    assert is_likelier(router_log_likelihood(fit.router, fresh), than=constant + 0.3)


def test_one_router_serves_domains_of_opposite_taste() -> None:
    likes, hates = two_kinds(300, 0), two_kinds(300, 1)
    hates = Transitions(hates.log_mass_MX.flip(0), hates.user_XD)
    tokens = {"films": 10.0, "books": -10.0}

    def marked(transitions: Transitions, name: str) -> Transitions:
        """As the user vector knows the domain's token."""
        marks_X1 = torch.full((len(transitions), 1), tokens[name])
        return Transitions(transitions.log_mass_MX, torch.cat([transitions.user_XD, marks_X1], dim=1))

    both = {"films": marked(likes, "films"), "books": marked(hates, "books")}
    fit = fit_router(both, both, CONFIG, seed=0)
    for transitions in both.values():
        constant = constant_log_likelihood(best_constant(transitions.log_mass_MX)[0], transitions.log_mass_MX)
        assert is_likelier(router_log_likelihood(fit.router, transitions), than=constant + 0.3)


def test_the_router_starts_as_the_best_constant_and_the_best_epoch_is_kept() -> None:
    learned, validation = two_kinds(200, 0), two_kinds(100, 1)
    fit = fit_router({"films": learned}, {"films": validation}, CONFIG, seed=0)
    start = constant_log_likelihood(best_constant(learned.log_mass_MX)[0], validation.log_mass_MX)
    assert fit.scores[0] == pytest.approx(start, abs=1e-5)
    assert router_log_likelihood(fit.router, validation) == max(fit.scores)


def test_where_what_was_held_out_misleads_the_router_stays_the_constant() -> None:
    learned = two_kinds(200, 0)
    validation = Transitions(learned.log_mass_MX.flip(0), learned.user_XD)
    fit = fit_router({"films": learned}, {"films": validation}, CONFIG, seed=0)
    assert max(fit.scores) == fit.scores[0]
    assert float(fit.router(learned.user_XD)[1].exp().std()) < 1e-6


def test_probabilities_of_0_under_one_or_both_distributions_give_no_nan() -> None:
    learned = two_kinds(200, 0)
    learned.log_mass_MX[0, :50] = float("-inf")
    learned.log_mass_MX[1, 50:100] = float("-inf")
    learned.log_mass_MX[:, 100:110] = float("-inf")
    validation = two_kinds(100, 1)
    fit = fit_router({"films": learned}, {"films": validation}, CONFIG, seed=0)
    assert all(math.isfinite(score) for score in fit.scores)
    assert all(bool(weight.isfinite().all()) for weight in fit.router.state_dict().values())
    assert max(fit.scores) > fit.scores[0] + 0.1


def test_the_same_seed_gives_the_same_router_and_another_seed_another() -> None:
    learned, validation = {"films": two_kinds(100, 0)}, {"films": two_kinds(50, 1)}
    short = replace(CONFIG, epochs=3)
    weights = [fit_router(learned, validation, short, seed).router.output.weight for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_heavier_bottleneck_lets_less_of_the_user_through() -> None:
    learned, validation = {"films": two_kinds(300, 0)}, {"films": two_kinds(100, 1)}
    spreads = []
    for weight in (1e-3, 10.0):
        fit = fit_router(learned, validation, replace(CONFIG, kl_weight=weight), seed=0)
        spreads.append(float(fit.router(learned["films"].user_XD)[1].exp().std()))
    assert spreads[1] < spreads[0] / 2


def test_user_vectors_that_never_change_are_no_trouble() -> None:
    learned = Transitions(two_kinds(60, 0).log_mass_MX, torch.ones(60, 4))
    fit = fit_router({"films": learned}, {"films": learned}, replace(CONFIG, epochs=3), seed=0)
    assert all(math.isfinite(score) for score in fit.scores)


def test_transitions_are_scored_as_each_prompt_is_alone_and_stay_in_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    world = World(adapted_model(tmp_path), {"films": random_sids(rng, 40), "books": random_sids(rng, 20)})
    requests = [
        Request("books", tuple(("films", world.sids["films"][(7 * row + place) % 40]) for place in range(row % 5)))
        for row in range(70)
    ]
    leaves = [world.first_leaf["books"] + row % 20 for row in range(70)]
    prompts = [world.prompt(request) for request in requests]
    found = score_transitions(world.model, world.tables, prompts, leaves, "books", "test")
    assert len(found) == 70
    for row in (0, 1, 23, 69):
        log_mass_M1, _ = read_items(
            world.model, world.tables, [prompts[row]], torch.tensor([leaves[row]]), torch.tensor([1])
        )
        torch.testing.assert_close(found.log_mass_MX[:, row], log_mass_M1[:, 0], atol=1e-4, rtol=0)
        user_D = world.model.read(torch.tensor([prompts[row]]), None)[0, 0, -1]
        torch.testing.assert_close(found.user_XD[row], user_D, atol=1e-5, rtol=1e-5)


def test_a_model_of_nan_is_refused(tmp_path: Path) -> None:
    world = World(adapted_model(tmp_path), {"books": [(0, 0, 0), (0, 1, 0)]})
    with torch.no_grad():
        next(iter(world.model.backbone.parameters())).fill_(float("nan"))
    with pytest.raises(StageError, match="mixture books: the model's scores are NaN"):
        score_transitions(world.model, world.tables, [world.prompt(Request("books"))], [0], "books", "mixture books")
