"""Fitting UniTok."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sidera.tokenizers import load_tokenizer, save_tokenizer, tokenizer_digest
from sidera.tokenizers.unitok import UniTok
from tests.training.tokenizers.unitok_worlds import (
    CONFIG,
    a_fit,
    clustered,
    domains,
    relative_error,
)
from training.errors import ConfigError, DataError, NonFiniteLossError
from training.tokenizers import read_config
from training.tokenizers.mixture import quantise_mixture
from training.tokenizers.unitok import fit_unitok
from training.tokenizers.unitok_config import UniTokConfig

READINGS: list[dict[str, Any]] = [
    {"shared_reads": reads, "shared_levels": levels, "expert_id": expert_id, "top_n": top_n}
    for reads, levels, expert_id, top_n in itertools.product(
        ("residual", "latent"), (0, 1), ("merged", "first", "last"), (1, 2)
    )
] + [{"shared_expert": False}, {"shared_expert": False, "experts": 1}, {"experts": 2}, {"experts": 5}]
every_reading = pytest.mark.parametrize("reading", READINGS, ids=lambda reading: "-".join(map(str, reading.values())))


def test_a_fit_explains_most_of_items_that_it_never_saw_and_routes_them_to_their_domain(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, epochs=60)
    tokenizer = fit_unitok(domains(), config, tmp_path)
    assert relative_error(tokenizer, domains(), config) < 0.25
    assert tokenizer.expert_names == ("films", "games", "shoes")
    for name, vectors in domains().items():
        probs = tokenizer.routes(torch.from_numpy(vectors), "never seen")
        assert float(probs[f"expert {name}"].mean()) > 0.8
    assert not any(parameter.requires_grad for parameter in tokenizer.parameters())


@pytest.mark.parametrize("more", [{}, {"top_n": 2, "shared_reads": "latent"}], ids=["default", "two experts"])
@pytest.mark.parametrize("killed_after", [1, 3, 6, 9])
def test_a_killed_and_resumed_fit_ends_in_the_weights_of_an_undisturbed_one(
    tmp_path: Path, killed_after: int, more: dict[str, Any]
) -> None:
    config = dataclasses.replace(CONFIG, **more)
    undisturbed = fit_unitok(domains(), config, tmp_path / "undisturbed")

    def kill(epoch: int, loss: float) -> None:
        if epoch == killed_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_unitok(domains(), config, tmp_path / "killed", on_epoch=kill)
    torch.manual_seed(killed_after)
    epochs: list[int] = []
    resumed = fit_unitok(domains(), config, tmp_path / "killed", on_epoch=lambda epoch, loss: epochs.append(epoch))
    assert tokenizer_digest(resumed) == tokenizer_digest(undisturbed)
    assert epochs[0] == {1: 1, 3: 1, 6: 7, 9: 9}[killed_after]


@every_reading
def test_every_reading_fits_encodes_and_rebuilds_alike_before_and_after_a_disk(
    tmp_path: Path, reading: dict[str, Any]
) -> None:
    config = dataclasses.replace(CONFIG, warm_up_epochs=6, epochs=10, **reading)
    tokenizer = fit_unitok(domains(), config, tmp_path)
    save_tokenizer(tokenizer, tmp_path / "tokenizer")
    loaded = load_tokenizer(tmp_path / "tokenizer")
    vectors = torch.from_numpy(clustered(40, 7))
    codes = tokenizer.encode(vectors, "never seen")
    assert codes.shape == (40, len(tokenizer.codebook_sizes))
    assert torch.equal(codes, loaded.encode(vectors, "another"))
    assert torch.equal(codes, torch.cat([tokenizer.encode(vector, "films") for vector in vectors.split(1)]))
    assert torch.equal(tokenizer.reconstruct(codes), loaded.reconstruct(codes))
    assert relative_error(tokenizer, domains(), config) < 0.9


@pytest.mark.parametrize("router_loss", ["domain", "mixture"])
def test_the_router_learns_in_a_fit(tmp_path: Path, router_loss: Any) -> None:
    fit = a_fit(
        dataclasses.replace(CONFIG, warm_up_epochs=0, calibration_weight=0.0, router_loss=router_loss), tmp_path
    )
    fit.start_epoch()
    loss = fit.loss(torch.arange(64), torch.Generator())
    loss.backward()
    assert float(fit.model.router.weight.grad.abs().sum()) > 0  # type: ignore[union-attr]
    before = fit.model.router.weight.detach().clone()
    fit.optimizer.step()
    assert not torch.equal(fit.model.router.weight, before)


def test_a_router_that_knows_domains_learns_these_and_moves_no_latent(tmp_path: Path) -> None:
    fit = a_fit(dataclasses.replace(CONFIG, warm_up_epochs=0, calibration_weight=0.0), tmp_path / "domain")
    fit.start_epoch()
    rows = torch.arange(64)
    latents = fit.model.encoder(fit.model.standardise(fit.drawn.train_ND[rows])).detach()
    scores = fit.model.router(latents)
    expected = torch.nn.functional.cross_entropy(scores, fit.drawn.train_domain_N[rows])
    wanted = torch.autograd.grad(expected, fit.model.router.weight)[0]
    fit.loss(rows, torch.Generator()).backward()
    torch.testing.assert_close(fit.model.router.weight.grad, wanted)
    encoder = fit.model.encoder[0].weight.grad.clone()  # type: ignore[union-attr, operator]
    other = a_fit(
        dataclasses.replace(CONFIG, warm_up_epochs=0, calibration_weight=0.0, router_loss="mixture"), tmp_path / "other"
    )
    other.start_epoch()
    other.loss(rows, torch.Generator()).backward()
    weighed = other.model.encoder[0].weight.grad.clone()  # type: ignore[union-attr, operator]
    assert not torch.equal(weighed, encoder)  # there the latents move by the router's weights


def test_without_an_expert_for_each_domain_the_router_learns_by_the_mixture(tmp_path: Path) -> None:
    assert a_fit(CONFIG, tmp_path / "three").router_knows_domains
    assert not a_fit(dataclasses.replace(CONFIG, experts=2), tmp_path / "two").router_knows_domains
    assert not a_fit(dataclasses.replace(CONFIG, router_loss="mixture"), tmp_path / "mixture").router_knows_domains


@pytest.mark.parametrize(
    ("reading", "expected"),
    [
        ({}, 3 * 2 * 8 * 8 + 2 * 8 * 8),
        ({"shared_levels": 0}, 3 * 4 * 8 * 8 + 4 * 8 * 8),
        ({"shared_expert": False}, 3 * 4 * 8 * 8),
        ({"experts": 5}, 5 * 2 * 8 * 8 + 2 * 8 * 8),
        ({"experts": 1, "shared_expert": False}, 4 * 8 * 8),
    ],
    ids=["default", "shared not emitted", "no shared", "five", "one chain"],
)
def test_all_of_encoder_decoder_router_and_codebooks_learns_and_nothing_else(
    tmp_path: Path, reading: dict[str, Any], expected: int
) -> None:
    fit = a_fit(dataclasses.replace(CONFIG, **reading), tmp_path)
    experts = reading.get("experts", 3)
    layers = (20 * 24 + 24) + (24 * 8 + 8) + (8 * 24 + 24) + (24 * 20 + 20)
    router = 8 * experts + experts
    learning = {id(parameter) for group in fit.optimizer.param_groups for parameter in group["params"]}
    assert learning == {id(parameter) for parameter in fit.model.parameters() if parameter.requires_grad}
    assert sum(parameter.numel() for parameter in fit.model.parameters()) == layers + router + expected
    decays = {group["weight_decay"]: sum(map(torch.numel, group["params"])) for group in fit.optimizer.param_groups}
    assert decays == {CONFIG.weight_decay: layers + router, 0.0: expected}


def test_the_papers_sizes_make_the_papers_number_of_parameters() -> None:
    _, config = read_config({"method": "unitok", "preset": "paper", "shared_levels": 0})
    assert isinstance(config, UniTokConfig)
    model = UniTok(768, config.codebook_sizes, config.latent_dim, config.hidden_sizes, [str(k) for k in range(10)])
    assert model.shared is not None
    codebooks = [*model.experts.parameters(), *model.shared.parameters()]
    assert round(sum(codebook.numel() for codebook in codebooks) / 1e6, 2) == 0.36
    layers = [*model.encoder.parameters(), *model.decoder.parameters()]
    assert round(sum(layer.numel() for layer in layers) / 1e6, 2) == 8.75


def test_the_loss_of_a_step_is_reconstruction_quantisation_and_calibration_by_their_weights(tmp_path: Path) -> None:
    def loss(folder: str, **weights: float) -> float:
        config = dataclasses.replace(CONFIG, warm_up_epochs=0, **weights)  # type: ignore[arg-type]
        fit = a_fit(config, tmp_path / folder)
        fit.start_epoch()
        return fit.loss(torch.arange(64), torch.Generator().manual_seed(0)).item()

    plain = loss("plain", calibration_weight=0.0)
    fit = a_fit(dataclasses.replace(CONFIG, warm_up_epochs=0), tmp_path / "parts")
    fit.start_epoch()
    inputs = fit.model.standardise(fit.drawn.train_ND[:64])
    mixed = quantise_mixture(fit.model, fit.model.encoder(inputs), 1, CONFIG.commitment)
    decoded = fit.model.decoder(mixed.total_Bd)
    routed = torch.nn.functional.cross_entropy(
        fit.model.router(fit.model.encoder(inputs)), fit.drawn.train_domain_N[:64]
    ).item()
    expected = (decoded - inputs).square().mean().item() + mixed.loss.item() + routed
    assert plain == pytest.approx(expected, rel=1e-5)
    doubled = loss("quantisation", calibration_weight=0.0, quantisation_weight=2.0)
    assert doubled - plain == pytest.approx(mixed.loss.item(), rel=1e-4)
    vectors = fit.drawn.train_ND[fit.calibration.next(torch.Generator().manual_seed(0))]
    calibration = fit.calibration_loss(vectors).item()
    assert loss("calibration", calibration_weight=10.0) - plain == pytest.approx(10 * calibration, rel=1e-3)


def test_dead_codes_start_again_at_residuals_of_items_of_their_expert(tmp_path: Path) -> None:
    fit = a_fit(dataclasses.replace(CONFIG, warm_up_epochs=0, shared_levels=1), tmp_path)
    fit.run_epoch()
    fit.own_uses = [torch.ones_like(uses) for uses in fit.own_uses]
    fit.shared_uses = [torch.ones_like(uses) for uses in fit.shared_uses]
    fit.own_uses[0][1, :5] = 0
    fit.shared_uses[0][2:] = 0
    before = {name: tensor.clone() for name, tensor in fit.model.state_dict().items()}
    fit.end_epoch(torch.Generator().manual_seed(0))
    changed = {name for name, tensor in fit.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"experts.codebooks.0", "shared.codebooks.0"}
    assert fit.model.shared is not None
    own, shared = fit.model.experts.codebooks[0], fit.model.shared.codebooks[0]
    restarted = (own != before["experts.codebooks.0"]).any(dim=2)
    assert restarted.nonzero().tolist() == [[1, code] for code in range(5)]
    with torch.no_grad():
        latents = fit.model.encoder(fit.model.standardise(fit.drawn.train_ND[fit.chosen_NT[:, 0] == 1]))
    apart = (own[1, :5].detach()[:, None] - latents).abs().amax(dim=2)
    assert float(apart.min(dim=1).values.max()) < 1e-5
    for moment in ("exp_avg", "exp_avg_sq"):
        assert not fit.optimizer.state[own][moment][1, :5].any()
        assert fit.optimizer.state[own][moment].any()
        assert not fit.optimizer.state[shared][moment][2:].any()


def test_dead_codes_of_every_expert_are_found(tmp_path: Path) -> None:
    fit = a_fit(dataclasses.replace(CONFIG, warm_up_epochs=0, restart_below=0), tmp_path)
    fit.run_epoch()
    for level in range(2):
        assert int(fit.own_uses[level].sum()) == fit.items
        assert int(fit.shared_uses[level].sum()) == fit.items
        by_expert = torch.stack([(fit.chosen_NT == expert).sum() for expert in range(3)])
        assert torch.equal(fit.own_uses[level].sum(dim=1), by_expert)


@pytest.mark.parametrize("sizes", [(1,), (300, 1), (2, 1, 5), (60, 9), (1, 1)])
def test_domains_of_one_item_or_of_fewer_than_codes_are_fitted(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    vectors = {f"domain{number}": clustered(items, number) for number, items in enumerate(sizes)}
    tokenizer = fit_unitok(vectors, dataclasses.replace(CONFIG, epochs=4), tmp_path)
    for name, own in vectors.items():
        codes = tokenizer.encode(torch.from_numpy(own), name)
        assert codes.shape == (len(own), 4)
        assert torch.isfinite(tokenizer.reconstruct(codes)).all()


def test_identical_vectors_are_fitted(tmp_path: Path) -> None:
    ones = np.ones((50, 20), dtype=np.float32)
    tokenizer = fit_unitok({"a": ones, "b": ones}, CONFIG, tmp_path)
    assert len(torch.unique(tokenizer.encode(torch.ones(50, 20), "a"), dim=0)) == 1


def test_vectors_with_nan_are_refused_by_row_and_a_loss_that_explodes_by_epoch_and_step(tmp_path: Path) -> None:
    vectors = domains()
    vectors["games"][[7, 9], 3] = np.nan
    with pytest.raises(DataError, match=r"domain 'games' hold NaN or infinity in rows 7, 9;"):
        fit_unitok(vectors, CONFIG, tmp_path)
    with pytest.raises(NonFiniteLossError, match=r"in epoch .*, step .*; set a lower"):
        fit_unitok(domains(), dataclasses.replace(CONFIG, learning_rate=1e20), tmp_path)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"top_n": 2}, "top_n is 2, but there are 1 experts"),
        ({"expert_id": "last"}, "expert_id is last, but there is 1"),
    ],
    ids=["top_n", "expert_id"],
)
def test_what_the_number_of_domains_makes_senseless_is_refused_before_the_fit(
    tmp_path: Path, settings: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        fit_unitok({"films": clustered()}, dataclasses.replace(CONFIG, **settings), tmp_path)
