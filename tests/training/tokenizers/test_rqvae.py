"""Fitting an RQ-VAE."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sidera.tokenizers import tokenizer_digest
from sidera.tokenizers.residual import ResidualQuantiser
from sidera.tokenizers.rqvae import RqVae
from training.errors import ConfigError, DataError, NonFiniteLossError, StageError
from training.tokenizers.common import held_out
from training.tokenizers.quantisation import (
    EmaCodebooks,
    Quantisation,
    Quantised,
    Sinkhorn,
    quantise_for_training,
)
from training.tokenizers.rqvae import RqVaeConfig, fit_rqvae, rqvae_loss

CONFIG = RqVaeConfig(
    codebook_sizes=(8, 8, 8),
    hidden_sizes=(24,),
    latent_dim=8,
    warm_up_epochs=2,
    epochs=12,
    batch_size=64,
    evaluate_every=2,
)
EMA = dataclasses.replace(CONFIG, ema_decay=0.9)
SINKHORN = dataclasses.replace(CONFIG, sinkhorn_epsilon=0.01)
BOTH = dataclasses.replace(EMA, sinkhorn_epsilon=0.01)


def fit(vectors: np.ndarray, config: RqVaeConfig, folder: Path, **told: Callable[[int, float], None]) -> RqVae:
    """Fit on one domain."""
    return fit_rqvae({"films": vectors}, config, folder, **told)


def clustered(items: int = 400, dim: int = 20) -> np.ndarray:
    """Sixteen clusters on a plane of six dimensions, the shape of text vectors in small."""
    random = np.random.default_rng(0)
    basis = random.normal(size=(6, dim))
    points = random.normal(size=(16, 6))[random.integers(16, size=items)] + 0.2 * random.normal(size=(items, 6))
    return np.asarray(points @ basis * 0.05 + 1, dtype=np.float32)


def relative_error(tokenizer: RqVae, vectors: np.ndarray) -> float:
    rows = torch.from_numpy(vectors)
    error = (rows - tokenizer.reconstruct(tokenizer.encode(rows, "a"))).square().sum()
    return float(error / (rows - rows.mean(dim=0)).square().sum())


def test_a_fit_explains_most_of_items_that_it_never_saw(tmp_path: Path) -> None:
    vectors = clustered()
    tokenizer = fit(vectors, dataclasses.replace(CONFIG, epochs=60), tmp_path)
    assert relative_error(tokenizer, vectors[held_out(len(vectors), 0.05, 0)]) < 0.35
    assert not any(parameter.requires_grad for parameter in tokenizer.parameters())


@pytest.mark.parametrize("config", [CONFIG, BOTH], ids=["plain", "ema and sinkhorn"])
@pytest.mark.parametrize("killed_after", [1, 3, 6, 9])
def test_a_killed_and_resumed_fit_ends_in_the_weights_of_an_undisturbed_one(
    tmp_path: Path, killed_after: int, config: RqVaeConfig
) -> None:
    vectors = clustered()
    undisturbed = fit(vectors, config, tmp_path / "undisturbed")

    def kill(epoch: int, loss: float) -> None:
        if epoch == killed_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(vectors, config, tmp_path / "killed", on_epoch=kill)
    torch.manual_seed(killed_after)
    epochs: list[int] = []
    resumed = fit(vectors, config, tmp_path / "killed", on_epoch=lambda epoch, loss: epochs.append(epoch))
    assert tokenizer_digest(resumed) == tokenizer_digest(undisturbed)
    assert epochs[0] == {1: 1, 3: 1, 6: 7, 9: 9}[killed_after]


def test_a_finished_fit_of_the_same_input_is_read_back_and_of_another_begins_anew(tmp_path: Path) -> None:
    vectors = clustered()
    first = fit(vectors, CONFIG, tmp_path)
    epochs: list[int] = []
    again = fit(vectors, CONFIG, tmp_path, on_epoch=lambda epoch, loss: epochs.append(epoch))
    assert epochs == []
    assert tokenizer_digest(again) == tokenizer_digest(first)
    other = fit(vectors + 0.1 * vectors**2, CONFIG, tmp_path, on_epoch=lambda epoch, loss: epochs.append(epoch))
    assert epochs[0] == 1
    assert tokenizer_digest(other) != tokenizer_digest(first)


def test_a_damaged_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "rqvae.pt").write_bytes(b"torn")
    with pytest.raises(StageError, match=r"rqvae\.pt cannot be read .*; delete it"):
        fit(clustered(), CONFIG, tmp_path)


def test_the_fit_stops_when_held_out_error_no_longer_falls(tmp_path: Path) -> None:
    epochs: list[int] = []
    random = np.random.default_rng(0).normal(size=(60, 20)).astype(np.float32)
    config = dataclasses.replace(CONFIG, epochs=2000, patience=2)
    fit(random, config, tmp_path, on_epoch=lambda epoch, loss: epochs.append(epoch))
    assert len(epochs) < 1000


def test_the_loss_is_reconstruction_plus_codebook_plus_a_quarter_of_commitment() -> None:
    torch.manual_seed(0)
    model = RqVae(6, (4, 4), latent_dim=3, hidden_sizes=[5])
    for codebook in model.quantiser.codebooks:
        torch.nn.init.normal_(codebook)
    vectors = torch.randn(7, 6)
    loss, made = rqvae_loss(model, vectors, Quantisation(commitment=0.25))
    assert made is not None
    residual, total, expected = model.encoder(vectors), torch.zeros(7, 3), torch.zeros(())
    for codebook, codes_of_level in zip(model.quantiser.codebooks, made.codes, strict=True):
        assert torch.equal(codes_of_level, torch.cdist(residual, codebook).argmin(dim=1))
        expected = expected + 1.25 * (residual - codebook[codes_of_level]).square().mean()
        total = total + codebook[codes_of_level]
        residual = residual - codebook[codes_of_level]
    expected = expected + (model.decoder(total) - vectors).square().mean()
    torch.testing.assert_close(loss, expected)


def test_reconstruction_reaches_the_encoder_straight_through_and_no_codebook() -> None:
    torch.manual_seed(0)
    model = RqVae(6, (4, 4), latent_dim=3, hidden_sizes=[])
    for codebook in model.quantiser.codebooks:
        torch.nn.init.normal_(codebook)
    total, _ = rqvae_loss(model, torch.randn(9, 6), Quantisation(commitment=0.0, codebook_gradient=False))
    total.backward()
    assert float(model.encoder[0].weight.grad.abs().sum()) > 0  # type: ignore[union-attr, operator]
    assert all(codebook.grad is None for codebook in model.quantiser.codebooks)


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_dead_codes_are_restarted_so_that_codes_stay_in_use(tmp_path: Path, ema_decay: float | None) -> None:
    vectors = clustered(600)
    config = dataclasses.replace(CONFIG, codebook_sizes=(64, 64), epochs=30, commitment=4.0, learning_rate=0.02)

    def use(restart_below: int) -> float:
        own = dataclasses.replace(config, restart_below=restart_below, patience=100, ema_decay=ema_decay)
        tokenizer = fit(vectors, own, tmp_path / str(restart_below))
        codes = tokenizer.encode(torch.from_numpy(vectors), "a")
        return float(np.mean([len(torch.unique(codes[:, level])) / 64 for level in range(2)]))

    assert use(1) > use(0)


def test_a_code_is_dead_when_it_is_nearest_to_nothing_whatever_balancing_gives_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first_is_nearest(quantiser: ResidualQuantiser, latents_Bd: Tensor, how: Quantisation) -> Quantised:
        made = quantise_for_training(quantiser, latents_Bd, how)
        return made._replace(nearest=[torch.zeros_like(codes) for codes in made.nearest])

    restarted: list[list[int]] = []
    monkeypatch.setattr("training.tokenizers.rqvae.quantise_for_training", first_is_nearest)
    monkeypatch.setattr(EmaCodebooks, "restart", lambda ema, level, codes_K: restarted.append(codes_K.tolist()))
    fit(clustered(), dataclasses.replace(EMA, codebook_sizes=(2, 8), epochs=1), tmp_path)
    assert restarted == [[1], [1, 2, 3, 4, 5, 6, 7]]


@pytest.mark.parametrize("config", [CONFIG, BOTH], ids=["plain", "ema and sinkhorn"])
@pytest.mark.parametrize("items", [1, 2, 5])
def test_fewer_items_than_codes_are_fitted(tmp_path: Path, items: int, config: RqVaeConfig) -> None:
    tokenizer = fit(clustered(items), config, tmp_path)
    assert tokenizer.encode(torch.from_numpy(clustered(items)), "a").shape == (items, 3)


@pytest.mark.parametrize("config", [CONFIG, BOTH], ids=["plain", "ema and sinkhorn"])
def test_identical_vectors_are_fitted(tmp_path: Path, config: RqVaeConfig) -> None:
    tokenizer = fit(np.ones((50, 20), dtype=np.float32), config, tmp_path)
    codes = tokenizer.encode(torch.ones(50, 20), "a")
    assert len(torch.unique(codes, dim=0)) == 1


def test_vectors_with_nan_are_refused_by_row_and_a_loss_that_explodes_by_epoch_and_step(tmp_path: Path) -> None:
    vectors = clustered()
    vectors[[7, 9], 3] = np.nan
    with pytest.raises(DataError, match="NaN or infinity in rows 7, 9;"):
        fit(vectors, CONFIG, tmp_path)
    with pytest.raises(NonFiniteLossError, match=r"in epoch .*, step .*; set a lower"):
        fit(clustered(), dataclasses.replace(CONFIG, learning_rate=1e20), tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("codebook_sizes", (256,)),
        ("codebook_sizes", (256, 1)),
        ("validation_share", 0.0),
        ("latent_dim", 0),
        ("hidden_sizes", (0,)),
        ("commitment", -0.1),
        ("learning_rate", 0.0),
        ("patience", 0),
        ("ema_decay", 0.0),
        ("ema_decay", 1.0),
        ("sinkhorn_epsilon", 0.0),
        ("sinkhorn_iterations", 0),
    ],
)
def test_a_setting_that_cannot_mean_anything_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"tokenizer.{field} is"):
        RqVaeConfig(**{field: value})  # type: ignore[arg-type]


def test_codebooks_that_are_averages_move_where_no_gradient_could_take_them(tmp_path: Path) -> None:
    vectors = clustered()
    still = dataclasses.replace(CONFIG, learning_rate=1e-12, restart_below=0, patience=100)
    start = fit(vectors, still, tmp_path / "gradient")
    moved = fit(vectors, dataclasses.replace(still, ema_decay=0.9), tmp_path / "ema")
    for before, after in zip(start.quantiser.codebooks, moved.quantiser.codebooks, strict=True):
        assert float((after - before).abs().max()) > 1e-3
    for before, after in zip(start.encoder.parameters(), moved.encoder.parameters(), strict=True):
        torch.testing.assert_close(after, before)


def test_averages_begin_at_the_k_means_start_so_that_slow_ones_stay_beside_it(tmp_path: Path) -> None:
    vectors = clustered()
    still = dataclasses.replace(CONFIG, learning_rate=1e-12, restart_below=0, patience=100)
    start = fit(vectors, still, tmp_path / "gradient")
    slow = fit(vectors, dataclasses.replace(still, ema_decay=0.9999), tmp_path / "ema")
    for before, after in zip(start.quantiser.codebooks, slow.quantiser.codebooks, strict=True):
        assert 0 < float((after - before).abs().max()) < 0.02 * float(before.abs().max())


def test_the_averages_of_restarted_codes_begin_where_they_are_put(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restarted: list[Tensor] = []
    restart = EmaCodebooks.restart

    def spy(ema: EmaCodebooks, level: int, codes_K: Tensor) -> None:
        restart(ema, level, codes_K)
        restarted.append(codes_K)
        placed = ema.sums[level][codes_K] / ema.counts[level][codes_K, None]
        torch.testing.assert_close(placed, ema.quantiser.codebooks[level].detach()[codes_K])

    monkeypatch.setattr(EmaCodebooks, "restart", spy)
    fit(clustered(), dataclasses.replace(EMA, codebook_sizes=(64, 64)), tmp_path)
    assert sum(len(codes) for codes in restarted) > 0


def test_settings_say_how_a_step_quantises() -> None:
    assert CONFIG.quantisation == Quantisation(0.25, codebook_gradient=True, sinkhorn=None)
    assert BOTH.quantisation == Quantisation(0.25, codebook_gradient=False, sinkhorn=Sinkhorn(0.01, 50))


def test_a_fit_with_averages_explains_most_of_items_that_it_never_saw(tmp_path: Path) -> None:
    vectors = clustered()
    tokenizer = fit(vectors, dataclasses.replace(EMA, epochs=60), tmp_path)
    assert relative_error(tokenizer, vectors[held_out(len(vectors), 0.05, 0)]) < 0.35


def test_balancing_shapes_the_fit_and_codes_stay_a_function_of_the_vector_alone(tmp_path: Path) -> None:
    vectors = torch.from_numpy(clustered())
    plain = fit(vectors.numpy(), CONFIG, tmp_path / "plain")
    balanced = fit(vectors.numpy(), SINKHORN, tmp_path / "balanced")
    assert balanced.config() == plain.config()
    assert not torch.equal(balanced.quantiser.codebooks[-1], plain.quantiser.codebooks[-1])
    codes = balanced.encode(vectors, "a")
    assert torch.equal(codes, torch.cat([balanced.encode(vector, "a") for vector in vectors.split(1)]))
    last = balanced.distances(balanced.latents(vectors, "a"), codes[:, :2])
    assert torch.equal(codes[:, 2], last.argmin(dim=1))
