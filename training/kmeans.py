"""Codebooks by k-means, for any number of points: fewer than codes, or all the same."""

import numpy as np
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

_POINTS_PER_CODE = 256


def kmeans_codebook(points_Nd: np.ndarray, size: int, seed: int, iterations: int = 50) -> np.ndarray:
    """Cluster points into a codebook.

    At most 256 points per code are used, drawn without replacement. Where there are no more different points than
    codes, the codebook holds all of them and the rest lies close around them, so that no two codes are equal.

    Args:
        points_Nd: float[N, d], at least one.
        size: codes wanted.
        seed: of the draw and of the k-means++ start.
        iterations: at most.

    Returns:
        float32[size, d]
    """
    random = np.random.default_rng(seed)
    if len(points_Nd) > _POINTS_PER_CODE * size:
        points_Nd = points_Nd[np.sort(random.choice(len(points_Nd), _POINTS_PER_CODE * size, replace=False))]
    distinct_Ud = np.unique(points_Nd, axis=0)
    if len(distinct_Ud) > size:
        # Threads add up their sums in the order in which they end: with two that changes no bit, with more it may.
        with threadpool_limits(2, "openmp"):
            clustering = KMeans(size, n_init=1, max_iter=iterations, random_state=seed).fit(points_Nd)
        return np.asarray(clustering.cluster_centers_, dtype=np.float32)
    spread = max(float(np.abs(distinct_Ud - distinct_Ud.mean(axis=0)).mean()), float(np.abs(distinct_Ud).mean()), 1e-3)
    rest_Vd = distinct_Ud[np.arange(size - len(distinct_Ud)) % len(distinct_Ud)]
    rest_Vd = rest_Vd + random.normal(scale=0.01 * spread, size=rest_Vd.shape)
    return np.concatenate([distinct_Ud, rest_Vd]).astype(np.float32)
