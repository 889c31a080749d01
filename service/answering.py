"""Computes a batch of /recommend, and tells what it took: the seconds of its stages, and items that must not be.

Called by the engine's thread.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from structlog.typing import FilteringBoundLogger

from service.metrics import Metrics
from service.model import Model
from sidera.catalog import Catalog
from sidera.recommender import Query, Recommendation
from sidera.stages import StageTimes, timed


@dataclass(frozen=True)
class Recommended:
    """A recommendation, the version of the catalog that it was made from, and when its batch was computed."""

    recommendation: Recommendation
    catalog_version: int
    times: StageTimes


def answer_batch(
    model: Model, queries: Sequence[Query], metrics: Metrics, log: FilteringBoundLogger
) -> list[Recommended]:
    """One answer a query, in order."""
    catalog = model.catalog
    with timed() as times:
        recommendations = model.recommend(queries)
    for stage, seconds in times.seconds().items():
        metrics.stage(stage, seconds)
    invalid = count_invalid(catalog, queries, recommendations)
    if invalid:
        metrics.invalid_items(invalid)
        log.error("items were recommended that the catalog does not hold", items=invalid, catalog=catalog.version)
    return [Recommended(recommendation, catalog.version, times) for recommendation in recommendations]


def count_invalid(catalog: Catalog, queries: Sequence[Query], recommendations: Sequence[Recommendation]) -> int:
    """How many recommended items are not in the asked domain of the catalog, are hidden, or have another SID there."""
    items_of: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
    for query, recommendation in zip(queries, recommendations, strict=True):
        items_of.setdefault(query.domain, []).extend((item.item_id, item.sid) for item in recommendation.items)
    invalid = 0
    for domain, items in items_of.items():
        held = [
            (number, sid)
            for item_id, sid in items
            if (number := catalog.find(domain, item_id)) is not None and not catalog.is_hidden(number)
        ]
        sids = catalog.sids_of(domain, [number for number, _ in held]) if held else []
        invalid += len(items) - sum(sid == own for (_, sid), own in zip(held, sids, strict=True))
    return invalid
