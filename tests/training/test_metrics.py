import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.metrics import (
    ABSENT,
    bootstrap_interval,
    ndcg_values,
    paired_bootstrap,
    ranking_metrics,
    recall_values,
    target_ranks,
)


def test_ranks_count_from_zero_and_absent_targets_have_none() -> None:
    top = np.array([[3, 1, 2], [3, 1, 2], [3, -1, -1]])
    assert target_ranks(top, np.array([3, 2, 1])).tolist() == [0, 2, ABSENT]
    assert target_ranks(np.zeros((2, 0), dtype=int), np.array([0, 1])).tolist() == [ABSENT, ABSENT]


def test_metrics_of_a_hand_made_ranking() -> None:
    top = np.tile(np.arange(10), (4, 1))
    metrics = ranking_metrics(top, np.array([0, 4, 5, 99]), catalog_items=40)
    assert metrics.as_dict() == {
        "targets": 4,
        "recall@5": 0.5,
        "recall@10": 0.75,
        "ndcg@5": pytest.approx((1 + 1 / math.log2(6)) / 4),
        "ndcg@10": pytest.approx((1 + 1 / math.log2(6) + 1 / math.log2(7)) / 4),
        "coverage@10": 0.25,
    }


def test_coverage_counts_the_first_ten_places_and_no_empty_place() -> None:
    top = np.array([list(range(12)), [0, 1] + [-1] * 10])
    assert ranking_metrics(top, np.array([0, 1]), catalog_items=20).coverage_10 == 0.5


def test_a_catalog_of_less_than_ten_items_needs_no_ten_places() -> None:
    assert ranking_metrics(np.array([[1, 0, 2]]), np.array([2]), catalog_items=3).recall_5 == 1.0
    with pytest.raises(ValueError, match="only 3 places"):
        ranking_metrics(np.array([[1, 0, 2]]), np.array([2]), catalog_items=4)


def test_no_targets_have_no_metrics() -> None:
    with pytest.raises(ValueError, match="no target"):
        ranking_metrics(np.zeros((0, 10), dtype=int), np.zeros(0, dtype=int), catalog_items=20)


@given(
    st.lists(st.permutations(range(12)), min_size=1, max_size=8).flatmap(
        lambda lists: st.tuples(st.just(lists), st.lists(st.integers(0, 14), min_size=len(lists), max_size=len(lists)))
    )
)
def test_metrics_equal_a_count_target_by_target(made: tuple[list[list[int]], list[int]]) -> None:
    lists, wanted = made
    metrics = ranking_metrics(np.array(lists), np.array(wanted), catalog_items=15)
    for k, recall, ndcg in ((5, metrics.recall_5, metrics.ndcg_5), (10, metrics.recall_10, metrics.ndcg_10)):
        places = [
            ranked[:k].index(item) if item in ranked[:k] else None for ranked, item in zip(lists, wanted, strict=True)
        ]
        assert recall == pytest.approx(sum(place is not None for place in places) / len(places))
        assert ndcg == pytest.approx(sum(1 / math.log2(p + 2) for p in places if p is not None) / len(places))


def test_the_values_of_targets_average_to_the_metrics() -> None:
    ranks = np.array([0, 7, ABSENT])
    assert recall_values(ranks, 5).tolist() == [1, 0, 0]
    assert ndcg_values(ranks, 10).tolist() == [1, 1 / math.log2(9), 0]


def test_an_interval_is_that_of_resampling_targets_one_by_one() -> None:
    values = np.random.default_rng(1).choice([0.0, 0.3, 1.0], size=400, p=[0.7, 0.2, 0.1])
    interval = bootstrap_interval(values, seed=5, samples=20_000)
    random = np.random.default_rng(2)
    means = values[random.integers(0, 400, size=(20_000, 400))].mean(axis=1)
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(np.quantile(means, 0.025), abs=1e-3)
    assert interval.high == pytest.approx(np.quantile(means, 0.975), abs=1e-3)


def test_a_wider_level_has_a_wider_interval() -> None:
    values = np.random.default_rng(1).random(50)
    narrow, wide = (bootstrap_interval(values, seed=0, level=level) for level in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high
    with pytest.raises(ValueError, match="level is 95"):
        bootstrap_interval(values, seed=0, level=95)


def test_the_same_seed_gives_the_same_interval_and_another_one_another() -> None:
    values = np.random.default_rng(1).random(50)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)


def test_a_clear_difference_is_significant_and_none_is_not() -> None:
    random = np.random.default_rng(1)
    noise, base = random.normal(0, 0.01, 300), random.random(300)
    better = paired_bootstrap(base + 0.05 + noise, base, seed=0)
    assert 0 < better.low < better.mean < better.high
    assert better.p_value == pytest.approx(2 / 2001)
    same = paired_bootstrap(base, base, seed=0)
    assert (same.mean, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    assert paired_bootstrap(base + noise - noise.mean(), base, seed=0).p_value > 0.5


def test_pairing_sees_a_difference_that_the_two_intervals_hide() -> None:
    random = np.random.default_rng(1)
    base = random.random(100)
    better = base + 0.01
    assert bootstrap_interval(better, seed=0).low < bootstrap_interval(base, seed=0).high
    assert paired_bootstrap(better, base, seed=0).low == pytest.approx(0.01)


def test_swapping_the_two_turns_the_difference_around() -> None:
    random = np.random.default_rng(1)
    one, two = random.random(80), random.random(80)
    forth, back = paired_bootstrap(one, two, seed=0), paired_bootstrap(two, one, seed=0)
    assert forth.mean == pytest.approx(-back.mean)
    assert forth.low == pytest.approx(-back.high, abs=0.02)


def test_values_that_cannot_be_resampled_are_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        bootstrap_interval(np.zeros(0), seed=0)
    with pytest.raises(ValueError, match="same targets"):
        paired_bootstrap(np.zeros(2), np.zeros(3), seed=0)
