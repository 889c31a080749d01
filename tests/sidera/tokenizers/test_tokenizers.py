"""The interface of tokenizers, held by every method, and their files."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sidera.errors import TokenizerError
from sidera.tokenizers import ItemTokenizer, load_tokenizer, save_tokenizer, tokenizer_digest
from sidera.tokenizers.base import check_vectors
from sidera.tokenizers.gencdr import GenCdr
from sidera.tokenizers.residual import CHUNK_ROWS, ResidualQuantiser, in_chunks, squared_distances
from sidera.tokenizers.rqkmeans import RqKMeans
from sidera.tokenizers.rqvae import RqVae
from sidera.tokenizers.unitok import UniTok


def random_rqvae(sizes: tuple[int, ...] = (8, 5, 16), dim: int = 48, seed: int = 0) -> RqVae:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tokenizer = RqVae(dim, sizes, latent_dim=12, hidden_sizes=[24])
        for codebook in tokenizer.quantiser.codebooks:
            torch.nn.init.normal_(codebook, std=0.3)
        tokenizer.shift_D.normal_()
        tokenizer.scale.fill_(0.7)
    return tokenizer.eval().requires_grad_(False)


def random_gencdr(sizes: tuple[int, ...] = (8, 5, 16), dim: int = 48, seed: int = 0) -> GenCdr:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tokenizer = GenCdr(dim, sizes, 12, [24], ["a"], adapter_rank=8, router_hidden=16)
        assert tokenizer.adapters is not None
        ups = [drawn for name, drawn in tokenizer.adapters.named_parameters() if ".up." in name]
        for drawn in (*tokenizer.quantiser.codebooks, *ups):
            torch.nn.init.normal_(drawn, std=0.3)
        tokenizer.shift_D.normal_()
        tokenizer.scale.fill_(0.7)
    return tokenizer.eval().requires_grad_(False)


def random_rqkmeans(sizes: tuple[int, ...] = (8, 5, 16), dim: int = 48, seed: int = 0) -> RqKMeans:
    tokenizer = RqKMeans(dim, sizes, latent_dim=12)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tokenizer.axes_Dd.copy_(torch.linalg.qr(torch.randn(dim, 12)).Q)
        for codebook in tokenizer.quantiser.codebooks:
            torch.nn.init.normal_(codebook, std=0.3)
        tokenizer.shift_D.normal_()
    return tokenizer.eval().requires_grad_(False)


def random_unitok(sizes: tuple[int, ...] = (8, 5, 16), dim: int = 48, seed: int = 0) -> UniTok:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tokenizer = UniTok(dim, sizes, 12, [24], ["a", "b", "c"], shared_levels=1)
        assert tokenizer.shared is not None
        for drawn in (tokenizer.router.weight, *tokenizer.experts.codebooks, *tokenizer.shared.codebooks):
            torch.nn.init.normal_(drawn, std=0.3)
        tokenizer.shift_D.normal_()
        tokenizer.scale.fill_(0.7)
    return tokenizer.eval().requires_grad_(False)


Make = Callable[..., RqVae | RqKMeans]
every_method = pytest.mark.parametrize(
    "make", [random_rqvae, random_rqkmeans, random_gencdr], ids=["rqvae", "rqkmeans", "gencdr"]
)
"""Methods with one quantiser for all items."""
every_tokenizer = pytest.mark.parametrize(
    "make",
    [random_rqvae, random_rqkmeans, random_gencdr, random_unitok],
    ids=["rqvae", "rqkmeans", "gencdr", "unitok"],
)


def random_vectors(items: int, dim: int = 48, seed: int = 1) -> torch.Tensor:
    return torch.randn(items, dim, generator=torch.Generator().manual_seed(seed))


@every_method
def test_codes_follow_the_definition_of_residual_quantisation(make: Make) -> None:
    tokenizer = make()
    vectors = random_vectors(40)
    codes = tokenizer.encode(vectors, "any")
    assert codes.dtype == torch.int64
    latents = vectors - tokenizer.shift_D
    if isinstance(tokenizer, RqVae):
        latents = tokenizer.encoder(latents / tokenizer.scale)
    else:
        latents = latents @ tokenizer.axes_Dd
    for item in range(40):
        residual = latents[item].double()
        for level, codebook in enumerate(tokenizer.quantiser.codebooks):
            distances = (residual - codebook.double()).norm(dim=1)
            assert codes[item, level] == distances.argmin()
            residual = residual - codebook[codes[item, level]].double()


@every_tokenizer
@pytest.mark.parametrize(("threads", "items"), [(1, 2 * CHUNK_ROWS + 37), (2, 12)])
def test_a_batch_gets_the_codes_of_its_items_one_by_one(
    make: Callable[..., ItemTokenizer], threads: int, items: int
) -> None:
    tokenizer = make((256, 256, 256), dim=384)
    vectors = random_vectors(items, 384)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        latents = tokenizer.latents(vectors, "a")
        alone = torch.cat([tokenizer.latents(vector, "a") for vector in vectors.split(1)])
        assert torch.equal(latents, alone)
        codes = tokenizer.encode(vectors, "a")
        assert torch.equal(codes, torch.cat([tokenizer.encode(vector, "a") for vector in vectors.split(1)]))
        distances = tokenizer.distances(latents, codes[:, :2])
        one_by_one = [tokenizer.distances(latents[i : i + 1], codes[i : i + 1, :2]) for i in range(len(vectors))]
        assert torch.equal(distances, torch.cat(one_by_one))
    finally:
        torch.set_num_threads(before)


@every_tokenizer
def test_the_bits_of_a_row_do_not_depend_on_its_place_its_neighbours_or_its_memory(
    make: Callable[..., ItemTokenizer],
) -> None:
    tokenizer = make((64,) * 3, dim=384)
    vectors = random_vectors(300, 384)
    latents = tokenizer.latents(vectors, "a")
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    assert torch.equal(tokenizer.latents(vectors[order], "a"), latents[order])
    transposed = vectors.T.contiguous().T
    assert torch.equal(tokenizer.latents(transposed, "a"), latents)
    shifted = torch.empty(300 * 384 + 1)[1:].view(300, 384).copy_(vectors)
    assert torch.equal(tokenizer.latents(shifted, "a"), latents)


def test_every_product_has_the_same_number_of_rows() -> None:
    shapes = []

    def spy(rows: torch.Tensor) -> torch.Tensor:
        shapes.append(len(rows))
        return rows * 2

    rows = torch.arange(CHUNK_ROWS + 3.0)[:, None]
    assert torch.equal(in_chunks(spy, rows), rows * 2)
    assert shapes == [CHUNK_ROWS, CHUNK_ROWS]
    assert in_chunks(spy, rows[:0]).shape == (0, 1)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 20), st.integers(1, 8), st.floats(1e-3, 1e3))
def test_expanded_squared_distances_are_those_of_the_differences(seed: int, rows: int, dim: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    residual = torch.randn(rows, dim, generator=generator) * scale
    codebook = torch.randn(7, dim, generator=generator) * scale
    expected = (residual[:, None] - codebook).square().sum(dim=2)
    torch.testing.assert_close(squared_distances(residual, codebook), expected, rtol=1e-4, atol=1e-4 * scale**2)
    assert (squared_distances(codebook, codebook) >= 0).all()


def test_distances_after_a_prefix_are_those_of_its_residual() -> None:
    tokenizer = random_rqvae()
    latents = tokenizer.latents(random_vectors(9), "a")
    prefix = torch.tensor([[row % 8, row % 5] for row in range(9)])
    books = tokenizer.quantiser.codebooks
    residual = latents - books[0][prefix[:, 0]] - books[1][prefix[:, 1]]
    expected = torch.cdist(residual, books[2]).square()
    torch.testing.assert_close(tokenizer.distances(latents, prefix), expected, rtol=1e-3, atol=1e-4)
    assert tokenizer.distances(latents, prefix[:, :0]).shape == (9, 8)


@every_method
def test_all_levels_at_once_give_the_codes_of_level_by_level(make: Make) -> None:
    tokenizer = make((64, 1, 256, 32), dim=384)
    with torch.no_grad():
        tokenizer.quantiser.codebooks[0][40:] = tokenizer.quantiser.codebooks[0][:24]
    latents = tokenizer.latents(random_vectors(2 * CHUNK_ROWS + 37, 384), "a")
    assert torch.equal(tokenizer.nearest_codes(latents), ItemTokenizer.nearest_codes(tokenizer, latents))


def test_reconstruction_is_the_decoder_of_the_chosen_codes_in_item_space() -> None:
    tokenizer = random_rqvae()
    codes = tokenizer.encode(random_vectors(5), "a")
    books = tokenizer.quantiser.codebooks
    total = books[0][codes[:, 0]] + books[1][codes[:, 1]] + books[2][codes[:, 2]]
    expected = tokenizer.decoder(total) * 0.7 + tokenizer.shift_D
    torch.testing.assert_close(tokenizer.reconstruct(codes), expected)


@every_tokenizer
def test_a_saved_and_loaded_tokenizer_is_the_same(make: Callable[..., ItemTokenizer], tmp_path: Path) -> None:
    tokenizer = make()
    save_tokenizer(tokenizer, tmp_path / "tokenizer")
    loaded = load_tokenizer(tmp_path / "tokenizer")
    vectors = random_vectors(50)
    assert torch.equal(loaded.encode(vectors, "a"), tokenizer.encode(vectors, "a"))
    assert tokenizer_digest(loaded) == tokenizer_digest(tokenizer)
    assert sorted(path.name for path in (tmp_path / "tokenizer").iterdir()) == ["config.json", "weights.safetensors"]
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


@every_method
def test_the_digest_changes_with_any_weight_and_any_size(make: Make) -> None:
    tokenizer = make()
    digest = tokenizer_digest(tokenizer)
    with torch.no_grad():
        tokenizer.quantiser.codebooks[1][0, 0] += 1e-6
    assert tokenizer_digest(tokenizer) != digest
    assert tokenizer_digest(make((8, 16, 5))) != digest


def test_a_damaged_tokenizer_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="cannot be read"):
        load_tokenizer(tmp_path)
    save_tokenizer(random_rqvae(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"method": "magic"}))
    with pytest.raises(TokenizerError, match="method 'magic' is not known; known: rqvae, rqkmeans"):
        load_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"latent_dim": 13}))
    with pytest.raises(TokenizerError, match=r"does not fit config\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"method": "rqvae"}))
    with pytest.raises(TokenizerError, match="no field 'dim'"):
        load_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "weights.safetensors").write_bytes(b"\x08")
    with pytest.raises(TokenizerError, match="cannot be read"):
        load_tokenizer(tmp_path)


@every_tokenizer
def test_vectors_with_nan_are_refused_by_row(make: Callable[..., ItemTokenizer]) -> None:
    tokenizer: ItemTokenizer = make()
    vectors = random_vectors(20)
    vectors[3, 5] = float("nan")
    vectors[11, 0] = float("inf")
    with pytest.raises(TokenizerError, match="rows 3, 11 hold NaN or infinity"):
        tokenizer.encode(vectors, "a")


@every_tokenizer
@pytest.mark.parametrize("shape", [(4, 47), (48,), (4, 48, 1)])
def test_vectors_of_another_width_are_refused(make: Callable[..., ItemTokenizer], shape: tuple[int, ...]) -> None:
    with pytest.raises(TokenizerError, match=r"this tokenizer takes \[items, 48\]"):
        make().encode(torch.zeros(shape), "a")


@every_tokenizer
def test_no_vectors_get_no_codes(make: Callable[..., ItemTokenizer]) -> None:
    assert make().encode(torch.zeros(0, 48), "a").shape == (0, 3)


@pytest.mark.parametrize("sizes", [(), (4, 0), (2**16,) * 4])
def test_codebooks_that_make_no_sids_or_too_many_are_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(TokenizerError, match="codebook sizes"):
        ResidualQuantiser(sizes, 1)


def test_large_numbers_whose_sum_overflows_are_no_infinities() -> None:
    check_vectors(torch.full((2, 4), 3e38), 4)


def test_equally_near_codes_give_the_lower_one() -> None:
    tokenizer = random_rqvae((4, 4))
    with torch.no_grad():
        tokenizer.quantiser.codebooks[0][:] = 1.0
    assert np.unique(tokenizer.encode(random_vectors(9), "a")[:, 0]).tolist() == [0]


def test_residual_k_means_rebuilds_a_vector_from_the_sum_of_its_codes_and_the_mean() -> None:
    tokenizer = random_rqkmeans()
    codes = tokenizer.encode(random_vectors(5), "a")
    books = tokenizer.quantiser.codebooks
    total = books[0][codes[:, 0]] + books[1][codes[:, 1]] + books[2][codes[:, 2]]
    expected = total @ tokenizer.axes_Dd.T + tokenizer.shift_D
    torch.testing.assert_close(tokenizer.reconstruct(codes), expected)


def test_residual_k_means_tells_vectors_apart_that_lie_far_from_the_origin() -> None:
    near = random_rqkmeans((64, 64))
    near.shift_D.zero_()
    far = random_rqkmeans((64, 64))
    far.shift_D.fill_(1000.0)
    vectors = random_vectors(100)
    assert (far.encode(vectors + 1000, "a") == near.encode(vectors, "a")).float().mean() > 0.98


def test_a_residual_k_means_config_without_a_size_is_refused(tmp_path: Path) -> None:
    save_tokenizer(random_rqkmeans(), tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"method": "rqkmeans", "dim": 48}))
    with pytest.raises(TokenizerError, match="no field 'codebook_sizes'"):
        load_tokenizer(tmp_path)
