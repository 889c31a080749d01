"""Random requests, and what of their answers should not be there."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.harness import Figure, at_most
from benchmarks.samples import Bench
from sidera.catalog import Catalog
from sidera.recommender import Query, Recommendation
from training.progress import track

_MOST_AT_ONCE = 16
_UNKNOWN = "no such item"
_BEAM_WIDTHS = (None, 1, 5, 20, 50, 100, 256)

Ids = Mapping[str, Sequence[str]]
"""The item ids of each domain."""


@dataclass(frozen=True)
class Faults:
    """What is wrong with answers.

    Attributes:
        invalid: items that are not of the domain, were excluded, or have no score.
        duplicates: items that the same answer holds already.
        lacking: items that were asked for and allowed, yet are not there.
    """

    invalid: int = 0
    duplicates: int = 0
    lacking: int = 0

    def __add__(self, other: "Faults") -> "Faults":
        return Faults(self.invalid + other.invalid, self.duplicates + other.duplicates, self.lacking + other.lacking)


def measure_validity(bench: Bench, requests: int, seed: int = 0) -> dict[str, Figure]:
    """The faults of the answers to random requests, which should be none."""
    recommender = bench.loaded.recommender
    ids = _item_ids(recommender.catalog)
    rng = np.random.default_rng(seed)
    asked = random_queries(ids, rng)
    faults, done, items = Faults(), 0, 0
    with track("random requests", requests) as advance:
        while done < requests:
            size = min(int(rng.integers(1, _MOST_AT_ONCE + 1)), requests - done)
            queries = [next(asked) for _ in range(size)]
            for query, answer in zip(queries, recommender.recommend(queries), strict=True):
                faults += faults_of(query, answer, frozenset(ids[query.domain]))
                items += len(answer.items)
            done += size
            advance(size)
    note = f"among {items:,} items of {requests:,} random requests"
    return {
        "invalid_items": at_most(faults.invalid, 0, "items", note),
        "duplicate_items": at_most(faults.duplicates, 0, "items", note),
        "lacking_items": at_most(faults.lacking, 0, "items", note),
    }


def random_queries(ids: Ids, rng: np.random.Generator) -> Iterator[Query]:
    """Requests of all kinds: empty, long, unknown and foreign histories, exclusions up to nearly everything."""
    domains = list(ids)

    def some(domain: str, count: int) -> list[str]:
        known = [ids[domain][place] for place in rng.integers(0, len(ids[domain]), count)]
        return [_UNKNOWN if rng.random() < 0.1 else item_id for item_id in known]

    while True:
        domain = domains[rng.integers(len(domains))]
        length = 0 if rng.random() < 0.1 else int(rng.integers(1, 120))
        places = [domain if rng.random() < 0.6 else domains[rng.integers(len(domains))] for _ in range(length)]
        history = [(place, some(place, 1)[0]) for place in places]
        excluded = some(domain, int(rng.integers(0, 30)) if rng.random() < 0.9 else 4 * len(ids[domain]))
        yield Query(
            domain=domain,
            history=tuple(history) if rng.random() < 0.95 else ((domain, _UNKNOWN),),
            num_results=int(rng.integers(1, 101)),
            exclude=frozenset(excluded) if rng.random() < 0.5 else frozenset(),
            exclude_history=bool(rng.random() < 0.7),
            beam_width=_BEAM_WIDTHS[rng.integers(len(_BEAM_WIDTHS))],
        )


def faults_of(query: Query, answer: Recommendation, ids: frozenset[str]) -> Faults:
    """What is wrong with one answer, told from the request and the domain's item ids alone."""
    allowed = ids - query.exclude
    if query.exclude_history:
        allowed -= {item_id for domain, item_id in query.history if domain == query.domain}
    found = [item.item_id for item in answer.items]
    valid = [item for item in answer.items if item.item_id in allowed and np.isfinite(item.score)]
    different = {item.item_id for item in valid}
    return Faults(
        invalid=len(found) - len(valid),
        duplicates=len(found) - len(set(found)),
        lacking=max(0, min(query.num_results, len(allowed)) - len(different)),
    )


def _item_ids(catalog: Catalog) -> dict[str, list[str]]:
    ids: dict[str, list[str]] = {domain: [] for domain in catalog.domains}
    for number in range(len(catalog)):
        item = catalog.item(number)
        ids[item.domain].append(item.item_id)
    return ids
