"""The time split on nearly nothing: what is known when, what is counted, what is compared; no quality is asserted."""

import itertools
import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

import benchmarks.time_split
from benchmarks import time_split_service
from benchmarks.time_split import main
from benchmarks.time_split_data import Stream, stream_of, write_known
from benchmarks.time_split_figures import CHOOSING, FIRST, SECOND, by_user, ratio_by_user
from benchmarks.time_split_replay import Counting, Replay
from benchmarks.time_split_sample import write_late_sample
from benchmarks.time_split_service import ServiceReplayError
from sidera.items.transitions import TransitionDelta, pairs_of
from sidera.loading import LoadedBundle, load_bundle
from sidera.queries import Query, Recommendation
from tests import tiny
from training.data import read_dataset
from training.errors import DataError
from training.metrics import ABSENT
from training.split import CalendarSplit, Part, split_events

T = 1_000_000_000
ITEMS = [{"item_id": name, "title": name} for name in "abc"]


def stream_in(folder: Path, *events: tuple[str, str, int]) -> Stream:
    tiny.write_domain(folder / "shop", ITEMS, events)
    return stream_of(read_dataset(folder, ["shop"]))


def listed(stream: Stream) -> list[tuple[str, str, int]]:
    columns = (stream.user_E.tolist(), stream.item_E.tolist(), stream.time_E.tolist())
    return [
        (stream.users[user], stream.domain.item_ids[item], time - T) for user, item, time in zip(*columns, strict=True)
    ]


def test_a_stream_is_in_the_order_of_time_and_of_the_file_without_users_who_have_positions(tmp_path: Path) -> None:
    stream = stream_in(tmp_path, ("u", "b", T + 9), ("u", "a", T), ("v", "a", 1), ("v", "b", 2), ("w", "b", T))
    assert listed(stream) == [("u", "a", 0), ("w", "b", 0), ("u", "b", 9)]
    assert stream.first_I.tolist() == [0, 1, 3]
    assert stream.place(T) == 0
    assert stream.place(T + 1) == 2
    assert stream.moment(0.5) == T, "a moment never parts events of one time"


def test_a_domain_of_positions_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="its times are positions"):
        stream_in(tmp_path, ("u", "a", 1), ("u", "b", 2))


def test_what_is_known_at_a_moment_are_the_items_that_had_an_event_in_the_order_of_their_first_ones(
    tmp_path: Path,
) -> None:
    events = (("u", "b", T), ("u", "a", T + 1), ("v", "c", T + 5), ("v", "b", T + 6))
    stream = stream_in(tmp_path / "data", *events)
    assert write_known(stream, T + 5, tmp_path / "known") == 2
    known = read_dataset(tmp_path / "known", ["shop"])
    assert known.domains[0].item_ids == ("b", "a")
    assert listed(stream_of(known)) == [("u", "b", 0), ("u", "a", 1), ("v", "b", 6)]


def test_a_sample_has_as_many_users_as_both_moments_need_to_learn_choose_and_test(tmp_path: Path) -> None:
    alone = [(f"u{user}", f"own-{user}-{step}", T + 8 * step + user) for user in range(4) for step in range(10)]
    together = [(f"u{user}", f"item-{step % 5}", T + 8 * step + user) for user in range(4, 8) for step in range(10)]
    items = [{"item_id": name, "title": name} for name in sorted({item for _, item, _ in alone + together})]
    tiny.write_domain(tmp_path / "data" / "shop", items, alone + together)
    tiny.write_domain(tmp_path / "data" / "strangers", items, alone)

    def sampled(name: str, users: int) -> Stream:
        folder = write_late_sample(tmp_path / "data", name, users, tmp_path / "sample")
        return stream_of(read_dataset(folder, [name]))

    stream = sampled("shop", 2)
    assert len(np.unique(stream.user_E)) == 8, "the first four never take an item that is known"
    for share in (FIRST, SECOND):
        write_known(stream, stream.moment(share), tmp_path / "known")
        split = CalendarSplit(stream.moment(share - CHOOSING), stream.moment(share))
        parts = split_events(read_dataset(tmp_path / "known", ["shop"]), split).part_E
        assert set(parts.tolist()) == {Part.TRAIN, Part.VALIDATION, Part.TEST}
    assert len(np.unique(sampled("shop", 5).user_E)) == 5, "these are enough"
    assert len(np.unique(sampled("strangers", 1).user_E)) == 4, "no more are there"


def test_users_are_resampled_with_all_of_their_targets() -> None:
    ours_N, theirs_N = np.array([1.0, 0.0, 1.0, 1.0]), np.array([0.0, 0.0, 1.0, 0.0])
    alone = by_user(ours_N, theirs_N, np.arange(4), 0)
    together = by_user(ours_N, theirs_N, np.array([7, 7, 7, 7]), 0)
    assert alone.mean == together.mean == 0.5
    assert alone.low < together.low == together.high == 0.5, "one user alone says nothing of others"
    ratio, low, high = ratio_by_user(ours_N, theirs_N, np.array([7, 7, 7, 7]), 0)
    assert ratio == low == high == 3.0
    assert ratio_by_user(ours_N, 0 * theirs_N, np.arange(4), 0)[0] is None


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path, tiny_encoder: Path) -> tuple[dict[str, Any], Path]:
    """What the program writes with ``--quick``; and its folder."""
    folder = tmp_path_factory.mktemp("time")
    run_quick(folder, tiny_data, tiny_encoder)
    return json.loads((folder / "out.json").read_text()), folder


def run_quick(folder: Path, data: Path, encoder: Path) -> None:
    config = tiny.write_config(folder / "config.yaml", tiny.config_of(data, folder / "unused", encoder))
    main(data=data, domains="books", out=folder / "out.json", config=config, targets=9, seed=0, threads=1, quick=True)


def opened(folder: Path) -> tuple[LoadedBundle, Stream]:
    work = folder / "out.json.work"
    return load_bundle(work / "books" / "first" / "joint" / "bundle", "cpu"), stream_of(
        read_dataset(work / "books" / "sample", ["books"])
    )


def vectors_of(loaded: LoadedBundle, stream: Stream) -> Any:
    return np.random.default_rng(0).standard_normal((len(stream.first_I), 16)).astype(np.float32)


def test_all_arms_are_compared_over_the_same_targets(quick: tuple[dict[str, Any], Path]) -> None:
    figures, told = quick[0]["figures"], quick[0]["domains"]["books"]
    for arm in ("none", "live", "live_earlier", "none_late", "live_late", "retrained_late", "retrained_live_late"):
        assert 0 <= figures[f"ndcg10_{arm}_books"]["value"] <= 1
    late = {figures[f"ndcg10_{arm}_late_books"]["note"] for arm in benchmarks.time_split.ARMS}
    assert len(late) == 1
    assert figures["live_minus_none_books"]["to_reach"] == "> 0"
    assert figures["live_over_retrained_books"]["to_reach"] == ">= 0.9"
    assert told["moments"]["first"] <= told["moments"]["second"]


def test_a_real_service_that_gets_the_events_recommends_what_the_replay_does(
    quick: tuple[dict[str, Any], Path],
) -> None:
    told = json.loads((quick[1] / "out.json.work" / "books" / "service" / "answers.json").read_text())
    assert len(told["service"]) == 3
    assert told["service"] == told["replay"]
    assert all(len(found) == 10 for found in told["service"])
    assert quick[0]["figures"]["service_same_books"]["value"] == 1.0


class Deaf:
    """A service that refuses every event, and whose memory does not follow."""

    def must(self, method: str, path: str, body: Any = None) -> Any:
        if path == "/metrics":
            return "sidera_event_memory_lag_seconds 5.0\n"
        return {"results": [{"event_id": row["event_id"], "outcome": "rejected"} for row in body["events"]]}


def test_a_service_that_refuses_an_event_or_does_not_learn_ends_the_replay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = stream_in(tmp_path, ("u", "b", T), ("u", "a", T + 1))
    deaf: Any = Deaf()
    with pytest.raises(ServiceReplayError, match="the event event-1 of the stream"):
        time_split_service._post(deaf, stream, [1], None)
    clock = itertools.count(0, 40)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(time_split_service, "_LAG", re.compile("nothing"))
    with pytest.raises(ServiceReplayError, match="does not follow the events"):
        time_split_service._followed(deaf)


def test_the_first_model_learned_from_nothing_that_came_later(quick: tuple[dict[str, Any], Path]) -> None:
    loaded, stream = opened(quick[1])
    moment = stream.moment(FIRST)
    neighbours = loaded.recommender.neighbours
    assert neighbours is not None
    until = neighbours.trained_until["books"]
    assert until is not None
    assert until < stream.moment(FIRST - 0.03) <= moment < stream.moment(SECOND)
    known = set(stream.item_E[: stream.place(moment)].tolist())
    assert {loaded.recommender.catalog.name(number)[0] for number in range(len(loaded.recommender.catalog))} == {
        stream.domain.item_ids[item] for item in known
    }
    split = loaded.manifest.config["split"]
    assert split["test_from"] == moment


def replayed(folder: Path, counting: Counting) -> tuple[Replay, LoadedBundle, list[tuple[tuple[str, ...], str]]]:
    """A replay of all events from the first moment on, and what was asked: the histories, and the items to come."""
    loaded, stream = opened(folder)
    begin = stream.place(stream.moment(FIRST))
    replay = Replay(loaded, stream, vectors_of(loaded, stream))
    asked: list[tuple[str, ...]] = []
    recommend = loaded.recommender.recommend

    def noted(queries: list[Query]) -> list[Recommendation]:
        asked.extend(tuple(item_id for _, item_id in query.history) for query in queries)
        return recommend(queries)

    loaded.recommender.recommend = noted  # type: ignore[method-assign, assignment]
    targets = list(range(begin, len(stream.time_E)))
    rank_N = replay.ranks(begin, targets, counting)
    assert len(rank_N) == len(targets)
    assert ((rank_N < 10) | (rank_N == ABSENT)).all()
    items = [stream.domain.item_ids[item] for item in stream.item_E[begin:].tolist()]
    return replay, loaded, list(zip(asked, items, strict=True))


@pytest.mark.parametrize("counting", ["nothing", "all before"])
def test_a_history_is_what_the_user_did_before_and_the_item_is_registered_by_then(
    quick: tuple[dict[str, Any], Path], counting: Counting
) -> None:
    replay, loaded, asked = replayed(quick[1], counting)
    stream = replay.stream
    begin = len(stream.time_E) - len(asked)
    for place, (history, item_id) in enumerate(asked, start=begin):
        before = [row for row in range(place) if stream.user_E[row] == stream.user_E[place]]
        assert list(history) == [stream.domain.item_ids[item] for item in stream.item_E[before].tolist()]
        assert loaded.recommender.catalog.find("books", item_id) is not None


@pytest.mark.parametrize("counting", ["nothing", "all before", "all earlier"])
def test_the_memory_is_what_all_counted_events_make_at_once(
    quick: tuple[dict[str, Any], Path], counting: Counting
) -> None:
    replay, loaded, asked = replayed(quick[1], counting)
    stream, neighbours = replay.stream, loaded.recommender.neighbours
    assert neighbours is not None
    until = neighbours.trained_until["books"]
    assert until is not None
    # The last target's own event is counted by nobody any more.
    last = len(stream.time_E) - 1
    end = {"nothing": last + 1 - len(asked), "all before": last, "all earlier": stream.place(stream.time_E[last])}[
        counting
    ]
    numbers_E = replay.number_I[stream.item_E[:end]]
    transitions = pairs_of(
        numbers_E,
        stream.time_E[:end].astype(np.float64),
        np.ones(end),
        neighbours.rule,
        user_E=stream.user_E[:end],
        counted_E=stream.time_E[:end] > until,
    )
    assert {(before, after): count for before, after, count in neighbours.delta} == {
        (before, after): count for before, after, count in TransitionDelta().added(*transitions)
    }


def test_a_second_call_keeps_what_is_done(
    quick: tuple[dict[str, Any], Path], tiny_data: Path, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmarks.time_split, "Replay", None)
    run_quick(quick[1], tiny_data, tiny_encoder)
    assert json.loads((quick[1] / "out.json").read_text())["figures"] == quick[0]["figures"]


def test_it_refuses_in_one_sentence(tmp_path: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for domains, told in (("", "--domains names no domain"), ("music", "there is no domain 'music'")):
        with pytest.raises(typer.Exit):
            main(data=tiny_data, domains=domains, out=tmp_path / "out.json", targets=1, seed=0, threads=0)
        assert told in capsys.readouterr().err
