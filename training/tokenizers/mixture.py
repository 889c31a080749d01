"""Quantising by a mixture of experts with gradients, and the start of its router and codebooks.

Knows the parts of a :class:`~sidera.tokenizers.unitok.UniTok` and latents; does not know reconstruction, calibration
or the loop around them.

Shapes: B batch, N item, d latent dim, K expert, T experts chosen for an item, P = B * T pairs of item and chosen
expert, V codebook size, M items of one expert.
"""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F

from sidera.tokenizers.expert_chains import ExpertChains
from sidera.tokenizers.residual import nearest_of, squared_distances
from sidera.tokenizers.unitok import UniTok
from training.kmeans import kmeans_codebook
from training.tokenizers.quantisation import Quantisation, Quantised, quantise_for_training

_ROUTER_ITEMS = 20_000
_UNSEEN_MARGIN = 10.0
"""How much lower than all others the router scores an expert that had no item to start from."""


class Mixed(NamedTuple):
    """What quantising one batch by a mixture gives.

    Attributes:
        total_Bd: z_hat.
        straight_through_Bd: the same; a gradient on it reaches the latents and the router, and no code.
        loss: the quantisation loss of the chosen experts, averaged over these, plus that of the shared expert.
        chosen_BT: int64[B, T] the experts, the likeliest first.
        own: how the pairs of item and chosen expert were quantised, item by item.
        shared: how the shared expert quantised; None without one.
    """

    total_Bd: Tensor
    straight_through_Bd: Tensor
    loss: Tensor
    chosen_BT: Tensor
    own: Quantised
    shared: Quantised | None


def quantise_mixture(
    model: UniTok, latents_Bd: Tensor, top_n: int, commitment: float, router_gradient: bool = True
) -> Mixed:
    """z_hat = sum_k w_k E_k(z) + E_share(.), k over the T = ``top_n`` likeliest experts of each item.

    w is the router's softmax over these. Of a single one it would be 1 without gradient, so there it is G_k / sg(G_k):
    still 1, with the gradient of log G_k. Without ``router_gradient`` neither reaches the router. Codes get no gradient
    from z_hat: they learn by the quantisation loss.
    """
    log_probs_BK = model.router(latents_Bd).log_softmax(dim=1)
    if not router_gradient:
        log_probs_BK = log_probs_BK.detach()
    chosen_BT = log_probs_BK.detach().argsort(dim=1, descending=True, stable=True)[:, :top_n]
    chosen_log_BT = log_probs_BK.gather(1, chosen_BT)
    weight_BT = (chosen_log_BT - chosen_log_BT.detach()).exp() if top_n == 1 else chosen_log_BT.softmax(dim=1)
    pairs_Pd = latents_Bd.repeat_interleave(top_n, dim=0)
    own = quantise_experts(model.experts, chosen_BT.flatten(), pairs_Pd, commitment)
    mixture_Bd = (weight_BT[:, :, None] * own.total_Bd.detach().unflatten(0, (-1, top_n))).sum(dim=1)
    total_Bd, loss, shared = mixture_Bd.detach(), own.loss, None
    if model.shared is not None:
        given_Bd = latents_Bd - mixture_Bd.detach() if model.shared_reads == "residual" else latents_Bd
        shared = quantise_for_training(model.shared, given_Bd, Quantisation(commitment))
        total_Bd = total_Bd + shared.total_Bd.detach()
        loss = loss + shared.loss
    straight_through_Bd = latents_Bd + (total_Bd - latents_Bd).detach() + (mixture_Bd - mixture_Bd.detach())
    return Mixed(total_Bd, straight_through_Bd, loss, chosen_BT, own, shared)


def quantise_experts(chains: ExpertChains, expert_P: Tensor, latents_Pd: Tensor, commitment: float) -> Quantised:
    """Quantise each row by the chain of its expert; the loss is that of ``quantise_for_training``, over all rows."""
    rows = [torch.nonzero(expert_P == expert).flatten() for expert in range(chains.experts)]
    residual_Pd = latents_Pd
    total_Pd = torch.zeros_like(latents_Pd)
    loss = latents_Pd.new_zeros(())
    codes, residuals = [], []
    for level, codebook_KVd in enumerate(chains.codebooks):
        given_Pd = residual_Pd.detach()
        codes_P = torch.empty_like(expert_P)
        for rows_M, codebook_Vd in zip(rows, codebook_KVd.detach(), strict=True):
            if len(rows_M):
                codes_P[rows_M] = nearest_of(squared_distances(given_Pd[rows_M], codebook_Vd))
        chosen_Pd = F.embedding(expert_P * chains.codebook_sizes[level] + codes_P, codebook_KVd.flatten(0, 1))
        loss = loss + F.mse_loss(chosen_Pd, given_Pd) + commitment * F.mse_loss(residual_Pd, chosen_Pd.detach())
        codes.append(codes_P)
        residuals.append(given_Pd)
        residual_Pd = residual_Pd - chosen_Pd.detach()
        total_Pd = total_Pd + chosen_Pd
    straight_through_Pd = latents_Pd + (total_Pd - latents_Pd).detach()
    return Quantised(total_Pd, straight_through_Pd, loss, codes, residuals, codes)


@torch.no_grad()
def start_mixture(model: UniTok, latents_Nd: Tensor, domain_N: Tensor, domains: int, top_n: int, seed: int) -> None:
    """Start router and codebooks from the latents of a bare autoencoder.

    With one expert for each domain, an expert's codebooks are residual k-means of its domain's items, and the router is
    the logistic regression of domains on latents. With another number of experts, clusters of the latents stand for
    the domains. The shared expert's codebooks are residual k-means of what it reads of all items.

    Args:
        model: the tokenizer.
        latents_Nd: of the items to fit on.
        domain_N: the domain of each.
        domains: how many there are.
        top_n: experts that an item is mixed of.
        seed: of every draw.
    """
    if model.experts.experts == domains:
        group_N = domain_N
        start_router(model.router, latents_Nd, domain_N, seed)
    else:
        centres_Kd = torch.from_numpy(kmeans_codebook(latents_Nd.numpy(), model.experts.experts, seed))
        group_N = torch.cat([nearest_of(squared_distances(part, centres_Kd)) for part in latents_Nd.split(8192)])
        width = (latents_Nd - centres_Kd[group_N]).square().mean().clamp_min(1e-6)
        model.router.weight.copy_(centres_Kd / width)
        model.router.bias.copy_(-centres_Kd.square().sum(dim=1) / (2 * width))
    for expert in range(model.experts.experts):
        own_Md = latents_Nd[group_N == expert]
        own_codebooks = [codebook_KVd[expert] for codebook_KVd in model.experts.codebooks]
        start_chain(own_codebooks, own_Md if len(own_Md) else latents_Nd, seed + 1000 * expert)
    if model.shared is not None:
        given = []
        for part in latents_Nd.split(8192):
            mixed = quantise_mixture(model, part, top_n, 0.0)
            assert mixed.shared is not None
            given.append(mixed.shared.residuals[0])
        start_chain(list(model.shared.codebooks), torch.cat(given), seed + 999)


@torch.no_grad()
def start_chain(codebooks: Sequence[Tensor], given_Nd: Tensor, seed: int) -> None:
    """Residual k-means: each codebook of what the ones before it leave over. ``given_Nd`` is not changed."""
    for level, codebook_Vd in enumerate(codebooks):
        codebook_Vd.copy_(torch.from_numpy(kmeans_codebook(given_Nd.numpy(), len(codebook_Vd), seed + level)))
        nearest = [nearest_of(squared_distances(part, codebook_Vd)) for part in given_Nd.split(8192)]
        given_Nd = given_Nd - codebook_Vd[torch.cat(nearest)]


@torch.no_grad()
def start_router(router: nn.Linear, latents_Nd: Tensor, domain_N: Tensor, seed: int) -> None:
    """Make the router the multinomial logistic regression of domains on latents, every domain weighing the same.

    It sees at most 20,000 items, as many of each domain as there are, up to an equal share. A domain without items is
    scored lower than all others.
    """
    present = domain_N.unique().tolist()
    random = np.random.default_rng([seed, 3])
    drawn = []
    for domain in present:
        own_M = np.flatnonzero(domain_N.numpy() == domain)
        drawn.append(random.permutation(own_M)[: max(_ROUTER_ITEMS // len(present), 1)])
    rows_N = np.concatenate(drawn)
    latents, targets = latents_Nd.numpy()[rows_N].astype(np.float64), domain_N.numpy()[rows_N]
    mean_d, scale = latents.mean(axis=0), float(latents.std()) or 1.0
    if len(present) == 1:
        weight_Kd, bias_K = np.zeros((1, latents.shape[1])), np.zeros(1)
    else:
        regression = LogisticRegression(max_iter=500, class_weight="balanced")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # near the optimum is near enough for a start
            regression.fit((latents - mean_d) / scale, targets)
        weight_Kd, bias_K = regression.coef_ / scale, regression.intercept_
        if len(present) == 2:
            weight_Kd, bias_K = np.concatenate([-weight_Kd, weight_Kd]) / 2, np.concatenate([-bias_K, bias_K]) / 2
        bias_K = bias_K - weight_Kd @ mean_d
    lowest = float((latents @ weight_Kd.T + bias_K).min()) - _UNSEEN_MARGIN
    router.weight.zero_()
    router.bias.fill_(lowest)
    router.weight[present] = torch.from_numpy(weight_Kd).float()
    router.bias[present] = torch.from_numpy(bias_K).float()
