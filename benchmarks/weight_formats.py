"""How many of the first ten items stay when a bundle's weights are rounded."""

from collections.abc import Sequence
from pathlib import Path

from sidera.loading import load_bundle
from sidera.model.weight_formats import WeightFormat, top_overlap
from sidera.recommender import Query


def overlap_with_float32(
    bundle: Path, queries: Sequence[Query], formats: Sequence[WeightFormat], device: str = "cpu", top: int = 10
) -> dict[str, float]:
    """For each format, the mean share of the first ``top`` items of float32 weights that it has among its own, 0..1.

    Raises:
        BackboneError: the bundle's layers or the device do not fit a format.
        ValueError: no query has an answer.
    """

    def answers(weights: WeightFormat) -> list[list[str]]:
        found = load_bundle(bundle, device, weights).recommender.recommend(queries)
        return [[item.item_id for item in answer.items] for answer in found]

    expected = answers("float32")
    return {weights: top_overlap(expected, answers(weights), top) for weights in formats}
