"""What changes in the counts is told without the transitions that stay, and is what counting all anew would change."""

import math
from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from service.events.changes import Pairs, changed_pairs
from service.events.ledger import RECORD, Events, Ledger
from sidera.items.transitions import TransitionRule

RULE = TransitionRule(window=2, backward=0.25, half_life_days=1.0)
NOBODY: list[Events] = [b"", b""]

ROW = st.tuples(
    st.integers(0, 20),  # seconds
    st.integers(1, 4),  # version
    st.integers(0, 3),  # position
    st.integers(-1, 4),  # item, -1 of an unknown one
    st.integers(0, 1),  # domain
    st.sampled_from([1.0, 0.0, -0.5]),
    st.booleans(),
)
HISTORY = st.lists(ROW, max_size=8, unique_by=lambda row: (row[1], row[2]))


def events(rows: list[tuple[int, int, int, int, int, float, bool]]) -> Events:
    """Rows as a history: in its order."""
    return np.array([(row[0] * 1_000_000, *row[1:]) for row in sorted(rows)], dtype=RECORD).tobytes()


def summed(*every: Pairs) -> dict[tuple[int, int], float]:
    """The counts of transitions that are not 0."""
    counts: Counter[tuple[int, int]] = Counter()
    for before_X, after_X, count_X in every:
        for before, after, count in zip(before_X.tolist(), after_X.tolist(), count_X.tolist(), strict=True):
            counts[before, after] += count
    return {pair: count for pair, count in counts.items() if not math.isclose(count, 0, abs_tol=1e-9)}


def is_same(one: dict[tuple[int, int], float], two: dict[tuple[int, int], float]) -> bool:
    return one.keys() == two.keys() and all(math.isclose(one[pair], two[pair]) for pair in one)


@settings(max_examples=200, deadline=None)
@given(HISTORY, HISTORY, HISTORY, st.integers(0, 8))
def test_counts_of_the_old_histories_and_the_changes_are_counts_of_the_new_ones(
    one: list[tuple[int, int, int, int, int, float, bool]],
    two: list[tuple[int, int, int, int, int, float, bool]],
    more: list[tuple[int, int, int, int, int, float, bool]],
    kept: int,
) -> None:
    grown = {(row[1], row[2]): row for row in [*more, *one[:kept]]}  # other events join, are late, or some are gone
    before, after = [events(one), events(two)], [events(list(grown.values())), events(two)]
    stayed = changed_pairs(NOBODY, before, RULE)
    assert is_same(summed(stayed, changed_pairs(before, after, RULE)), summed(changed_pairs(NOBODY, after, RULE)))


def test_one_event_more_changes_what_is_near_it_alone_however_long_the_history_is() -> None:
    rows = [(second, 1, second, second % 50, 0, 1.0, True) for second in range(1000)]
    before, after = events(rows), events([*rows, (1000, 2, 0, 60, 0, 1.0, True)])
    added = changed_pairs([before], [after], RULE)
    assert sorted(zip(added[0].tolist(), added[1].tolist(), strict=True)) == [(48, 60), (49, 60), (60, 48), (60, 49)]
    assert summed(changed_pairs([after], [before], RULE)) == {pair: -count for pair, count in summed(added).items()}, (
        "and is taken back exactly"
    )


@settings(max_examples=200, deadline=None)
@given(HISTORY, HISTORY)
def test_later_events_are_put_behind_the_known_ones_as_sorting_all_of_them_does(
    known: list[tuple[int, int, int, int, int, float, bool]], new: list[tuple[int, int, int, int, int, float, bool]]
) -> None:
    later = [(row[0] + 30, row[1] + 10, *row[2:]) for row in new]
    ledger = Ledger(10, 10_000)
    for added in (new, later):
        known_by_key = {(row[1], row[2]): row for row in known}
        if any(known_by_key.get((row[1], row[2]), row) != row for row in added):
            continue  # one version and position is one event
        every = sorted({*known, *added})[-10:]
        expected = events(every) if any(row[6] for row in every) else b""
        assert ledger.merged([events(known)], [events(added)]) == [expected]
