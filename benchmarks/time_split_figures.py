"""What the arms of the time split found, as figures; users are resampled, each with all of their targets.

Shapes: N targets, U users, S samples, I items, D item vector dim.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.harness import Figure, at_least, shown
from benchmarks.quality_runs import QualityRun
from benchmarks.time_split_data import Stream
from training.evaluation import PLACES
from training.metrics import PairedDifference, ndcg_values, paired_bootstrap, recall_values

LEAST_OF_RETRAINING = 0.9
"""NDCG@10 of live learning, as a share of a model's that is trained from scratch."""

FIRST, SECOND = 0.9, 0.95
"""The shares of all events that come before the two moments."""

MOMENTS = {"first": FIRST, "second": SECOND}

CHOOSING = 0.03
"""The share of all events, the newest before a moment, that choose epochs, router and shares."""

_SAMPLES = 2000

Ranks = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Replayed:
    """What came of one domain.

    Attributes:
        vectors_ID: of all items. Shape: float32[I, D].
        asked: the places of the targets in the stream. Shape: int64[N].
        second: the place of the second moment.
        ranks: by arm; those of a retrained model cover the targets from ``second`` on.
        runs: the two trainings.
        new_items: items that the first model did not know.
    """

    stream: Stream
    vectors_ID: npt.NDArray[np.float32]
    asked: npt.NDArray[np.int64]
    second: int
    ranks: Mapping[str, Ranks]
    runs: Mapping[str, QualityRun]
    new_items: int


def time_figures(name: str, found: Replayed, seed: int) -> dict[str, Figure]:
    """What the arms found in one domain; users are resampled, each with all of their targets."""
    user_N = found.stream.user_E[found.asked]
    late_N = found.asked >= found.second
    new_N = found.stream.first_I[found.stream.item_E[found.asked]] >= found.stream.place(found.stream.moment(FIRST))
    gain = {arm: ndcg_values(rank_N, PLACES) for arm, rank_N in found.ranks.items()}
    recall = {arm: recall_values(rank_N, PLACES) for arm, rank_N in found.ranks.items()}
    whole = {arm: gain[arm] for arm in ("none", "live", "live_earlier")}
    late = {arm: values[late_N] if arm in whole else values for arm, values in gain.items()}
    figures = {
        f"ndcg10_{arm}_{name}": shown(
            float(values.mean()), "ndcg", f"{len(values)} targets, Recall@10 {recall[arm].mean():.4f}"
        )
        for arm, values in whole.items()
    }
    figures |= {
        f"ndcg10_{arm}_late_{name}": shown(
            float(values.mean()), "ndcg", f"{len(values)} targets behind the second moment"
        )
        for arm, values in late.items()
    }
    for arm in ("live", "live_earlier"):
        difference = by_user(whole[arm], whole["none"], user_N, seed)
        figures[f"{arm}_minus_none_{name}"] = Figure(
            difference.mean, "ndcg", "> 0", difference.mean > 0, _interval(difference)
        )
    if new_N.any():
        told = f"{int(new_N.sum())} targets whose item the first model did not know"
        for arm in ("none", "live"):
            figures[f"ndcg10_{arm}_new_items_{name}"] = shown(float(whole[arm][new_N].mean()), "ndcg", told)
    for arm in ("live", "live_earlier"):
        ratio, low, high = ratio_by_user(late[arm], late["retrained"], user_N[late_N], seed)
        note = "the retrained model hits nothing" if ratio is None else f"95 % interval {low:.3f} .. {high:.3f}"
        figures[f"{arm}_over_retrained_{name}"] = at_least(ratio, LEAST_OF_RETRAINING, "ratio", note)
    both = by_user(late["retrained_live"], late["retrained"], user_N[late_N], seed)
    figures[f"retrained_live_minus_retrained_{name}"] = shown(both.mean, "ndcg", _interval(both))
    return figures


def by_user(
    ours_N: npt.NDArray[np.float64], theirs_N: npt.NDArray[np.float64], user_N: npt.NDArray[np.integer], seed: int
) -> PairedDifference:
    """The mean difference over targets and its interval, whole users resampled."""
    ours_U, theirs_U = _sums(ours_N, user_N), _sums(theirs_N, user_N)
    scale = len(ours_U) / len(ours_N)
    return paired_bootstrap(ours_U * scale, theirs_U * scale, seed, _SAMPLES)


def ratio_by_user(
    ours_N: npt.NDArray[np.float64], theirs_N: npt.NDArray[np.float64], user_N: npt.NDArray[np.integer], seed: int
) -> tuple[float | None, float, float]:
    """The ratio of two means over the same targets and its 95 % interval; None where the second is 0."""
    ours_U, theirs_U = _sums(ours_N, user_N), _sums(theirs_N, user_N)
    if not theirs_U.any():
        return None, math.nan, math.nan
    random = np.random.default_rng(seed)
    count_SU = random.multinomial(len(ours_U), np.full(len(ours_U), 1 / len(ours_U)), size=_SAMPLES)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio_S = (count_SU @ ours_U) / (count_SU @ theirs_U)
    low, high = np.nanquantile(ratio_S[np.isfinite(ratio_S)], [0.025, 0.975])
    return float(ours_U.sum() / theirs_U.sum()), float(low), float(high)


def _sums(values_N: npt.NDArray[np.float64], user_N: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """The sums of each user's values: float64[U]."""
    _, dense_N = np.unique(user_N, return_inverse=True)
    sums_U: npt.NDArray[np.float64] = np.bincount(dense_N, weights=values_N).astype(np.float64)
    return sums_U


def _interval(found: PairedDifference) -> str:
    return f"95 % interval {found.low:.4f} .. {found.high:.4f}, users resampled"
