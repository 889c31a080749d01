from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp

from sidera.items.borrowing import NEAREST
from sidera.items.transitions import TransitionRule
from training.neighbour_lists import (
    borrowers_of,
    joined,
    popularity_of,
    rule_of,
    similar_of,
    trained_until,
    transitions_of,
)
from training.neighbours_config import NeighboursConfig
from training.split import Events, Part

A, B, C, D = range(4)


def events_of(*users: tuple[str, list[int]]) -> Events:
    """Users of domain 0: one letter a part (t: train, v: validation, s: test), one item each."""
    part = {"t": Part.TRAIN, "v": Part.VALIDATION, "s": Part.TEST, "r": Part.ROUTER}
    rows = [
        (user, item, part[letter])
        for user, (parts, items) in enumerate(users)
        for letter, item in zip(parts, items, strict=True)
    ]
    count = len(rows)
    return Events(
        user_E=np.array([user for user, _, _ in rows], dtype=np.int32),
        domain_E=np.zeros(count, dtype=np.int32),
        item_E=np.array([item for _, item, _ in rows], dtype=np.int32),
        time_E=np.arange(count, dtype=np.int64),
        part_E=np.array([part for _, _, part in rows], dtype=np.int8),
        real_time_E=np.ones(count, dtype=bool),
        row_E=np.arange(count, dtype=np.int32),
    )


def test_followers_count_by_distance_and_less_backward() -> None:
    events = events_of(("ttt", [A, B, C]), ("tt", [A, B]))
    counts = transitions_of(events, 0, 4, TransitionRule(window=2, backward=0.5)).toarray()
    assert counts[A].tolist() == pytest.approx([0, 2, 0.5**0.5, 0])
    assert counts[B].tolist() == [1, 0, 1, 0]
    assert counts[C].tolist() == pytest.approx([0.5**1.5, 0.5, 0, 0])


def test_nothing_but_train_events_of_the_same_user_is_counted() -> None:
    events = events_of(("tvs", [A, B, C]), ("tvs", [B, A, C]))
    assert transitions_of(events, 0, 4, TransitionRule()).nnz == 0
    assert popularity_of(events, 0, 4).tolist() == [0.5, 0.5, 0, 0]


def test_what_is_held_out_for_the_router_counts_as_it_learns_nothing_from_lists() -> None:
    counts = transitions_of(events_of(("trvs", [A, B, C, D])), 0, 4, TransitionRule(backward=0.0)).toarray()
    assert counts.nonzero() == (A, B)


def test_an_item_taken_again_is_no_follower_of_itself() -> None:
    assert transitions_of(events_of(("ttt", [A, A, A])), 0, 2, TransitionRule()).nnz == 0


def test_only_the_longest_part_of_a_list_is_kept_and_ties_go_to_the_lower_item() -> None:
    events = events_of(("tt", [A, D]), ("tt", [A, B]), ("tt", [A, C]), ("tt", [A, C]))
    counts = transitions_of(events, 0, 4, TransitionRule(window=1, backward=0.0, longest=2)).toarray()
    assert counts[A].tolist() == [0, 1, 2, 0]


def test_a_domain_without_train_events_has_no_popular_items() -> None:
    assert popularity_of(events_of(("vs", [A, B])), 0, 2).tolist() == [0, 0]


def test_items_alike_are_the_nearest_by_cosine_and_never_the_item_itself() -> None:
    vectors = np.array([[1, 0], [2, 0], [1, 1], [0, 3], [0, 0]], dtype=np.float32)
    found = similar_of(vectors, NeighboursConfig(nearest=2, temperature=0.5), "films").toarray()
    assert np.flatnonzero(found[0]).tolist() == [1, 2]
    assert found[0, 1] == pytest.approx(1.0)
    assert found[0, 2] == pytest.approx(np.exp((np.sqrt(0.5) - 1) / 0.5))
    assert found.diagonal().tolist() == [0] * 5
    assert not found[4].any()
    assert not found[:, 4].any()


def test_a_domain_of_one_item_has_nothing_alike() -> None:
    assert similar_of(np.ones((1, 3), dtype=np.float32), NeighboursConfig(), "films").nnz == 0


def test_lists_are_joined_by_the_numbers_of_the_bundle() -> None:
    films = sp.csr_matrix(np.array([[0, 5], [0, 0]], dtype=np.float32))
    books = sp.csr_matrix(np.array([[0, 1], [2, 0]], dtype=np.float32))
    lists = joined({"films": films, "books": books}, {"films": np.array([3, 0]), "books": np.array([2, 1])}, 4)
    found = {number: [array.tolist() for array in lists.of(number)] for number in range(4)}
    assert found == {0: [[], []], 1: [[2], [2.0]], 2: [[1], [1.0]], 3: [[0], [5.0]]}


def test_the_counts_of_a_bundle_end_with_its_newest_train_event_and_positions_have_no_time() -> None:
    events = events_of(("ttvs", [A, B, C, D]))
    assert trained_until(events, 0) == 1.0
    assert trained_until(events, 1) is None
    positions = replace(events, real_time_E=np.zeros(4, dtype=bool))
    assert trained_until(positions, 0) is None


def test_older_transitions_have_faded_where_times_are_real() -> None:
    day = 86_400
    events = events_of(("tt", [A, B]), ("tt", [A, C]))
    events = replace(events, time_E=np.array([0, 0, 0, 10 * day]))
    rule = rule_of(NeighboursConfig(half_life_days=10.0, backward=0.0), events)
    assert transitions_of(events, 0, 4, rule).toarray()[A].tolist() == pytest.approx([0, 0.5, 1, 0])
    positions = replace(events, real_time_E=np.zeros(4, dtype=bool))
    assert transitions_of(positions, 0, 4, rule).toarray()[A].tolist() == pytest.approx([0, 1, 1, 0])


def test_where_times_are_positions_nothing_fades() -> None:
    positions = replace(events_of(("tt", [A, B])), real_time_E=np.zeros(2, dtype=bool))
    rule = rule_of(NeighboursConfig(half_life_days=10.0), positions)
    assert rule.freshness(1.7e9) == 1.0


def test_an_item_borrows_from_its_nearest_ones_and_nothing_with_five_events() -> None:
    similar_II = np.array([[0, 3.0, 1.0], [1.0, 0, 0], [1.0, 0, 0]])
    lent_II = borrowers_of(sp.csr_matrix(similar_II), np.array([0, 4, 5])).toarray()
    np.testing.assert_allclose(lent_II[:, 0], [0, 0.75, 0.25], err_msg="item 0 has no events")
    np.testing.assert_allclose(lent_II[:, 1], [0.2, 0, 0], rtol=1e-6, err_msg="item 1 has four")
    np.testing.assert_allclose(lent_II[:, 2], 0, err_msg="item 2 has five")


def test_no_more_items_lend_to_one_than_its_nearest() -> None:
    weights = np.linspace(0.1, 1, NEAREST + 5)
    similar = sp.csr_matrix((weights, (np.zeros(len(weights), int), 1 + np.arange(len(weights)))), shape=(40, 40))
    lent_I = borrowers_of(similar, np.zeros(40, int)).toarray()[:, 0]
    assert np.flatnonzero(lent_I).tolist() == list(range(6, NEAREST + 6))
    assert lent_I.sum() == pytest.approx(1)
