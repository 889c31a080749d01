"""SIDs of new items beside those that exist."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sidera.errors import DomainFullError, DuplicateItemError, TokenizerError
from sidera.items.assignment import assign_sids
from sidera.items.placement import place_new
from tests.sidera.plain_tokenizer import nearest, random_plain, random_vectors


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
