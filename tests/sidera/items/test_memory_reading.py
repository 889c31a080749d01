"""Lists become one distribution, and entries one sum an item, as adding them up one by one makes them."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidera.items.memory_reading import NOTHING, Entries, Reading, read_lists, side_by_side, summed
from sidera.items.neighbour_lists import Listed

ITEM = st.integers(0, 8)
MASS = st.floats(1 / 64, 4.0, width=32)
ENTRIES = st.lists(st.tuples(ITEM, MASS), max_size=30)
LISTS = st.dictionaries(ITEM, st.dictionaries(ITEM, MASS, max_size=6), max_size=6)


def entries(pairs: list[tuple[int, float]]) -> Entries:
    return np.array([item for item, _ in pairs], dtype=np.int64), np.array([mass for _, mass in pairs], dtype=float)


def added_up(pairs: list[tuple[int, float]]) -> dict[int, float]:
    found: dict[int, float] = defaultdict(float)
    for item, mass in pairs:
        found[item] += mass
    return dict(sorted(found.items()))


@given(ENTRIES)
def test_each_item_has_the_sum_of_its_entries_once_and_sorted(pairs: list[tuple[int, float]]) -> None:
    item_S, mass_S = summed(entries(pairs))
    assert item_S.tolist() == list(added_up(pairs))
    assert mass_S.tolist() == pytest.approx(list(added_up(pairs).values()))


@given(ENTRIES, ENTRIES)
def test_two_side_by_side_are_what_each_is_alone(one: list[tuple[int, float]], other: list[tuple[int, float]]) -> None:
    item_S, one_S, other_S = side_by_side(entries(one), entries(other))
    assert item_S.tolist() == sorted({*added_up(one), *added_up(other)})
    for pairs, mass_S in ((one, one_S), (other, other_S)):
        assert mass_S.tolist() == pytest.approx([added_up(pairs).get(item, 0.0) for item in item_S.tolist()])


@given(LISTS, st.lists(ITEM, max_size=6), st.sampled_from([0.0, 0.5]), st.sampled_from([0.0, 3.0]))
def test_a_history_reads_its_newest_lists_the_newer_the_heavier(
    lists: dict[int, dict[int, float]], history: list[int], discount: float, smoothing: float
) -> None:
    def of(number: int) -> Listed:
        own = lists.get(number, {})
        return np.array(list(own), dtype=np.int32), np.array(list(own.values()), dtype=np.float32)

    expected: list[tuple[int, float]] = []
    known = [(0.5**age, lists[item]) for age, item in enumerate(reversed(history[-3:])) if lists.get(item)]
    for part, own in known:
        share = part / sum(part for part, _ in known) / (sum(own.values()) + smoothing)
        expected += [(item, share * (weight - discount)) for item, weight in own.items() if weight > discount]
    item_S, mass_S = summed(read_lists(of, history, Reading(recent=3, decay=0.5), smoothing, discount))
    assert dict(zip(item_S.tolist(), mass_S.tolist(), strict=True)) == pytest.approx(added_up(expected))


def test_of_nothing_nothing_is_found() -> None:
    for found in (summed(NOTHING), side_by_side(NOTHING, NOTHING)):
        assert [len(part) for part in found] == [0] * len(found)
