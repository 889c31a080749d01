"""Ranking metrics at item level, one target each, and bootstrap intervals over targets.

Knows nothing of models: it reads the items that were recommended. Shape legend: N targets, K places, S samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

ABSENT = 2**31 - 1
"""The rank of a target that was not recommended. Ranks count from 0."""

_CELLS_AT_ONCE = 20_000_000


@dataclass(frozen=True)
class RankingMetrics:
    """Means over targets. Coverage: the share of the domain's items that some target got among its first 10."""

    targets: int
    recall_5: float
    recall_10: float
    ndcg_5: float
    ndcg_10: float
    coverage_10: float

    def as_dict(self) -> dict[str, float]:
        """The figures by the names that reports use."""
        return {
            "targets": self.targets,
            "recall@5": self.recall_5,
            "recall@10": self.recall_10,
            "ndcg@5": self.ndcg_5,
            "ndcg@10": self.ndcg_10,
            "coverage@10": self.coverage_10,
        }


@dataclass(frozen=True)
class Interval:
    """A mean and its bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedDifference:
    """The mean of a - b over the same targets, its bootstrap interval, and a two-sided p-value."""

    mean: float
    low: float
    high: float
    p_value: float


def target_ranks(top_NK: npt.NDArray[np.integer], item_N: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """The place from 0, int64[N], of each target among the items recommended for it (best first), or ``ABSENT``.

    Rows shorter than K end in -1.
    """
    if not top_NK.shape[1]:
        return np.full(len(item_N), ABSENT, dtype=np.int64)
    hit_NK = top_NK == item_N[:, None]
    return np.where(hit_NK.any(axis=1), hit_NK.argmax(axis=1), ABSENT).astype(np.int64)


def recall_values(rank_N: npt.NDArray[np.integer], k: int) -> npt.NDArray[np.float64]:
    """Recall@k of each target, float64[N]: 1 where it is among the first k."""
    return (rank_N < k).astype(np.float64)


def ndcg_values(rank_N: npt.NDArray[np.integer], k: int) -> npt.NDArray[np.float64]:
    """NDCG@k of each target, float64[N]: 1 / log2(rank + 2) where it is among the first k, for one target each."""
    gain_N: npt.NDArray[np.float64] = np.where(rank_N < k, 1.0 / np.log2(rank_N.astype(np.float64) + 2.0), 0.0)
    return gain_N


def ranking_metrics(
    top_NK: npt.NDArray[np.integer], item_N: npt.NDArray[np.integer], catalog_items: int
) -> RankingMetrics:
    """Metrics of the items recommended (item numbers, best first, -1 behind the last) for N targets of one domain.

    Raises:
        ValueError: there is no target, or fewer than 10 places where the catalog has more items.
    """
    if not len(item_N):
        raise ValueError("there is no target to score; give at least one")
    if top_NK.shape[1] < min(10, catalog_items):
        raise ValueError(f"only {top_NK.shape[1]} places are given; metrics at 10 need 10")
    rank_N = target_ranks(top_NK, item_N)
    recommended = np.unique(top_NK[:, :10])
    return RankingMetrics(
        targets=len(item_N),
        recall_5=float(recall_values(rank_N, 5).mean()),
        recall_10=float(recall_values(rank_N, 10).mean()),
        ndcg_5=float(ndcg_values(rank_N, 5).mean()),
        ndcg_10=float(ndcg_values(rank_N, 10).mean()),
        coverage_10=int((recommended >= 0).sum()) / catalog_items,
    )


def bootstrap_interval(
    values: npt.NDArray[np.floating], seed: int, samples: int = 2000, level: float = 0.95
) -> Interval:
    """The mean of values [N] and its percentile bootstrap interval; the same for the same seed.

    Raises:
        ValueError: there are no values.
    """
    low, high = _percentiles(_bootstrap_means(values, seed, samples), level)
    return Interval(float(values.mean()), low, high)


def paired_bootstrap(
    values_a: npt.NDArray[np.floating],
    values_b: npt.NDArray[np.floating],
    seed: int,
    samples: int = 2000,
    level: float = 0.95,
) -> PairedDifference:
    """Bootstrap the mean difference of two scores of the same targets, each [N], resampling targets.

    The p-value is twice the smaller share of samples whose mean is on the other side of zero or on it, with one added
    to count and samples, at most 1: it is never below 2 / (samples + 1).

    Raises:
        ValueError: there are no values, or the two have different lengths.
    """
    if values_a.shape != values_b.shape:
        raise ValueError(f"{values_a.shape} values are paired with {values_b.shape}; give both for the same targets")
    difference = np.asarray(values_a, dtype=np.float64) - np.asarray(values_b, dtype=np.float64)
    means_S = _bootstrap_means(difference, seed, samples)
    low, high = _percentiles(means_S, level)
    tail = min(int((means_S <= 0).sum()), int((means_S >= 0).sum()))
    return PairedDifference(float(difference.mean()), low, high, min(1.0, 2 * (tail + 1) / (samples + 1)))


def stratified_bootstrap(
    strata: Sequence[npt.NDArray[np.floating]],
    shares: Sequence[float],
    seed: int,
    samples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Bootstrap the mean of several groups of values, each with its share of the whole, resampling within each.

    Raises:
        ValueError: a group has no values.
    """
    means_S = sum(
        share * _bootstrap_means(values, seed + place, samples)
        for place, (values, share) in enumerate(zip(strata, shares, strict=True))
    )
    low, high = _percentiles(np.asarray(means_S), level)
    mean = sum(share * float(values.mean()) for values, share in zip(strata, shares, strict=True))
    return Interval(mean, low, high)


def _bootstrap_means(values: npt.NDArray[np.floating], seed: int, samples: int) -> npt.NDArray[np.float64]:
    """Means float64[S] of N values drawn with replacement, S times.

    Ranking metrics take few different values, and how often each is drawn is multinomial: drawing the counts is the
    same distribution as drawing N targets, without S * N random numbers.
    """
    if not len(values):
        raise ValueError("there are no values to resample; give at least one")
    different, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
    random = np.random.default_rng(seed)
    at_once = max(1, _CELLS_AT_ONCE // len(different))
    means = [
        random.multinomial(len(values), counts / len(values), size=min(at_once, samples - begin)) @ different
        for begin in range(0, samples, at_once)
    ]
    drawn: npt.NDArray[np.float64] = np.concatenate(means) / len(values)
    return drawn


def _percentiles(means_S: npt.NDArray[np.float64], level: float) -> tuple[float, float]:
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; give a share between 0 and 1, for instance 0.95")
    low, high = np.quantile(means_S, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
