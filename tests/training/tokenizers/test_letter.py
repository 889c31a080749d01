"""Fitting LETTER: its two losses, their switches, and resuming."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sidera.tokenizers import load_tokenizer, save_tokenizer, tokenizer_digest
from sidera.tokenizers.rqvae import RqVae
from training.collaborative import shared_prefixes
from training.errors import ConfigError, DataError
from training.tokenizers import read_config
from training.tokenizers.cf_alignment import CfAlignment, Rotation, info_nce
from training.tokenizers.common import draw_items
from training.tokenizers.letter import (
    LetterConfig,
    LetterFit,
    cluster_mates,
    code_clusters,
    diversity_loss,
    fit_letter,
)
from training.tokenizers.quantisation import Quantisation, quantise_for_training
from training.tokenizers.rqvae import RqVaeConfig, fit_rqvae

SIZES = {
    "codebook_sizes": (8, 8, 8),
    "hidden_sizes": (24,),
    "latent_dim": 8,
    "warm_up_epochs": 2,
    "epochs": 8,
    "batch_size": 64,
    "evaluate_every": 2,
}
CONFIG = LetterConfig(**SIZES, cf_dim=6, diversity_clusters=3, diversity_every=3, diversity_weight=0.01)  # type: ignore[arg-type]


def world(
    items: int = 200, groups: int = 4, weight: float = 0.3
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Two domains whose item vectors say much about the text and a little about the group that CF vectors show."""
    random = np.random.default_rng(0)
    basis = random.normal(size=(6 + groups, 20))
    places = random.normal(size=(groups, 6))
    vectors, cf = {}, {}
    for name in ("books", "films"):
        group = random.integers(groups, size=items)
        points = np.concatenate([random.normal(size=(items, 6)), weight * np.eye(groups)[group]], axis=1)
        vectors[name] = np.asarray(points @ basis, dtype=np.float32)
        cf[name] = np.asarray(places[group] + 0.1 * random.normal(size=(items, 6)), dtype=np.float32)
        cf[name][::7] = np.nan
    return vectors, cf


def codebooks(sizes: tuple[int, ...] = (6, 6), dim: int = 3) -> RqVae:
    torch.manual_seed(0)
    model = RqVae(5, sizes, latent_dim=dim, hidden_sizes=[])
    for codebook in model.quantiser.codebooks:
        torch.nn.init.normal_(codebook)
    return model


def test_without_both_losses_the_fit_is_that_of_an_rq_vae_bit_for_bit(tmp_path: Path) -> None:
    vectors, cf = world()
    letter = fit_letter(vectors, cf, dataclasses.replace(CONFIG, cf_weight=0, diversity_weight=0), tmp_path / "letter")
    rqvae = fit_rqvae(vectors, RqVaeConfig(**SIZES), tmp_path / "rqvae")  # type: ignore[arg-type]
    assert letter.method == "letter"
    for name, tensor in rqvae.state_dict().items():
        assert torch.equal(tensor, letter.state_dict()[name]), name


def test_each_loss_alone_changes_the_fit(tmp_path: Path) -> None:
    vectors, cf = world()
    digests = {
        tokenizer_digest(
            fit_letter(
                vectors,
                cf,
                dataclasses.replace(CONFIG, cf_weight=cf_weight, diversity_weight=diversity_weight),
                tmp_path / f"{cf_weight} {diversity_weight}",
            )
        )
        for cf_weight in (0, 0.1)
        for diversity_weight in (0, 0.01)
    }
    assert len(digests) == 4


def test_a_fit_with_the_collaborative_loss_gives_items_of_the_same_users_the_same_first_codes(tmp_path: Path) -> None:
    vectors, cf = world(weight=1.0)

    def shared(weight: float) -> float:
        config = dataclasses.replace(CONFIG, epochs=80, cf_weight=weight, patience=99)
        tokenizer = fit_letter(vectors, cf, config, tmp_path / str(weight))
        codes = tokenizer.encode(torch.from_numpy(vectors["films"]), "films").numpy()
        found = shared_prefixes(cf["films"], codes, np.ones(200, dtype=bool))
        assert found is not None
        return float(found["neighbours"][0])

    assert shared(1.0) > shared(0.0) + 0.1


def test_info_nce_is_the_cross_entropy_of_each_item_against_the_batch() -> None:
    torch.manual_seed(0)
    vectors, others = torch.randn(5, 4), torch.randn(5, 4)
    expected = 0.0
    for i in range(5):
        scores = [float(torch.cosine_similarity(vectors[i], others[j], dim=0)) / 0.2 for j in range(5)]
        expected -= (scores[i] - float(np.log(np.exp(scores).sum()))) / 5
    assert float(info_nce(vectors, others, 0.2)) == pytest.approx(expected, rel=1e-5)


def test_the_collaborative_loss_reaches_encoder_and_rotation_and_no_codebook() -> None:
    model = codebooks()
    alignment = CfAlignment(3, [np.random.default_rng(0).normal(size=(9, 4))], 0.1)
    made = quantise_for_training(model.quantiser, model.encoder(torch.randn(9, 5)), Quantisation())
    alignment(torch.arange(9), made.straight_through_Bd).backward()
    assert all(codebook.grad is None for codebook in model.quantiser.codebooks)
    for parameter in (*model.encoder.parameters(), *alignment.parameters()):
        assert parameter.grad is not None
        assert float(parameter.grad.abs().sum()) > 0
    assert len(list(alignment.parameters())) == 1


@pytest.mark.parametrize("width", [2, 3, 5])
def test_a_rotation_starts_as_the_identity_and_bends_nothing_after_any_step(width: int) -> None:
    torch.manual_seed(0)
    rotation = Rotation(3, width)
    assert torch.equal(rotation(torch.eye(3)), torch.eye(3, width))
    optimizer = torch.optim.AdamW(rotation.parameters(), lr=0.3)
    for _ in range(3):
        optimizer.zero_grad()
        info_nce(rotation(torch.randn(9, 3)), torch.randn(9, width), 0.1).backward()
        optimizer.step()
    turned = rotation(torch.eye(3)).detach()
    assert float((turned - torch.eye(3, width)).abs().max()) > 0.1
    product = turned @ turned.T if width >= 3 else turned.T @ turned
    torch.testing.assert_close(product, torch.eye(min(3, width)))


def test_steps_against_the_collaborative_loss_turn_each_item_to_its_own_cf_vector() -> None:
    torch.manual_seed(0)
    cf = torch.randn(6, 3)
    alignment = CfAlignment(3, [cf.numpy()], 0.1)
    quantised = torch.randn(6, 3, requires_grad=True)
    before = float(torch.cosine_similarity(alignment.rotations[0](quantised), cf).mean().detach())
    optimizer = torch.optim.SGD([quantised], lr=0.1)
    for _ in range(50):
        optimizer.zero_grad()
        alignment(torch.arange(6), quantised).backward()
        optimizer.step()
    assert float(torch.cosine_similarity(alignment.rotations[0](quantised), cf).mean().detach()) > before + 0.3


def test_items_without_a_cf_vector_take_no_part_in_the_collaborative_loss() -> None:
    torch.manual_seed(0)
    cf = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    cf[[1, 5]] = np.nan
    alignment = CfAlignment(3, [cf], 0.1)
    quantised = torch.randn(8, 3, requires_grad=True)
    loss = alignment(torch.arange(8), quantised)
    loss.backward()
    assert torch.equal(torch.nonzero(quantised.grad.abs().sum(dim=1) == 0).flatten(), torch.tensor([1, 5]))  # type: ignore[union-attr]
    known = torch.tensor([0, 2, 3, 4, 6, 7])
    torch.testing.assert_close(loss, alignment(known, quantised[known]))
    assert float(alignment(torch.tensor([1, 5]), quantised[[1, 5]]).detach()) == 0


def test_items_are_contrasted_within_their_domain_and_numbers_count_through_all_domains() -> None:
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    cf = [random.normal(size=(4, 2)).astype(np.float32), random.normal(size=(5, 6)).astype(np.float32)]
    alignment = CfAlignment(3, cf, 0.1)
    numbers, quantised = torch.tensor([8, 0, 5, 3, 2]), torch.randn(5, 3)
    first, second = alignment.rotations
    films = info_nce(second(quantised[[0, 2]]), torch.from_numpy(cf[1][[4, 1]]), 0.1)
    books = info_nce(first(quantised[[1, 3, 4]]), torch.from_numpy(cf[0][[0, 3, 2]]), 0.1)
    torch.testing.assert_close(alignment(numbers, quantised), (2 * films + 3 * books) / 5)


def test_the_diversity_loss_is_the_formula_of_the_paper_and_reaches_its_codebook_alone() -> None:
    model = codebooks()
    latents = torch.randn(5, 3, requires_grad=True)
    made = quantise_for_training(model.quantiser, latents, Quantisation())
    codebook, codes = model.quantiser.codebooks[0], made.codes[0]
    mates = (codes + 1) % 6
    mates[2] = -1
    loss = diversity_loss(codebook, codes, mates)
    expected = 0.0
    for item in (0, 1, 3, 4):
        scores = (codebook @ codebook[codes[item]]).exp()
        others = [j for j in range(6) if j != codes[item]]
        expected -= float((scores[mates[item]] / scores[others].sum()).log().detach()) / 4
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert float(codebook.grad.abs().sum()) > 0
    assert latents.grad is None
    assert model.quantiser.codebooks[1].grad is None
    assert float(diversity_loss(codebook, codes, torch.full((5,), -1)).detach()) == 0


def test_a_step_against_the_diversity_loss_pulls_a_code_to_its_mate_and_pushes_it_from_the_others() -> None:
    torch.manual_seed(0)
    codebook = torch.randn(6, 3, requires_grad=True)
    before = codebook.detach() @ codebook.detach()[2]
    diversity_loss(codebook, torch.tensor([2]), torch.tensor([4])).backward()
    gradient = codebook.grad
    assert gradient is not None
    own = codebook.detach()[2]
    assert float(gradient[4] @ own) < 0
    assert all(float(gradient[other] @ own) > 0 for other in (0, 1, 3, 5))
    after = (codebook - 0.1 * gradient) @ (own - 0.1 * gradient[2])
    others = [0, 1, 3, 5]
    assert after[4] - after[others].logsumexp(0) > before[4] - before[others].logsumexp(0)


def test_a_mate_is_any_other_code_of_the_cluster_and_a_code_alone_has_none() -> None:
    clusters = torch.tensor([2, 0, 1, 2, 0, 2])
    codes = torch.arange(6).repeat(200)
    mates = cluster_mates(codes, clusters, torch.Generator().manual_seed(0))
    found = {code: set(mates[codes == code].tolist()) for code in range(6)}
    assert found == {0: {3, 5}, 1: {4}, 2: {-1}, 3: {0, 5}, 4: {1}, 5: {0, 3}}


@pytest.mark.parametrize(("size", "clusters"), [(2, 10), (3, 10), (5, 10), (16, 3), (64, 10)])
def test_clusters_of_a_codebook_hold_at_least_two_codes_and_none_swallows_it(size: int, clusters: int) -> None:
    codebook = torch.randn(size, 4, generator=torch.Generator().manual_seed(0))
    codebook[: size // 2] *= 0.01
    counts = torch.bincount(code_clusters(codebook, clusters, 0))
    made = min(clusters, size // 2)
    assert len(counts) == made
    assert int(counts.min()) >= max(2, size // (2 * made))
    assert int(counts.max()) <= min(size, 2 * -(-size // made))


def test_equal_codes_are_clustered() -> None:
    assert sorted(torch.bincount(code_clusters(torch.ones(12, 4), 3, 0)).tolist()) >= [2, 2, 2]


def test_what_a_fit_stops_by_is_the_error_and_the_weighted_contrast_of_held_out_items_through_their_codes(
    tmp_path: Path,
) -> None:
    vectors, cf = world()
    config = dataclasses.replace(CONFIG, validation_share=0.2, batch_size=1000)
    drawn = draw_items(vectors, config)
    fit = LetterFit(drawn, [cf["books"], cf["films"]], config, tmp_path)
    fit.run()
    assert fit.alignment is not None
    expected, counted = 0.0, 0
    for domain, name in enumerate(("books", "films")):
        own = drawn.validation_domain_N == domain
        row = (drawn.validation_number_N[own] - 200 * domain).numpy()
        assert np.array_equal(drawn.validation_ND[own].numpy(), vectors[name][row])
        has = np.isfinite(cf[name][row]).all(axis=1)
        quantised = fit.model.quantised(fit.model.encode(drawn.validation_ND[own][has], name)).clone()
        contrast = info_nce(fit.alignment.rotations[domain](quantised), torch.from_numpy(cf[name][row[has]]), 0.1)
        expected, counted = expected + int(has.sum()) * contrast.item(), counted + int(has.sum())
    assert 0 < counted < len(drawn.validation_ND)
    assert fit.held_out_contrast(fit.alignment) == pytest.approx(expected / counted, rel=1e-4)
    error = drawn.held_out_error(fit.model) + 0.3 * expected / counted
    assert fit.held_out_error() == pytest.approx(error, rel=1e-4)
    assert fit.held_out_error() == fit.held_out_error()


class Watched(LetterFit):
    """Remembers the reconstruction error, what it stops by, and the weights of every evaluation."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.seen: list[tuple[float, float, dict[str, torch.Tensor]]] = []

    def held_out_error(self) -> float:
        value = super().held_out_error()
        weights = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.seen.append((self.drawn.held_out_error(self.model), value, weights))
        return value


def test_a_fit_chooses_weights_by_both_even_where_reconstruction_alone_would_choose_others(tmp_path: Path) -> None:
    vectors, cf = world()
    config = dataclasses.replace(CONFIG, validation_share=0.2, epochs=60, cf_weight=1.0, patience=99)
    fit = Watched(draw_items(vectors, config), [cf["books"], cf["films"]], config, tmp_path)
    fit.run()
    errors, values = [error for error, _, _ in fit.seen], [value for _, value, _ in fit.seen]
    chosen = values.index(min(values))
    assert chosen != errors.index(min(errors))
    assert fit.best_error == values[chosen]
    assert all(torch.equal(tensor, fit.seen[chosen][2][name]) for name, tensor in fit.model.state_dict().items())


@pytest.mark.parametrize("killed_after", [1, 4, 5, 7])
def test_a_killed_and_resumed_fit_ends_in_the_weights_of_an_undisturbed_one(tmp_path: Path, killed_after: int) -> None:
    vectors, cf = world()
    undisturbed = fit_letter(vectors, cf, CONFIG, tmp_path / "undisturbed")

    def kill(epoch: int, loss: float) -> None:
        if epoch == killed_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_letter(vectors, cf, CONFIG, tmp_path / "killed", on_epoch=kill)
    torch.manual_seed(killed_after)
    epochs: list[int] = []
    resumed = fit_letter(vectors, cf, CONFIG, tmp_path / "killed", on_epoch=lambda epoch, loss: epochs.append(epoch))
    assert tokenizer_digest(resumed) == tokenizer_digest(undisturbed)
    assert epochs[0] == {1: 1, 4: 5, 5: 5, 7: 7}[killed_after]


def test_other_cf_vectors_begin_a_fit_anew(tmp_path: Path) -> None:
    vectors, cf = world()
    first = fit_letter(vectors, cf, CONFIG, tmp_path)
    assert tokenizer_digest(fit_letter(vectors, cf, CONFIG, tmp_path)) == tokenizer_digest(first)
    cf["films"][1] = 0
    assert tokenizer_digest(fit_letter(vectors, cf, CONFIG, tmp_path)) != tokenizer_digest(first)


def test_a_fitted_tokenizer_is_saved_loaded_and_encodes_without_cf_vectors(tmp_path: Path) -> None:
    vectors, cf = world()
    tokenizer = fit_letter(vectors, cf, CONFIG, tmp_path / "fit")
    save_tokenizer(tokenizer, tmp_path / "saved")
    loaded = load_tokenizer(tmp_path / "saved")
    assert loaded.method == "letter"
    assert tokenizer_digest(loaded) == tokenizer_digest(tokenizer)
    rows = torch.from_numpy(vectors["books"])
    assert torch.equal(loaded.encode(rows, "books"), tokenizer.encode(rows, "unseen"))


def test_a_domain_whose_cf_vectors_are_missing_or_of_another_number_is_refused_by_name(tmp_path: Path) -> None:
    vectors, cf = world()
    with pytest.raises(DataError, match="domain 'films' has 200 items and 0 collaborative vectors"):
        fit_letter(vectors, {"books": cf["books"]}, CONFIG, tmp_path)
    with pytest.raises(DataError, match="domain 'books' has 200 items and 3 collaborative vectors"):
        fit_letter(vectors, cf | {"books": cf["books"][:3]}, CONFIG, tmp_path)


def test_items_that_all_lack_cf_vectors_and_domains_of_one_item_are_fitted(tmp_path: Path) -> None:
    vectors, cf = world(items=40)
    alone = {"books": vectors["books"], "one": vectors["films"][:1]}
    none = {"books": np.full((40, 6), np.nan, dtype=np.float32), "one": cf["films"][1:2]}
    tokenizer = fit_letter(alone, none, CONFIG, tmp_path)
    assert tokenizer.encode(torch.from_numpy(alone["one"]), "one").shape == (1, 3)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cf_weight", -0.1),
        ("diversity_weight", -0.1),
        ("cf_temperature", 0.0),
        ("diversity_clusters", 0),
        ("diversity_every", 0),
        ("cf_dim", 0),
        ("cf_iterations", 0),
        ("cf_regularization", -1.0),
        ("cf_confidence", 0.0),
    ],
)
def test_a_setting_that_cannot_mean_anything_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"tokenizer.{field} is"):
        LetterConfig(**{field: value})  # type: ignore[arg-type]


def test_moving_averages_for_codebooks_are_refused_where_the_diversity_loss_needs_their_gradient() -> None:
    with pytest.raises(ConfigError, match="leave ema_decay out or set diversity_weight to 0"):
        read_config({"method": "letter", "ema_decay": 0.99})
    _, config = read_config({"method": "letter", "ema_decay": 0.99, "diversity_weight": 0})
    assert isinstance(config, LetterConfig)
    assert config.cf_source is not None
    assert read_config({"method": "letter", "cf_weight": 0})[1].cf_source is None
