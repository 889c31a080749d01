"""How codebooks learn: quantising with gradients, codebooks as moving averages, balanced codes while fitting.

Knows a residual quantiser and latents; does not know encoders, decoders or the loop around them.

Shapes: B batch, d latent dim, V codebook size, K restarted code.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from sidera.tokenizers.residual import ResidualQuantiser, nearest_of, squared_distances

_ITERATIONS_PER_LOGARITHM = 10


@dataclass(frozen=True)
class Sinkhorn:
    """Balanced codes by optimal transport with entropy.

    Attributes:
        epsilon: weight of the entropy, for distances scaled to [-1, 1]; the smaller, the nearer to a hard assignment.
        iterations: normalisations of codes and of items, in turn.
    """

    epsilon: float = 0.003
    iterations: int = 50


@dataclass(frozen=True)
class Quantisation:
    """How latents are quantised in a step of a fit.

    Attributes:
        commitment: weight of the loss that pulls latents to their codes.
        codebook_gradient: whether codebooks learn by their own loss; False where :class:`EmaCodebooks` moves them.
        sinkhorn: balances the codes of the last level within the batch; None takes the nearest ones.
    """

    commitment: float = 0.25
    codebook_gradient: bool = True
    sinkhorn: Sinkhorn | None = None


class Quantised(NamedTuple):
    """What quantising one batch gives.

    Attributes:
        total_Bd: the sum of the chosen codes' vectors; a gradient on it reaches these.
        straight_through_Bd: the same; a gradient on it reaches the latents, and no code.
        loss: the quantisation loss.
        codes: int64[B] of each level.
        residuals: what each level was given, without gradient: float[B, d] each.
        nearest: int64[B] of each level: the codes, but without balancing.
    """

    total_Bd: Tensor
    straight_through_Bd: Tensor
    loss: Tensor
    codes: list[Tensor]
    residuals: list[Tensor]
    nearest: list[Tensor]


def quantise_for_training(quantiser: ResidualQuantiser, latents_Bd: Tensor, how: Quantisation) -> Quantised:
    """Quantise with gradients; the loss is sum over levels of ||sg[r] - e||^2 + commitment ||r - sg[e]||^2.

    Squares are means over components (eq. 2 of TIGER, arXiv 2305.05065). Without ``codebook_gradient`` the first term
    is left out.
    """
    residual_Bd = latents_Bd
    total_Bd = torch.zeros_like(latents_Bd)
    loss = latents_Bd.new_zeros(())
    codes, residuals, nearest = [], [], []
    last = len(quantiser.codebook_sizes) - 1
    for level, codebook_Vd in enumerate(quantiser.codebooks):
        distances_BV = squared_distances(residual_Bd.detach(), codebook_Vd.detach())
        codes_B = nearest_of(distances_BV)
        nearest.append(codes_B)
        if how.sinkhorn is not None and level == last:
            codes_B = sinkhorn_codes(distances_BV, how.sinkhorn)
        chosen_Bd = F.embedding(codes_B, codebook_Vd)
        if how.codebook_gradient:
            loss = loss + F.mse_loss(chosen_Bd, residual_Bd.detach())
        loss = loss + how.commitment * F.mse_loss(residual_Bd, chosen_Bd.detach())
        codes.append(codes_B)
        residuals.append(residual_Bd.detach())
        residual_Bd = residual_Bd - chosen_Bd.detach()
        total_Bd = total_Bd + chosen_Bd
    straight_through_Bd = latents_Bd + (total_Bd - latents_Bd).detach()
    return Quantised(total_Bd, straight_through_Bd, loss, codes, residuals, nearest)


def sinkhorn_codes(distances_BV: Tensor, sinkhorn: Sinkhorn) -> Tensor:
    """A code for each item so that all codes are used about equally often: int64[B] (LC-Rec, arXiv 2311.09049).

    The transport plan P, rows summing to 1/B and columns to 1/V, minimises <P, distances> - epsilon H(P); an item gets
    the code of its row's largest entry. Items with equal distances get the same code.

    Every tenth iteration is made in logarithms, so that no epsilon is too small; the others are two products with a
    vector, in double precision. A normalisation divides by at most max(B, V), so ten of them cannot overflow.
    """
    low, high = distances_BV.min(), distances_BV.max()
    scaled_BV = 2 * (distances_BV - low).double() / (high - low).clamp_min(torch.finfo(distances_BV.dtype).tiny)
    log_plan_BV = -scaled_BV / sinkhorn.epsilon
    for start in range(0, sinkhorn.iterations, _ITERATIONS_PER_LOGARITHM):
        log_plan_BV = log_plan_BV - log_plan_BV.logsumexp(dim=0)
        log_plan_BV = log_plan_BV - log_plan_BV.logsumexp(dim=1, keepdim=True)
        plan_BV = log_plan_BV.exp()
        rows_B, columns_V = plan_BV.new_ones(len(plan_BV)), plan_BV.new_ones(plan_BV.shape[1])
        for _ in range(min(_ITERATIONS_PER_LOGARITHM, sinkhorn.iterations - start) - 1):
            columns_V = 1 / (rows_B @ plan_BV)
            rows_B = 1 / (plan_BV @ columns_V)
        log_plan_BV = log_plan_BV + rows_B.log()[:, None] + columns_V.log()
    return log_plan_BV.argmax(dim=1)


class EmaCodebooks:
    """Codebooks as exponential moving averages of what falls on their codes (VQ-VAE, arXiv 1711.00937, A.1).

    After a batch with n residuals on a code: N = decay N + (1 - decay) n, M = decay M + (1 - decay) (their sum), and
    the code's vector is M / N. A code that got nothing stays where it is.

    Attributes:
        counts: N of each level, float[V] each.
        sums: M of each level, float[V, d] each.
    """

    def __init__(self, quantiser: ResidualQuantiser, decay: float) -> None:
        self.quantiser = quantiser
        self.decay = decay
        self.counts = [codebook_Vd.new_zeros(len(codebook_Vd)) for codebook_Vd in quantiser.codebooks]
        self.sums = [torch.zeros_like(codebook_Vd) for codebook_Vd in quantiser.codebooks]

    @torch.no_grad()
    def start(self, level: int, counts_V: Tensor) -> None:
        """Take the codebook of a level as it is for the average of ``counts_V`` residuals of each code."""
        self.counts[level].copy_(counts_V)
        self.sums[level].copy_(counts_V[:, None] * self.quantiser.codebooks[level])

    @torch.no_grad()
    def restart(self, level: int, codes_K: Tensor) -> None:
        """Take the vectors of some codes as they are now, with the weight of the level's average code."""
        self.counts[level][codes_K] = self.counts[level].mean()
        self.sums[level][codes_K] = self.counts[level][codes_K, None] * self.quantiser.codebooks[level][codes_K]

    @torch.no_grad()
    def update(self, residuals: Sequence[Tensor], codes: Sequence[Tensor]) -> None:
        """Move the codebooks by one batch: float[B, d] residuals and int64[B] codes of each level."""
        levels = zip(self.quantiser.codebooks, self.counts, self.sums, residuals, codes, strict=True)
        for codebook_Vd, counts_V, sums_Vd, residual_Bd, codes_B in levels:
            new_V = torch.bincount(codes_B, minlength=len(counts_V)).to(counts_V.dtype)
            counts_V.mul_(self.decay).add_(new_V, alpha=1 - self.decay)
            new_Vd = torch.zeros_like(sums_Vd).index_add_(0, codes_B, residual_Bd)
            sums_Vd.mul_(self.decay).add_(new_Vd, alpha=1 - self.decay)
            used_K = torch.nonzero(new_V).flatten()
            codebook_Vd[used_K] = sums_Vd[used_K] / counts_V[used_K, None]

    def state_dict(self) -> dict[str, list[Tensor]]:
        """All that the next update needs, besides the codebooks."""
        return {"counts": self.counts, "sums": self.sums}

    def load_state_dict(self, state: dict[str, list[Tensor]]) -> None:
        """Go on from :meth:`state_dict`."""
        self.counts, self.sums = state["counts"], state["sums"]
