"""A returning user: the history was read before, one item is new. With the history cache, against none."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from benchmarks.decoding_ratios import RESULTS
from benchmarks.decoding_scope import Scope
from benchmarks.decoding_subject import Subject, synchronised
from benchmarks.harness import Figure, Ratio, ratio_figures, shown, time_ratio
from sidera.errors import BundleError
from sidera.model.history_cache import HistoryCache
from sidera.recommender import Query, Recommender
from training.progress import track

MOST = 0.4
CACHE_BYTES = 2**30
_WARM_UP = 3


def measure_returning(subject: Subject, keeping: Recommender, scope: Scope, name: str) -> dict[str, Figure]:
    """A recommendation after a long history and one new item, with a cache that holds the long history, against none.

    Every user counts once: a second call would find the new item too.

    Args:
        keeping: the same as the subject's, loaded once more; it keeps histories from now on.

    Raises:
        BundleError: the histories have too few different items.
    """
    length = max(scope.lengths)
    ratios: dict[str, Ratio] = {}
    reused: list[float] = []
    with track(f"{length} items known and one new", len(scope.beams)) as advance:
        for beams in scope.beams:
            asked = subject.queries(_WARM_UP + scope.rounds, length + 1, beams, RESULTS)
            warm_up, queries = _split(list(dict.fromkeys(asked)))
            cache = _filled(keeping, [*warm_up, *queries])
            for query in warm_up:
                keeping.recommend([query])
                subject.recommender.recommend([query])
            before = cache.reused_items
            ratios[f"history_{length}_beams_{beams}"] = time_ratio(
                synchronised(_recommending(keeping), subject.device),
                synchronised(_recommending(subject.recommender), subject.device),
                queries,
                warm_up=0,
            )
            reused.append((cache.reused_items - before) / len(queries))
            advance()
    note = f"items of {length + 1} that were not read again, the fewest of {len(reused)} means"
    return {**ratio_figures(name, ratios, most=MOST), f"{name}_reused_items": shown(min(reused), "items", note)}


def _split(queries: list[Query]) -> tuple[list[Query], list[Query]]:
    if len(queries) <= _WARM_UP:
        raise BundleError(f"there are only {len(queries)} different histories to measure a returning user with")
    return queries[:_WARM_UP], queries[_WARM_UP:]


def _filled(keeping: Recommender, queries: Sequence[Query]) -> HistoryCache:
    """A new cache in which every query's history lies without its newest item."""
    keeping.model.keep_histories(CACHE_BYTES)
    for query in queries:
        keeping.recommend([replace(query, history=query.history[:-1])])
    cache = keeping.model.history_cache
    assert cache is not None, "just made"
    return cache


def _recommending(recommender: Recommender) -> Callable[[Query], object]:
    return lambda query: recommender.recommend([query])
