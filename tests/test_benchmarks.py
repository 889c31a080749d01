"""The benchmarks' own machinery; what they measure is never asserted here."""

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.end_to_end import quality_figures
from benchmarks.generate import TIE, Ranked, same_items, score_difference
from benchmarks.harness import Figure, at_least, at_most, latency_figures, ratio_figures, report, shown, time_ratio
from benchmarks.harness import Ratio as TimedRatio
from benchmarks.processes import Client, ServiceProcessError, free_port, served, stop
from benchmarks.validity import Faults, faults_of, random_queries
from sidera.recommender import Query, Recommendation, RecommendedItem


class Clock:
    """Time that passes only when something is done."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def takes(self, seconds_of: Callable[[int], float], name: str, calls: list[str]) -> Callable[[int], None]:
        def work(value: int) -> None:
            calls.append(f"{name}{value}")
            self.now += seconds_of(value)

        return work


def test_a_figure_holds_up_to_its_limit_and_not_beyond() -> None:
    assert at_most(1.15, 1.15, "ratio").holds is True
    assert at_most(1.16, 1.15, "ratio").holds is False
    assert at_least(3.0, 3.0, "ratio").holds is True
    assert at_least(2.9, 3.0, "ratio").holds is False


def test_what_was_not_measured_neither_holds_nor_fails() -> None:
    assert at_most(None, 300, "s") == Figure(None, "s", "<= 300", None)
    assert at_least(None, 3, "ratio").holds is None
    assert shown(1.0, "ms").holds is None


def test_a_report_is_json_with_figures_hardware_command_and_date(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results" / "figures.json"
    figures = {
        "fast": at_most(2.0, 1.0, "ratio", "a note"),
        "seconds": at_most(None, 300, "s"),
        "p50_ms": shown(4, "ms"),
    }
    report("Title", figures, out, {"bundle_version": "abc"})
    document = json.loads(out.read_text())
    assert document["figures"] == {
        "fast": {"value": 2.0, "to_reach": "<= 1", "holds": False, "unit": "ratio", "note": "a note"},
        "seconds": {"value": None, "to_reach": "<= 300", "holds": None, "unit": "s"},
        "p50_ms": {"value": 4, "to_reach": None, "holds": None, "unit": "ms"},
    }
    assert document["bundle_version"] == "abc"
    assert document["hardware"]["torch_threads"] >= 1
    assert {"cpu", "cores", "memory_gib", "torch", "transformers", "python"} <= document["hardware"].keys()
    assert document["command"].startswith("python")
    assert "T" in document["date"]
    table = capsys.readouterr().out
    assert "not measured" in table
    assert "NO" in table


def test_a_figure_that_is_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nan"):
        report("Title", {"broken": shown(float("nan"), "ms")}, tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()


def test_a_ratio_is_the_median_of_the_rounds_and_each_side_goes_first_in_turn() -> None:
    clock, calls = Clock(), list[str]()
    a = clock.takes(lambda value: [2.0, 30.0, 4.0][value], "a", calls)
    b = clock.takes(lambda value: [1.0, 10.0, 1.0][value], "b", calls)
    ratio = time_ratio(a, b, [0, 1, 2], clock=clock, warm_up=1)
    assert ratio == TimedRatio(median=3.0, seconds_a=4.0, seconds_b=1.0, rounds=3)
    assert calls == ["a0", "b0", "a0", "b0", "b1", "a1", "a2", "b2"]


def test_the_worst_configuration_stands_beside_the_median() -> None:
    ratios = {name: TimedRatio(median, 1.0, 1.0, 5) for name, median in (("x", 1.0), ("y", 1.1), ("z", 1.3))}
    slower = ratio_figures("cost", ratios, most=1.15)
    assert (slower["cost"].value, slower["cost"].holds) == (1.1, True)
    assert (slower["cost_worst"].value, slower["cost_worst"].holds, slower["cost_worst"].note) == (1.3, False, "z")
    assert (slower["cost_y"].value, slower["cost_y"].to_reach) == (1.1, None)
    faster = ratio_figures("gain", ratios, least=1.05)
    assert (faster["gain"].holds, faster["gain_worst"].holds, faster["gain_worst"].note) == (True, False, "x")
    with pytest.raises(ValueError, match="either"):
        ratio_figures("both", ratios, most=1.0, least=1.0)


def test_latencies_are_told_as_percentiles_in_milliseconds() -> None:
    figures = latency_figures("call", [0.001] * 99 + [0.101])
    assert figures["call_p50_ms"].value == pytest.approx(1.0)
    assert figures["call_p99_ms"].value == pytest.approx(2.0)


def test_rankings_agree_when_only_tied_items_change_places() -> None:
    ours: Ranked = [((1, 2), -1.0), ((1, 3), -2.0), ((4, 5), -2.0 - TIE / 2)]
    assert same_items(ours, ours)
    assert same_items(ours, [ours[0], ours[2], ours[1]])
    assert not same_items(ours, [ours[1], ours[0], ours[2]])
    assert not same_items(ours, ours[:2])
    assert not same_items(ours, [*ours[:2], ((9, 9), -3.0)])
    assert score_difference(ours, [((1, 2), -1.25), ((9, 9), 5.0)]) == 0.25
    assert score_difference(ours, []) == 0.0


def item(item_id: str, score: float = -1.0) -> RecommendedItem:
    return RecommendedItem(item_id, score, (0,), None)


def answer(*items: RecommendedItem) -> Recommendation:
    return Recommendation(items, missing=(), exact=True, fallback=None, returned_reason=None, beams=20)


def test_items_that_should_not_come_back_are_counted() -> None:
    ids = frozenset("abcdef")
    query = Query("drama", history=(("drama", "a"), ("comedy", "b")), num_results=4, exclude=frozenset("c"))
    assert faults_of(query, answer(*map(item, "bdef")), ids) == Faults()
    assert faults_of(query, answer(*map(item, "adef")), ids) == Faults(invalid=1, lacking=1)
    assert faults_of(query, answer(*map(item, "cdef")), ids) == Faults(invalid=1, lacking=1)
    assert faults_of(query, answer(*map(item, "zdef")), ids) == Faults(invalid=1, lacking=1)
    assert faults_of(query, answer(item("b", float("-inf")), *map(item, "def")), ids) == Faults(invalid=1, lacking=1)
    assert faults_of(query, answer(*map(item, "ddef")), ids) == Faults(duplicates=1, lacking=1)
    assert faults_of(query, answer(*map(item, "de")), ids) == Faults(lacking=2)


def test_fewer_items_are_no_fault_when_no_more_are_allowed() -> None:
    query = Query("drama", num_results=5, exclude=frozenset("ab"))
    assert faults_of(query, answer(item("c")), frozenset("abc")) == Faults()


def test_history_items_may_come_back_when_the_request_says_so() -> None:
    query = Query("drama", history=(("drama", "a"),), num_results=1, exclude_history=False)
    assert faults_of(query, answer(item("a")), frozenset("a")) == Faults()


def test_random_requests_are_of_all_kinds_and_the_same_for_a_seed() -> None:
    ids = {"drama": [f"d{number}" for number in range(40)], "comedy": [f"c{number}" for number in range(5)]}

    def made() -> list[Query]:
        return list(itertools.islice(random_queries(ids, np.random.default_rng(3)), 400))

    queries = made()
    assert queries == made()
    known = {(domain, item_id) for domain, own in ids.items() for item_id in own}
    assert {query.domain for query in queries} == set(ids)
    assert any(not query.history for query in queries)
    assert any(query.history and not known & set(query.history) for query in queries)
    assert any(set(ids[query.domain]) <= query.exclude for query in queries)
    assert {query.num_results for query in queries} >= {1, 100}
    assert {query.exclude_history for query in queries} == {True, False}


def test_quality_is_judged_by_the_lower_end_of_the_pooled_interval_and_shown_for_every_domain() -> None:
    def part(low: float) -> dict[str, object]:
        difference = {"mean": 0.01, "low": low, "high": 0.02, "p_value": 0.03}
        floors = ("popularity", "bigram", "content-kNN")
        return {
            "targets": 7,
            "rankers": {"sidera": {"ndcg@10": 0.08}},
            "differences": dict.fromkeys(floors, difference),
        }

    figures = quality_figures({"pooled": part(0.001), "domains": {"drama": part(-0.001)}})
    assert figures["ndcg_above_popularity_pooled"].holds is True
    assert quality_figures({"pooled": part(0.0), "domains": {}})["ndcg_above_popularity_pooled"].holds is False
    assert figures["ndcg_drama"].value == 0.08
    for name in ("ndcg_above_bigram_pooled", "ndcg_above_content_knn_drama", "ndcg_above_popularity_drama"):
        assert (figures[name].value, figures[name].to_reach, figures[name].holds) == (0.01, None, None)


def test_a_process_that_will_not_end_is_killed() -> None:
    code = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    stop(process, patience=0.2)
    process.stdout.close()
    assert process.returncode == -9


def test_a_service_that_cannot_start_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(ServiceProcessError, match=r"sidera serve ended; it said:\n.*no bundle"),
        served(tmp_path / "no bundle"),
    ):
        pass


def test_nobody_listens_on_a_free_port() -> None:
    client = Client(free_port())
    with pytest.raises(ConnectionRefusedError):
        client.get("/health/ready")
    client.close()
