"""Codebooks by k-means."""

import numpy as np
import pytest

from training.kmeans import kmeans_codebook


def test_well_separated_clusters_are_found() -> None:
    random = np.random.default_rng(0)
    centres = np.asarray([[0, 0], [10, 0], [0, 10]])
    points = np.repeat(centres, 50, axis=0) + random.normal(scale=0.1, size=(150, 2))
    codebook = kmeans_codebook(points, 3, seed=0)
    assert sorted(np.round(codebook).astype(int).tolist()) == sorted(centres.tolist())
    assert codebook.dtype == np.float32


@pytest.mark.parametrize("points", [np.ones((1, 4)), np.zeros((50, 4)), np.eye(4), np.repeat(np.eye(4), 20, axis=0)])
def test_fewer_points_than_codes_give_codes_that_all_differ_and_hold_the_points(points: np.ndarray) -> None:
    codebook = kmeans_codebook(points, 16, seed=0)
    assert codebook.shape == (16, 4)
    assert len(np.unique(codebook, axis=0)) == 16
    for point in points:
        assert (codebook == point.astype(np.float32)).all(axis=1).any()


def test_the_same_seed_gives_the_same_codebook() -> None:
    points = np.random.default_rng(0).normal(size=(2000, 3))
    assert (kmeans_codebook(points, 4, seed=1) == kmeans_codebook(points, 4, seed=1)).all()
