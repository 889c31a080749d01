"""Hardly known items have a place among followers by those that they are like."""

import numpy as np
import pytest

from sidera.items.borrowing import OWN_FOLLOWERS, Borrowers
from sidera.items.memory_reading import Entries, summed
from sidera.items.neighbour_lists import GrownLists, NeighbourLists
from sidera.items.transitions import TransitionDelta

KNOWN, OTHER, COLD, THIRD, JOINED = range(5)
FOLLOWERS = np.array([KNOWN, OTHER]), np.array([0.6, 0.2])
NO_EVENTS = TransitionDelta()


def lists_of(listed: dict[int, dict[int, float]], items: int = 4) -> NeighbourLists:
    rows = [listed.get(item, {}) for item in range(items)]
    return NeighbourLists(
        np.cumsum([0, *map(len, rows)]),
        np.array([other for row in rows for other in row], dtype=np.int32),
        np.array([weight for row in rows for weight in row.values()], dtype=np.float32),
    )


def as_dict(found: Entries) -> dict[int, float]:
    return dict(zip(*(part.tolist() for part in summed(found)), strict=True))


def borrowers(changed: dict[int, tuple[np.ndarray, np.ndarray]] | None = None) -> Borrowers:
    return Borrowers.of(lists_of({KNOWN: {COLD: 0.5}}), GrownLists(lists_of({}), changed or {}))


def test_a_borrower_gets_its_part_and_the_whole_mass_stays() -> None:
    found = as_dict(borrowers().shared(FOLLOWERS, 1.0, NO_EVENTS))
    assert found == pytest.approx({KNOWN: 0.6 * 0.8 / 1.1, OTHER: 0.2 * 0.8 / 1.1, COLD: 0.3 * 0.8 / 1.1})


def test_a_borrower_that_follows_too_has_both_masses() -> None:
    followers = np.array([COLD, KNOWN, OTHER]), np.array([0.2, 0.4, 0.2])
    found = as_dict(borrowers().shared(followers, 1.0, NO_EVENTS))
    assert found == pytest.approx({KNOWN: 0.4 * 0.8, OTHER: 0.2 * 0.8, COLD: (0.2 + 0.2) * 0.8})


def test_entries_that_name_an_item_several_times_lend_as_if_they_named_it_once() -> None:
    apart = np.array([KNOWN, OTHER, KNOWN]), np.array([0.5, 0.2, 0.1])
    found = as_dict(borrowers().shared(apart, 1.0, NO_EVENTS))
    assert found == pytest.approx(as_dict(borrowers().shared(FOLLOWERS, 1.0, NO_EVENTS)))


def test_followers_that_nobody_borrows_from_stay_as_they_are() -> None:
    alone = np.array([OTHER, 9]), np.array([0.2, 0.1])
    assert as_dict(borrowers().shared(alone, 1.0, NO_EVENTS)) == {OTHER: 0.2, 9: 0.1}


def test_an_item_that_joined_borrows_by_its_own_list_of_items_alike() -> None:
    joined = borrowers({JOINED: (np.array([OTHER, THIRD], np.int32), np.array([3.0, 1.0], np.float32))})
    found = as_dict(joined.shared(FOLLOWERS, 1.0, NO_EVENTS))
    assert found[JOINED] / found[OTHER] == pytest.approx(0.75)
    assert sum(found.values()) == pytest.approx(0.8)


def test_an_old_item_whose_list_of_items_alike_changed_borrows_nothing() -> None:
    changed = borrowers({THIRD: (np.array([OTHER], np.int32), np.array([1.0], np.float32))})
    assert THIRD not in as_dict(changed.shared(FOLLOWERS, 1.0, NO_EVENTS))


def test_an_item_borrows_less_the_more_followers_of_its_own_events_bring_it() -> None:
    def part(followers: int) -> float:
        after = np.arange(followers) + 10
        delta = TransitionDelta().added(np.full(followers, COLD), after, np.ones(followers))
        found = as_dict(borrowers().shared(FOLLOWERS, 1.0, delta))
        return found[COLD] / found[KNOWN]

    assert part(OWN_FOLLOWERS // 2) == pytest.approx(0.25)
    assert part(OWN_FOLLOWERS) == part(OWN_FOLLOWERS + 5) == 0


def test_transitions_that_are_taken_away_are_no_followers_of_an_items_own() -> None:
    after = np.arange(OWN_FOLLOWERS) + 10
    gone = TransitionDelta().added(np.full(OWN_FOLLOWERS, COLD), after, -np.ones(OWN_FOLLOWERS))
    assert as_dict(borrowers().shared(FOLLOWERS, 1.0, gone)) == as_dict(borrowers().shared(FOLLOWERS, 1.0, NO_EVENTS))
