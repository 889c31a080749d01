"""Quantising by a mixture of experts, and the start of its router and codebooks."""

from typing import Any

import pytest
import torch

from sidera.tokenizers.expert_chains import ExpertChains
from sidera.tokenizers.residual import ResidualQuantiser
from tests.training.tokenizers.unitok_worlds import normal, random_model
from training.tokenizers.mixture import quantise_experts, quantise_mixture, start_mixture, start_router
from training.tokenizers.quantisation import Quantisation, quantise_for_training


@pytest.mark.parametrize(
    "reading",
    [
        *({"shared_reads": reads, "shared_levels": 1} for reads in ("residual", "latent")),
        {"shared_expert": False},
    ],
    ids=["residual", "latent", "no shared expert"],
)
@pytest.mark.parametrize("expert_id", ["merged", "first", "last"])
def test_codes_stand_for_exactly_what_a_step_of_the_fit_decodes(reading: dict[str, Any], expert_id: str) -> None:
    model = random_model(**reading, expert_id=expert_id)
    vectors = normal(50, 20, seed=1)
    latents = model.latents(vectors, "a")
    mixed = quantise_mixture(model, latents[:, :6].clone(), 1, 0.25)
    assert len(mixed.chosen_BT.unique()) == 3
    codes = model.encode(vectors, "a")
    assert torch.equal(mixed.total_Bd, model.quantised(codes))
    torch.testing.assert_close(mixed.straight_through_Bd, mixed.total_Bd)
    groups = model.codebook_groups(codes)
    assert torch.equal(groups[0].codes_M, mixed.own.codes[0][mixed.chosen_BT[:, 0] == 0])


def test_a_mixture_weighs_the_likeliest_experts_by_the_router_among_them() -> None:
    model = random_model(shared_expert=False)
    latents = normal(9, 6, seed=1)
    mixed = quantise_mixture(model, latents, 2, 0.25)
    probs = model.router(latents).softmax(dim=1)
    for item in range(9):
        chosen = probs[item].argsort(descending=True)[:2]
        assert mixed.chosen_BT[item].tolist() == chosen.tolist()
        expected = torch.zeros(6)
        for expert in chosen:
            residual = latents[item]
            for codebook in model.experts.codebooks:
                residual = residual - codebook[expert][(residual - codebook[expert]).square().sum(dim=1).argmin()]
            expected = expected + probs[item, expert] / probs[item, chosen].sum() * (latents[item] - residual)
        torch.testing.assert_close(mixed.total_Bd[item], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reads", ["residual", "latent"])
def test_the_shared_expert_is_given_what_it_is_said_to_read(reads: Any) -> None:
    model = random_model(shared_reads=reads, shared_levels=1)
    latents = normal(9, 6, seed=1)
    mixed = quantise_mixture(model, latents, 2, 0.25)
    assert mixed.shared is not None
    experts = mixed.total_Bd - mixed.shared.total_Bd
    expected = latents - experts if reads == "residual" else latents
    torch.testing.assert_close(mixed.shared.residuals[0], expected, rtol=1e-4, atol=1e-5)


def test_the_loss_of_a_mixture_is_that_of_its_chains_without_gradient_to_the_router() -> None:
    model = random_model(shared_levels=1)
    latents = normal(30, 6, seed=1).requires_grad_()
    mixed = quantise_mixture(model, latents, 1, 0.25)
    assert mixed.shared is not None
    expected = mixed.shared.loss
    for residual, codes, codebook in zip(mixed.own.residuals, mixed.own.codes, model.experts.codebooks, strict=True):
        expected = expected + 1.25 * (residual - codebook[mixed.chosen_BT[:, 0], codes]).square().mean()
    torch.testing.assert_close(mixed.loss, expected)
    mixed.loss.backward()
    assert model.router.weight.grad is None
    assert latents.grad is not None
    for codebook in (*model.experts.codebooks, *model.shared.codebooks):  # type: ignore[union-attr]
        assert float(codebook.grad.abs().sum()) > 0


def test_chains_of_one_expert_learn_as_a_residual_quantiser() -> None:
    quantiser, chains = ResidualQuantiser((8, 4), 6), ExpertChains(1, (8, 4), 6)
    for level in range(2):
        torch.nn.init.normal_(quantiser.codebooks[level])
        with torch.no_grad():
            chains.codebooks[level][0] = quantiser.codebooks[level]
    latents = normal(30, 6)
    one = quantise_for_training(quantiser, latents, Quantisation(0.25))
    other = quantise_experts(chains, torch.zeros(30, dtype=torch.int64), latents, 0.25)
    torch.testing.assert_close(other.loss, one.loss)
    torch.testing.assert_close(other.total_Bd, one.total_Bd)
    one.loss.backward()
    other.loss.backward()
    for level in range(2):
        torch.testing.assert_close(chains.codebooks[level].grad[0], quantiser.codebooks[level].grad)


@pytest.mark.parametrize("top_n", [1, 2])
def test_what_is_decoded_moves_the_router_and_the_latents_and_no_code(top_n: int) -> None:
    model = random_model(shared_levels=1)
    latents = normal(30, 6, seed=1)
    target = normal(30, 6, seed=2)
    (quantise_mixture(model, latents, top_n, 0.25).straight_through_Bd * target).sum().backward()
    assert float(model.router.weight.grad.abs().sum()) > 0  # type: ignore[union-attr]
    assert all(codebook.grad is None for codebook in model.experts.codebooks)
    assert all(codebook.grad is None for codebook in model.shared.codebooks)  # type: ignore[union-attr]


def test_a_single_experts_weight_is_one_with_the_gradient_of_its_log_probability() -> None:
    model = random_model(shared_expert=False)
    latents, target = normal(30, 6, seed=1), normal(30, 6, seed=2)
    mixed = quantise_mixture(model, latents, 1, 0.25)
    assert torch.equal(mixed.total_Bd, mixed.own.total_Bd.detach())
    (mixed.straight_through_Bd * target).sum().backward()
    pull = (mixed.total_Bd * target).sum(dim=1, keepdim=True)
    probs = model.router(latents).softmax(dim=1).detach()
    chosen = torch.nn.functional.one_hot(mixed.chosen_BT[:, 0], 3)
    torch.testing.assert_close(model.router.bias.grad, (pull * (chosen - probs)).sum(dim=0), rtol=1e-4, atol=1e-4)


def test_experts_start_from_the_items_of_their_domain_and_the_shared_one_from_what_it_reads_of_all() -> None:
    latents = torch.cat([normal(200, 6, seed=1) + 4, normal(200, 6, seed=2) - 4, normal(200, 6, seed=3)])
    domain = torch.arange(3).repeat_interleave(200)
    model = random_model(shared_levels=1)
    start_mixture(model, latents, domain, 3, 1, seed=0)
    routed = model.router(latents).argmax(dim=1)
    assert float((routed == domain).float().mean()) > 0.97
    for expert, place in enumerate((4, -4, 0)):
        torch.testing.assert_close(
            model.experts.codebooks[0][expert].mean(), torch.tensor(float(place)), atol=0.3, rtol=0
        )
    mixed = quantise_mixture(model, latents, 1, 0.25)
    assert mixed.shared is not None
    given, left = mixed.shared.residuals[0], latents - mixed.total_Bd
    assert float(left.square().mean()) < 0.8 * float(given.square().mean()) < float(latents.square().mean())


def test_another_number_of_experts_starts_from_clusters() -> None:
    latents = torch.cat([normal(100, 6, seed=seed) + place for seed, place in enumerate((-9, -3, 3, 9))])
    model = random_model(4)
    start_mixture(model, latents, torch.zeros(400, dtype=torch.int64), 1, 1, seed=0)
    routed = model.router(latents).argmax(dim=1)
    assert sorted(torch.bincount(routed).tolist()) == [100] * 4
    assert all(len(part.unique()) == 1 for part in routed.split(100))


@pytest.mark.parametrize("present", [[0], [1, 2], [0, 2], [0, 1, 2]])
def test_the_router_starts_by_telling_domains_apart_and_never_picks_one_without_items(present: list[int]) -> None:
    latents = torch.cat([normal(80, 6, seed=domain) + 5 * domain for domain in present])
    domain = torch.tensor(present).repeat_interleave(80)
    router = torch.nn.Linear(6, 3)
    start_router(router, latents, domain, 0)
    log_probs = router(latents).log_softmax(dim=1).detach()
    assert torch.equal(log_probs.argmax(dim=1), domain)
    for absent in {0, 1, 2} - set(present):
        assert float(log_probs[:, absent].max()) < -9


def test_the_router_starts_between_domains_however_many_items_they_have() -> None:
    latents = torch.cat([normal(1000, 1), normal(50, 1, seed=1) + 2])
    router = torch.nn.Linear(1, 2)
    start_router(router, latents, torch.tensor([0] * 1000 + [1] * 50), 0)
    (left, right), (at_left, at_right) = router.weight.detach()[:, 0], router.bias.detach()
    assert float((at_left - at_right) / (right - left)) == pytest.approx(1.0, abs=0.25)
