"""The shares of a mixture's distributions that rank validation targets best, by NDCG@10.

The shares that make the targets likeliest are others: a distribution that knows a few targets well and most of them not
at all raises the likelihood little, but the targets that it knows come first.

Shapes: X targets, G distributions, C candidates of one target, Z candidates of all targets, W mixtures.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from training.evaluation import PLACES
from training.metrics import ABSENT, ndcg_values

STEPS = 20
"""Shares are multiples of a twentieth."""

NEARLY_BEST = 0.995
"""Of the highest NDCG@10; and all mixtures whose mean is no more than one standard error of the difference below it.
Among these noise decides, so the likeliest one is taken: of few targets many are, and likelihood chooses better."""

_LEAST = 1e-12

Masses = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Candidates:
    """The items that may come back for one target, and what each distribution gives them.

    Attributes:
        mass_GC: the mass of each. Shape: float64[G, C].
        target: the target's place among them; None where it is none of them.
    """

    mass_GC: Masses
    target: int | None


def best_shares(candidates: Sequence[Candidates]) -> Masses:
    """Of the mixtures that rank the targets nearly best, the one that makes them likeliest.

    The last distribution always has a share. Without a target that anything knows, all shares are equal.

    Returns:
        float64[G], from 0, summing to 1.
    """
    known = [own for own in candidates if own.target is not None]
    shares_WG = grid(len(candidates[0].mass_GC) if candidates else 1)
    if not known:
        return np.full(shares_WG.shape[1], 1 / shares_WG.shape[1])
    mass_GZ = np.concatenate([own.mass_GC for own in known], axis=1)
    begin_X = np.cumsum([0, *(own.mass_GC.shape[1] for own in known)])
    target_X = begin_X[:-1] + [own.target or 0 for own in known]
    length_X = np.diff(begin_X)
    ndcg_WX, likelihood_W = np.empty((len(shares_WG), len(known)), dtype=np.float32), np.empty(len(shares_WG))
    for row, share_G in enumerate(shares_WG):
        score_Z = share_G @ mass_GZ
        score_X = score_Z[target_X]
        better_X = np.add.reduceat(score_Z > np.repeat(score_X, length_X), begin_X[:-1])
        ndcg_WX[row] = ndcg_values(np.where(score_X > 0, better_X, ABSENT), PLACES)
        likelihood_W[row] = np.log(np.maximum(score_X, _LEAST)).sum()
    likelihood_W[~_as_good(ndcg_WX, len(candidates))] = -np.inf
    best_G: Masses = shares_WG[likelihood_W.argmax()]
    return best_G


def _as_good(ndcg_WX: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.bool_]:
    """The mixtures that rank the targets nearly best; ``count`` is of all targets, known or not. Shape: bool[W]."""
    sum_W = ndcg_WX.sum(axis=1, dtype=np.float64)
    behind_WX = ndcg_WX[sum_W.argmax()] - ndcg_WX
    behind_W = behind_WX.sum(axis=1, dtype=np.float64) / count
    square_W = np.einsum("wx,wx->w", behind_WX, behind_WX, dtype=np.float64) / count
    error_W = np.sqrt(np.maximum(square_W - behind_W**2, 0) / count)
    as_good_W: npt.NDArray[np.bool_] = (sum_W >= NEARLY_BEST * sum_W.max()) | (behind_W <= error_W)
    return as_good_W


def grid(distributions: int) -> Masses:
    """All mixtures in twentieths that leave the last distribution a share: float64[W, G]."""
    cuts = combinations(range(STEPS + distributions - 2), distributions - 1)
    parts_WG = np.array([np.diff([-1, *cut, STEPS + distributions - 2]) - 1 for cut in cuts], dtype=np.int64)
    parts_WG[:, -1] += 1
    shares_WG: Masses = parts_WG / STEPS
    return shares_WG
