"""The report, on worlds whose right answers are known."""

import json
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from sidera.recommender import Query, Recommendation, RecommendedItem, Recommender
from tests import tiny
from training.data import Dataset, DomainData, read_dataset
from training.errors import DataError
from training.evaluation import evaluate, mean_scores, recommend_for
from training.split import Part, split_events, targets


class Stub:
    """A recommender that answers what a rule says: (domain, newest item of it, user's items) -> item ids."""

    def __init__(self, rule: Any) -> None:
        self.rule = rule
        self.model = SimpleNamespace(device=torch.device("cpu"))
        self.batches: list[int] = []

    def recommend(self, queries: Sequence[Query]) -> list[Recommendation]:
        self.batches.append(len(queries))
        return [self._answer(query) for query in queries]

    def _answer(self, query: Query) -> Recommendation:
        found = self.rule(query)[: query.num_results]
        items = tuple(RecommendedItem(item_id, -float(place), (0,), None) for place, item_id in enumerate(found))
        return Recommendation(items, (), len(query.history) % 2 == 0, None, None, 10)


def stub(rule: Any) -> Recommender:
    return cast(Recommender, Stub(rule))


def perfect(query: Query) -> list[str]:
    """The checkerboard's next item, and items that nobody ever sees after it."""
    newest = next(int(item_id.split("-")[1]) for domain, item_id in reversed(query.history) if domain == query.domain)
    right = f"{query.domain}-{(newest + 2) % tiny.DOMAINS[query.domain]}"
    return [right, *(f"nothing-{number}" for number in range(9))]


def vectors_of(dataset: Dataset) -> list[np.ndarray]:
    return [np.eye(len(domain.item_ids), 8, dtype=np.float32) + 0.1 for domain in dataset.domains]


@pytest.fixture(scope="module")
def dataset(tiny_data: Path) -> Dataset:
    return read_dataset(tiny_data)


def report_of(dataset: Dataset, rule: Any, part: Part = Part.TEST) -> dict[str, Any]:
    return evaluate(stub(rule), dataset.domains, split_events(dataset), vectors_of(dataset), part)


@pytest.mark.parametrize("part", [Part.VALIDATION, Part.TEST])
def test_a_perfect_recommender_gets_1_everywhere(dataset: Dataset, part: Part) -> None:
    report = report_of(dataset, perfect, part)
    assert report["part"] == part.name.lower()
    for figures in [*report["domains"].values(), report["pooled"]]:
        ours = figures["rankers"]["sidera"]
        assert {ours[name] for name in ("recall@5", "recall@10", "ndcg@5", "ndcg@10")} == {1.0}
    for name, figures in report["domains"].items():
        assert figures["targets"] == 60
        assert figures["rankers"]["sidera"]["ndcg@10_interval"] == [1.0, 1.0]
        assert figures["rankers"]["sidera"]["coverage@10"] <= 60 / tiny.DOMAINS[name]
    assert report["pooled"]["targets"] == 180


def test_a_recommender_that_knows_nothing_gets_0_and_the_floors_stay(dataset: Dataset) -> None:
    right, wrong = report_of(dataset, perfect), report_of(dataset, lambda query: [])
    assert wrong["pooled"]["rankers"]["sidera"] == {"recall@5": 0.0, "recall@10": 0.0, "ndcg@5": 0.0, "ndcg@10": 0.0}
    for floor in ("popularity", "bigram", "content-kNN"):
        assert wrong["pooled"]["rankers"][floor] == right["pooled"]["rankers"][floor]


def naive_top(dataset: Dataset, number: int, floor: str) -> list[list[int]]:
    """The rule of a floor in words: what it recommends for each test target of a domain."""
    events = split_events(dataset)
    rows = [
        (int(user), int(item), int(row))
        for user, domain, item, part, row in zip(
            events.user_E, events.domain_E, events.item_E, events.part_E, events.row_E, strict=True
        )
        if domain == number and part == Part.TRAIN
    ]
    count = Counter(item for _, item, _ in rows)
    first = {item: min(row for _, other, row in rows if other == item) for item in count}
    popular = sorted(count, key=lambda item: (-count[item], first[item]))
    follows: dict[int, Counter[int]] = {}
    for (user, item, _), (next_user, next_item, _) in pairwise(rows):
        if user == next_user:
            follows.setdefault(item, Counter())[next_item] += 1
    ids = dataset.domains[number].item_ids
    tops = []
    for target in targets(events, Part.TEST):
        if target.domain != number:
            continue
        own = [item for domain, item in target.history if domain == number]
        after = follows.get(own[-1], Counter())
        ranked = sorted(after, key=lambda item: (-after[item], -count[item], ids[item]))
        wanted = (ranked if floor == "bigram" else []) + popular
        tops.append([item for item in dict.fromkeys(wanted) if item not in own][:10])
    return tops


@pytest.mark.parametrize("floor", ["popularity", "bigram"])
def test_a_floors_figures_are_those_of_its_rule_in_words(floor: str, dataset: Dataset) -> None:
    report = report_of(dataset, perfect)
    events = split_events(dataset)
    for number, domain in enumerate(dataset.domains):
        wanted = [target.item for target in targets(events, Part.TEST) if target.domain == number]
        tops = naive_top(dataset, number, floor)
        gains = [
            1 / np.log2(top.index(item) + 2) if item in top else 0.0 for top, item in zip(tops, wanted, strict=True)
        ]
        figures = report["domains"][domain.name]["rankers"][floor]
        assert figures["ndcg@10"] == pytest.approx(float(np.mean(gains)))
        assert figures["recall@10"] == pytest.approx(float(np.mean([gain > 0 for gain in gains])))
        assert figures["coverage@10"] == len(set().union(*tops)) / len(domain.item_ids)
        low, high = figures["ndcg@10_interval"]
        assert low <= figures["ndcg@10"] <= high
        difference = report["domains"][domain.name]["differences"][floor]
        assert difference["mean"] == pytest.approx(1.0 - float(np.mean(gains)))


def test_the_report_is_json_without_nan(dataset: Dataset) -> None:
    report = report_of(dataset, perfect)
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def made(name: str, walks: dict[int, list[int]], items: int) -> DomainData:
    """A domain whose users walk items, a day apart."""
    rows = [
        (user, item, 1_500_000_000 + step * 86400) for user, walk in walks.items() for step, item in enumerate(walk)
    ]
    user_E, item_E, time_E = (np.array(column) for column in zip(*rows, strict=True))
    ids = tuple(f"{name}-{item}" for item in range(items))
    fields = tuple({"title": item_id} for item_id in ids)
    return DomainData(name, ids, fields, user_E.astype(np.int32), item_E.astype(np.int32), time_E.astype(np.int64))


def test_the_pooled_difference_resamples_users_with_all_their_targets() -> None:
    """One user is always hit and one never: with two users the interval reaches from 0 to 1, however many targets."""
    domains = tuple(made(f"d{number}", {0: [0, 1, 2, 3], 1: [4, 5, 6, 7]}, 8) for number in range(30))
    dataset = Dataset(domains, ("hit", "missed"), "")
    report = report_of(dataset, lambda query: [f"{query.domain}-3"])
    assert report["pooled"]["rankers"]["popularity"]["ndcg@10"] == 0.0
    difference = report["pooled"]["differences"]["popularity"]
    assert difference["mean"] == pytest.approx(0.5)
    assert (difference["low"], difference["high"]) == (pytest.approx(0.0), pytest.approx(1.0))
    assert difference["p_value"] > 0.3


def test_the_pooled_mean_counts_every_target_once_however_many_a_user_has() -> None:
    domains = (
        made("a", {0: [0, 1, 2, 3], 1: [0, 1, 2, 3], 2: [4, 5, 6, 7]}, 8),
        made("b", {0: [0, 1, 2, 3], 1: [4, 5, 6, 7]}, 8),
    )
    report = report_of(Dataset(domains, ("x", "y", "z"), ""), lambda query: [f"{query.domain}-3"])
    assert report["pooled"]["targets"] == 5
    assert report["pooled"]["rankers"]["sidera"]["recall@10"] == pytest.approx(3 / 5)
    assert report["pooled"]["differences"]["popularity"]["mean"] == pytest.approx(
        report["pooled"]["rankers"]["sidera"]["ndcg@10"] - report["pooled"]["rankers"]["popularity"]["ndcg@10"]
    )


def test_targets_that_repeat_an_item_of_the_history_are_counted_and_count_as_misses() -> None:
    domain = made("a", {0: [0, 1, 2, 0], 1: [0, 1, 2, 3], 2: [1, 1, 1, 1]}, 8)

    def without_history(query: Query) -> list[str]:
        seen = {item_id for _, item_id in query.history}
        return [item_id for item_id in domain.item_ids if item_id not in seen]

    report = report_of(Dataset((domain,), ("x", "y", "z"), ""), without_history)
    assert report["domains"]["a"]["repeated"] == 2
    assert report["domains"]["a"]["rankers"]["sidera"]["recall@10"] == pytest.approx(1 / 3)


def test_a_domain_without_targets_is_left_out_and_none_at_all_is_refused() -> None:
    full, sparse = made("full", {0: [0, 1, 2, 3]}, 8), made("sparse", {0: [0, 1]}, 8)
    report = report_of(Dataset((full, sparse), ("x",), ""), lambda query: [])
    assert list(report["domains"]) == ["full"]
    with pytest.raises(DataError, match="no user has 3 events in a domain, so nothing can be evaluated; give more"):
        report_of(Dataset((sparse,), ("x",), ""), lambda query: [])


def test_answers_come_back_in_the_order_of_the_targets_and_short_ones_end_in_minus_1(dataset: Dataset) -> None:
    asked = targets(split_events(dataset), Part.TEST)
    short = Stub(lambda query: perfect(query)[:1])
    answers = recommend_for(cast(Recommender, short), dataset.domains, asked)
    assert answers.top_NK[:, 0].tolist() == [target.item for target in asked]
    assert (answers.top_NK[:, 1:] == -1).all()
    assert answers.exact == pytest.approx(np.mean([len(target.history) % 2 == 0 for target in asked]))
    assert max(short.batches) <= 32
    assert mean_scores(stub(perfect), dataset.domains, asked, "perfect") == {"recall@10": 1.0, "ndcg@10": 1.0}


def test_slices_hold_the_users_that_their_words_say_and_their_means_are_of_those_targets() -> None:
    long = list(range(25))
    domains = (
        made("a", {0: [0, 1, 2, 3, 4], 1: [0, 1, 2, 3, 4, 5], 2: long}, 30),
        made("b", {1: [0, 1, 2, 9]}, 12),
    )
    report = report_of(Dataset(domains, ("cold", "two", "long"), ""), lambda query: ["a-4", "a-0", "a-24", "b-9"])
    slices = report["domains"]["a"]["slices"]
    kinds = {"cold": 1, "short": 1, "long": 1, "several": 1, "rare": 3, "new": 3}
    assert {name: part["targets"] for name, part in slices.items()} == kinds
    assert {name: part["recall@10"] for name, part in slices.items()} == {
        "cold": 1.0,
        "short": 1.0,
        "long": 1.0,
        "several": 0.0,
        "rare": pytest.approx(2 / 3),
        "new": pytest.approx(2 / 3),
    }
    assert slices["long"]["ndcg@10"] == pytest.approx(1 / np.log2(2 + 2))
    assert slices["long"]["ndcg@10_interval"] == [pytest.approx(0.5)] * 2
    assert set(slices["cold"]["floors"]) == {"popularity", "bigram", "content-kNN"}
    assert {name: part["targets"] for name, part in report["domains"]["b"]["slices"].items()} == {
        "cold": 1,
        "several": 1,
        "rare": 1,
        "new": 1,
    }


def test_an_item_is_rare_or_known_by_its_train_events_in_its_own_domain() -> None:
    # User 5's target, item 7 of a, has five train events in a; that of user 6 in b has none there.
    domains = (
        made("a", {user: [7, 8, 9] for user in range(5)} | {5: [1, 2, 7]}, 10),
        made("b", {6: [1, 2, 7]}, 10),
    )
    users = tuple(f"user-{user}" for user in range(7))
    parts = report_of(Dataset(domains, users, ""), lambda query: [])["domains"]
    assert {name: part["targets"] for name, part in parts["a"]["slices"].items() if name in ("rare", "known")} == {
        "rare": 5,
        "known": 1,
    }
    assert parts["b"]["slices"]["rare"]["targets"] == 1


def test_a_slices_floors_are_those_of_its_own_targets(dataset: Dataset) -> None:
    report = report_of(dataset, perfect)
    for part in report["domains"].values():
        cold, several = part["slices"]["cold"], part["slices"]["several"]
        assert 0 < cold["targets"] < part["targets"]
        assert cold["ndcg@10"] == 1.0
        assert cold["floors"]["popularity"] != several["floors"]["popularity"]
    whole = [part for part in report["domains"].values() if part["slices"]["several"]["targets"] == part["targets"]]
    assert whole
    for part in whole:
        for floor, figures in part["slices"]["several"]["floors"].items():
            assert figures["ndcg@10"] == pytest.approx(part["rankers"][floor]["ndcg@10"])


def test_some_targets_are_drawn_alike_whatever_is_scored_and_all_are_none_too_many(dataset: Dataset) -> None:
    events, vectors = split_events(dataset), vectors_of(dataset)
    right = evaluate(stub(perfect), dataset.domains, events, vectors, Part.TEST, most=3)
    wrong = evaluate(stub(lambda query: []), dataset.domains, events, vectors, Part.TEST, most=3)
    assert right["pooled"]["targets"] == 3 * len(dataset.domains)
    for domain in right["domains"]:
        floors = [report["domains"][domain]["rankers"]["bigram"] for report in (right, wrong)]
        assert floors[0] == floors[1]
    whole = evaluate(stub(perfect), dataset.domains, events, vectors)
    assert evaluate(stub(perfect), dataset.domains, events, vectors, Part.TEST, most=10_000) == whole
