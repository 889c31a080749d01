"""Unique SIDs of a whole domain."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from sidera.errors import DomainFullError, TokenizerError
from sidera.items import assignment
from sidera.items.assignment import assign_sids, spread
from tests.sidera.plain_tokenizer import Plain, nearest, random_plain, random_vectors, squared_error


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
    nobody = np.zeros(3, dtype=np.int64)
    assert spread(distances, np.asarray([0, 0, 0, 1, 1]), 2, nobody).tolist() == [2, 0, 0, 1, 1]
    assert spread(distances, np.asarray([0, 0, 2, 1, 1]), 2, nobody).tolist() == [0, 0, 2, 1, 1]
    assert spread(distances[:3], np.asarray([0, 0, 0]), 2, np.asarray([0, 2, 0])).tolist() == [2, 0, 0]
    assert spread(distances[:3], np.asarray([0, 0, 0]), 2, np.asarray([0, 1, 0])).tolist() == [0, 1, 0]


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


def test_vectors_on_disk_get_the_sids_of_vectors_in_memory_whatever_the_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, vectors = random_plain((4, 6, 5)), random_vectors(100)
    vectors[40:] = vectors[:60]
    whole, report = assign_sids(tokenizer, vectors, "a")
    np.save(tmp_path / "vectors.npy", vectors)
    monkeypatch.setattr(assignment, "_ROWS", 7)
    parts, same = assign_sids(tokenizer, np.load(tmp_path / "vectors.npy", mmap_mode="r"), "a")
    assert (parts == whole).all()
    assert dataclasses.replace(same, extra_error=0) == dataclasses.replace(report, extra_error=0)
    assert same.extra_error == pytest.approx(report.extra_error)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), items=st.integers(2, 24))
def test_every_prefix_with_a_clash_is_assigned_at_minimum_cost_by_its_own_items(seed: int, items: int) -> None:
    tokenizer, vectors = random_plain((3, 12), seed=seed), random_vectors(items, seed=seed + 1)
    sids, _ = assign_sids(tokenizer, vectors, "a")
    codes = nearest(tokenizer, vectors)
    if (np.bincount(codes[:, 0]) > 12).any():
        return
    for first in set(codes[:, 0].tolist()):
        rows = np.flatnonzero(codes[:, 0] == first)
        books = [codebook.numpy() for codebook in tokenizer.quantiser.codebooks]
        cost = np.square(vectors[rows][:, None] - books[0][first] - books[1][None]).sum(axis=2)
        if len(set(codes[rows, 1].tolist())) == len(rows):
            assert (sids[rows] == codes[rows]).all()
        else:
            best = linear_sum_assignment(cost)
            assert cost[range(len(rows)), sids[rows, 1]].sum() == pytest.approx(cost[best].sum(), rel=1e-4)
