import collections
import itertools
import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

import training.floors
from training.data import Dataset, DomainData
from training.floors import FloorTask, content_knn, item_bigram, popularity
from training.split import Part, Target, split_events, targets

ITEM_IDS = ("i3", "i10", "i1", "I2", "i02", "i2", "i4", "i0")
T = 1_000_000_000
Sequences = list[list[int]]
"""The items of each user, oldest first."""


def make_dataset(*domains: Sequences) -> Dataset:
    made = []
    for number, sequences in enumerate(domains):
        rows = [(user, item, T + time) for user, items in enumerate(sequences) for time, item in enumerate(items)]
        if number % 2:  # users of this domain are not in the order of their numbers
            rows.sort(key=lambda row: -row[0])
        columns = np.array(rows, dtype=np.int64).reshape(-1, 3).T
        made.append(
            DomainData(
                name=f"domain{number}",
                item_ids=ITEM_IDS,
                fields=tuple({"item_id": item_id, "title": "x"} for item_id in ITEM_IDS),
                user_E=columns[0].astype(np.int32),
                item_E=columns[1].astype(np.int32),
                time_E=columns[2],
            )
        )
    return Dataset(tuple(made), tuple(f"u{user}" for user in range(max(map(len, domains)))), "digest")


def make_task(
    *domains: Sequences, domain: int = 0, part: Part = Part.TEST, places: int = 10, keep_seen: bool = False
) -> FloorTask:
    events = split_events(make_dataset(*domains))
    chosen = [target for target in targets(events, part) if target.domain == domain]
    return FloorTask(events, domain, ITEM_IDS, chosen, places, keep_seen)


def ids(top: npt.NDArray[np.int32]) -> list[list[str]]:
    return [[ITEM_IDS[item] for item in row if item >= 0] for row in top.tolist()]


def floors_in_words(
    users: list[list[str]], part: Part, places: int, popular_items: int, keep_seen: bool
) -> list[tuple[list[str], list[str]]]:
    """The rule of both floors, user by user over the users in file order: what popularity and the bigram recommend."""
    users = [events for events in users if len(events) >= 3]
    count: collections.Counter[str] = collections.Counter()
    after: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for events in users:
        for item in events[:-2]:
            count[item] += 1
        for first, second in itertools.pairwise(events[:-2]):
            after[first][second] += 1
    popular = [item for item, _ in count.most_common()][:popular_items]

    def choose(candidates: list[str], seen: set[str]) -> list[str]:
        chosen: list[str] = []
        for item in candidates:
            if item not in seen and item not in chosen:
                chosen.append(item)
        return chosen[:places]

    answers = []
    for events in users:
        history = events[:-1] if part is Part.TEST else events[:-2]
        seen = set() if keep_seen else set(history)
        follow = after[history[-1]]
        successors = sorted(follow, key=lambda item: (-follow[item], -count[item], item))
        answers.append((choose(popular, seen), choose(successors + popular, seen)))
    return answers


sequences = st.lists(st.lists(st.integers(0, len(ITEM_IDS) - 1), max_size=9), min_size=1, max_size=8)


@given(
    shop=sequences,
    video=sequences,
    domain=st.integers(0, 1),
    part=st.sampled_from([Part.VALIDATION, Part.TEST]),
    places=st.integers(1, 10),
    popular_items=st.integers(1, 9),
    keep_seen=st.booleans(),
)
def test_floors_are_those_of_the_rule_in_words(
    shop: Sequences, video: Sequences, domain: int, part: Part, places: int, popular_items: int, keep_seen: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.floors, "POPULAR_ITEMS", popular_items)
        task = make_task(shop, video, domain=domain, part=part, places=places, keep_seen=keep_seen)
        found = list(zip(ids(popularity(task)), ids(item_bigram(task)), strict=True))
    users = list(enumerate((shop, video)[domain]))
    if domain == 1:
        users.reverse()
    named = [[ITEM_IDS[item] for item in items] for _, items in users]
    expected = floors_in_words(named, part, places, popular_items, keep_seen)
    order = [user for user, items in users if len(items) >= 3]
    by_user = dict(zip(order, expected, strict=True))
    assert found == [by_user[target.user] for target in task.targets]


def test_events_of_users_with_fewer_than_three_are_never_counted() -> None:
    task = make_task([[5, 6], [5, 6], [7], [0, 1, 2]])
    assert ids(popularity(make_task([[5, 6], [5, 6], [7], [0, 1, 2]], keep_seen=True))) == [["i3"]]
    assert ids(popularity(task)) == [[]]


def test_validation_and_test_events_are_never_counted() -> None:
    task = make_task([[0, 1, 2], [3, 4, 2, 1, 2]], keep_seen=True)
    assert popularity(task).tolist() == [[0, 3, 4, 2, *[-1] * 6]] * 2


def test_the_newest_item_and_the_seen_items_are_those_of_the_targets_domain() -> None:
    shop = [[0, 1, 2, 3], [0, 1, 0, 4, 5]]
    alone = item_bigram(make_task(shop))
    with_other = FloorTask(
        events=make_task(shop).events,
        domain=0,
        item_ids=ITEM_IDS,
        targets=[
            Target(target.user, 0, target.item, ((1, 1), *target.history, (1, 0), (1, 5)), target.repeated)
            for target in make_task(shop).targets
        ],
    )
    assert item_bigram(with_other).tolist() == alone.tolist()
    vectors = np.random.default_rng(0).normal(size=(len(ITEM_IDS), 4))
    assert content_knn(with_other, vectors).tolist() == content_knn(make_task(shop), vectors).tolist()


def test_a_target_with_no_history_in_its_domain_gets_popular_items_and_no_neighbours() -> None:
    task = make_task([[0, 1, 2, 3], [0, 1, 0, 4, 5]])
    stranger = FloorTask(task.events, 0, ITEM_IDS, [Target(0, 0, 3, ((1, 2),), repeated=False)], places=3)
    assert item_bigram(stranger).tolist() == popularity(stranger).tolist() == [[0, 1, -1]]
    assert content_knn(stranger, np.eye(len(ITEM_IDS))).tolist() == [[-1, -1, -1]]


@given(
    shop=sequences,
    seed=st.integers(0, 1000),
    places=st.integers(1, 10),
    keep_seen=st.booleans(),
    at_once=st.sampled_from([1, 20, 10**6]),
    block=st.sampled_from([1, 3, 10**6]),
)
def test_neighbours_are_those_of_a_sort_by_cosine(
    shop: Sequences, seed: int, places: int, keep_seen: bool, at_once: int, block: int
) -> None:
    # Vectors of few different directions, so that there are ties, but cosines that are exact in floating point.
    vectors = (
        np.random.default_rng(seed).integers(0, 3, size=(len(ITEM_IDS), 1))
        * np.eye(2)[np.random.default_rng(seed + 1).integers(0, 2, size=len(ITEM_IDS))]
    )
    task = make_task(shop, places=places, keep_seen=keep_seen)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.floors, "_SCORES_AT_ONCE", at_once)
        patch.setattr(training.floors, "_BLOCK_ITEMS", block)
        found = content_knn(task, vectors)
    for target, row in zip(task.targets, found.tolist(), strict=True):
        newest = vectors[target.history[-1][1]]

        def cosine(item: int, newest: npt.NDArray[np.float64] = newest) -> float:
            length = float(np.linalg.norm(vectors[item]) * np.linalg.norm(newest))
            return float(vectors[item] @ newest) / length if length else 0.0

        seen = set() if keep_seen else {item for _, item in target.history}
        expected = sorted(set(range(len(ITEM_IDS))) - seen, key=lambda item: (-cosine(item), item))[:places]
        assert row == expected + [-1] * (places - len(expected))


def test_vectors_that_are_not_one_an_item_are_refused() -> None:
    with pytest.raises(ValueError, match="3 vectors are given for 8 items"):
        content_knn(make_task([[0, 1, 2]]), np.zeros((3, 4)))


def test_neighbours_are_found_with_a_block_of_the_vectors_in_memory() -> None:
    items, dim = 60_000, 64
    task = make_task([[0, 1, 2]])
    big = FloorTask(task.events, 0, [str(item) for item in range(items)], task.targets)
    vectors_ID = np.random.default_rng(0).standard_normal((items, dim), dtype=np.float32)
    tracemalloc.start()
    try:
        content_knn(big, vectors_ID)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < vectors_ID.nbytes
