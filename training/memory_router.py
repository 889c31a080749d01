"""Fits the router of :mod:`sidera.items.memory_router`: how far a history moves the fixed shares of its domain.

It learns from validation targets, which nothing else has learned or counted, and begins as the fixed shares. The
loss is the softmax over a target's candidates, of the logarithms of their mixed masses: it knows nothing of the mass
beyond the candidates, so it asks for order and not for likelihood. The squared moves of the logits are added, ``PULL``
times: what does not help stays where the fixed shares are.

Shapes: X targets, C candidates of one target (padded), F features, G parts of the mixture.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from sidera.items.memory_reading import Shares
from sidera.items.memory_router import LEAST_SHARE, MemoryRouter
from training.evaluation import PLACES
from training.metrics import ABSENT, ndcg_values
from training.mixture_shares import Candidates
from training.progress import track

HIDDEN = 32
BOUND = 1.5
PULL = 0.05
FEWEST = 50
"""Targets that something knows; of fewer nothing is learned."""

_CANDIDATES = 60
"""Of each part those with the largest masses are kept, beside the target."""
_EPOCHS = 40
_PATIENCE = 8
_AT_ONCE = 128
_LEARNING_RATE = 3e-3
_LEAST = 1e-9


@dataclass(frozen=True)
class Asked:
    """Targets of one domain, and what is known of their histories.

    Attributes:
        candidates: the items that may come back, with the mass that each part of the mixture gives them.
        features_XF: what the router reads.
    """

    candidates: Sequence[Candidates]
    features_XF: npt.NDArray[np.float64]


class _Network(nn.Module):
    """The router, while it learns."""

    def __init__(self, base: Shares, features_XF: Tensor) -> None:
        super().__init__()
        self.mean_F, scale_F = features_XF.mean(0), features_XF.std(0, correction=0)
        self.scale_F = torch.where(scale_F > 1e-6, scale_F, 1.0)
        rest = 1 - base.transitions - base.similar - base.popularity
        base_G = torch.tensor([base.transitions, base.similar, base.popularity, rest])
        self.log_base_G = base_G.clamp_min(LEAST_SHARE).log()
        self.inner = nn.Linear(features_XF.shape[1], HIDDEN)
        self.outer = nn.Linear(HIDDEN, len(base_G))
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, features_XF: Tensor) -> tuple[Tensor, Tensor]:
        """The shares, and how far the logits moved: float32[X, G] each."""
        hidden_XH = gelu(self.inner((features_XF - self.mean_F) / self.scale_F), approximate="tanh")
        moved_XG = BOUND * torch.tanh(self.outer(hidden_XH) / BOUND)
        return torch.softmax(self.log_base_G + moved_XG, dim=1), moved_XG

    def export(self) -> MemoryRouter:
        """What serves."""
        weights = (self.mean_F, self.scale_F, self.inner.weight, self.inner.bias, self.outer.weight, self.outer.bias)
        mean_F, scale_F, inner_HF, inner_H, outer_GH, outer_G = (weight.detach().numpy().copy() for weight in weights)
        return MemoryRouter(mean_F, scale_F, inner_HF, inner_H, outer_GH, outer_G, BOUND)


def fit_memory_router(learned: Asked, validation: Asked, base: Shares, seed: int, label: str) -> MemoryRouter | None:
    """The router of the epoch with the lowest loss on validation targets.

    None where none is lower than that of the fixed shares, or where NDCG@10 is lower by more than a standard error: of
    a few hundred targets NDCG@10 tells small gains less well than the loss does.

    Args:
        learned: targets that nothing else has learned or counted.
        validation: others of them, which select.
        base: the fixed shares.
    """
    known = [row for row, own in enumerate(learned.candidates) if own.target is not None]
    held = [row for row, own in enumerate(validation.candidates) if own.target is not None]
    if len(known) < FEWEST or not held:
        return None
    mass_XGC, target_X = _padded([learned.candidates[row] for row in known])
    held_XGC, held_X = _padded([validation.candidates[row] for row in held])
    features_XF = torch.from_numpy(learned.features_XF[known]).float()
    held_XF = torch.from_numpy(validation.features_XF[held]).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _Network(base, features_XF)
    optimizer = torch.optim.Adam(network.parameters(), lr=_LEARNING_RATE, weight_decay=1e-4)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        first = lowest = float(_loss(network, held_XF, held_XGC, held_X)[0])
    best, waited = network.export(), 0
    with track(f"memory router: {label}", _EPOCHS) as advance:
        for _ in range(_EPOCHS):
            for rows in torch.randperm(len(target_X), generator=generator).split(_AT_ONCE):
                loss, moved = _loss(network, features_XF[rows], mass_XGC[rows], target_X[rows])
                optimizer.zero_grad()
                (loss + PULL * moved).backward()
                optimizer.step()
            with torch.no_grad():
                held_loss = float(_loss(network, held_XF, held_XGC, held_X)[0])
            advance(note=f"validation {held_loss:.4f}")
            waited += 1
            if held_loss < lowest:
                lowest, best, waited = held_loss, network.export(), 0
            if waited == _PATIENCE:
                break
    gain_X = ndcg_of(validation, base, best) - ndcg_of(validation, base, None)
    return best if lowest < first and gain_X.mean() >= -gain_X.std() / len(gain_X) ** 0.5 else None


def ndcg_of(asked: Asked, base: Shares, router: MemoryRouter | None) -> npt.NDArray[np.float64]:
    """NDCG@10 of every target, with fixed shares or those of a router. Shape: float64[X]."""
    rank_X = np.full(len(asked.candidates), ABSENT, dtype=np.int64)
    for row, (own, features_F) in enumerate(zip(asked.candidates, asked.features_XF, strict=True)):
        if own.target is not None:
            shares = base if router is None else router.shares(base, features_F)
            rest = 1 - shares.transitions - shares.similar - shares.popularity
            score_C = np.array([shares.transitions, shares.similar, shares.popularity, rest]) @ own.mass_GC
            if score_C[own.target] > 0:
                rank_X[row] = int((score_C > score_C[own.target]).sum())
    return ndcg_values(rank_X, PLACES)


def _loss(network: _Network, features_XF: Tensor, mass_XGC: Tensor, target_X: Tensor) -> tuple[Tensor, Tensor]:
    """The softmax loss of the targets, and the mean squared move of their logits."""
    shares_XG, moved_XG = network(features_XF)
    score_XC = torch.einsum("xg,xgc->xc", shares_XG, mass_XGC)
    score_XC = torch.where(mass_XGC.sum(dim=1) > 0, (score_XC + _LEAST).log(), -torch.inf)
    chance_X = score_XC.log_softmax(dim=1).gather(1, target_X[:, None])
    return -chance_X.mean(), moved_XG.square().sum(dim=1).mean()


def _padded(candidates: Sequence[Candidates]) -> tuple[Tensor, Tensor]:
    """The masses of the most likely candidates and the target, float32[X, G, C], and its place, int64[X]."""
    kept, places = [], []
    for own in candidates:
        assert own.target is not None
        most = min(_CANDIDATES, own.mass_GC.shape[1])
        largest_GC = np.argpartition(-own.mass_GC, most - 1, axis=1)[:, :most]
        chosen = np.unique(np.append(largest_GC, own.target))
        kept.append(own.mass_GC[:, chosen])
        places.append(int(np.searchsorted(chosen, own.target)))
    mass_XGC = torch.zeros(len(kept), len(kept[0]), max(mass_GC.shape[1] for mass_GC in kept))
    for row, mass_GC in enumerate(kept):
        mass_XGC[row, :, : mass_GC.shape[1]] = torch.from_numpy(mass_GC)
    # A target that nothing gives a mass would make the loss infinite.
    for row, place in enumerate(places):
        if not bool(mass_XGC[row, :, place].any()):
            mass_XGC[row, -1, place] = _LEAST
    return mass_XGC, torch.tensor(places)
