"""UniTok: what a SID says, whose codebooks code what, and what moved items cost."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sidera.errors import TokenizerError
from sidera.items.assignment import assign_sids
from sidera.tokenizers import ItemTokenizer, load_tokenizer, save_tokenizer, tokenizer_digest
from sidera.tokenizers.residual import CHUNK_ROWS
from sidera.tokenizers.unitok import UniTok

NAMES = ("films", "games", "shoes")
READINGS: list[dict[str, Any]] = [
    {"shared_reads": reads, "shared_levels": levels, "expert_id": expert_id}
    for reads, levels, expert_id in itertools.product(("residual", "latent"), (0, 1, 2), ("merged", "first", "last"))
] + [{"shared_expert": False, "expert_id": expert_id} for expert_id in ("merged", "first", "last")]
every_reading = pytest.mark.parametrize("reading", READINGS, ids=lambda reading: "-".join(map(str, reading.values())))


def random_unitok(
    sizes: tuple[int, ...] = (8, 5, 16), dim: int = 48, names: tuple[str, ...] = NAMES, **reading: Any
) -> UniTok:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = UniTok(dim, sizes, 12, [24], names, **reading)
        torch.nn.init.normal_(tokenizer.router.weight)
        for codebook in [*tokenizer.experts.parameters(), *(tokenizer.shared.parameters() if tokenizer.shared else ())]:
            torch.nn.init.normal_(codebook, std=0.3)
        tokenizer.shift_D.normal_()
        tokenizer.scale.fill_(0.7)
        with torch.no_grad():  # items of all experts
            mean = tokenizer.encoder(tokenizer.standardise(torch.randn(100, dim))).mean(dim=0)
            tokenizer.router.bias.copy_(-tokenizer.router.weight @ mean)
    return tokenizer.eval().requires_grad_(False)


def random_vectors(items: int, dim: int = 48) -> Tensor:
    return torch.randn(items, dim, generator=torch.Generator().manual_seed(1))


def chain(codebooks: list[Tensor], given: Tensor) -> tuple[list[int], Tensor]:
    """Residual quantisation of one vector: codes and the sum of their vectors."""
    codes, total = [], torch.zeros_like(given)
    for codebook in codebooks:
        codes.append(int((given - total - codebook.double()).norm(dim=1).argmin()))
        total = total + codebook[codes[-1]].double()
    return codes, total


@every_reading
def test_a_sid_holds_the_codes_of_the_routers_choice_those_of_the_shared_expert_and_that_choice(
    reading: dict[str, Any],
) -> None:
    tokenizer = random_unitok(**reading)
    vectors = random_vectors(40)
    codes = tokenizer.encode(vectors, "any")
    quantised = tokenizer.quantised(codes)
    latents = tokenizer.encoder((vectors - tokenizer.shift_D) / 0.7)
    experts = tokenizer.router(latents).argmax(dim=1).tolist()
    assert set(experts) == {0, 1, 2}
    for item, expert in enumerate(experts):
        latent = latents[item].double()
        own, own_total = chain([codebook[expert] for codebook in tokenizer.experts.codebooks], latent)
        shared: list[int] = []
        total = own_total
        if tokenizer.shared is not None:
            given = latent if tokenizer.shared_reads == "latent" else latent - own_total
            if tokenizer.shared_levels:
                shared, shared_total = chain(list(tokenizer.shared.codebooks), given)
                total = total + shared_total
            elif tokenizer.shared_reads == "latent":
                total = total + chain(list(tokenizer.shared.codebooks), own_total)[1]
        expected = own + shared
        if tokenizer.expert_id == "merged":
            expected[0] += 8 * expert
        else:
            expected.insert(0 if tokenizer.expert_id == "first" else len(expected), expert)
        assert codes[item].tolist() == expected
        torch.testing.assert_close(quantised[item].double(), total, rtol=1e-4, atol=1e-5)
    decoded = tokenizer.decoder(quantised) * 0.7 + tokenizer.shift_D
    torch.testing.assert_close(tokenizer.reconstruct(codes), decoded)


def test_codebook_sizes_count_the_experts_in_the_first_code_or_as_a_level() -> None:
    assert random_unitok(expert_id="merged", shared_levels=1).codebook_sizes == (24, 5, 16)
    assert random_unitok(expert_id="first", shared_levels=1).codebook_sizes == (3, 8, 5, 16)
    assert random_unitok(expert_id="last", shared_levels=1).codebook_sizes == (8, 5, 16, 3)
    alone = random_unitok(shared_levels=0)
    assert alone.shared is not None
    assert alone.shared.codebook_sizes == alone.experts.codebook_sizes == (8, 5, 16)
    assert random_unitok(names=("all",), shared_expert=False).codebook_sizes == (8, 5, 16)


@every_reading
def test_all_levels_at_once_give_the_codes_of_level_by_level(reading: dict[str, Any]) -> None:
    tokenizer = random_unitok((64, 64, 32), 384, **reading)
    latents = tokenizer.latents(random_vectors(2 * CHUNK_ROWS + 37, 384), "a")
    assert torch.equal(tokenizer.nearest_codes(latents), ItemTokenizer.nearest_codes(tokenizer, latents))


@every_reading
def test_a_batch_gets_the_codes_of_its_items_one_by_one(reading: dict[str, Any]) -> None:
    tokenizer = random_unitok((256, 256, 256), 384, **reading)
    vectors = random_vectors(CHUNK_ROWS + 20, 384)
    alone = torch.cat([tokenizer.encode(vector, "a") for vector in vectors.split(1)])
    codes = tokenizer.encode(vectors, "a")
    assert torch.equal(codes, alone)
    latents = tokenizer.latents(vectors, "a")
    for length in range(len(tokenizer.codebook_sizes)):
        together = tokenizer.distances(latents, codes[:, :length])
        one_by_one = [tokenizer.distances(latents[i : i + 1], codes[i : i + 1, :length]) for i in range(20)]
        assert torch.equal(together[:20], torch.cat(one_by_one))
    rebuilt = [tokenizer.reconstruct(codes[i : i + 1]) for i in range(20)]
    assert torch.equal(tokenizer.reconstruct(codes)[:20], torch.cat(rebuilt))


@every_reading
def test_a_saved_and_loaded_tokenizer_is_the_same(reading: dict[str, Any], tmp_path: Path) -> None:
    tokenizer = random_unitok(**reading)
    save_tokenizer(tokenizer, tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert isinstance(loaded, UniTok)
    vectors = random_vectors(50)
    codes = tokenizer.encode(vectors, "a")
    assert torch.equal(loaded.encode(vectors, "a"), codes)
    assert torch.equal(loaded.reconstruct(codes), tokenizer.reconstruct(codes))
    assert tokenizer_digest(loaded) == tokenizer_digest(tokenizer)
    assert loaded.expert_names == NAMES


@every_reading
def test_items_get_sids_of_their_own_even_where_vectors_are_equal(reading: dict[str, Any]) -> None:
    tokenizer = random_unitok((8, 8, 8), **reading)
    vectors = torch.cat([random_vectors(40), random_vectors(1).expand(300, -1)]).numpy()
    sids, _ = assign_sids(tokenizer, vectors, "a")
    assert len(np.unique(sids, axis=0)) == 340
    assert (sids >= 0).all()
    assert (sids < tokenizer.codebook_sizes).all()


@pytest.mark.parametrize("expert_id", ["merged", "first"])
def test_items_leave_the_expert_of_their_choice_only_when_it_is_full(expert_id: Any) -> None:
    tokenizer = random_unitok((4, 4, 4), expert_id=expert_id, shared_levels=1)
    vector = random_vectors(1)
    probs = torch.cat(list(tokenizer.routes(vector, "a").values()))
    sids, _ = assign_sids(tokenizer, vector.expand(100, -1).numpy(), "a")
    experts = sids[:, 0] // 4 if expert_id == "merged" else sids[:, 0]
    first, second, third = np.bincount(experts, minlength=3)[probs.argsort(descending=True)].tolist()
    assert first == 64
    assert second > third


def test_a_merged_level_ranks_the_codes_of_the_choice_first_and_other_experts_by_what_they_lack() -> None:
    tokenizer = random_unitok(shared_levels=1)
    with torch.no_grad():
        tokenizer.experts.codebooks[0][:] = tokenizer.experts.codebooks[0][:1].clone()
    latents = tokenizer.latents(random_vectors(40), "a")
    costs = tokenizer.distances(latents, torch.empty(40, 0, dtype=torch.int64)).unflatten(1, (3, 8))
    assert torch.isfinite(costs).all()
    order = latents[:, 12:].argsort(dim=1, descending=True)
    for item in range(40):
        first, second, third = costs[item, order[item]]
        torch.testing.assert_close(
            first, (latents[item, :12] - tokenizer.experts.codebooks[0][0]).square().sum(dim=1), rtol=1e-4, atol=1e-4
        )
        assert float(first.max()) < float(second.min())
        assert (second < third).all()


def test_the_choice_wins_where_all_codes_of_all_experts_are_equal() -> None:
    tokenizer = random_unitok(shared_levels=1)
    for codebook in tokenizer.experts.codebooks:
        codebook.zero_()
    latents = tokenizer.latents(random_vectors(40), "a")
    codes = ItemTokenizer.nearest_codes(tokenizer, latents)
    assert torch.equal(codes[:, 0], 8 * latents[:, 12:].argmax(dim=1))


@pytest.mark.parametrize("expert_id", ["merged", "first"])
def test_after_a_prefix_that_names_another_expert_its_codebooks_are_meant(expert_id: Any) -> None:
    tokenizer = random_unitok(expert_id=expert_id, shared_levels=1)
    latents = tokenizer.latents(random_vectors(9), "a")
    other = latents[:, 12:].argmin(dim=1)
    code = torch.full((9,), 3)
    prefix = (other * 8 + code)[:, None] if expert_id == "merged" else torch.stack([other, code], dim=1)
    books = tokenizer.experts.codebooks
    for item in range(9):
        residual = latents[item, :12] - books[0][other[item], 3]
        expected = (residual - books[1][other[item]]).square().sum(dim=1)
        torch.testing.assert_close(tokenizer.distances(latents, prefix)[item], expected, rtol=1e-3, atol=1e-4)


def test_before_the_last_level_names_an_expert_the_routers_choice_is_meant_and_then_the_one_named() -> None:
    tokenizer = random_unitok(expert_id="last", shared_levels=1)
    vectors = random_vectors(30)
    latents, codes = tokenizer.latents(vectors, "a"), tokenizer.encode(vectors, "a")
    costs = tokenizer.distances(latents, codes[:, :3])
    assert costs.shape == (30, 3)
    assert torch.equal(costs.argmin(dim=1), codes[:, 3])
    assert torch.equal(costs.argsort(dim=1), latents[:, 12:].argsort(dim=1, descending=True))
    moved = codes.clone()
    moved[:, 3] = (codes[:, 3] + 1) % 3
    books = tokenizer.experts.codebooks
    expected = books[0][moved[0, 3], codes[0, 0]] + books[1][moved[0, 3], codes[0, 1]]
    assert tokenizer.shared is not None
    expected = expected + tokenizer.shared.codebooks[0][codes[0, 2]]
    torch.testing.assert_close(tokenizer.quantised(moved)[0], expected)


@pytest.mark.parametrize("expert_id", ["merged", "first", "last"])
def test_every_codebook_answers_for_the_items_of_its_expert_and_the_shared_ones_for_all(expert_id: Any) -> None:
    tokenizer = random_unitok(expert_id=expert_id, shared_levels=1)
    vectors = random_vectors(60)
    codes = tokenizer.encode(vectors, "a")
    expert = tokenizer.latents(vectors, "a")[:, 12:].argmax(dim=1)
    chain_codes = codes[:, 1:] if expert_id == "first" else codes[:, :3]
    groups = {group.name: group for group in tokenizer.codebook_groups(codes)}
    names = [f"expert {name}, level {level}" for name in NAMES for level in (1, 2)] + ["shared expert, level 3"]
    assert list(groups) == names + (["choice of expert"] if expert_id != "merged" else [])
    for number, name in enumerate(NAMES):
        first = groups[f"expert {name}, level 1"]
        assert torch.equal(first.codes_M, chain_codes[expert == number, 0] % 8)
        assert torch.equal(groups[f"expert {name}, level 2"].codes_M, chain_codes[expert == number, 1])
        assert (first.size, groups[f"expert {name}, level 2"].size) == (8, 5)
    assert torch.equal(groups["shared expert, level 3"].codes_M, chain_codes[:, 2])
    assert groups["shared expert, level 3"].size == 16
    if expert_id != "merged":
        assert torch.equal(groups["choice of expert"].codes_M, expert)


def test_routes_are_the_routers_softmax_by_the_experts_name() -> None:
    tokenizer = random_unitok()
    vectors = random_vectors(20)
    routes = tokenizer.routes(vectors, "a")
    assert list(routes) == ["expert films", "expert games", "expert shoes"]
    scores = tokenizer.router(tokenizer.encoder(tokenizer.standardise(vectors)))
    torch.testing.assert_close(torch.stack(list(routes.values()), dim=1), scores.softmax(dim=1))


def test_the_domains_name_is_never_read() -> None:
    tokenizer = random_unitok(shared_levels=1)
    vectors = random_vectors(20)
    assert torch.equal(tokenizer.encode(vectors, "films"), tokenizer.encode(vectors, "never seen"))


def test_no_vectors_get_no_codes_and_vectors_that_cannot_be_are_refused() -> None:
    tokenizer = random_unitok(expert_id="last", shared_levels=1)
    assert tokenizer.encode(torch.zeros(0, 48), "a").shape == (0, 4)
    vectors = random_vectors(20)
    vectors[3, 5] = float("nan")
    with pytest.raises(TokenizerError, match="rows 3 hold NaN or infinity"):
        tokenizer.encode(vectors, "a")
    with pytest.raises(TokenizerError, match=r"this tokenizer takes \[items, 48\]"):
        tokenizer.encode(torch.zeros(4, 47), "a")


@pytest.mark.parametrize(
    "wrong",
    [
        {"names": ()},
        {"shared_levels": 3},
        {"shared_levels": 1, "shared_expert": False},
        {"sizes": (2**16, 2**15, 2**15, 2**15)},
        {"sizes": (0, 4)},
    ],
    ids=["no expert", "no level of its own", "levels of no shared expert", "too many SIDs", "no codes"],
)
def test_sizes_that_make_no_sids_or_too_many_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(TokenizerError, match=r"there must be an expert|codebook sizes"):
        UniTok(
            2,
            wrong.get("sizes", (4, 4, 4)),
            1,
            [],
            wrong.get("names", NAMES),
            **{key: value for key, value in wrong.items() if key not in ("sizes", "names")},
        )


def test_a_config_without_a_field_is_refused_by_its_name(tmp_path: Path) -> None:
    save_tokenizer(random_unitok(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({name: config[name] for name in config if name != "expert_id"}))
    with pytest.raises(TokenizerError, match="no field 'expert_id'"):
        load_tokenizer(tmp_path)
