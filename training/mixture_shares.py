"""The shares of a mixture's distributions that rank validation targets best, by NDCG@10.

The shares that make the targets likeliest are others: a distribution that knows a few targets well and most of them not
at all raises the likelihood little, but the targets that it knows come first.

Shapes: X targets, G distributions, C candidates of one target, Z candidates of all targets, W mixtures.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
import numpy.typing as npt

from training.evaluation import PLACES
from training.metrics import ABSENT, ndcg_values

STEPS = 20
"""Shares are multiples of a twentieth; of five distributions they are multiples of a tenth first."""

NEARLY_BEST = 0.999
"""Of the highest NDCG@10; the likeliest of the mixtures that reach it is taken."""

MANY = 500
"""Of fewer targets noise decides among all mixtures whose mean is no more than one standard error of the difference
below the highest, and likelihood chooses better."""

_LEAST = 1e-12
_AT_ONCE_IN_TWENTIETHS = 4

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
    """The mixture that ranks the targets best; of few targets, the likeliest of those that rank them nearly best.

    The last distribution always has a share. Without a target that anything knows, all shares are equal.

    Returns:
        float64[G], from 0, summing to 1.
    """
    known = [own for own in candidates if own.target is not None]
    count = len(candidates[0].mass_GC) if candidates else 1
    if not known:
        return np.full(count, 1 / count)
    if count <= _AT_ONCE_IN_TWENTIETHS:
        return _best_of(grid(count), known, len(candidates))
    return _best_of(around(_best_of(grid(count, STEPS // 2), known, len(candidates))), known, len(candidates))


def _best_of(shares_WG: Masses, known: Sequence[Candidates], count: int) -> Masses:
    """The best of some mixtures; ``count`` is of all targets, known or not."""
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
    likelihood_W[~_as_good(ndcg_WX, count)] = -np.inf
    best_G: Masses = shares_WG[likelihood_W.argmax()]
    return best_G


def _as_good(ndcg_WX: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.bool_]:
    """The mixtures that rank the targets nearly best. Shape: bool[W]."""
    sum_W = ndcg_WX.sum(axis=1, dtype=np.float64)
    nearly_W: npt.NDArray[np.bool_] = sum_W >= NEARLY_BEST * sum_W.max()
    if count >= MANY:
        return nearly_W
    behind_WX = ndcg_WX[sum_W.argmax()] - ndcg_WX
    behind_W = behind_WX.sum(axis=1, dtype=np.float64) / count
    square_W = np.einsum("wx,wx->w", behind_WX, behind_WX, dtype=np.float64) / count
    error_W = np.sqrt(np.maximum(square_W - behind_W**2, 0) / count)
    as_good_W: npt.NDArray[np.bool_] = nearly_W | (behind_W <= error_W)
    return as_good_W


def grid(distributions: int, steps: int = STEPS) -> Masses:
    """All mixtures in ``steps`` steps that leave the last distribution a share: float64[W, G]."""
    cuts = combinations(range(steps + distributions - 2), distributions - 1)
    parts_WG = np.array([np.diff([-1, *cut, steps + distributions - 2]) - 1 for cut in cuts], dtype=np.int64)
    parts_WG[:, -1] += 1
    shares_WG: Masses = parts_WG / steps
    return shares_WG


def around(share_G: Masses) -> Masses:
    """The mixture and all those to which a twentieth or two of it moved from some distributions: float64[W, G]."""
    parts_G = np.rint(share_G * STEPS).astype(np.int64)
    moves = np.array([move for move in product((-1, 0, 1), repeat=len(parts_G)) if sum(move) == 0])
    parts_WG = parts_G + moves
    shares_WG: Masses = parts_WG[(parts_WG.min(axis=1) >= 0) & (parts_WG[:, -1] > 0)] / STEPS
    return shares_WG
