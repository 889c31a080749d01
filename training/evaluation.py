"""Item-level evaluation beside the floors: full ranking, per domain and pooled, with bootstrap intervals.

Every target is ranked among all items of its domain; items of its history are not recommended again. A target that the
user had before cannot be hit under that rule; such targets count as misses, and their number is reported. What was
found is what the recommender would have answered: it is the same code that serves.

Shapes: N targets, K places.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sidera.recommender import Query, Recommender
from training.data import DomainData
from training.errors import DataError
from training.floors import FloorTask, content_knn, item_bigram, popularity
from training.metrics import (
    bootstrap_interval,
    ndcg_values,
    paired_bootstrap,
    ranking_metrics,
    recall_values,
    target_ranks,
)
from training.progress import track
from training.slices import slice_report
from training.split import Events, Part, Target, targets

PLACES = 10
MODEL = "sidera"
_QUERIES_AT_ONCE = 32
_QUERIES_AT_ONCE_ON_GPU = 256

Top = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Answers:
    """What the recommender gave for N targets.

    Attributes:
        top_NK: item numbers of the domain's data, best first, -1 behind the last.
        exact: share of the answers that are certified to be the exact ranking.
    """

    top_NK: Top
    exact: float


def recommend_for(
    recommender: Recommender, domains: Sequence[DomainData], asked: Sequence[Target], label: str = "recommend"
) -> Answers:
    """The first ten items for each target's history."""
    numbers = [{item_id: number for number, item_id in enumerate(domain.item_ids)} for domain in domains]
    top_NK = np.full((len(asked), PLACES), -1, dtype=np.int32)
    exact = 0
    by_length = sorted(range(len(asked)), key=lambda row: len(asked[row].history))
    with track(label, len(asked)) as advance:
        at_once = _QUERIES_AT_ONCE if recommender.model.device.type == "cpu" else _QUERIES_AT_ONCE_ON_GPU
        for begin in range(0, len(asked), at_once):
            rows = by_length[begin : begin + at_once]
            queries = [query_of(asked[row], domains) for row in rows]
            for row, answer in zip(rows, recommender.recommend(queries), strict=True):
                own = numbers[asked[row].domain]
                found = [own[item.item_id] for item in answer.items if item.item_id in own]
                top_NK[row, : len(found)] = found
                exact += answer.exact
            advance(len(rows))
    return Answers(top_NK, exact / max(1, len(asked)))


def query_of(target: Target, domains: Sequence[DomainData]) -> Query:
    """What a client would ask when the target is still to come."""
    history = tuple((domains[domain].name, domains[domain].item_ids[item]) for domain, item in target.history)
    return Query(domains[target.domain].name, history, num_results=PLACES)


def mean_scores(
    recommender: Recommender, domains: Sequence[DomainData], asked: Sequence[Target], label: str
) -> dict[str, float]:
    """Mean Recall@10 and NDCG@10 of some targets, in this order."""
    answers = recommend_for(recommender, domains, asked, label)
    ranks = target_ranks(answers.top_NK, np.array([target.item for target in asked]))
    figures = {"recall@10": recall_values(ranks, PLACES), "ndcg@10": ndcg_values(ranks, PLACES)}
    return {name: float(values.mean()) for name, values in figures.items()}


def drawn_targets(every: Sequence[Target], most: int, seed: Sequence[int]) -> list[Target]:
    """At most so many of the targets, in their order; 0: all."""
    if not most or len(every) <= most:
        return list(every)
    rows = np.random.default_rng(list(seed)).permutation(len(every))[:most]
    return [every[row] for row in sorted(rows.tolist())]


def evaluate(
    recommender: Recommender,
    domains: Sequence[DomainData],
    events: Events,
    vectors: Sequence[npt.NDArray[np.float32]],
    part: Part = Part.TEST,
    seed: int = 0,
    most: int = 0,
) -> dict[str, Any]:
    """Rank the targets of a part, by the model and by the floors.

    Args:
        vectors: the item vectors of each domain, for content-kNN. Shape of each: float32[I, D].
        most: targets of a domain, drawn by ``seed``, the same ones whatever is scored; 0: all.

    Returns:
        The report as JSON: ``domains`` by name and ``pooled``, each with the metrics of every ranker and the paired
        difference of the model's NDCG@10 to each floor's; each domain also with its ``slices`` (see
        ``training.slices``).

    Raises:
        DataError: no user has a target.
    """
    asked = targets(events, part)
    if not asked:
        raise DataError("no user has 3 events in a domain, so nothing can be evaluated; give more events")
    of_domain: dict[int, list[Target]] = {number: [] for number in range(len(domains))}
    for target in asked:
        of_domain[target.domain].append(target)
    of_domain = {number: drawn_targets(own, most, (seed, number)) for number, own in of_domain.items()}
    reports: dict[str, Any] = {}
    pool: dict[str, list[npt.NDArray[np.int64]]] = {}
    users: list[int] = []
    for number, domain in enumerate(domains):
        own = of_domain[number]
        if not own:
            continue
        answers = recommend_for(recommender, domains, own, f"{domain.name}: recommend")
        task = FloorTask(events, number, domain.item_ids, own, PLACES)
        tops: dict[str, Top] = {
            MODEL: answers.top_NK,
            "popularity": popularity(task),
            "bigram": item_bigram(task),
            "content-kNN": content_knn(task, vectors[number]),
        }
        item_N = np.array([target.item for target in own])
        ranks = {name: target_ranks(top_NK, item_N) for name, top_NK in tops.items()}
        for name, rank_N in ranks.items():
            pool.setdefault(name, []).append(rank_N)
        users += [target.user for target in own]
        reports[domain.name] = {
            "targets": len(own),
            "repeated": sum(target.repeated for target in own),
            "exact": answers.exact,
            "rankers": {
                name: ranking_metrics(top_NK, item_N, len(domain.item_ids)).as_dict()
                | {"ndcg@10_interval": _interval(ranks[name], seed)}
                for name, top_NK in tops.items()
            },
            "differences": _differences(ranks, np.arange(len(own)), seed),
            "slices": slice_report(ranks, events, own, MODEL, PLACES, seed),
        }
    pooled = {name: np.concatenate(ranks) for name, ranks in pool.items()}
    return {
        "part": part.name.lower(),
        "domains": reports,
        "pooled": {
            "targets": len(users),
            "rankers": {name: _means(rank_N) for name, rank_N in pooled.items()},
            "differences": _differences(pooled, np.array(users), seed),
        },
    }


def _interval(rank_N: npt.NDArray[np.int64], seed: int) -> list[float]:
    interval = bootstrap_interval(ndcg_values(rank_N, PLACES), seed)
    return [interval.low, interval.high]


def _means(rank_N: npt.NDArray[np.int64]) -> dict[str, float]:
    figures: Mapping[str, Callable[[npt.NDArray[np.int64], int], npt.NDArray[np.float64]]]
    figures = {"recall": recall_values, "ndcg": ndcg_values}
    return {f"{name}@{k}": float(values(rank_N, k).mean()) for name, values in figures.items() for k in (5, 10)}


def _differences(
    ranks: Mapping[str, npt.NDArray[np.int64]], group_N: npt.NDArray[np.int64], seed: int
) -> dict[str, dict[str, float]]:
    """NDCG@10 of the model minus each floor's; whole groups (a user's targets) are resampled together."""
    _, dense_N = np.unique(group_N, return_inverse=True)
    scale = (dense_N.max() + 1) / len(dense_N)

    def of_groups(name: str) -> npt.NDArray[np.float64]:
        sums = np.zeros(dense_N.max() + 1)
        np.add.at(sums, dense_N, ndcg_values(ranks[name], PLACES))
        scaled: npt.NDArray[np.float64] = sums * scale
        return scaled

    model = of_groups(MODEL)
    return {name: vars(paired_bootstrap(model, of_groups(name), seed)).copy() for name in ranks if name != MODEL}
