from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data import Dataset, DomainData
from training.errors import ConfigError, DataError
from training.split import (
    POSITION_LIMIT,
    CalendarSplit,
    Events,
    Part,
    Target,
    hold_out,
    parts_digest,
    split_events,
    targets,
)

T = 1_000_000_000
Row = tuple[int, int, int]
"""user, item, time"""


def make_dataset(*domains: list[Row], users: int = 4, items: int = 5) -> Dataset:
    made = []
    for number, rows in enumerate(domains):
        columns = np.array(rows, dtype=np.int64).reshape(-1, 3).T
        made.append(
            DomainData(
                name=f"domain{number}",
                item_ids=tuple(f"i{item}" for item in range(items)),
                fields=tuple({"item_id": f"i{item}", "title": "x"} for item in range(items)),
                user_E=columns[0].astype(np.int32),
                item_E=columns[1].astype(np.int32),
                time_E=columns[2],
            )
        )
    return Dataset(tuple(made), tuple(f"u{user}" for user in range(users)), "digest")


def listed(events: Events) -> list[tuple[int, int, int, int, Part, bool]]:
    columns = (events.user_E, events.domain_E, events.item_E, events.time_E, events.part_E, events.real_time_E)
    return [
        (user, domain, item, time, Part(part), real)
        for user, domain, item, time, part, real in zip(*(column.tolist() for column in columns), strict=True)
    ]


def only(found: list[Target], user: int, domain: int) -> Target:
    (target,) = [target for target in found if (target.user, target.domain) == (user, domain)]
    return target


def test_the_last_event_is_test_and_the_one_before_validation_in_each_domain() -> None:
    shop = [(0, item, T + item) for item in range(5)]
    video = [(0, item, T + 10 + item) for item in range(3)]
    events = split_events(make_dataset(shop, video))
    assert events.part_E.tolist() == [Part.TRAIN] * 3 + [
        Part.VALIDATION,
        Part.TEST,
        Part.TRAIN,
        Part.VALIDATION,
        Part.TEST,
    ]


def test_fewer_than_three_events_are_context_and_never_a_target() -> None:
    events = split_events(make_dataset([(0, 0, T), (0, 1, T + 1)], [(0, item, T + 5 + item) for item in range(3)]))
    assert events.part_E.tolist()[:2] == [Part.CONTEXT] * 2
    found = targets(events, Part.TRAIN)
    assert [(target.domain, target.history) for target in found] == [(1, ((0, 0), (0, 1)))]
    with pytest.raises(ValueError, match="never targets"):
        targets(events, Part.CONTEXT)


def test_ties_of_time_keep_domain_order_and_then_file_order() -> None:
    events = split_events(make_dataset([(1, 3, T), (0, 2, T), (0, 1, T)], [(0, 4, T), (0, 0, T - 1)]))
    assert [row[:3] for row in listed(events)] == [(0, 1, 0), (0, 0, 2), (0, 0, 1), (0, 1, 4), (1, 0, 3)]
    assert events.row_E.tolist() == [1, 1, 2, 0, 0]


def test_other_domains_are_in_a_history_only_where_they_are_strictly_earlier() -> None:
    shop = [(0, 0, T), (0, 1, T + 10), (0, 2, T + 20)]
    video = [(0, 0, T + 5), (0, 1, T + 20), (0, 2, T + 19), (0, 3, T + 30), (0, 4, T + 31)]
    target = only(targets(split_events(make_dataset(shop, video)), Part.TEST), 0, 0)
    assert target.history == ((0, 0), (1, 0), (0, 1), (1, 2))


def test_a_same_domain_event_of_the_same_time_is_history() -> None:
    target = only(targets(split_events(make_dataset([(0, 3, T), (0, 1, T), (0, 2, T)])), Part.TEST), 0, 0)
    assert (target.item, target.history) == (2, ((0, 3), (0, 1)))


def test_a_validation_history_never_holds_a_test_event() -> None:
    shop = [(0, item, T + 100 + item) for item in range(3)]
    video = [(0, item, T + item) for item in range(3)]
    events = split_events(make_dataset(shop, video))
    assert only(targets(events, Part.VALIDATION), 0, 0).history == ((1, 0), (1, 1), (0, 0))
    assert only(targets(events, Part.TEST), 0, 0).history == ((1, 0), (1, 1), (1, 2), (0, 0), (0, 1))


def test_a_train_history_holds_neither_validation_nor_test_events() -> None:
    shop = [(0, item, T + 100 + item) for item in range(3)]
    video = [(0, item, T + item) for item in range(3)]
    found = targets(split_events(make_dataset(shop, video)), Part.TRAIN)
    assert only(found, 0, 0).history == ((1, 0),)
    assert only(found, 0, 1).history == ()


def test_one_position_keeps_all_of_a_users_domain_apart() -> None:
    shop = [(0, 0, POSITION_LIMIT - 1), (0, 1, T), (0, 2, T + 1), (1, 0, T), (1, 1, T), (1, 2, T + 1)]
    video = [(user, item, T - 5 + item) for user in (0, 1) for item in range(3)]
    events = split_events(make_dataset(shop, video))
    assert [row[5] for row in listed(events) if row[0] == 0 and row[1] == 0] == [False] * 3
    found = targets(events, Part.TEST)
    assert only(found, 0, 0).history == ((0, 0), (0, 1))
    assert only(found, 0, 1).history == ((1, 0), (1, 1))
    assert len(only(found, 1, 0).history) == 5


def test_max_history_keeps_the_newest_events_and_still_tells_repeats() -> None:
    events = split_events(make_dataset([(0, item, T + time) for time, item in enumerate([1, 2, 3, 4, 1])]))
    assert only(targets(events, Part.TEST, max_history=2), 0, 0) == Target(0, 0, 1, ((0, 3), (0, 4)), repeated=True)
    assert only(targets(events, Part.TEST, max_history=0), 0, 0).history == ()
    with pytest.raises(ValueError, match="max_history is -1"):
        targets(events, Part.TEST, max_history=-1)


def test_the_same_item_number_of_another_domain_is_no_repeat() -> None:
    shop = [(0, item, T + item) for item in range(3)]
    video = [(0, 4 - item, T + 10 + item) for item in range(3)]
    found = targets(split_events(make_dataset(shop, video)), Part.TEST)
    assert [target.repeated for target in found] == [False, False]


times = st.one_of(st.integers(0, 3), st.integers(T, T + 6))
rows = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4), times), max_size=18)
real_rows = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 4), st.integers(T, T + 9)), max_size=18)


def naive_targets(
    domains: list[list[Row]], part: Part, max_history: int | None
) -> dict[tuple[int, int, int], tuple[int, tuple[tuple[int, int], ...], bool]]:
    """The rule in words, event by event: (user, domain, place in file) -> item, history, repeated."""
    groups: dict[tuple[int, int], list[tuple[int, int, int]]] = defaultdict(list)  # (time, place, item)
    for domain, rows_of in enumerate(domains):
        for place, (user, item, time) in enumerate(rows_of):
            groups[user, domain].append((time, place, item))
    part_of = {}
    for key, group in groups.items():
        group.sort()
        for index, (_, place, _) in enumerate(group):
            last = len(group) - 1
            name = Part.TEST if index == last else Part.VALIDATION if index == last - 1 else Part.TRAIN
            part_of[(*key, place)] = name if len(group) >= 3 else Part.CONTEXT
    allowed = {
        Part.TRAIN: {Part.TRAIN, Part.CONTEXT},
        Part.VALIDATION: {Part.TRAIN, Part.CONTEXT, Part.VALIDATION},
        Part.TEST: set(Part),
    }[part]
    found = {}
    for (user, domain), group in groups.items():
        for index, (time, place, item) in enumerate(group):
            if part_of[user, domain, place] != part:
                continue
            entries = [(t, domain, p, i) for t, p, i in group[:index]]
            if min(t for t, _, _ in group) >= POSITION_LIMIT:
                for (other_user, other), events in groups.items():
                    if other_user != user or other == domain or min(t for t, _, _ in events) < POSITION_LIMIT:
                        continue
                    entries += [
                        (t, other, p, i) for t, p, i in events if t < time and part_of[user, other, p] in allowed
                    ]
            history = tuple((d, i) for _, d, _, i in sorted(entries))
            kept = history if max_history is None else history[max(0, len(history) - max_history) :]
            found[user, domain, place] = (item, kept, (domain, item) in history)
    return found


@given(
    domains=st.one_of(st.lists(rows, min_size=1, max_size=3), st.lists(real_rows, min_size=2, max_size=3)).filter(any),
    part=st.sampled_from([Part.TRAIN, Part.VALIDATION, Part.TEST]),
    max_history=st.one_of(st.none(), st.integers(0, 6)),
)
def test_targets_are_those_of_the_rule_in_words(domains: list[list[Row]], part: Part, max_history: int | None) -> None:
    events = split_events(make_dataset(*domains))
    expected = naive_targets(domains, part, max_history)
    chosen = np.flatnonzero(events.part_E == part)
    keys = zip(
        events.user_E[chosen].tolist(), events.domain_E[chosen].tolist(), events.row_E[chosen].tolist(), strict=True
    )
    found = targets(events, part, max_history)
    assert {
        key: (target.item, target.history, target.repeated) for key, target in zip(keys, found, strict=True)
    } == expected


@given(domains=st.lists(rows, min_size=1, max_size=3).filter(any))
def test_splitting_loses_no_event_and_sorts_them(domains: list[list[Row]]) -> None:
    events = split_events(make_dataset(*domains))
    order = zip(
        events.user_E.tolist(), events.time_E.tolist(), events.domain_E.tolist(), events.row_E.tolist(), strict=True
    )
    expected = sorted(
        (user, time, domain, place)
        for domain, rows_of in enumerate(domains)
        for place, (user, _, time) in enumerate(rows_of)
    )
    assert list(order) == expected
    assert all(
        domains[domain][place][1] == item
        for domain, place, item in zip(
            events.domain_E.tolist(), events.row_E.tolist(), events.item_E.tolist(), strict=True
        )
    )


def walks(users: int = 40, steps: int = 5, items: int = 8) -> list[Row]:
    """Everyone takes ``steps`` steps; every item is taken by many."""
    return [(user, (user + step) % items, T + step) for user in range(users) for step in range(steps)]


def test_half_of_the_pairs_with_4_events_give_their_last_train_event_to_the_router_in_every_domain() -> None:
    short = [(user, user % 8, T + step) for user in range(40, 50) for step in range(3)]
    data = make_dataset(walks() + short, walks(users=10), users=50, items=8)
    before = split_events(data)
    after = hold_out(before, 0.5, 100, seed=0)
    given = np.flatnonzero(after.part_E == Part.ROUTER)
    assert np.bincount(after.domain_E[given]).tolist() == [20, 5]
    assert after.user_E[given].max() < 40, "who has 3 events keeps the only train event"
    for event in given.tolist():
        own = (before.user_E == before.user_E[event]) & (before.domain_E == before.domain_E[event])
        assert event == np.flatnonzero(own & (before.part_E == Part.TRAIN))[-1]
    others = np.delete(np.arange(len(after.part_E)), given)
    assert (after.part_E[others] == before.part_E[others]).all()
    assert (before.part_E[given] == Part.TRAIN).all(), "the events that were given are not changed"


def test_no_more_events_are_held_out_than_allowed_and_the_seed_draws_them() -> None:
    before = split_events(make_dataset(walks(), users=40, items=8))
    drawn = [hold_out(before, 0.5, 7, seed).part_E == Part.ROUTER for seed in (0, 0, 1)]
    assert [int(held.sum()) for held in drawn] == [7, 7, 7]
    assert (drawn[0] == drawn[1]).all()
    assert (drawn[0] != drawn[2]).any()


def test_an_items_only_train_event_is_never_held_out() -> None:
    rows_of = [
        (user, 1 if step < 1 else 2 + user if step == 1 else 0, T + step) for user in range(4) for step in range(4)
    ]
    before = split_events(make_dataset(rows_of, users=4, items=8))
    assert not (hold_out(before, 1.0, 100, seed=0).part_E == Part.ROUTER).any()
    twice = [(user, 2 if item > 2 else item, time) for user, item, time in rows_of]
    after = hold_out(split_events(make_dataset(twice, users=4, items=8)), 1.0, 100, seed=0)
    assert int((after.part_E == Part.ROUTER).sum()) == 3
    assert (after.item_E[(after.part_E == Part.TRAIN)] == 2).sum() == 1


def test_histories_of_what_is_evaluated_hold_the_routers_events_and_those_of_training_do_not() -> None:
    shop = [(0, item, T + item) for item in range(5)]
    video = [(0, item, T + 10 + item) for item in range(3)]
    events = split_events(make_dataset(shop, video))
    events.part_E[2] = Part.ROUTER
    assert only(targets(events, Part.ROUTER), 0, 0).history == ((0, 0), (0, 1))
    assert only(targets(events, Part.VALIDATION), 0, 0).history == ((0, 0), (0, 1), (0, 2))
    assert only(targets(events, Part.TRAIN), 0, 1).history == ((0, 0), (0, 1))
    assert only(targets(events, Part.TEST), 0, 1).history[:3] == ((0, 0), (0, 1), (0, 2))


def test_a_history_of_the_routers_holds_no_validation_or_test_event_of_another_domain() -> None:
    shop = [(0, item, T + item) for item in range(4)]
    video = [(0, item, T + 10 + item) for item in range(5)]
    events = split_events(make_dataset(shop, video))
    (event,) = np.flatnonzero((events.domain_E == 1) & (events.item_E == 2))
    events.part_E[event] = Part.ROUTER
    assert only(targets(events, Part.ROUTER), 0, 1).history == ((0, 0), (0, 1), (1, 0), (1, 1))


def test_the_digest_of_the_parts_changes_with_a_part() -> None:
    events = split_events(make_dataset(walks(), users=40, items=8))
    assert parts_digest(events) == parts_digest(split_events(make_dataset(walks(), users=40, items=8)))
    assert parts_digest(events) != parts_digest(hold_out(events, 0.5, 1, seed=0))


def calendar_of(validation: int, test: int) -> CalendarSplit:
    return CalendarSplit(T + validation, T + test)


def test_calendar_time_splits_all_users_at_the_same_moments() -> None:
    shop = [(0, 0, T), (0, 1, T + 10), (0, 2, T + 20), (0, 3, T + 21), (1, 4, T + 9), (2, 0, T + 30)]
    events = split_events(make_dataset(shop, [(0, 2, T + 19)]), calendar_of(10, 20))
    assert [(row[0], row[3] - T, row[4]) for row in listed(events)] == [
        (0, 0, Part.TRAIN),
        (0, 10, Part.VALIDATION),
        (0, 19, Part.VALIDATION),
        (0, 20, Part.TEST),
        (0, 21, Part.TEST),
        (1, 9, Part.TRAIN),
        (2, 30, Part.TEST),
    ]
    found = targets(events, Part.TEST)
    assert [target.history for target in found] == [
        ((0, 0), (0, 1), (1, 2)),
        ((0, 0), (0, 1), (1, 2), (0, 2)),
        (),
    ], "a user's earlier test events are history of the later ones"


def test_events_without_a_real_time_are_context_where_calendar_time_splits() -> None:
    shop = [(0, 0, T), (0, 1, T + 10), (0, 2, T + 20), (1, 0, 1), (1, 1, 2), (1, 2, 3)]
    events = split_events(make_dataset(shop), calendar_of(10, 20))
    assert events.part_E.tolist()[3:] == [Part.CONTEXT] * 3


def test_moments_may_be_dates_and_must_be_times_in_their_order() -> None:
    assert CalendarSplit("2001-09-09", "2001-09-09T01:46:40+00:00").moments == (T - 6400, T)
    with pytest.raises(ConfigError, match="validation_from is 5, which is no time"):
        CalendarSplit(5, T)
    with pytest.raises(ConfigError, match="test_from is spring, which is no time"):
        CalendarSplit(T, "spring")
    with pytest.raises(ConfigError, match="is not before test_from"):
        CalendarSplit(T, T)


@pytest.mark.parametrize(
    ("validation", "test", "told"),
    [(0, 20, "before validation_from"), (11, 12, "and before test_from"), (10, 21, "from test_from")],
)
def test_moments_that_leave_a_part_empty_are_refused(validation: int, test: int, told: str) -> None:
    dataset = make_dataset([(0, 0, T), (0, 1, T + 10), (0, 2, T + 20)])
    with pytest.raises(DataError, match=f"split: no event with a real time lies .*{told}.*; set a"):
        split_events(dataset, calendar_of(validation, test))
