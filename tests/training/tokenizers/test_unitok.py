"""Fitting UniTok."""

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sidera.tokenizers import load_tokenizer, save_tokenizer, tokenizer_digest
from sidera.tokenizers.expert_chains import ExpertChains
from sidera.tokenizers.residual import ResidualQuantiser
from sidera.tokenizers.unitok import UniTok
from training.errors import ConfigError, DataError, NonFiniteLossError
from training.tokenizers import read_config
from training.tokenizers.common import draw_items
from training.tokenizers.dependence import cka, hsic
from training.tokenizers.mixture import quantise_experts, quantise_mixture, start_mixture, start_router
from training.tokenizers.quantisation import Quantisation, quantise_for_training
from training.tokenizers.unitok import DomainBatches, UniTokFit, fit_unitok
from training.tokenizers.unitok_config import UniTokConfig

CONFIG = UniTokConfig(
    codebook_sizes=(8, 8, 8, 8),
    hidden_sizes=(24,),
    latent_dim=8,
    warm_up_epochs=2,
    epochs=12,
    batch_size=64,
    evaluate_every=2,
)
READINGS: list[dict[str, Any]] = [
    {"shared_reads": reads, "shared_levels": levels, "expert_id": expert_id, "top_n": top_n}
    for reads, levels, expert_id, top_n in itertools.product(
        ("residual", "latent"), (0, 1), ("merged", "first", "last"), (1, 2)
    )
] + [{"shared_expert": False}, {"shared_expert": False, "experts": 1}, {"experts": 2}, {"experts": 5}]
every_reading = pytest.mark.parametrize("reading", READINGS, ids=lambda reading: "-".join(map(str, reading.values())))


def clustered(items: int = 150, domain: int = 0, dim: int = 20) -> np.ndarray:
    """Eight clusters on a plane of four dimensions, which differs between domains, as do places and sizes."""
    random = np.random.default_rng(domain)
    basis = random.normal(size=(4, dim))
    points = random.normal(size=(8, 4))[random.integers(8, size=items)] + 0.2 * random.normal(size=(items, 4))
    place = random.normal(size=dim)
    return np.asarray((1 + domain) * 0.03 * (points @ basis) + 0.1 * place + 1, dtype=np.float32)


def domains() -> dict[str, np.ndarray]:
    return {"films": clustered(200, 0), "games": clustered(150, 1), "shoes": clustered(100, 2)}


def a_fit(config: UniTokConfig, folder: Path, vectors: dict[str, np.ndarray] | None = None) -> UniTokFit:
    """A fit before its first epoch."""
    return UniTokFit(draw_items(vectors or domains(), config), config, folder)


def random_model(experts: int = 3, **reading: Any) -> UniTok:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = UniTok(20, (8, 8, 8), 6, [12], [str(number) for number in range(experts)], **reading)
        for parameter in (model.router.weight, *model.experts.parameters()):
            torch.nn.init.normal_(parameter)
        for codebook in model.shared.parameters() if model.shared else ():
            torch.nn.init.normal_(codebook)
    return model


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def relative_error(tokenizer: UniTok, vectors: dict[str, np.ndarray], config: UniTokConfig) -> float:
    drawn = draw_items(vectors, config)
    return drawn.held_out_error(tokenizer)


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


@pytest.mark.parametrize(
    "reading",
    [
        *({"shared_reads": reads, "shared_levels": 1} for reads in ("residual", "latent")),
        {"shared_expert": False},
    ],
    ids=["residual", "latent", "no shared expert"],
)
@pytest.mark.parametrize("expert_id", ["merged", "first", "last"])
def test_codes_stand_for_exactly_what_a_step_of_the_fit_decodes(reading: dict[str, Any], expert_id: str) -> None:
    model = random_model(**reading, expert_id=expert_id)
    vectors = normal(50, 20, seed=1)
    latents = model.latents(vectors, "a")
    mixed = quantise_mixture(model, latents[:, :6].clone(), 1, 0.25)
    assert len(mixed.chosen_BT.unique()) == 3
    codes = model.encode(vectors, "a")
    assert torch.equal(mixed.total_Bd, model.quantised(codes))
    torch.testing.assert_close(mixed.straight_through_Bd, mixed.total_Bd)
    groups = model.codebook_groups(codes)
    assert torch.equal(groups[0].codes_M, mixed.own.codes[0][mixed.chosen_BT[:, 0] == 0])


def test_a_mixture_weighs_the_likeliest_experts_by_the_router_among_them() -> None:
    model = random_model(shared_expert=False)
    latents = normal(9, 6, seed=1)
    mixed = quantise_mixture(model, latents, 2, 0.25)
    probs = model.router(latents).softmax(dim=1)
    for item in range(9):
        chosen = probs[item].argsort(descending=True)[:2]
        assert mixed.chosen_BT[item].tolist() == chosen.tolist()
        expected = torch.zeros(6)
        for expert in chosen:
            residual = latents[item]
            for codebook in model.experts.codebooks:
                residual = residual - codebook[expert][(residual - codebook[expert]).square().sum(dim=1).argmin()]
            expected = expected + probs[item, expert] / probs[item, chosen].sum() * (latents[item] - residual)
        torch.testing.assert_close(mixed.total_Bd[item], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reads", ["residual", "latent"])
def test_the_shared_expert_is_given_what_it_is_said_to_read(reads: Any) -> None:
    model = random_model(shared_reads=reads, shared_levels=1)
    latents = normal(9, 6, seed=1)
    mixed = quantise_mixture(model, latents, 2, 0.25)
    assert mixed.shared is not None
    experts = mixed.total_Bd - mixed.shared.total_Bd
    expected = latents - experts if reads == "residual" else latents
    torch.testing.assert_close(mixed.shared.residuals[0], expected, rtol=1e-4, atol=1e-5)


def test_the_loss_of_a_mixture_is_that_of_its_chains_without_gradient_to_the_router() -> None:
    model = random_model(shared_levels=1)
    latents = normal(30, 6, seed=1).requires_grad_()
    mixed = quantise_mixture(model, latents, 1, 0.25)
    assert mixed.shared is not None
    expected = mixed.shared.loss
    for residual, codes, codebook in zip(mixed.own.residuals, mixed.own.codes, model.experts.codebooks, strict=True):
        expected = expected + 1.25 * (residual - codebook[mixed.chosen_BT[:, 0], codes]).square().mean()
    torch.testing.assert_close(mixed.loss, expected)
    mixed.loss.backward()
    assert model.router.weight.grad is None
    assert latents.grad is not None
    for codebook in (*model.experts.codebooks, *model.shared.codebooks):  # type: ignore[union-attr]
        assert float(codebook.grad.abs().sum()) > 0


def test_chains_of_one_expert_learn_as_a_residual_quantiser() -> None:
    quantiser, chains = ResidualQuantiser((8, 4), 6), ExpertChains(1, (8, 4), 6)
    for level in range(2):
        torch.nn.init.normal_(quantiser.codebooks[level])
        with torch.no_grad():
            chains.codebooks[level][0] = quantiser.codebooks[level]
    latents = normal(30, 6)
    one = quantise_for_training(quantiser, latents, Quantisation(0.25))
    other = quantise_experts(chains, torch.zeros(30, dtype=torch.int64), latents, 0.25)
    torch.testing.assert_close(other.loss, one.loss)
    torch.testing.assert_close(other.total_Bd, one.total_Bd)
    one.loss.backward()
    other.loss.backward()
    for level in range(2):
        torch.testing.assert_close(chains.codebooks[level].grad[0], quantiser.codebooks[level].grad)


@pytest.mark.parametrize("top_n", [1, 2])
def test_what_is_decoded_moves_the_router_and_the_latents_and_no_code(top_n: int) -> None:
    model = random_model(shared_levels=1)
    latents = normal(30, 6, seed=1)
    target = normal(30, 6, seed=2)
    (quantise_mixture(model, latents, top_n, 0.25).straight_through_Bd * target).sum().backward()
    assert float(model.router.weight.grad.abs().sum()) > 0  # type: ignore[union-attr]
    assert all(codebook.grad is None for codebook in model.experts.codebooks)
    assert all(codebook.grad is None for codebook in model.shared.codebooks)  # type: ignore[union-attr]


def test_a_single_experts_weight_is_one_with_the_gradient_of_its_log_probability() -> None:
    model = random_model(shared_expert=False)
    latents, target = normal(30, 6, seed=1), normal(30, 6, seed=2)
    mixed = quantise_mixture(model, latents, 1, 0.25)
    assert torch.equal(mixed.total_Bd, mixed.own.total_Bd.detach())
    (mixed.straight_through_Bd * target).sum().backward()
    pull = (mixed.total_Bd * target).sum(dim=1, keepdim=True)
    probs = model.router(latents).softmax(dim=1).detach()
    chosen = torch.nn.functional.one_hot(mixed.chosen_BT[:, 0], 3)
    torch.testing.assert_close(model.router.bias.grad, (pull * (chosen - probs)).sum(dim=0), rtol=1e-4, atol=1e-4)


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


@pytest.mark.parametrize("measure", ["hsic", "cka"])
def test_calibration_reaches_the_encoder_and_the_router(tmp_path: Path, measure: Any) -> None:
    config = dataclasses.replace(CONFIG, calibration_measure=measure, calibration_beta=1.0, router_loss="mixture")
    fit = a_fit(config, tmp_path)
    fit.run()
    vectors = fit.drawn.train_ND[fit.calibration.next(torch.Generator())]
    fit.optimizer.zero_grad()
    fit.calibration_loss(vectors).backward()
    for layer in (fit.model.encoder[0], fit.model.router):
        assert float(layer.weight.grad.abs().sum()) > 1e-6  # type: ignore[union-attr, operator]


@pytest.mark.parametrize(("name", "measure"), [("hsic", hsic), ("cka", cka)])
def test_calibration_is_the_variance_less_beta_of_the_mean_over_domains(
    tmp_path: Path, name: Any, measure: Callable[[Tensor, Tensor], Tensor]
) -> None:
    config = dataclasses.replace(CONFIG, calibration_beta=0.5, calibration_measure=name, epochs=2)
    fit = a_fit(config, tmp_path)
    fit.run()
    vectors = torch.stack([torch.from_numpy(clustered(70, domain)) for domain in range(3)])
    z_hat = fit.model.quantised(fit.model.encode(vectors.flatten(0, 1), "a")).unflatten(0, (3, 70))
    each = measure(vectors, z_hat)
    expected = (each - each.mean()).square().mean() - 0.5 * each.mean()
    torch.testing.assert_close(fit.calibration_loss(vectors), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("measure", ["hsic", "cka"])
def test_steps_on_calibration_alone_lower_the_variance_between_domains(tmp_path: Path, measure: Any) -> None:
    config = dataclasses.replace(CONFIG, calibration_beta=0.0, calibration_measure=measure, epochs=2)
    fit = a_fit(config, tmp_path)
    fit.run()
    vectors = fit.drawn.train_ND[fit.calibration.next(torch.Generator().manual_seed(0))]
    optimizer = torch.optim.Adam(fit.model.encoder.parameters(), lr=1e-3)
    losses = []
    for _ in range(40):
        loss = fit.calibration_loss(vectors)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.5 * losses[0]


def test_a_fit_without_calibration_draws_no_batch_for_it_and_one_with_it_ends_elsewhere(tmp_path: Path) -> None:
    without = dataclasses.replace(CONFIG, calibration_weight=0.0)
    strong = dataclasses.replace(CONFIG, calibration_weight=1000.0)
    digests = {
        tokenizer_digest(fit_unitok(domains(), config, tmp_path / str(number)))
        for number, config in enumerate((without, CONFIG, strong))
    }
    assert len(digests) == 3


def test_calibration_has_equally_many_items_of_every_domain_and_passes_over_all_of_them() -> None:
    domain = torch.tensor([0] * 130 + [1] * 70 + [2] * 7 + [4] * 64)
    batches = DomainBatches(domain, 5, 64)
    generator = torch.Generator().manual_seed(0)
    drawn = [batches.next(generator) for _ in range(3)]
    assert drawn[0].shape == (3, 64)
    assert [domain[rows].unique().tolist() for rows in drawn[0]] == [[0], [1], [4]]
    assert all(len(rows.unique()) == 64 for batch in drawn for rows in batch)
    assert len(torch.cat([batch[0] for batch in drawn]).unique()) == 130
    batches.start_epoch()
    assert not torch.equal(batches.next(generator), drawn[0])


def test_a_small_domain_lowers_the_items_of_all_and_one_too_small_takes_no_part() -> None:
    assert DomainBatches(torch.tensor([0] * 130 + [1] * 70), 2, 100).items == 70
    assert DomainBatches(torch.tensor([0] * 130 + [1] * 63), 2, 100).items == 100
    assert DomainBatches(torch.tensor([0] * 63), 1, 64).domains == []


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


def test_experts_start_from_the_items_of_their_domain_and_the_shared_one_from_what_it_reads_of_all() -> None:
    latents = torch.cat([normal(200, 6, seed=1) + 4, normal(200, 6, seed=2) - 4, normal(200, 6, seed=3)])
    domain = torch.arange(3).repeat_interleave(200)
    model = random_model(shared_levels=1)
    start_mixture(model, latents, domain, 3, 1, seed=0)
    routed = model.router(latents).argmax(dim=1)
    assert float((routed == domain).float().mean()) > 0.97
    for expert, place in enumerate((4, -4, 0)):
        torch.testing.assert_close(
            model.experts.codebooks[0][expert].mean(), torch.tensor(float(place)), atol=0.3, rtol=0
        )
    mixed = quantise_mixture(model, latents, 1, 0.25)
    assert mixed.shared is not None
    given, left = mixed.shared.residuals[0], latents - mixed.total_Bd
    assert float(left.square().mean()) < 0.8 * float(given.square().mean()) < float(latents.square().mean())


def test_another_number_of_experts_starts_from_clusters() -> None:
    latents = torch.cat([normal(100, 6, seed=seed) + place for seed, place in enumerate((-9, -3, 3, 9))])
    model = random_model(4)
    start_mixture(model, latents, torch.zeros(400, dtype=torch.int64), 1, 1, seed=0)
    routed = model.router(latents).argmax(dim=1)
    assert sorted(torch.bincount(routed).tolist()) == [100] * 4
    assert all(len(part.unique()) == 1 for part in routed.split(100))


@pytest.mark.parametrize("present", [[0], [1, 2], [0, 2], [0, 1, 2]])
def test_the_router_starts_by_telling_domains_apart_and_never_picks_one_without_items(present: list[int]) -> None:
    latents = torch.cat([normal(80, 6, seed=domain) + 5 * domain for domain in present])
    domain = torch.tensor(present).repeat_interleave(80)
    router = torch.nn.Linear(6, 3)
    start_router(router, latents, domain, 0)
    log_probs = router(latents).log_softmax(dim=1).detach()
    assert torch.equal(log_probs.argmax(dim=1), domain)
    for absent in {0, 1, 2} - set(present):
        assert float(log_probs[:, absent].max()) < -9


def test_the_router_starts_between_domains_however_many_items_they_have() -> None:
    latents = torch.cat([normal(1000, 1), normal(50, 1, seed=1) + 2])
    router = torch.nn.Linear(1, 2)
    start_router(router, latents, torch.tensor([0] * 1000 + [1] * 50), 0)
    (left, right), (at_left, at_right) = router.weight.detach()[:, 0], router.bias.detach()
    assert float((at_left - at_right) / (right - left)) == pytest.approx(1.0, abs=0.25)


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
        ({"experts": 0}, "experts is 0; set a value of at least 1"),
        ({"top_n": 0}, "top_n is 0; set a value of at least 1"),
        ({"experts": 2, "top_n": 3}, "top_n is 3, but there are 2 experts; set it to at most 2"),
        ({"experts": 1, "expert_id": "first"}, "expert_id is first, but there is 1 expert"),
        ({"shared_levels": 4}, "shared_levels is 4; set a value from 0 to 3, so that a level is left"),
        ({"shared_levels": -1}, "shared_levels is -1; set a value from 0 to 3"),
        ({"shared_expert": False, "shared_levels": 1}, "shared_levels is 1; set a value of 0, as .*shared_expert is"),
        ({"shared_reads": "codes"}, "shared_reads is codes; set a value of residual or latent"),
        ({"expert_id": "none"}, "expert_id is none; set a value of merged, first or last"),
        ({"quantisation_weight": 0.0}, "quantisation_weight is 0.0; set a value above 0"),
        ({"calibration_weight": -0.1}, "calibration_weight is -0.1; set a value of at least 0"),
        ({"calibration_beta": -1.0}, "calibration_beta is -1.0; set a value of at least 0"),
        ({"calibration_items": 63}, "calibration_items is 63; set a value of at least 64"),
        ({"calibration_measure": "mi"}, "calibration_measure is mi; set a value of hsic or cka"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_setting_that_cannot_mean_anything_is_refused_by_name(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=f"tokenizer.{says}"):
        UniTokConfig(**settings)


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


def test_half_of_the_levels_are_the_shared_experts_where_nothing_else_is_said() -> None:
    assert UniTokConfig().emitted_shared_levels == 2
    assert UniTokConfig(codebook_sizes=(4, 4, 4)).emitted_shared_levels == 1
    assert UniTokConfig(shared_levels=3).emitted_shared_levels == 3
    assert UniTokConfig(shared_expert=False).emitted_shared_levels == 0


def test_a_config_file_finds_the_method_and_its_presets() -> None:
    method, config = read_config({"method": "unitok", "preset": "paper", "expert_id": "first"})
    assert isinstance(config, UniTokConfig)
    assert config.hidden_sizes == (2048, 1024, 512, 256, 128, 64)
    assert (config.latent_dim, config.expert_id, method.config) == (32, "first", UniTokConfig)
    _, small = read_config({"method": "unitok"})
    assert isinstance(small, UniTokConfig)
    assert small.hidden_sizes == (256, 128)
    with pytest.raises(ConfigError, match=r"tokenizer\.expert_id"):
        read_config({"method": "unitok", "expert_id": "middle"})
