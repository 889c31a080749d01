"""Which leaves may come back."""

from dataclasses import dataclass

import torch
from hypothesis import given
from hypothesis import strategies as st

from sidera.leaf_filter import LeafFilter

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
    built = LeafFilter.build([row.blocked for row in batch], [row.allowed for row in batch])
    naive = [row.answer() for row in batch]
    if built is None:
        assert not any(row.blocked or row.allowed is not None for row in batch)
        return
    # Shape [B, 1, X], and the same boundaries once more as two beams.
    boundaries_BKX = torch.tensor([[row.boundaries, row.boundaries] for row in batch])
    assert built.any_allowed(boundaries_BKX)[:, 1].tolist() == naive
    assert built.any_allowed(boundaries_BKX[:, :1].contiguous())[:, 0].tolist() == naive


def test_nothing_blocked_and_no_allow_list_is_no_filter() -> None:
    assert LeafFilter.build([[], []]) is None
    assert LeafFilter.build([[], []], [None, None]) is None


def test_an_empty_allow_list_allows_nothing() -> None:
    built = LeafFilter.build([[], []], [[], None])
    assert built is not None
    assert built.any_allowed(torch.tensor([[[0, 3, 9]], [[0, 3, 9]]])).tolist() == [[[False, False]], [[True, True]]]
