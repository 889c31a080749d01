"""What events add to the counts of a bundle: the same however they come, and nothing once they were taken back."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidera.errors import CatalogError
from sidera.items.neighbours import GrownLists, NeighbourLists, Neighbours, Reading, Shares, save_neighbours
from sidera.items.transitions import TransitionDelta, TransitionRule, pairs_of

A, B, C = range(3)
DAY = 86_400.0

Counts = dict[tuple[int, int], float]


def counts_of(numbers: list[int], weights: list[float] | None = None, rule: TransitionRule | None = None) -> Counts:
    plain = rule or TransitionRule(window=2, backward=0.5)
    return summed(pairs_of(np.array(numbers), np.zeros(len(numbers)), np.array(weights or [1.0] * len(numbers)), plain))


def summed(pairs: tuple[np.ndarray, np.ndarray, np.ndarray]) -> Counts:
    found: Counts = {}
    for before, after, count in zip(*(part.tolist() for part in pairs), strict=True):
        found[before, after] = found.get((before, after), 0) + count
    return found


def test_events_near_each_other_count_by_distance_and_less_backward() -> None:
    far = 0.5**0.5
    assert counts_of([A, B, C]) == pytest.approx(
        {(A, B): 1, (B, A): 0.5, (B, C): 1, (C, B): 0.5, (A, C): far, (C, A): far / 2}
    )


def test_an_item_taken_again_and_a_single_event_add_nothing() -> None:
    assert counts_of([A, A]) == {}
    assert counts_of([A]) == {}
    assert counts_of([]) == {}


def test_a_negative_event_weakens_what_leads_to_it_and_starts_nothing() -> None:
    assert counts_of([A, B], [1, -2]) == {(A, B): -2}
    assert counts_of([A, B], [-1, 1]) == {(B, A): -0.5}
    assert counts_of([A, B], [-1, -1]) == {}


def test_items_of_two_domains_and_of_two_users_do_not_follow_each_other() -> None:
    rule = TransitionRule(backward=0.0)
    ones = np.ones(4)
    numbers = np.array([A, B, C, A])
    across = pairs_of(numbers, 0 * ones, ones, rule, domain_E=np.array([0, 1, 0, 1]))
    assert summed(across) == {(A, C): 1, (B, A): 1}
    both = pairs_of(numbers, 0 * ones, ones, rule, user_E=np.array([7, 9, 7, 7]), domain_E=np.array([0, 0, 0, 1]))
    assert summed(both) == {(A, C): 1}


def test_only_transitions_to_counted_events_count() -> None:
    counted = np.array([False, False, True])
    found = pairs_of(np.array([A, B, C]), np.zeros(3), np.ones(3), TransitionRule(2, 0.5), counted_E=counted)
    assert summed(found) == pytest.approx({(B, C): 1, (C, B): 0.5, (A, C): 0.5**0.5, (C, A): 0.5**1.5})


def test_a_transition_halves_in_its_half_life() -> None:
    rule = TransitionRule(backward=0.0, half_life_days=10, reference=20 * DAY)
    assert summed(pairs_of(np.array([A, B]), np.array([0.0, 10 * DAY]), np.ones(2), rule)) == {(A, B): 0.5}
    assert summed(pairs_of(np.array([A, B]), np.array([0.0, 30 * DAY]), np.ones(2), rule)) == {(A, B): 2}


def test_a_rule_that_counts_nothing_is_refused() -> None:
    with pytest.raises(CatalogError, match="count nothing; set 1 or more"):
        TransitionRule(window=0)
    with pytest.raises(CatalogError, match="half_life_days is 0; set days above 0"):
        TransitionRule(half_life_days=0)


transitions = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.floats(-9, 9)), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.lists(transitions, min_size=1, max_size=8), st.data())
def test_counts_are_the_same_in_any_order_and_nothing_is_left_of_what_is_taken_back(
    batches: list[list[tuple[int, int, float]]], data: st.DataObject
) -> None:
    changes = [tuple(np.array(part) for part in zip(*batch, strict=True)) for batch in batches]
    taken = data.draw(st.sets(st.sampled_from(range(len(changes)))))
    delta = TransitionDelta()
    for change in changes:
        delta = delta.added(*change)
    for row in taken:
        before_X, after_X, count_X = changes[row]
        delta = delta.added(before_X, after_X, -count_X)
    expected = TransitionDelta()
    for row in data.draw(st.permutations([row for row in range(len(changes)) if row not in taken])):
        expected = expected.added(*changes[row])
    assert list(delta) == list(expected)
    for number in range(6):
        for ours, theirs in zip(delta.of(number), expected.of(number), strict=True):
            assert ours.tolist() == theirs.tolist()
    positive = [before for keys, units in delta.runs for before in (keys[units > 0] >> 32).tolist()]
    assert delta.brought(np.arange(6)).tolist() == [positive.count(number) for number in range(6)]


def test_a_snapshot_stays_as_it_is() -> None:
    first = TransitionDelta().added(np.array([A]), np.array([B]), np.array([1.0]))
    second = first.added(np.array([A]), np.array([B]), np.array([2.0]))
    assert (list(first), list(second)) == ([(A, B, 1.0)], [(A, B, 3.0)])


def test_where_entries_are_too_many_the_smallest_counts_are_forgotten() -> None:
    numbers = np.arange(1000)
    delta = TransitionDelta(most=100).added(numbers, numbers + 1, (numbers % 500 + 1).astype(float))
    assert delta.entries == 90
    assert delta.bytes == 90 * 16
    assert min(count for _, _, count in delta) > 450


def test_followers_are_brought_by_counts_above_0_alone() -> None:
    delta = TransitionDelta().added(
        np.array([A, A, B, C, C]), np.array([B, C, 3, 4, 5]), np.array([1.0, -1.0, -2.0, 1.0, 2.0])
    )
    assert len(delta.runs) == 1
    assert delta.brought(np.array([C, A, 9, B])).tolist() == [2, 1, 0, 0]
    assert TransitionDelta().brought(np.array([A])).tolist() == [0]


def neighbours(counts: dict[int, dict[int, float]], **more: object) -> Neighbours:
    rows = [counts.get(item, {}) for item in range(4)]
    lists = NeighbourLists(
        np.cumsum([0, *map(len, rows)]),
        np.array([other for row in rows for other in row], dtype=np.int32),
        np.array([weight for row in rows for weight in row.values()], dtype=np.float32),
    )
    none = NeighbourLists(np.zeros(5, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))
    share = Shares(transitions=1.0)
    return Neighbours(lists, GrownLists(none), np.zeros(4, np.float32), {}, share, Reading(smoothing=1.0), **more)  # type: ignore[arg-type]


def followers(made: Neighbours, *history: int) -> dict[int, float]:
    items, masses = made.followers(list(history))
    return dict(zip(items.tolist(), masses.tolist(), strict=True))


def test_events_add_to_the_bundles_counts() -> None:
    base = neighbours({A: {B: 2.0}})
    delta = TransitionDelta().added(np.array([A, 9]), np.array([C, A]), np.array([1.0, 3.0]))
    live = base.with_transitions(delta)
    assert followers(live, A) == pytest.approx({B: 0.5, C: 0.25})
    assert followers(live, 9) == pytest.approx({A: 0.75})
    assert followers(base, A) == pytest.approx({B: 2 / 3})


def test_what_events_bring_to_nothing_is_no_follower() -> None:
    delta = TransitionDelta().added(np.array([A]), np.array([B]), np.array([-5.0]))
    assert followers(neighbours({A: {B: 2.0}}).with_transitions(delta), A) == {}


def test_lists_keep_their_largest_counts() -> None:
    delta = TransitionDelta().added(np.array([A, A]), np.array([C, 3]), np.array([4.0, 1.0]))
    live = neighbours({A: {B: 2.0}}, rule=TransitionRule(longest=2)).with_transitions(delta)
    assert set(followers(live, A)) == {B, C}


def test_old_counts_are_worth_less_beside_the_smoothing() -> None:
    rule = TransitionRule(half_life_days=10.0)
    base = neighbours({A: {B: 2.0}}, rule=rule)
    assert followers(base.with_transitions(TransitionDelta(), now=10 * DAY), A) == pytest.approx({B: 2 / (2 + 2)})


def test_a_router_reads_counts_that_have_faded() -> None:
    base = neighbours({A: {B: 2.0}}, rule=TransitionRule(half_life_days=10.0))
    later = base.with_transitions(TransitionDelta(), now=10 * DAY)
    assert base.features([A], np.empty(0), np.empty(0))[0] == pytest.approx(np.log1p(2.0))
    assert later.features([A], np.empty(0), np.empty(0))[0] == pytest.approx(np.log1p(1.0))


def test_counts_of_events_are_not_written_into_a_bundle(tmp_path: Path) -> None:
    delta = TransitionDelta().added(np.array([A]), np.array([B]), np.array([1.0]))
    with pytest.raises(CatalogError, match="make them anew"):
        save_neighbours(neighbours({}).with_transitions(delta), tmp_path / "neighbours.safetensors")


def test_a_transition_that_many_took_long_after_training_counts_what_they_add_up_to() -> None:
    rule = TransitionRule(window=1, backward=0.0, half_life_days=1.0)
    users = 20_000
    before_X, after_X, count_X = pairs_of(
        np.tile([1, 2], users),
        np.full(2 * users, 1e12),
        np.full(2 * users, 10.0),
        rule,
        user_E=np.arange(2 * users) // 2,
    )
    item_K, count_K = TransitionDelta().added(before_X, after_X, count_X).of(1)
    assert (item_K.tolist(), count_K.tolist()) == ([2], [users * 10.0 * 10.0 * 2.0**20])
