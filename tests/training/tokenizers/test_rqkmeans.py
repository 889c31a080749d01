"""Fitting residual k-means."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from sidera.tokenizers import tokenizer_digest
from sidera.tokenizers.rqkmeans import RqKMeans
from training.errors import ConfigError, DataError, StageError
from training.kmeans import kmeans_codebook
from training.tokenizers.common import held_out
from training.tokenizers.rqkmeans import RqKMeansConfig, fit_rqkmeans

CONFIG = RqKMeansConfig(codebook_sizes=(8, 8, 8))


def fit(vectors: np.ndarray, config: RqKMeansConfig, folder: Path, **told: Callable[[int, float], None]) -> RqKMeans:
    """Fit on one domain."""
    return fit_rqkmeans({"films": vectors}, config, folder, **told)


def clustered(items: int = 400, dim: int = 20) -> np.ndarray:
    """Eight clusters of eight clusters of eight points with a little noise: what three codebooks of 8 can hold."""
    random = np.random.default_rng(0)
    points = np.zeros((items, dim))
    for spread in (1.0, 0.2, 0.04):
        points += spread * random.normal(size=(8, dim))[random.integers(8, size=items)]
    return np.asarray(points + 0.002 * random.normal(size=points.shape) + 1, dtype=np.float32)


def relative_error(tokenizer: RqKMeans, vectors: np.ndarray) -> float:
    rows = torch.from_numpy(vectors)
    error = (rows - tokenizer.reconstruct(tokenizer.encode(rows, "a"))).square().sum()
    return float(error / (rows - tokenizer.shift_D).square().sum())


def test_the_axes_are_those_of_most_variance_and_the_codes_are_clustered_along_them(tmp_path: Path) -> None:
    vectors = clustered()
    tokenizer = fit(vectors, dataclasses.replace(CONFIG, components=3), tmp_path)
    seen = vectors[~held_out(400, 0.05, 0)]
    coordinates = tokenizer.latents(torch.from_numpy(seen), "films").numpy()
    singular = np.linalg.svd(seen - seen.mean(axis=0), compute_uv=False)
    np.testing.assert_allclose(np.linalg.norm(coordinates, axis=0), singular[:3], rtol=1e-3)
    axes = tokenizer.axes_Dd.numpy()
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-5)
    assert (axes[np.abs(axes).argmax(axis=0), range(3)] > 0).all()
    assert tokenizer.quantiser.codebooks[0].shape == (8, 3)


def test_no_components_leave_the_vectors_as_they_are_and_more_than_their_width_change_no_distance(
    tmp_path: Path,
) -> None:
    vectors = clustered()
    whole = fit(vectors, dataclasses.replace(CONFIG, components=None), tmp_path / "whole")
    assert torch.equal(whole.axes_Dd, torch.eye(20))
    turned = fit(vectors, dataclasses.replace(CONFIG, components=99), tmp_path / "turned")
    assert turned.latent_dim == 20
    assert relative_error(turned, vectors) == pytest.approx(relative_error(whole, vectors), rel=0.15)


def test_each_codebook_is_the_k_means_of_what_the_ones_before_leave_of_the_fitted_items(tmp_path: Path) -> None:
    vectors = clustered()
    tokenizer = fit(vectors, dataclasses.replace(CONFIG, components=None), tmp_path)
    residual = vectors[~held_out(400, 0.05, 0)]
    residual = residual - residual.mean(axis=0)
    for level, codebook in enumerate(tokenizer.quantiser.codebooks):
        codes = np.square(residual[:, None] - codebook.numpy()).sum(axis=2).argmin(axis=1)
        means = np.stack([residual[codes == code].mean(axis=0) for code in range(8)])
        np.testing.assert_allclose(codebook.numpy(), means, atol=1e-3)
        residual = residual - codebook.numpy()[codes]
        own = KMeans(8, n_init=10, random_state=level).fit(residual + codebook.numpy()[codes])
        assert np.square(residual).sum() < 1.5 * own.inertia_


def test_held_out_error_falls_with_every_level_and_is_that_of_the_codes(tmp_path: Path) -> None:
    vectors = clustered()
    errors: list[float] = []
    tokenizer = fit(vectors, CONFIG, tmp_path, on_level=lambda level, error: errors.append(error))
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[2] == pytest.approx(relative_error(tokenizer, vectors[held_out(400, 0.05, 0)]), rel=1e-3)
    assert not any(parameter.requires_grad for parameter in tokenizer.parameters())


def test_more_iterations_fit_closer_and_each_level_draws_from_its_own_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = {}
    for iterations in (1, 50):
        config = RqKMeansConfig(codebook_sizes=(16, 16), iterations=iterations)
        random = np.random.default_rng(0).normal(size=(2000, 4)).astype(np.float32)
        errors[iterations] = relative_error(fit(random, config, tmp_path / str(iterations)), random)
    assert errors[50] < 0.97 * errors[1]
    seeds = []

    def spy(points: np.ndarray, size: int, seed: int, iterations: int) -> np.ndarray:
        seeds.append(seed)
        return kmeans_codebook(points, size, seed, iterations)

    monkeypatch.setattr("training.tokenizers.rqkmeans.kmeans_codebook", spy)
    fit(clustered(), dataclasses.replace(CONFIG, seed=7), tmp_path / "seeds")
    assert seeds == [7, 8, 9]


def test_held_out_items_leave_no_trace_in_the_fit(tmp_path: Path) -> None:
    vectors = clustered()
    first = fit(vectors, CONFIG, tmp_path / "a")
    vectors[held_out(400, 0.05, 0)] += 100
    second = fit(vectors, CONFIG, tmp_path / "b")
    assert tokenizer_digest(first) == tokenizer_digest(second)


@pytest.mark.parametrize("killed_after", [1, 2, 3])
def test_a_killed_fit_goes_on_at_its_level_and_ends_as_an_undisturbed_one(tmp_path: Path, killed_after: int) -> None:
    vectors = clustered()
    undisturbed = fit(vectors, CONFIG, tmp_path / "undisturbed")

    def kill(level: int, error: float) -> None:
        if level == killed_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(vectors, CONFIG, tmp_path / "killed", on_level=kill)
    levels: list[int] = []
    resumed = fit(vectors, CONFIG, tmp_path / "killed", on_level=lambda level, error: levels.append(level))
    assert levels == list(range(killed_after + 1, 4))
    assert tokenizer_digest(resumed) == tokenizer_digest(undisturbed)


def test_a_fit_of_other_vectors_or_settings_begins_anew(tmp_path: Path) -> None:
    levels: list[int] = []
    first = fit(clustered(), CONFIG, tmp_path)
    other = fit(2 * clustered(), CONFIG, tmp_path, on_level=lambda level, error: levels.append(level))
    assert levels == [1, 2, 3]
    assert tokenizer_digest(other) != tokenizer_digest(first)
    config = dataclasses.replace(CONFIG, seed=1)
    fit(2 * clustered(), config, tmp_path, on_level=lambda level, error: levels.append(level))
    assert levels == [1, 2, 3, 1, 2, 3]


def test_a_damaged_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "rqkmeans.safetensors").write_bytes(b"torn")
    with pytest.raises(StageError, match=r"rqkmeans\.safetensors cannot be read .*; delete it"):
        fit(clustered(), CONFIG, tmp_path)


@pytest.mark.parametrize("items", [1, 2, 5])
def test_fewer_items_than_codes_are_fitted_and_those_seen_rebuilt(tmp_path: Path, items: int) -> None:
    vectors = clustered(items)
    tokenizer = fit(vectors, CONFIG, tmp_path)
    seen = torch.from_numpy(vectors[~held_out(items, 0.05, 0)])
    torch.testing.assert_close(tokenizer.reconstruct(tokenizer.encode(seen, "a")), seen, atol=0.05, rtol=0)
    assert tokenizer.encode(torch.from_numpy(vectors), "a").shape == (items, 3)


def test_identical_vectors_are_fitted_and_rebuilt(tmp_path: Path) -> None:
    errors: list[float] = []
    tokenizer = fit(
        np.ones((50, 20), dtype=np.float32), CONFIG, tmp_path, on_level=lambda level, error: errors.append(error)
    )
    codes = tokenizer.encode(torch.ones(50, 20), "a")
    assert len(torch.unique(codes, dim=0)) == 1
    torch.testing.assert_close(tokenizer.reconstruct(codes), torch.ones(50, 20), atol=0.01, rtol=0)
    assert np.isfinite(errors).all()


def test_vectors_with_nan_or_of_a_wrong_shape_are_refused(tmp_path: Path) -> None:
    vectors = clustered()
    vectors[[7, 9], 3] = np.nan
    with pytest.raises(DataError, match="NaN or infinity in rows 7, 9;"):
        fit(vectors, CONFIG, tmp_path)
    with pytest.raises(DataError, match="have shape"):
        fit(np.ones(20, dtype=np.float32), CONFIG, tmp_path)


@pytest.mark.parametrize(("field", "value"), [("iterations", 0), ("codebook_sizes", (256,))])
def test_a_setting_that_cannot_mean_anything_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"tokenizer.{field} is"):
        RqKMeansConfig(**{field: value})  # type: ignore[arg-type]
