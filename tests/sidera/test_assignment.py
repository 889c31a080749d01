"""Unique SIDs of whole domains and of new items."""

import itertools
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sidera.assignment import assign_sids, place_new, spread
from sidera.errors import DomainFullError, DuplicateItemError, TokenizerError
from sidera.tokenizers.base import ItemTokenizer, check_vectors
from sidera.tokenizers.residual import ResidualQuantiser


class Plain(ItemTokenizer):
    """The residual quantiser alone, on codebooks given: a world small enough to check by hand."""

    method: ClassVar[str] = "plain"

    def __init__(self, codebooks: list[Tensor]) -> None:
        super().__init__()
        self.quantiser = ResidualQuantiser([len(book) for book in codebooks], codebooks[0].shape[1])
        for own, given_Vd in zip(self.quantiser.codebooks, codebooks, strict=True):
            own.data.copy_(given_Vd)
        self.codebook_sizes, self.dim = self.quantiser.codebook_sizes, self.quantiser.dim
        self.requires_grad_(False)

    def config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        raise TypeError("made for these tests; never stored, so never loaded")

    def latents(self, vectors_ND: Tensor, domain: str) -> Tensor:
        check_vectors(vectors_ND, self.dim)
        return vectors_ND

    def distances(self, latents_Nd: Tensor, prefix_Nl: Tensor) -> Tensor:
        return self.quantiser.distances(latents_Nd, prefix_Nl)

    def quantised(self, codes_NL: Tensor) -> Tensor:
        return self.quantiser.lookup(codes_NL)

    def reconstruct(self, codes_NL: Tensor) -> Tensor:
        return self.quantised(codes_NL)


def random_plain(sizes: tuple[int, ...], dim: int = 3, seed: int = 0) -> Plain:
    generator = torch.Generator().manual_seed(seed)
    return Plain([torch.randn(size, dim, generator=generator) / 2**level for level, size in enumerate(sizes)])


def random_vectors(items: int, dim: int = 3, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(items, dim)).astype(np.float32)


def nearest(tokenizer: Plain, vectors: np.ndarray) -> np.ndarray:
    return tokenizer.encode(torch.from_numpy(vectors), "a").numpy()


def squared_error(tokenizer: Plain, vectors: np.ndarray, sids: np.ndarray) -> np.ndarray:
    return np.asarray(np.square(vectors - tokenizer.reconstruct(torch.from_numpy(sids)).numpy()).sum(axis=1))


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple),
    fill=st.floats(0, 1),
    copies=st.integers(1, 6),
    seed=st.integers(0, 10_000),
)
def test_sids_are_unique_and_valid_however_full_the_domain(
    sizes: tuple[int, ...], fill: float, copies: int, seed: int
) -> None:
    tokenizer = random_plain(sizes, seed=seed)
    items = round(fill * tokenizer.capacity)
    vectors = np.repeat(random_vectors(items // copies + 1, seed=seed), copies, axis=0)[:items]
    sids, report = assign_sids(tokenizer, vectors, "a")
    assert sids.shape == (items, len(sizes))
    assert sids.dtype == np.int32
    assert ((sids >= 0) & (sids < np.asarray(sizes))).all()
    assert len(np.unique(sids, axis=0)) == items
    greedy = nearest(tokenizer, vectors)
    assert sum(report.moved_per_level) == (sids != greedy).any(axis=1).sum()
    if items:
        assert report.collision_rate_before == pytest.approx(1 - len(np.unique(greedy, axis=0)) / items)
        difference = squared_error(tokenizer, vectors, sids) - squared_error(tokenizer, vectors, greedy)
        assert report.extra_error == pytest.approx(difference.mean(), abs=1e-4)


@pytest.mark.parametrize("sizes", [(32, 32, 32), (32, 32, 32, 32)])
def test_ten_thousand_identical_vectors_end_in_ten_thousand_leaves(sizes: tuple[int, ...]) -> None:
    tokenizer = random_plain(sizes)
    vectors = np.repeat(random_vectors(1), 10_000, axis=0)
    sids, report = assign_sids(tokenizer, vectors, "a")
    assert len(np.unique(sids, axis=0)) == 10_000
    assert report.identical_vectors == 9_999
    assert report.collision_rate_before == pytest.approx(0.9999)
    assert report.collision_rate_distinct == 0
    below = 32 ** (len(sizes) - 1)
    assert report.moved_per_level[0] == max(0, 10_000 - below)
    assert sum(report.moved_per_level) == 9_999


def test_items_of_groups_without_a_clash_keep_their_nearest_codes() -> None:
    tokenizer = random_plain((16, 16, 16))
    vectors = random_vectors(200)
    greedy = nearest(tokenizer, vectors)
    sids, report = assign_sids(tokenizer, vectors, "a")
    prefixes = [tuple(codes[:2]) for codes in greedy]
    assert report.moved_per_level[:2] == (0, 0)
    size = {p: prefixes.count(p) for p in prefixes}
    clash = {p for p in prefixes if len({tuple(c) for c in greedy if tuple(c[:2]) == p}) < size[p]}
    untouched = np.asarray([p not in clash for p in prefixes])
    assert 0 < untouched.sum() < len(vectors)
    assert (sids[untouched] == greedy[untouched]).all()
    assert (sids[:, :2] == greedy[:, :2]).all()


def test_the_last_level_is_assigned_at_minimum_cost() -> None:
    tokenizer = random_plain((1, 5), dim=2)
    vectors = np.repeat(random_vectors(2, dim=2), 2, axis=0) + random_vectors(4, dim=2, seed=5) * 0.01
    sids, report = assign_sids(tokenizer, vectors, "a")
    assert report.collision_rate_before > 0
    costs = torch.cdist(torch.from_numpy(vectors) - tokenizer.quantiser.codebooks[0], tokenizer.quantiser.codebooks[1])
    costs = costs.square()
    best = min(
        sum(float(costs[item, code]) for item, code in enumerate(codes))
        for codes in itertools.permutations(range(5), 4)
    )
    assert sum(float(costs[item, code]) for item, code in enumerate(sids[:, 1])) == pytest.approx(best, rel=1e-4)


def test_overflow_goes_to_the_next_nearest_code_of_the_level_before_the_cheapest_first() -> None:
    tokenizer = Plain([torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([[0.0], [0.1]])])
    vectors = np.asarray([[0.0], [0.1], [0.4], [0.2]], dtype=np.float32)
    sids, report = assign_sids(tokenizer, vectors, "a")
    assert sids[:, 0].tolist() == [0, 0, 1, 1]
    assert report.moved_per_level == (2, 0)
    sids, _ = assign_sids(tokenizer, np.zeros((5, 1), dtype=np.float32), "a")
    assert sids[:, 0].tolist() == [1, 1, 2, 0, 0]


def test_spreading_moves_only_the_surplus_and_only_to_codes_with_room() -> None:
    distances = np.asarray([[0.0, 1.0, 9.0], [0.0, 0.5, 9.0], [0.0, 2.0, 9.0], [5.0, 0.0, 9.0], [5.0, 0.0, 9.0]])
    assert spread(distances, np.asarray([0, 0, 0, 1, 1]), capacity=2).tolist() == [2, 0, 0, 1, 1]
    assert spread(distances, np.asarray([0, 0, 2, 1, 1]), capacity=2).tolist() == [0, 0, 2, 1, 1]


def test_a_one_item_domain_and_an_empty_one_have_a_defined_result() -> None:
    tokenizer = random_plain((4, 4))
    vectors = random_vectors(1)
    sids, report = assign_sids(tokenizer, vectors, "a")
    assert (sids == nearest(tokenizer, vectors)).all()
    assert report.moved_per_level == (0, 0)
    sids, report = assign_sids(tokenizer, vectors[:0], "a")
    assert sids.shape == (0, 2)
    assert report.collision_rate_before == 0
    assert report.collision_rate_distinct == 0


def test_a_domain_with_more_items_than_sids_is_refused() -> None:
    tokenizer = random_plain((2, 3))
    assert len(assign_sids(tokenizer, random_vectors(6), "a")[0]) == 6
    with pytest.raises(DomainFullError, match=r"domain 'toys' would hold 7 items, but codebook sizes \[2, 3\] make 6"):
        assign_sids(tokenizer, random_vectors(7), "toys")


def test_nan_vectors_are_refused_by_domain_and_row() -> None:
    vectors = random_vectors(5)
    vectors[2, 1] = np.nan
    with pytest.raises(TokenizerError, match=r"domain 'toys', counting from row 0: .*rows 2 hold NaN"):
        assign_sids(random_plain((4, 4)), vectors, "toys")


def test_new_items_take_the_nearest_free_leaf_and_no_sid_moves() -> None:
    tokenizer = random_plain((4, 4))
    vectors = random_vectors(8)
    taken, _ = assign_sids(tokenizer, vectors, "a")
    before = taken.copy()
    sids, moved = place_new(tokenizer, vectors, "a", taken)
    assert (taken == before).all()
    assert len(np.unique(np.concatenate([taken, sids]), axis=0)) == 16
    greedy = nearest(tokenizer, vectors)
    assert (moved == (sids != greedy).any(axis=1)).all()
    occupied = {tuple(sid) for sid in taken}
    for vector, sid in zip(vectors, sids, strict=True):
        prefix = torch.empty((1, 0), dtype=torch.int64)
        for level in range(2):
            cost = tokenizer.distances(torch.from_numpy(vector[None]), prefix)[0]
            full = [c for c in range(4) if all((*prefix[0].tolist(), c, *r) in occupied for r in rest(level))]
            cost[full] = torch.inf
            prefix = torch.cat([prefix, cost.argmin().reshape(1, 1)], dim=1)
        assert sid.tolist() == prefix[0].tolist()
        occupied.add(tuple(sid))


def rest(level: int) -> list[tuple[int, ...]]:
    return [(code,) for code in range(4)] if level == 0 else [()]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), cut=st.integers(0, 12))
def test_placing_in_two_calls_is_placing_in_one(seed: int, cut: int) -> None:
    tokenizer = random_plain((3, 3, 3), seed=seed)
    vectors = np.repeat(random_vectors(6, seed=seed), 2, axis=0)
    taken, _ = assign_sids(tokenizer, random_vectors(10, seed=seed + 1), "a")
    together, moved = place_new(tokenizer, vectors, "a", taken)
    first, first_moved = place_new(tokenizer, vectors[:cut], "a", taken)
    second, second_moved = place_new(tokenizer, vectors[cut:], "a", np.concatenate([taken, first]))
    assert (np.concatenate([first, second]) == together).all()
    assert (np.concatenate([first_moved, second_moved]) == moved).all()


def test_new_items_of_a_domain_never_seen_get_their_nearest_codes() -> None:
    tokenizer = random_plain((16, 16, 16))
    vectors = random_vectors(20)
    sids, moved = place_new(tokenizer, vectors, "new", np.empty((0, 3), dtype=np.int32))
    clear = ~moved
    assert clear.sum() > 10
    assert (sids[clear] == nearest(tokenizer, vectors)[clear]).all()


def test_new_items_fill_a_domain_to_its_last_leaf_and_no_further() -> None:
    tokenizer = random_plain((3, 4))
    vectors = np.repeat(random_vectors(1), 12, axis=0)
    sids, _ = place_new(tokenizer, vectors, "a", np.empty((0, 2)))
    assert len(np.unique(sids, axis=0)) == 12
    with pytest.raises(DomainFullError, match="domain 'a' would hold 13 items"):
        place_new(tokenizer, vectors[:2], "a", sids[:11])


def test_taken_sids_that_cannot_be_are_refused() -> None:
    tokenizer = random_plain((3, 4))
    with pytest.raises(DuplicateItemError, match="two taken SIDs of domain 'a' are equal"):
        place_new(tokenizer, random_vectors(1), "a", np.asarray([[0, 1], [2, 2], [0, 1]]))
    with pytest.raises(TokenizerError, match="code outside codebook sizes"):
        place_new(tokenizer, random_vectors(1), "a", np.asarray([[0, 4]]))
    with pytest.raises(TokenizerError, match="expected"):
        place_new(tokenizer, random_vectors(1), "a", np.asarray([[0, 1, 2]]))
