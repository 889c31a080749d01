"""The machinery of the service benchmark: what counts as late, stale or out of contract; figures are never asserted."""

import asyncio
import json
import random
from dataclasses import fields
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks import service
from benchmarks.service_catalog import TimedShot, Watch
from benchmarks.service_changes import fill_store
from benchmarks.service_events import Sent
from benchmarks.service_kills import Acknowledged, _lost
from benchmarks.service_mixed import Crowd
from benchmarks.service_overload import DEADLINE_MS, sort_out
from benchmarks.service_process import Served
from benchmarks.service_replicas import Balanced
from benchmarks.service_scope import Scope
from benchmarks.service_subject import HISTORY, Bundles, Size, bodies, queries, title_of
from sidera_client.answers import Recommendation
from sidera_client.load import Load, Outcome, Shot
from sidera_client.wire import Reply, Target


def reply(ids: list[str], scores: list[float] | None = None, status: int = 200) -> Reply:
    items = [
        {"item_id": item_id, "score": score}
        for item_id, score in zip(ids, scores or [-float(place) for place in range(len(ids))], strict=True)
    ]
    return Reply(status, {}, json.dumps({"items": items}).encode(), True)


def test_answers_after_their_deadline_and_504_are_late_and_a_429_is_a_refusal() -> None:
    seconds = DEADLINE_MS / 1e3
    outcomes = [
        Outcome("200", 0.0, 0.1),
        Outcome("200", 0.0, seconds + 1.0),
        Outcome("504", 0.0, seconds),
        Outcome("429", 0.0, 0.003),
        Outcome("timed out", 0.0, 30.0),
        Outcome("connection failed", 0.0, 0.0),
        Outcome("500", 0.0, 0.0),
    ]
    found = sort_out(Load(outcomes, 1.0, 0.1))
    assert (found.accepted_MS, found.refused_MS, found.late, found.lost, found.other) == ([100.0], [3.0], 2, 1, 2)


def test_an_item_is_stale_only_in_answers_to_requests_made_after_it_was_taken_away() -> None:
    watch = Watch({"a", "b"})
    watch.took_away("a")
    gone_at = watch.gone["a"]
    watch.check(TimedShot(b"", gone_at - 1.0), reply(["a", "b"]))
    assert not any(watch.wrong.values())
    watch.check(TimedShot(b"", gone_at + 1.0), reply(["a", "b"]))
    assert watch.wrong["stale item"] == 1
    watch.takes_in("a")
    watch.check(TimedShot(b"", gone_at + 2.0), reply(["a"]))
    assert watch.wrong["stale item"] == 1
    assert watch.answers == 3


def test_unknown_doubled_and_badly_ordered_items_are_wrong() -> None:
    watch = Watch({"a", "b"})
    watch.check(TimedShot(b"", 0.0), reply(["a", "c", "a"], [-1.0, -3.0, -2.0]))
    assert dict(watch.wrong) == {"unknown item": 1, "stale item": 0, "item twice": 1, "wrong order": 1}
    watch.check(TimedShot(b"", 0.0), reply(["z"], status=429))
    assert watch.answers == 1


def test_items_to_take_away_are_those_that_came_back_and_are_still_there() -> None:
    watch = Watch({"a", "b"})
    assert watch.pick_recent(random.Random(0)) is None
    watch.check(TimedShot(b"", 0.0), reply(["a", "b"]))
    watch.took_away("a")
    assert {watch.pick_recent(random.Random(seed)) for seed in range(5)} == {"b"}


def test_an_answer_out_of_its_contract_is_counted_with_an_example() -> None:
    crowd = Crowd(Target.of("http://127.0.0.1:9"), [b"{}"], random.Random(0))
    error = b'{"error": {"code": "queue_full", "message": "full", "retryable": true}}'
    crowd.judge("x", Reply(429, {}, error, True), frozenset({200}), Recommendation)
    crowd.judge("x", Reply(404, {}, error, True), frozenset({404}))
    assert not crowd.wrong
    crowd.judge("x", Reply(500, {}, error, True), frozenset({200}), Recommendation)
    crowd.judge("x", Reply(200, {}, b"{}", True), frozenset({200}), Recommendation)
    crowd.judge("x", Reply(422, {}, b"<html>", True), frozenset({422}))
    assert crowd.wrong == {"x": 3}
    assert "500" in crowd.example["x"]
    asyncio.run(crowd.ask("nobody", b"", frozenset({200})))
    assert crowd.wrong["nobody"] == 1


class Kept(Served):
    """A service that holds some items."""

    sids: dict[str, list[int]]

    def must(self, method: str, path: str, body: object = None, *, admin: bool = False) -> object:
        assert isinstance(body, dict)
        assert "register" not in body
        rows = [{"item_id": item["item_id"], "sid": self.sids.get(item["item_id"], [9])} for item in body["items"]]
        return {"items": [row | {"registered": row["item_id"] in self.sids} for row in rows]}


def test_lost_moved_and_returned_items_are_all_lost_changes() -> None:
    served = Kept.__new__(Kept)
    object.__setattr__(served, "sids", {"kept": [1], "moved": [2], "returned": [4]})
    done = Acknowledged({"kept": (1,), "moved": (3,), "missing": (5,)}, {"returned", "gone"})
    assert _lost(served, done, random.Random(0)) == {"moved", "missing", "returned"}


def test_a_replica_that_is_gone_is_passed_over_and_fails_nothing(tmp_path: Path) -> None:
    nobody = Served.__new__(Served)
    object.__setattr__(nobody, "port", 9)
    balanced = Balanced([nobody])
    asyncio.run(balanced.client(iter([Shot(b"")] * 100), 0.05, 0))
    assert balanced.turned_away > 0
    assert not balanced.failed


def test_quick_measures_less_of_everything(tmp_path: Path) -> None:
    quick, full = Scope.of(tmp_path, quick=True), Scope.of(tmp_path, quick=False)
    numbers = [field.name for field in fields(Scope) if field.name not in ("home", "size", "cores")]
    assert all(0 < getattr(quick, name) < getattr(full, name) for name in numbers)
    assert full.lasting(7.0).mixed_seconds == 7.0


def test_every_run_begins_with_an_empty_database(tmp_path: Path) -> None:
    scope = Scope.of(tmp_path, quick=True)
    for name in ("items.db", "items.db-wal"):
        (tmp_path / name).write_text("old")
    path = scope.fresh_database()
    assert path.parent == tmp_path
    assert list(tmp_path.iterdir()) == []


def test_histories_are_twenty_different_items_of_the_shop() -> None:
    size = Size.of(quick=True)
    for query in queries(size, 5):
        assert len(set(query.history)) == len(query.history) == HISTORY
    assert json.loads(bodies(size, 1)[0])["history"][0]["item_id"].startswith("item-")
    assert len({title_of(number) for number in range(2000)}) == 2000
    assert queries(size, 3, seed=1) != queries(size, 3, seed=2)


def test_the_store_has_a_folder_a_bundle_and_nothing_of_before(tmp_path: Path) -> None:
    for name in ("first", "tokenizer", "model"):
        (tmp_path / name / "bundle").mkdir(parents=True)
    (tmp_path / "store/old").mkdir(parents=True)
    bundles = Bundles(*(tmp_path / name / "bundle" for name in ("first", "tokenizer", "model")))
    assert fill_store(bundles, tmp_path / "store") == ["first", "tokenizer", "model"]
    assert {path.name for path in (tmp_path / "store").iterdir()} == {"first", "tokenizer", "model"}


@pytest.mark.parametrize("part", ["nothing", "Latency"])
def test_an_unknown_part_is_refused_before_anything_is_trained(tmp_path: Path, part: str) -> None:
    import typer

    app = typer.Typer()
    app.command()(service.main)
    out = tmp_path / "out.json"
    done = CliRunner().invoke(app, ["--part", part, "--out", str(out), "--work", str(tmp_path / "work")])
    assert done.exit_code == 2
    assert not (tmp_path / "work").exists()


def test_events_are_counted_by_what_became_of_them_and_requests_without_an_answer_apart() -> None:
    sent = Sent()
    results = [{"event_id": "a", "outcome": "accepted"}, {"event_id": "a", "outcome": "duplicate"}]
    sent.read(Shot(b""), Reply(200, {}, json.dumps({"results": results}).encode(), True))
    sent.read(Shot(b""), Reply(503, {}, b"{}", True))
    assert (sent.outcomes, sent.unanswered) == ({"accepted": 1, "duplicate": 1}, 1)
