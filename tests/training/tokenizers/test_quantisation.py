"""How codebooks learn: gradients, moving averages, balanced codes."""

import itertools

import pytest
import torch
from torch import Tensor

from sidera.tokenizers.residual import ResidualQuantiser, squared_distances
from training.tokenizers.quantisation import (
    EmaCodebooks,
    Quantisation,
    Sinkhorn,
    quantise_for_training,
    sinkhorn_codes,
)


def random_quantiser(sizes: tuple[int, ...] = (4, 4), dim: int = 3) -> ResidualQuantiser:
    quantiser = ResidualQuantiser(sizes, dim)
    generator = torch.Generator().manual_seed(0)
    for codebook in quantiser.codebooks:
        torch.nn.init.normal_(codebook, generator=generator)
    return quantiser


def random_latents(items: int, dim: int = 3, seed: int = 1) -> Tensor:
    return torch.randn(items, dim, generator=torch.Generator().manual_seed(seed))


def skewed() -> tuple[Tensor, Tensor]:
    """64 residuals around 0, 8 codes in a row beside them: the first is the nearest of all."""
    return torch.linspace(-1, 1, 64)[:, None], torch.arange(2.0, 10.0)[:, None]


def test_codebooks_learn_by_their_own_loss_and_latents_by_commitment() -> None:
    quantiser, latents = random_quantiser(), random_latents(9).requires_grad_()
    made = quantise_for_training(quantiser, latents, Quantisation(commitment=0.25))
    made.loss.backward()
    residual = latents.detach()
    expected = torch.zeros(9, 3)
    for level, codebook in enumerate(quantiser.codebooks):
        torch.testing.assert_close(made.residuals[level], residual)
        difference = residual - codebook.detach()[made.codes[level]]
        expected += 0.25 * 2 * difference / difference.numel()
        own = torch.zeros_like(codebook).index_add_(0, made.codes[level], -2 * difference / difference.numel())
        torch.testing.assert_close(codebook.grad, own)
        residual = difference
    torch.testing.assert_close(latents.grad, expected)


def test_codebooks_that_are_averages_have_no_loss_and_no_gradient() -> None:
    quantiser, latents = random_quantiser(), random_latents(9).requires_grad_()
    made = quantise_for_training(quantiser, latents, Quantisation(commitment=0.25, codebook_gradient=False))
    made.loss.backward()
    assert all(codebook.grad is None for codebook in quantiser.codebooks)
    both = quantise_for_training(quantiser, latents, Quantisation(commitment=0.25))
    torch.testing.assert_close(made.loss, both.loss / 5)


def test_an_update_moves_counts_sums_and_used_codes_by_exactly_the_formula() -> None:
    quantiser, latents = random_quantiser(), random_latents(20)
    ema = EmaCodebooks(quantiser, decay=0.9)
    start = [torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([5.0, 5.0, 5.0, 5.0])]
    for level, counts in enumerate(start):
        ema.start(level, counts)
    before = [codebook.detach().clone() for codebook in quantiser.codebooks]
    made = quantise_for_training(quantiser, latents, Quantisation(codebook_gradient=False))
    made.codes[1].clamp_max_(2)
    ema.update(made.residuals, made.codes)
    for level, code in itertools.product(range(2), range(4)):
        fallen = made.residuals[level][made.codes[level] == code]
        count = 0.9 * start[level][code] + 0.1 * len(fallen)
        total = 0.9 * start[level][code] * before[level][code] + 0.1 * fallen.sum(dim=0)
        torch.testing.assert_close(ema.counts[level][code], count)
        torch.testing.assert_close(ema.sums[level][code], total)
        torch.testing.assert_close(quantiser.codebooks[level][code].detach(), total / count)
    assert torch.equal(quantiser.codebooks[1][3], before[1][3])


def test_codebooks_end_in_the_means_of_a_batch_that_comes_again_and_again() -> None:
    quantiser, residual = random_quantiser((3,)), random_latents(30)
    ema = EmaCodebooks(quantiser, decay=0.5)
    codes = torch.arange(30) % 3
    for _ in range(40):
        ema.update([residual], [codes])
    means = torch.stack([residual[codes == code].mean(dim=0) for code in range(3)])
    torch.testing.assert_close(quantiser.codebooks[0].detach(), means)


def test_a_restarted_code_forgets_its_past_and_weighs_as_much_as_the_average_code() -> None:
    quantiser = random_quantiser()
    ema = EmaCodebooks(quantiser, decay=0.9)
    ema.start(0, torch.tensor([2.0, 4.0, 0.0, 6.0]))
    with torch.no_grad():
        quantiser.codebooks[0][2] = torch.tensor([1.0, 2.0, 3.0])
    ema.restart(0, torch.tensor([2]))
    assert ema.counts[0].tolist() == [2.0, 4.0, 3.0, 6.0]
    assert ema.sums[0][2].tolist() == [3.0, 6.0, 9.0]
    residual = torch.tensor([[4.0, 4.0, 4.0]])
    ema.update([residual, residual], [torch.tensor([2]), torch.tensor([0])])
    torch.testing.assert_close(quantiser.codebooks[0][2].detach(), (2.7 * torch.tensor([1.0, 2, 3]) + 0.4) / 2.8)


def test_a_skewed_batch_is_spread_over_all_codes_in_order_of_cost() -> None:
    residual, codebook = skewed()
    distances = squared_distances(residual, codebook)
    assert distances.argmin(dim=1).unique().tolist() == [0]
    codes = sinkhorn_codes(distances, Sinkhorn(iterations=1000))
    assert torch.bincount(codes, minlength=8).tolist() == [8] * 8
    assert codes.tolist() == sorted(codes.tolist())


@pytest.mark.parametrize("epsilon", [1e-4, 0.003, 0.1])
@pytest.mark.parametrize("iterations", [1, 9, 10, 37])
def test_balancing_is_that_of_normalising_codes_and_items_in_turn(epsilon: float, iterations: int) -> None:
    distances = squared_distances(random_latents(40), random_latents(7, seed=2))
    log_plan = -2 * (distances - distances.min()).double() / (distances.max() - distances.min()) / epsilon
    for _ in range(iterations):
        log_plan = log_plan - log_plan.logsumexp(dim=0, keepdim=True)
        log_plan = log_plan - log_plan.logsumexp(dim=1, keepdim=True)
    assert torch.equal(sinkhorn_codes(distances, Sinkhorn(epsilon, iterations)), log_plan.argmax(dim=1))


@pytest.mark.parametrize("epsilon", [1e-5, 0.003, 0.1])
def test_balancing_stays_finite_for_any_epsilon_and_for_equal_distances(epsilon: float) -> None:
    codes = sinkhorn_codes(torch.ones(5, 4), Sinkhorn(epsilon))
    assert codes.tolist() == [0] * 5
    distances = squared_distances(random_latents(64), random_latents(8, seed=2))
    assert torch.bincount(sinkhorn_codes(distances, Sinkhorn(epsilon)), minlength=8).min() >= 2


def test_balancing_changes_the_last_level_only() -> None:
    residual, codebook = skewed()
    quantiser = ResidualQuantiser((2, 8), 1)
    with torch.no_grad():
        quantiser.codebooks[0].copy_(torch.tensor([[0.0], [50.0]]))
        quantiser.codebooks[1].copy_(codebook)
    made = quantise_for_training(quantiser, residual, Quantisation(sinkhorn=Sinkhorn()))
    assert torch.bincount(made.codes[0], minlength=2).tolist() == [64, 0]
    assert torch.bincount(made.codes[1], minlength=8).min() >= 6
    torch.testing.assert_close(made.total_Bd, codebook[made.codes[1]])
    assert torch.bincount(made.nearest[1], minlength=8).tolist() == [64] + [0] * 7
    plain = quantise_for_training(quantiser, residual, Quantisation())
    assert torch.bincount(plain.codes[1], minlength=8).tolist() == [64] + [0] * 7
