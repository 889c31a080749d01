"""Fitting GenCDR's tokenizer: three stages, what each may change, and resuming within and between them."""

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sidera.items.assignment import assign_sids
from sidera.tokenizers import load_tokenizer, save_tokenizer, tokenizer_digest
from sidera.tokenizers.gencdr import GenCdr
from training.errors import ConfigError, DataError, NonFiniteLossError, StageError
from training.tokenizers import read_config
from training.tokenizers.common import draw_items
from training.tokenizers.gencdr import UniversalFit, fit_gencdr, with_adapters
from training.tokenizers.gencdr_config import GenCdrConfig
from training.tokenizers.gencdr_stages import DomainFit, RouterFit, check_trainable
from training.tokenizers.masked_codes import MaskedCodes, code_vectors, draw_masks
from training.tokenizers.rqvae import RqVaeConfig, fit_rqvae

SIZES = {
    "codebook_sizes": (8, 8, 8),
    "hidden_sizes": (24,),
    "latent_dim": 8,
    "warm_up_epochs": 2,
    "epochs": 6,
    "batch_size": 64,
    "evaluate_every": 2,
}
CONFIG = GenCdrConfig(
    **SIZES,  # type: ignore[arg-type]
    adapter_rank=4,
    adapter_alpha=8.0,
    domain_epochs=12,
    router_hidden=12,
    router_epochs=4,
    router_learning_rate=0.02,
)
WITHOUT = dataclasses.replace(CONFIG, mtm_weight=0, domain_adapter=False)
STAGES = ("universal", "domain", "router")


def world(items: tuple[int, ...] = (300, 80)) -> dict[str, np.ndarray]:
    """Sixteen clusters on a plane of six dimensions; each domain sees them under a rotation of its own."""
    random = np.random.default_rng(0)
    basis, places = random.normal(size=(6, 20)), random.normal(size=(16, 6))
    domains = {}
    for number, count in enumerate(items):
        turned, _ = np.linalg.qr(random.normal(size=(6, 6)))
        points = places[random.integers(16, size=count)] + 0.2 * random.normal(size=(count, 6))
        domains[("books", "films", "games")[number]] = np.asarray(points @ turned @ basis, dtype=np.float32)
    return domains


def universal_tensors(model: GenCdr) -> dict[str, Tensor]:
    return {name: t for name, t in model.state_dict().items() if not name.startswith(("adapters.", "router."))}


def without_adapters(model: GenCdr) -> GenCdr:
    """The universal way alone."""
    universal = GenCdr(model.dim, model.codebook_sizes, model.latent_dim, model.hidden_sizes)
    universal.load_state_dict(universal_tensors(model))
    return universal.eval()


def started(config: GenCdrConfig, folder: Path) -> UniversalFit:
    """A universal fit with codebooks in use."""
    fit = UniversalFit(draw_items(world(), config), config, folder)
    while fit.epoch <= config.warm_up_epochs:
        fit.run_epoch()
    return fit


def ups(fit: DomainFit, domain: int) -> list[Tensor]:
    """What a domain's adapter adds to the encoder's layers starts in these: float32[o, r] of each layer."""
    named = fit.adapters.of_domain[domain].named_parameters()
    return [parameter for name, parameter in named if name.startswith("up.")]


def stopped_at(stage: str, epoch: int) -> Callable[[str, int, float], None]:
    def stop(at_stage: str, at_epoch: int, loss: float) -> None:
        if (at_stage, at_epoch) == (stage, epoch):
            raise KeyboardInterrupt

    return stop


def test_without_masked_tokens_and_adapters_the_fit_is_that_of_an_rq_vae_bit_for_bit(tmp_path: Path) -> None:
    model = fit_gencdr(world(), WITHOUT, tmp_path / "gencdr")
    rqvae = fit_rqvae(world(), RqVaeConfig(**SIZES), tmp_path / "rqvae")  # type: ignore[arg-type]
    assert model.method == "gencdr"
    assert model.state_dict().keys() == rqvae.state_dict().keys()
    for name, tensor in rqvae.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


def test_masked_tokens_change_the_universal_stage(tmp_path: Path) -> None:
    with_mtm = fit_gencdr(world(), dataclasses.replace(WITHOUT, mtm_weight=0.1), tmp_path / "with")
    assert tokenizer_digest(with_mtm) != tokenizer_digest(fit_gencdr(world(), WITHOUT, tmp_path / "without"))


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_the_masked_token_loss_alone_reaches_the_encoder_and_the_codebooks_that_learn_by_gradient(
    tmp_path: Path, ema_decay: float | None
) -> None:
    fit = started(dataclasses.replace(CONFIG, ema_decay=ema_decay), tmp_path)
    generator = torch.Generator().manual_seed(0)
    _, made = fit.batch_loss(torch.arange(64), generator)
    assert made is not None
    assert fit.masked_codes is not None
    fit.model.zero_grad()
    fit.masked_token_loss(fit.masked_codes, made, generator).backward()
    for layer in (0, 2):
        assert float(fit.model.encoder[layer].weight.grad.abs().sum()) > 0  # type: ignore[union-attr, operator]
    for codebook in fit.model.quantiser.codebooks:
        assert (codebook.grad is None) if ema_decay else (float(codebook.grad.abs().sum()) > 0)


def test_code_vectors_are_the_chosen_codes_and_their_gradient_is_one_to_codes_and_to_latents() -> None:
    books = [torch.randn(5, 3, requires_grad=True) for _ in range(2)]
    latents = torch.randn(4, 3, requires_grad=True)
    codes = [torch.tensor([0, 1, 1, 4]), torch.tensor([2, 2, 2, 0])]
    vectors = code_vectors(codes, books, latents)
    assert torch.equal(vectors, torch.stack([book[chosen] for book, chosen in zip(books, codes, strict=True)], dim=1))
    vectors.sum().backward()
    assert latents.grad is not None
    assert torch.equal(latents.grad, torch.full((4, 3), 2.0))
    assert books[0].grad is not None
    assert torch.equal(books[0].grad, torch.tensor([1.0, 2, 0, 0, 1])[:, None].expand(5, 3))


@pytest.mark.parametrize(("levels", "share"), [(2, 0.5), (4, 0.3), (4, 0.01), (4, 0.99)])
def test_at_least_one_level_of_an_item_is_masked_and_never_all(levels: int, share: float) -> None:
    masked = draw_masks(4000, levels, share, torch.Generator().manual_seed(0))
    counts = masked.sum(dim=1)
    assert int(counts.min()) >= 1
    assert int(counts.max()) <= levels - 1
    by_level = masked.float().mean(dim=0)
    assert float(by_level.max() - by_level.min()) < 0.05
    if share == 0.3:
        assert abs(float(by_level.mean()) - (0.3 + 0.7**4 / 4 - 0.3**4 / 4)) < 0.02


def test_the_context_model_does_not_see_what_is_masked_and_is_asked_for_nothing_else() -> None:
    torch.manual_seed(0)
    model = MaskedCodes((4, 4, 4), 3)
    vectors, codes = torch.randn(6, 3, 3), [torch.randint(4, (6,)) for _ in range(3)]
    masked = torch.tensor([[False, True, False]] * 6)
    loss = model(codes, vectors, masked)
    other = vectors.clone()
    other[:, 1] += 1
    assert torch.equal(model(codes, other, masked), loss)
    assert torch.equal(model([codes[0] * 0, codes[1], codes[2] * 0], vectors, masked), loss)
    assert not torch.equal(model([codes[0], (codes[1] + 1) % 4, codes[2]], vectors, masked), loss)
    other[:, 0] += 1
    assert not torch.equal(model(codes, other, masked), loss)


def test_training_brings_the_masked_token_loss_below_the_entropy_of_the_codes(tmp_path: Path) -> None:
    fit = UniversalFit(draw_items(world(), CONFIG), dataclasses.replace(CONFIG, epochs=40, patience=40), tmp_path)
    fit.run()
    generator = torch.Generator().manual_seed(0)
    _, made = fit.batch_loss(torch.arange(fit.items), generator)
    assert made is not None
    assert fit.masked_codes is not None
    entropies = []
    for codes in made.codes:
        shares = torch.bincount(codes).float() / len(codes)
        entropies.append(-float((shares[shares > 0] * shares[shares > 0].log()).sum()))
    loss = fit.masked_token_loss(fit.masked_codes, made, generator).item()
    assert loss < 0.9 * min(entropies), (loss, entropies)


def test_a_fit_makes_one_adapter_per_domain_that_differ_and_leaves_the_universal_weights_alone(tmp_path: Path) -> None:
    universal = UniversalFit(draw_items(world(), CONFIG), CONFIG, tmp_path / "universal")
    universal.run()
    model = fit_gencdr(world(), CONFIG, tmp_path / "gencdr")
    assert model.domains == ("books", "films")
    for name, tensor in universal_tensors(model).items():
        assert torch.equal(tensor, universal.model.state_dict()[name]), name
    assert model.adapters is not None
    rows = model.standardise(torch.from_numpy(world()["films"]))
    ways = [model.encoder(rows), *(model.adapters(model.encoder, rows, {domain: len(rows)}) for domain in (0, 1))]
    for one, other in itertools.combinations(ways, 2):
        assert float((one - other).abs().max()) > 1e-3
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_only_the_adapters_learn_in_stage_two_and_only_the_router_in_stage_three(tmp_path: Path) -> None:
    drawn = draw_items(world(), CONFIG)
    model = with_adapters(UniversalFit(drawn, CONFIG, tmp_path).model, drawn.names, CONFIG)  # type: ignore[arg-type]
    DomainFit(model, drawn, CONFIG, tmp_path)
    learning = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(name.startswith("adapters.") for name in learning)
    assert sum(parameter.numel() for parameter in learning.values()) == 2 * 4 * ((20 + 24) + (24 + 8))
    RouterFit(model, drawn, CONFIG, tmp_path)
    assert all(parameter.requires_grad == name.startswith("router.") for name, parameter in model.named_parameters())
    expected = sum(parameter.numel() for parameter in learning.values())
    model.requires_grad_(False)
    with pytest.raises(StageError, match="would fit 0 parameters"):
        check_trainable(model, "adapters", expected)
    model.adapters.requires_grad_(True)  # type: ignore[union-attr]
    model.decoder[0].requires_grad_(True)
    with pytest.raises(StageError, match=r"parameters \(decoder\.0\.weight, decoder\.0\.bias\)"):
        check_trainable(model, "adapters", expected + sum(p.numel() for p in model.decoder[0].parameters()))


def test_a_stage_that_changes_what_it_must_not_is_refused(tmp_path: Path) -> None:
    drawn = draw_items(world(), CONFIG)
    model = with_adapters(UniversalFit(drawn, CONFIG, tmp_path).model, drawn.names, CONFIG)  # type: ignore[arg-type]
    fit = DomainFit(model, drawn, CONFIG, tmp_path)

    def spoil(epoch: int, loss: float) -> None:
        model.shift_D.fill_(epoch)

    with pytest.raises(StageError, match="domain stage of gencdr changed weights"):
        fit.run(on_epoch=spoil)


def test_an_adapter_learns_from_the_items_of_its_domain_alone(tmp_path: Path) -> None:
    drawn = draw_items(world(), CONFIG)
    model = with_adapters(UniversalFit(drawn, CONFIG, tmp_path).model, drawn.names, CONFIG)  # type: ignore[arg-type]
    fit = DomainFit(model, drawn, CONFIG, tmp_path)
    films = torch.nonzero(drawn.train_domain_N == 1).flatten()[:5]
    fit.loss(films, torch.Generator()).backward()
    assert all(up.grad is not None and float(up.grad.abs().sum()) > 0 for up in ups(fit, 1))
    assert all(parameter.grad is None for parameter in fit.adapters.of_domain[0].parameters())


def test_a_domain_without_items_in_an_epoch_keeps_its_adapter_to_the_bit_while_the_others_learn(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, weight_decay=0.1)
    fit = started(config, tmp_path)
    drawn = fit.drawn
    model = with_adapters(fit.model, drawn.names, config)  # type: ignore[arg-type]
    domain_fit = DomainFit(model, drawn, config, tmp_path)
    domain_fit.run_epoch()
    books, films = domain_fit.adapters.of_domain
    assert all(float(domain_fit.optimizer.state[up]["exp_avg"].abs().sum()) > 0 for up in ups(domain_fit, 1))
    before = [[parameter.clone() for parameter in adapter.parameters()] for adapter in (books, films)]
    alone = drawn.train_domain_N == 0
    domain_fit.drawn = dataclasses.replace(
        drawn, train_ND=drawn.train_ND[alone], train_domain_N=drawn.train_domain_N[alone]
    )
    domain_fit.run_epoch()
    assert not any(torch.equal(now, was) for now, was in zip(books.parameters(), before[0], strict=True))
    assert all(torch.equal(now, was) for now, was in zip(films.parameters(), before[1], strict=True))


def test_the_order_of_domains_in_a_batch_changes_nothing(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, adapter_dropout=0.0)
    fit = started(config, tmp_path)
    model = with_adapters(fit.model, fit.drawn.names, config)  # type: ignore[arg-type]
    domain_fit = DomainFit(model, fit.drawn, config, tmp_path)
    for up in ups(domain_fit, 0) + ups(domain_fit, 1):
        torch.nn.init.normal_(up, std=0.1)
    rows, generator = torch.randperm(fit.items, generator=torch.Generator().manual_seed(0))[:64], torch.Generator()
    own = fit.drawn.train_domain_N[rows]
    parts = [domain_fit.loss(rows[own == domain], generator) * (own == domain).sum() for domain in (0, 1)]
    torch.testing.assert_close(domain_fit.loss(rows, generator), (parts[0] + parts[1]) / 64)


def test_dropout_leaves_out_what_adapters_read(tmp_path: Path) -> None:
    drawn = draw_items(world(), CONFIG)
    losses = []
    for dropout in (0.0, 0.5):
        config = dataclasses.replace(CONFIG, adapter_dropout=dropout)
        model = with_adapters(UniversalFit(drawn, config, tmp_path).model, drawn.names, config)  # type: ignore[arg-type]
        fit = DomainFit(model, drawn, config, tmp_path)
        for up in ups(fit, 0) + ups(fit, 1):
            torch.nn.init.constant_(up, 0.1)
        losses.append({fit.loss(torch.arange(20), torch.Generator().manual_seed(seed)).item() for seed in range(3)})
    assert [len(of_dropout) for of_dropout in losses] == [1, 3]


@pytest.mark.parametrize(
    ("stage", "epoch"), [("universal", 5), ("domain", 1), ("domain", 4), ("router", 1), ("router", 2)]
)
def test_a_fit_killed_in_any_stage_ends_as_an_undisturbed_one_and_repeats_no_finished_stage(
    tmp_path: Path, stage: str, epoch: int
) -> None:
    undisturbed = fit_gencdr(world(), CONFIG, tmp_path / "undisturbed")
    new = with_adapters(without_adapters(undisturbed), undisturbed.domains, CONFIG).state_dict()
    for name in ("adapters.of_domain.1.up.0", "router.output.weight"):
        assert not torch.equal(undisturbed.state_dict()[name], new[name]), name
    with pytest.raises(KeyboardInterrupt):
        fit_gencdr(world(), CONFIG, tmp_path / "killed", on_epoch=stopped_at(stage, epoch))
    torch.manual_seed(epoch)
    told: list[tuple[str, int]] = []
    resumed = fit_gencdr(world(), CONFIG, tmp_path / "killed", on_epoch=lambda *at: told.append(at[:2]))
    assert tokenizer_digest(resumed) == tokenizer_digest(undisturbed)
    assert [name for name, _ in itertools.groupby(told, key=lambda at: at[0])] == list(STAGES[STAGES.index(stage) :])
    assert told[0] == (stage, {1: 1, 2: 3, 4: 5, 5: 5}[epoch])
    told.clear()
    again = fit_gencdr(world(), CONFIG, tmp_path / "killed", on_epoch=lambda *at: told.append(at[:2]))
    assert told == []
    assert tokenizer_digest(again) == tokenizer_digest(undisturbed)


def test_stage_two_begins_with_the_best_weights_of_stage_one_not_with_its_last(tmp_path: Path) -> None:
    noise = {"books": np.random.default_rng(0).normal(size=(60, 20)).astype(np.float32)}
    config = dataclasses.replace(CONFIG, epochs=500, patience=2, domain_epochs=1, router_epochs=1)
    model = fit_gencdr(noise, config, tmp_path)
    state = torch.load(tmp_path / "gencdr-universal.pt", weights_only=True)
    assert not torch.equal(state["best"]["encoder.0.weight"], state["module"]["encoder.0.weight"])
    for name, tensor in universal_tensors(model).items():
        assert torch.equal(tensor, state["best"][name]), name


def test_universal_weights_that_do_not_fill_the_model_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    universal = GenCdr(20, (8, 8, 8), 8, [24])
    whole = universal.state_dict()
    monkeypatch.setattr(universal, "state_dict", lambda: {name: whole[name] for name in whole if "decoder" not in name})
    with pytest.raises(StageError, match=r"does not fit the next one at 'decoder\.0\.weight'"):
        with_adapters(universal, ("books",), CONFIG)


def test_where_domains_differ_by_a_rotation_adapters_help_and_the_router_turns_to_them(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    basis, places = random.normal(size=(6, 20)), random.normal(size=(16, 6))
    vectors = {}
    for number in range(6):
        turned, _ = np.linalg.qr(random.normal(size=(20, 20)))
        points = places[random.integers(16, size=200)] + 0.2 * random.normal(size=(200, 6))
        vectors[f"domain-{number}"] = np.asarray(points @ basis @ turned, dtype=np.float32)
    config = dataclasses.replace(
        CONFIG,
        hidden_sizes=(12,),
        codebook_sizes=(64, 64, 64),
        epochs=15,
        domain_epochs=40,
        router_epochs=20,
        patience=100,
        validation_share=0.2,
        kl_weight=1e-4,
    )
    drawn = draw_items(vectors, config)
    model = fit_gencdr(vectors, config, tmp_path)
    assert drawn.held_out_error(model) < 0.985 * drawn.held_out_error(without_adapters(model))
    for name in vectors:
        assert float(model.routes(torch.from_numpy(vectors[name]), name)["domain"].mean()) > 0.6


def test_no_stage_ends_worse_than_it_began(tmp_path: Path) -> None:
    drawn = draw_items(world(), CONFIG)
    bad = dataclasses.replace(CONFIG, domain_learning_rate=1.0, router_learning_rate=0.3)
    universal = UniversalFit(drawn, bad, tmp_path)
    universal.run()
    model = with_adapters(universal.model, drawn.names, bad)  # type: ignore[arg-type]
    for stage in (DomainFit, RouterFit):
        fit = stage(model, drawn, bad, tmp_path)
        before = fit.held_out_error()
        fit.run()
        assert fit.held_out_error() <= before


def test_the_routers_share_is_the_same_for_all_items_when_nothing_may_pass_its_bottleneck(tmp_path: Path) -> None:
    def spread(kl_weight: float) -> float:
        config = dataclasses.replace(
            CONFIG, kl_weight=kl_weight, router_epochs=30, router_learning_rate=0.02, patience=30
        )
        drawn = draw_items(world(), config)
        model = with_adapters(UniversalFit(drawn, config, tmp_path).model, drawn.names, config)  # type: ignore[arg-type]
        fit = RouterFit(model, drawn, config, tmp_path / str(kl_weight))
        for _ in range(30):
            fit.run_epoch()
        return float(model.routes(torch.from_numpy(world()["films"]), "films")["domain"].std())

    assert spread(1.0) < 1e-3 < spread(0.0)


def test_a_domain_that_the_fit_never_saw_takes_the_universal_way(tmp_path: Path) -> None:
    model = fit_gencdr(world(), CONFIG, tmp_path)
    rows = torch.from_numpy(world((10, 10, 50))["games"])
    assert torch.equal(model.latents(rows, "games"), without_adapters(model).latents(rows, "games"))
    assert not torch.equal(model.latents(rows, "films"), model.latents(rows, "games"))


def test_switches_leave_whole_stages_out(tmp_path: Path) -> None:
    no_router = fit_gencdr(world(), dataclasses.replace(CONFIG, item_router=False), tmp_path / "no router")
    assert no_router.config()["router_hidden"] is None
    assert not (tmp_path / "no router" / "gencdr-router.pt").exists()
    assert torch.equal(no_router.routes(torch.zeros(2, 20), "books")["domain"], torch.full((2,), 0.5))
    universal = fit_gencdr(world(), dataclasses.replace(CONFIG, domain_adapter=False), tmp_path / "universal")
    assert universal.domains == ()
    assert [path.name for path in (tmp_path / "universal").iterdir()] == ["gencdr-universal.pt"]


@pytest.mark.parametrize("items", [(1,), (1, 1), (300, 1), (5, 3), (40, 2, 1)])
def test_domains_of_one_item_and_of_fewer_items_than_codes_are_fitted_and_get_unique_sids(
    tmp_path: Path, items: tuple[int, ...]
) -> None:
    vectors = world(items)
    model = fit_gencdr(vectors, CONFIG, tmp_path)
    for name, vectors_ND in vectors.items():
        sids, _ = assign_sids(model, vectors_ND, name)
        assert len(np.unique(sids, axis=0)) == len(vectors_ND)


def test_a_saved_and_loaded_fit_gives_what_the_one_in_memory_gives_batch_or_single(tmp_path: Path) -> None:
    model = fit_gencdr(world(), CONFIG, tmp_path)
    save_tokenizer(model, tmp_path / "tokenizer")
    loaded = load_tokenizer(tmp_path / "tokenizer")
    assert tokenizer_digest(loaded) == tokenizer_digest(model)
    for name, vectors in world().items():
        rows = torch.from_numpy(vectors)
        assert torch.equal(loaded.encode(rows, name), model.encode(rows, name))
        assert torch.equal(torch.cat([model.encode(row, name) for row in rows.split(1)]), model.encode(rows, name))


def test_vectors_with_nan_and_losses_that_explode_are_refused_by_place_and_setting(tmp_path: Path) -> None:
    vectors = world()
    vectors["films"][[7, 9], 3] = np.nan
    with pytest.raises(DataError, match="domain 'films' hold NaN or infinity in rows 7, 9;"):
        fit_gencdr(vectors, CONFIG, tmp_path)
    for stage in ("domain", "router"):
        config = dataclasses.replace(CONFIG, **{f"{stage}_learning_rate": 1e25})  # type: ignore[arg-type]
        with pytest.raises(NonFiniteLossError, match=rf"\({stage}\): .*; set a lower tokenizer\.{stage}_learning_rate"):
            fit_gencdr(world(), config, tmp_path)


@pytest.mark.parametrize("stage", STAGES)
def test_a_damaged_checkpoint_is_refused_by_name(tmp_path: Path, stage: str) -> None:
    fit_gencdr(world(), CONFIG, tmp_path)
    (tmp_path / f"gencdr-{stage}.pt").write_bytes(b"torn")
    with pytest.raises(StageError, match=rf"gencdr-{stage}\.pt cannot be read .*; delete it"):
        fit_gencdr(world(), CONFIG, tmp_path)


def test_a_checkpoint_of_adapters_in_one_stack_is_refused_before_any_of_it_is_loaded(tmp_path: Path) -> None:
    drawn = draw_items(world(), CONFIG)
    model = with_adapters(UniversalFit(drawn, CONFIG, tmp_path).model, drawn.names, CONFIG)  # type: ignore[arg-type]
    fit = DomainFit(model, drawn, CONFIG, tmp_path)
    fit.run()
    state = torch.load(tmp_path / "gencdr-domain.pt", weights_only=True)
    for part in ("module", "best"):
        names = [name.removeprefix("of_domain.0.") for name in state[part] if name.startswith("of_domain.0.")]
        state[part] = {
            name: torch.stack([state[part][f"of_domain.{domain}.{name}"] for domain in (0, 1)]) for name in names
        }
    torch.save(state, tmp_path / "gencdr-domain.pt")
    model = with_adapters(UniversalFit(drawn, CONFIG, tmp_path).model, drawn.names, CONFIG)  # type: ignore[arg-type]
    new = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    reason = r"gencdr-domain\.pt cannot be read \(another version of the program wrote it: .*'down\.0'\); delete it"
    with pytest.raises(StageError, match=reason):
        DomainFit(model, drawn, CONFIG, tmp_path).run()
    assert all(torch.equal(tensor, new[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mtm_weight", -0.1),
        ("mask_share", 0.0),
        ("mask_share", 1.0),
        ("adapter_rank", 0),
        ("adapter_alpha", 0.0),
        ("adapter_dropout", -0.1),
        ("adapter_dropout", 1.0),
        ("domain_epochs", 0),
        ("domain_learning_rate", 0.0),
        ("router_hidden", 0),
        ("kl_weight", -1.0),
        ("router_epochs", 0),
        ("router_learning_rate", 0.0),
    ],
)
def test_a_setting_that_cannot_mean_anything_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"tokenizer\.{field} is {value}; set a value"):
        GenCdrConfig(**{field: value})  # type: ignore[arg-type]


def test_the_method_is_found_by_name_with_the_presets_of_an_rq_vae_and_the_papers_sizes() -> None:
    method, config = read_config({"method": "gencdr", "preset": "paper", "item_router": False})
    assert method.config is GenCdrConfig
    assert isinstance(config, GenCdrConfig)
    assert config.hidden_sizes == (512, 256, 128)
    assert (config.adapter_rank, config.adapter_alpha, config.adapter_dropout) == (64, 32.0, 0.05)
    assert (config.router_hidden, config.kl_weight, config.item_router) == (128, 1e-3, False)
    with pytest.raises(ConfigError, match=r"tokenizer\.adapters is no setting of gencdr"):
        read_config({"method": "gencdr", "adapters": True})


def test_a_new_setting_begins_the_fit_anew(tmp_path: Path) -> None:
    fit_gencdr(world(), CONFIG, tmp_path)
    told: list[str] = []
    other = dataclasses.replace(CONFIG, seed=1)
    fit_gencdr(world(), other, tmp_path, on_epoch=lambda stage, epoch, loss: told.append(stage))
    assert set(told) == set(STAGES)
