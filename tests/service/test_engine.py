"""The engine, alone: no HTTP, no model."""

import math
import threading
import time
from collections.abc import Sequence
from concurrent.futures import wait

import pytest

from service.engine import EngineLimits
from service.errors import DeadlineError, NotReadyError, QueueFullError
from service.job_queue import Cost
from tests.service.engines import Build, Doubler, Recorder, hold


def test_answers_come_back_in_the_order_of_the_questions(build: Build) -> None:
    futures = build().submit([1, 2, 3, 4, 5, 6], math.inf)
    assert [future.result(20) for future in futures] == [2, 4, 6, 8, 10, 12]


def test_a_batch_is_what_waits_up_to_its_budget(build: Build, doubler: Doubler) -> None:
    engine = build(batch_work=4)
    hold(engine, doubler)
    futures = engine.submit([1, 2, 3], math.inf) + engine.submit([4, 5], math.inf)
    doubler.go.set()
    assert [future.result(20) for future in futures] == [2, 4, 6, 8, 10]
    assert doubler.seen == [[0], [1, 2, 3, 4], [5]]


def test_a_lone_question_does_not_wait_for_company(build: Build, doubler: Doubler) -> None:
    assert build(batch_work=4, wait_seconds=60).submit([1], math.inf)[0].result(20) == 2
    assert doubler.seen == [[1]]


def test_an_engine_rests_while_nothing_is_computed_and_nothing_waits(build: Build, doubler: Doubler) -> None:
    engine = build()
    assert engine.wait_until_it_rests(20)
    hold(engine, doubler)
    [last] = engine.submit([1], math.inf)
    assert not engine.wait_until_it_rests(0)
    doubler.go.set()
    assert last.result(20) == 2
    assert engine.wait_until_it_rests(20)


def test_a_cancelled_question_is_never_computed_and_its_batch_goes_on(
    build: Build, doubler: Doubler, recorder: Recorder
) -> None:
    engine = build()
    hold(engine, doubler)
    first, second, third = engine.submit([1, 2, 3], math.inf)
    assert second.cancel()
    doubler.go.set()
    assert [first.result(20), third.result(20)] == [2, 6]
    assert doubler.seen == [[0], [1, 3]]
    assert recorder.drops == ["cancelled"]


def test_cancelling_a_question_that_is_being_computed_does_not_end_the_loop(build: Build, doubler: Doubler) -> None:
    engine = build()
    [running] = engine.submit([0], math.inf)
    assert doubler.entered.wait(20)
    assert not running.cancel()
    doubler.go.set()
    assert running.result(20) == 0
    assert engine.submit([5], math.inf)[0].result(20) == 10
    assert engine.alive


def test_an_expired_question_is_never_computed(build: Build, doubler: Doubler, recorder: Recorder) -> None:
    engine = build()
    hold(engine, doubler)
    [late] = engine.submit([1], time.monotonic())
    [early] = engine.submit([2], math.inf)
    doubler.go.set()
    assert early.result(20) == 4
    with pytest.raises(DeadlineError):
        late.result(20)
    assert doubler.seen == [[0], [2]]
    assert recorder.drops == ["expired"]


def test_a_full_queue_takes_all_of_a_request_or_nothing(build: Build, doubler: Doubler) -> None:
    engine = build(queue_rows=3)
    hold(engine, doubler)
    engine.submit([1, 2], math.inf)
    with pytest.raises(QueueFullError) as refused:
        engine.submit([3, 4], math.inf)
    assert refused.value.retry_after == 1
    assert engine.waiting == 2
    assert engine.submit([5], math.inf)


def test_cancelled_questions_do_not_keep_a_queue_full(build: Build, doubler: Doubler) -> None:
    engine = build(queue_rows=2)
    hold(engine, doubler)
    for future in engine.submit([1, 2], math.inf):
        future.cancel()
    [third] = engine.submit([3], math.inf)
    doubler.go.set()
    assert third.result(20) == 6


def test_an_action_runs_in_the_engines_thread_before_anything_that_waits(build: Build, doubler: Doubler) -> None:
    engine = build()
    hold(engine, doubler)
    [waiting] = engine.submit([1], math.inf)
    seen_before: list[list[list[int]]] = []
    threads: list[str] = []

    def action() -> None:
        seen_before.append(list(doubler.seen))
        threads.append(threading.current_thread().name)

    done = engine.between_batches(action)
    doubler.go.set()
    done.result(20)
    waiting.result(20)
    assert seen_before == [[[0]]]
    assert threads == ["engine-test"]


def test_stopping_finishes_the_running_batch_and_refuses_what_waits(build: Build, doubler: Doubler) -> None:
    engine = build()
    [running] = engine.submit([0], math.inf)
    assert doubler.entered.wait(20)
    [waiting] = engine.submit([1], math.inf)
    stopper = threading.Thread(target=engine.stop)
    stopper.start()
    doubler.go.set()
    stopper.join(20)
    assert running.result(20) == 0
    with pytest.raises(NotReadyError):
        waiting.result(20)


def test_waiting_and_computing_are_measured_apart(build: Build, doubler: Doubler, recorder: Recorder) -> None:
    engine = build()
    hold(engine, doubler)
    futures = engine.submit([1, 2], math.inf)
    time.sleep(0.05)
    doubler.go.set()
    for future in futures:
        future.result(20)
    engine.stop()
    assert recorder.batches == [1, 2]
    assert len(recorder.queue_seconds) == 3
    assert min(recorder.queue_seconds[1:]) >= 0.05
    assert recorder.compute_seconds[0] >= 0.05


def numbered(question: int) -> Cost:
    """A question costs what it is."""
    return Cost(added=question)


def test_a_batch_is_bounded_by_work_and_the_oldest_row_always_goes(build: Build, doubler: Doubler) -> None:
    engine = build(batch_work=10, cost=numbered)
    hold(engine, doubler)
    futures = [engine.submit([question], math.inf)[0] for question in (50, 6, 5, 4)]
    doubler.go.set()
    assert [future.result(20) for future in futures] == [100, 12, 10, 8]
    assert doubler.seen == [[0], [50], [6, 4], [5]]


def test_a_queue_is_full_by_work_too(build: Build, doubler: Doubler) -> None:
    engine = build(queue_work=10, cost=numbered)
    hold(engine, doubler)
    engine.submit([7], math.inf)
    with pytest.raises(QueueFullError):
        engine.submit([4], math.inf)
    assert engine.waiting_work == 7
    assert engine.refusal() is None
    assert engine.submit([3], math.inf)
    assert engine.refusal() is not None


def test_a_full_queue_says_when_it_will_be_computed_at_the_measured_rate(
    build: Build, doubler: Doubler, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = build(queue_rows=4)
    now = time.monotonic()
    clock = [now]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    inner = doubler.__call__

    def slow(questions: Sequence[int]) -> list[int]:
        clock[0] += 3.0 * len(questions)
        return inner(questions)

    engine._runner._answer = slow
    for future in engine.submit([1, 2], math.inf):
        future.result(20)
    hold(engine, doubler)
    engine.submit([1, 2, 3, 4], math.inf)
    with pytest.raises(QueueFullError, match="retry in 12 s") as refused:
        engine.submit([5], math.inf)
    assert refused.value.retry_after == 12


def test_a_small_request_overtakes_the_rows_of_a_large_one_that_could_not_have_been_computed_yet(
    build: Build, doubler: Doubler, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = build(batch_work=2)
    clock = [time.monotonic()]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    inner = doubler.__call__

    def slow(questions: Sequence[int]) -> list[int]:
        clock[0] += 1.0 * len(questions)
        return inner(questions)

    engine._runner._answer = slow
    engine.submit([9], math.inf)[0].result(20)
    hold(engine, doubler)
    large = engine.submit([1, 2, 3, 4, 5], math.inf)
    clock[0] += 1.5  # rows 1 and 2 would have been begun by now
    small = engine.submit([6], math.inf)
    doubler.go.set()
    for future in small + large:
        future.result(20)
    assert doubler.seen[2:] == [[1, 2], [6, 3], [4, 5]]


def test_draining_computes_what_waits_and_takes_nothing_more(build: Build, doubler: Doubler) -> None:
    engine = build()
    hold(engine, doubler)
    [waiting] = engine.submit([1], math.inf)
    ended: list[bool] = []
    stopper = threading.Thread(target=lambda: ended.append(engine.stop(drain=True, grace_seconds=20)))
    stopper.start()
    while engine.alive:
        pass
    with pytest.raises(NotReadyError):
        engine.submit([2], math.inf)
    doubler.go.set()
    stopper.join(20)
    assert waiting.result(20) == 2
    assert ended == [True]


def test_what_waits_when_the_grace_of_a_drain_is_over_is_refused(build: Build, doubler: Doubler) -> None:
    engine = build(batch_work=1)
    hold(engine, doubler)
    [waiting] = engine.submit([1], math.inf)
    stopper = threading.Thread(target=engine.stop, kwargs={"drain": True, "grace_seconds": 0.001})
    stopper.start()
    stopper.join(0.1)
    doubler.go.set()
    stopper.join(20)
    with pytest.raises(NotReadyError):
        waiting.result(20)


def test_requests_that_were_answered_together_are_waited_for_together(
    build: Build, doubler: Doubler, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = build(wait_seconds=60)
    hold(engine, doubler)
    futures = engine.submit([1], math.inf) + engine.submit([2], math.inf)
    monkeypatch.setattr("service.pacing._GAP_SHARE", math.inf)
    monkeypatch.setattr("service.pacing._WAIT_SHARE", math.inf)
    doubler.go.set()
    for future in futures:
        future.result(20)
    [first] = engine.submit([3], math.inf)
    assert not wait([first], timeout=0.05).done
    [second] = engine.submit([4], math.inf)
    assert [first.result(20), second.result(20)] == [6, 8]
    assert doubler.seen[-1] == [3, 4]


def test_limits_that_let_nothing_in_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        EngineLimits(queue_rows=1, queue_work=0, batch_work=1)


def test_a_flood_does_not_search_a_full_queue_every_time(
    build: Build, doubler: Doubler, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = build(queue_rows=1)
    hold(engine, doubler)
    [waiting] = engine.submit([1], math.inf)
    now = time.monotonic()
    clock = [now]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with pytest.raises(QueueFullError):
        engine.submit([2], math.inf)
    waiting.cancel()
    with pytest.raises(QueueFullError):
        engine.submit([2], math.inf)
    clock[0] += 0.03
    assert engine.submit([2], math.inf)
