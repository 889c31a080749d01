"""The front of a long history's window stays while the history grows."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidera.model.history_window import window_start

NUMBERS = st.lists(st.integers(0, 10**6), max_size=60)


@given(numbers=NUMBERS, max_history=st.integers(1, 50))
def test_a_window_holds_the_newest_items_and_at_least_four_fifths_of_what_may_be_read(
    numbers: list[int], max_history: int
) -> None:
    read = len(numbers) - window_start(numbers, max_history)
    assert read <= max_history
    assert read >= min(len(numbers), max_history - max_history // 5 + (max_history >= 5))


@given(numbers=NUMBERS, more=st.lists(st.integers(0, 10**6), max_size=20), max_history=st.integers(1, 50))
def test_a_front_never_depends_on_what_lies_before_what_may_be_read(
    numbers: list[int], more: list[int], max_history: int
) -> None:
    if len(numbers) > max_history:
        assert window_start(more + numbers, max_history) == len(more) + window_start(numbers, max_history)


@pytest.mark.parametrize(("max_history", "most"), [(50, 0.25), (20, 0.5)])
def test_a_growing_history_moves_its_front_rarely(max_history: int, most: float) -> None:
    rng = random.Random(0)
    numbers = [rng.randrange(100_000) for _ in range(1000)]
    starts = [window_start(numbers[:length], max_history) for length in range(max_history + 1, 1001)]
    moves = sum(one != other for one, other in itertools.pairwise(starts))
    assert 0 < moves < most * len(starts)
    assert starts == sorted(starts)


def test_a_history_that_fits_is_read_whole_and_a_short_window_is_exact() -> None:
    assert window_start([5, 6, 7], 3) == 0
    assert [window_start(list(range(length)), 4) for length in (4, 5, 9)] == [0, 1, 5]
