"""The engine, alone: no HTTP, no model."""

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from service.engine import Engine
from service.errors import DeadlineError, NotReadyError, QueueFullError


class Recorder:
    """Remembers what an engine reports."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.queue_seconds: list[float] = []
        self.compute_seconds: list[float] = []
        self.drops: list[str] = []
        self.deaths: list[BaseException] = []

    def batch_started(self, rows: int, queue_seconds: Sequence[float]) -> None:
        self.batches.append(rows)
        self.queue_seconds += queue_seconds

    def batch_ended(self, rows: int, compute_seconds: float) -> None:
        self.compute_seconds.append(compute_seconds)

    def dropped(self, reason: str) -> None:
        self.drops.append(reason)

    def died(self, error: BaseException) -> None:
        self.deaths.append(error)


class Doubler:
    """Doubles numbers; fails on 13, dies on 666, and waits at 0 until it is let go."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []
        self.entered = threading.Event()
        self.go = threading.Event()

    def __call__(self, questions: Sequence[int]) -> list[int]:
        self.seen.append(list(questions))
        if 0 in questions:
            self.entered.set()
            assert self.go.wait(20)
        if 13 in questions:
            raise ValueError("13")
        if 666 in questions:
            raise SystemExit
        return [2 * question for question in questions]


Build = Callable[..., Engine[int, int]]


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def doubler() -> Iterator[Doubler]:
    doubler = Doubler()
    yield doubler
    doubler.go.set()


@pytest.fixture
def build(recorder: Recorder, doubler: Doubler) -> Iterator[Build]:
    engines: list[Engine[int, int]] = []

    def make(max_queue: int = 100, max_batch: int = 4) -> Engine[int, int]:
        engines.append(Engine("test", doubler, max_queue=max_queue, max_batch=max_batch, observer=recorder))
        engines[-1].start()
        return engines[-1]

    yield make
    doubler.go.set()
    for engine in engines:
        engine.stop()


def hold(engine: Engine[int, int], doubler: Doubler) -> None:
    """Keep the thread busy until ``doubler.go`` is set."""
    engine.submit([0], math.inf)
    assert doubler.entered.wait(20)


def test_answers_come_back_in_the_order_of_the_questions(build: Build) -> None:
    futures = build().submit([1, 2, 3, 4, 5, 6], math.inf)
    assert [future.result(20) for future in futures] == [2, 4, 6, 8, 10, 12]


def test_a_batch_is_what_waits_up_to_max_batch(build: Build, doubler: Doubler) -> None:
    engine = build(max_batch=4)
    hold(engine, doubler)
    futures = engine.submit([1, 2, 3], math.inf) + engine.submit([4, 5], math.inf)
    doubler.go.set()
    assert [future.result(20) for future in futures] == [2, 4, 6, 8, 10]
    assert doubler.seen == [[0], [1, 2, 3, 4], [5]]


def test_a_lone_question_does_not_wait_for_company(build: Build, doubler: Doubler) -> None:
    assert build(max_batch=4).submit([1], math.inf)[0].result(20) == 2
    assert doubler.seen == [[1]]


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
    engine = build(max_queue=3)
    hold(engine, doubler)
    engine.submit([1, 2], math.inf)
    with pytest.raises(QueueFullError) as refused:
        engine.submit([3, 4], math.inf)
    assert refused.value.retry_after == 1
    assert engine.waiting == 2
    assert engine.submit([5], math.inf)


def test_cancelled_questions_do_not_keep_a_queue_full(build: Build, doubler: Doubler) -> None:
    engine = build(max_queue=2)
    hold(engine, doubler)
    for future in engine.submit([1, 2], math.inf):
        future.cancel()
    [third] = engine.submit([3], math.inf)
    doubler.go.set()
    assert third.result(20) == 6


def test_a_question_that_fails_does_not_fail_its_neighbours(build: Build, doubler: Doubler) -> None:
    engine = build()
    hold(engine, doubler)
    first, bad, third = engine.submit([1, 13, 3], math.inf)
    doubler.go.set()
    assert [first.result(20), third.result(20)] == [2, 6]
    with pytest.raises(ValueError, match="13"):
        bad.result(20)
    assert doubler.seen == [[0], [1, 13, 3], [1], [13], [3]]
    assert engine.alive


def test_a_question_that_expires_while_its_batch_fails_is_not_computed_again(
    build: Build, doubler: Doubler, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = build()
    hold(engine, doubler)
    [late] = engine.submit([1], 100.0 + time.monotonic())
    [bad] = engine.submit([13], math.inf)
    inner = doubler.__call__

    def slow(questions: Sequence[int]) -> list[int]:
        if list(questions) == [1, 13]:
            now = time.monotonic()
            monkeypatch.setattr(time, "monotonic", lambda: now + 1000.0)
        return inner(questions)

    engine._answer = slow
    doubler.go.set()
    with pytest.raises(ValueError, match="13"):
        bad.result(20)
    with pytest.raises(DeadlineError):
        late.result(20)
    assert doubler.seen == [[0], [1, 13], [13]]


def test_too_few_answers_fail_the_questions_and_not_the_loop(recorder: Recorder) -> None:
    engine: Engine[int, int] = Engine("test", lambda questions: [], max_queue=9, max_batch=4, observer=recorder)
    engine.start()
    with pytest.raises(ValueError, match="zip"):
        engine.submit([1], math.inf)[0].result(20)
    assert engine.alive
    engine.stop()


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


def test_an_action_that_fails_tells_its_caller_and_the_loop_goes_on(build: Build) -> None:
    engine = build()

    def action() -> None:
        raise ValueError("no swap")

    with pytest.raises(ValueError, match="no swap"):
        engine.between_batches(action).result(20)
    assert engine.submit([1], math.inf)[0].result(20) == 2


def test_a_dead_thread_fails_everything_at_once_and_takes_nothing_more(build: Build, recorder: Recorder) -> None:
    engine = build()
    [fatal] = engine.submit([666], math.inf)
    with pytest.raises(NotReadyError):
        fatal.result(20)
    engine.stop()
    assert not engine.alive
    assert [type(error) for error in recorder.deaths] == [SystemExit]
    with pytest.raises(NotReadyError):
        engine.submit([1], math.inf)
    with pytest.raises(NotReadyError):
        engine.between_batches(lambda: None)


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
