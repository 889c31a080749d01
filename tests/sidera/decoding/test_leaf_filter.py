"""Which leaves may come back."""

from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidera.decoding.leaf_filter import LeafFilter, LeafSet

NUM_LEAVES = 12
leaves = st.lists(st.integers(0, NUM_LEAVES - 1), max_size=NUM_LEAVES + 3)


@dataclass(frozen=True)
class Row:
    blocked: list[int]
    allowed: list[int] | None
    boundaries: list[int]

    def answer(self) -> list[bool]:
        def permitted(leaf: int) -> bool:
            return leaf not in self.blocked and (self.allowed is None or leaf in self.allowed)

        pairs = zip(self.boundaries, self.boundaries[1:], strict=False)
        return [any(map(permitted, range(begin, end))) for begin, end in pairs]


rows = st.builds(
    Row,
    blocked=leaves,
    allowed=st.none() | leaves,
    boundaries=st.lists(st.integers(0, NUM_LEAVES), min_size=7, max_size=7).map(sorted),
)


@given(st.lists(rows, min_size=1, max_size=5), st.booleans())
def test_a_range_is_allowed_exactly_if_one_of_its_leaves_is(batch: list[Row], any_lists: bool) -> None:
    if not any_lists:
        batch = [Row(row.blocked, None, row.boundaries) for row in batch]
    sets = [None if row.allowed is None else LeafSet.of(row.allowed) for row in batch]
    built = LeafFilter.build([row.blocked for row in batch], sets)
    naive = [row.answer() for row in batch]
    if built is None:
        assert not any(row.blocked or row.allowed is not None for row in batch)
        return
    # Shape [B, 1, X], and the same boundaries once more as two beams.
    boundaries_BKX = torch.tensor([[row.boundaries, row.boundaries] for row in batch])
    assert built.any_allowed(boundaries_BKX)[:, 1].tolist() == naive
    assert built.any_allowed(boundaries_BKX[:, :1].contiguous())[:, 0].tolist() == naive


@given(
    st.lists(st.booleans(), min_size=NUM_LEAVES, max_size=NUM_LEAVES),
    st.lists(leaves, min_size=1, max_size=4),
    st.integers(0, 5),
    st.lists(st.integers(0, NUM_LEAVES), min_size=7, max_size=7).map(sorted),
)
def test_a_shared_set_listed_either_way_lies_in_a_batch_once_and_blocked_leaves_come_off_it(
    mask: list[bool], blocked: list[list[int]], first: int, boundaries: list[int]
) -> None:
    shared = LeafSet.of_mask(np.array(mask), first)
    assert shared.allows == (2 * sum(mask) <= NUM_LEAVES)
    assert len(shared.listed) <= NUM_LEAVES / 2
    own = np.arange(first, first + NUM_LEAVES)
    assert shared.contains(own).tolist() == mask
    built = LeafFilter.build(blocked, [shared] * len(blocked))
    if built is None:
        assert all(mask)
        assert not any(blocked)
        return
    assert len(built.keys_F) <= len(shared.listed) + sum(map(len, blocked))
    inside = [leaf for leaf, allowed in zip(own.tolist(), mask, strict=True) if allowed]
    at = torch.tensor(boundaries) + first
    found = built.any_allowed(at.expand(len(blocked), 1, -1))
    for row, out in enumerate(blocked):
        pairs = zip(at.tolist(), at.tolist()[1:], strict=False)
        assert found[row, 0].tolist() == [any(b <= leaf < e and leaf not in out for leaf in inside) for b, e in pairs]


def test_nothing_blocked_and_no_allow_list_is_no_filter() -> None:
    assert LeafFilter.build([[], []]) is None
    assert LeafFilter.build([[], []], [None, None]) is None


def test_an_empty_allow_list_allows_nothing() -> None:
    built = LeafFilter.build([[], []], [LeafSet.of([]), None])
    assert built is not None
    assert built.any_allowed(torch.tensor([[[0, 3, 9]], [[0, 3, 9]]])).tolist() == [[[False, False]], [[True, True]]]
