"""The benchmark of what the memory costs: both sides answer, and what cannot be compared is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.memory_time import MOST_RATIO, main, memory_figures
from benchmarks.samples import Bench, load_bench
from sidera.recommender import Recommender
from training.errors import DataError


@pytest.fixture
def bench(tiny_bundle: Path, tiny_data: Path) -> Bench:
    return load_bench(tiny_bundle, tiny_data)


def without_memory(bench: Bench) -> Bench:
    served = bench.loaded.recommender
    alone = Recommender(served.model, served.catalog, served.max_history, served.beam_width)
    return replace(bench, loaded=replace(bench.loaded, recommender=alone))


def test_every_domain_is_asked_with_and_without(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, bool]] = []
    recommend = Recommender.recommend

    def spy(self: Recommender, queries: list) -> object:  # type: ignore[type-arg]
        asked.extend((query.domain, self.neighbours is not None) for query in queries)
        return recommend(self, queries)

    monkeypatch.setattr(Recommender, "recommend", spy)
    figures = memory_figures(bench, 2)
    for domain in bench.loaded.recommender.catalog.domains:
        assert asked.count((domain, True)) == asked.count((domain, False)) == 4, "two to warm up, two that are timed"
        assert f"with_memory_over_without_{domain}" in figures
    assert figures["with_memory_over_without"].to_reach == f"<= {MOST_RATIO:g}"


def test_a_bundle_without_memory_and_data_of_others_are_refused(bench: Bench) -> None:
    with pytest.raises(DataError, match="has no neighbours"):
        memory_figures(without_memory(bench), 2)
    with pytest.raises(DataError, match="no history"):
        memory_figures(replace(bench, queries=[]), 2)


def test_the_figures_are_written(tiny_bundle: Path, tiny_data: Path, tmp_path: Path) -> None:
    main(tiny_bundle, tiny_data, tmp_path / "out.json", calls=1, threads=0)
    told = json.loads((tmp_path / "out.json").read_text())
    assert told["figures"]["with_memory_over_without_worst"]["value"] > 0
    assert told["bundle"]
