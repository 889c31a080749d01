"""The overlap of a tiny bundle's answers in every format."""

from pathlib import Path

from benchmarks.weight_formats import overlap_with_float32
from sidera.recommender import Query
from tests import tiny


def test_the_formats_of_a_bundle_are_compared_with_float32(tiny_bundle: Path) -> None:
    queries = [Query(domain, ((domain, f"{domain}-{item}"),)) for domain in tiny.DOMAINS for item in range(3)]
    found = overlap_with_float32(tiny_bundle, queries, ["float32", "bfloat16", "int8"])
    assert found["float32"] == 1
    assert 0.7 < found["bfloat16"] <= 1
    assert 0.7 < found["int8"] <= 1
