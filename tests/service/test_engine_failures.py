"""The engine, alone: what becomes of batches that fail, of memory that is short, and of a thread that dies or hangs."""

import math
import time
import weakref
from collections.abc import Iterator, Sequence

import pytest

from service.engine import Engine, EngineLimits
from service.errors import DeadlineError, NotReadyError, OutOfMemoryError
from tests.service.engines import Build, Doubler, Recorder, hold


def test_a_question_that_fails_does_not_fail_its_neighbours(build: Build, doubler: Doubler) -> None:
    engine = build()
    hold(engine, doubler)
    first, bad, third = engine.submit([1, 13, 3], math.inf)
    doubler.go.set()
    assert [first.result(20), third.result(20)] == [2, 6]
    with pytest.raises(ValueError, match="13"):
        bad.result(20)
    assert doubler.seen == [[0], [1, 13, 3], [1], [13, 3], [13], [3]]
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

    engine._runner._answer = slow
    doubler.go.set()
    with pytest.raises(ValueError, match="13"):
        bad.result(20)
    with pytest.raises(DeadlineError):
        late.result(20)
    assert doubler.seen == [[0], [1, 13], [13]]


def test_too_few_answers_fail_the_questions_and_not_the_loop(recorder: Recorder) -> None:
    engine: Engine[int, int] = Engine("test", lambda questions: [], limits=EngineLimits(9, 9, 4), observer=recorder)
    engine.start()
    with pytest.raises(ValueError, match="zip"):
        engine.submit([1], math.inf)[0].result(20)
    assert engine.alive
    engine.stop()


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


class Greedy(Doubler):
    """Has memory for two questions at a time; 1000 is too much alone."""

    def __call__(self, questions: Sequence[int]) -> list[int]:
        answers = super().__call__(questions)
        if len(questions) > 2 or 1000 in questions:
            raise MemoryError
        return answers


@pytest.fixture
def greedy(build: Build) -> Iterator[tuple[Engine[int, int], Greedy]]:
    engine, greedy = build(batch_work=4), Greedy()
    engine._runner._answer = greedy
    yield engine, greedy
    greedy.go.set()


def test_a_batch_that_memory_is_short_for_is_halved_and_so_are_the_next_ones(
    greedy: tuple[Engine[int, int], Greedy], recorder: Recorder
) -> None:
    engine, answer = greedy
    hold(engine, answer)
    futures = engine.submit([1, 2, 3, 4, 5, 6], math.inf)
    answer.go.set()
    assert [future.result(20) for future in futures] == [2, 4, 6, 8, 10, 12]
    futures = engine.submit([7, 8, 9, 10], math.inf)
    assert [future.result(20) for future in futures] == [14, 16, 18, 20]
    assert answer.seen[:4] == [[0], [1, 2, 3, 4], [1, 2], [3, 4]]
    assert max(map(len, answer.seen[4:])) == 2
    assert recorder.halved == ["out_of_memory"]


def test_a_row_that_memory_is_short_for_alone_says_so_and_its_neighbours_go_on(
    greedy: tuple[Engine[int, int], Greedy],
) -> None:
    engine, answer = greedy
    hold(engine, answer)
    first, large = engine.submit([1, 1000], math.inf)
    answer.go.set()
    assert first.result(20) == 2
    with pytest.raises(OutOfMemoryError) as error:
        large.result(20)
    assert error.value.retryable


def test_a_retry_does_not_hold_what_the_failed_batch_had_in_memory(build: Build, doubler: Doubler) -> None:
    engine = build()
    held: list[weakref.ref[Doubler]] = []

    def wasteful(questions: Sequence[int]) -> list[int]:
        tensor = Doubler()
        if len(questions) > 1:
            held.append(weakref.ref(tensor))
            raise MemoryError
        return [int(held[0]() is not None) for _ in questions]

    engine._runner._answer = wasteful
    assert [future.result(20) for future in engine.submit([1, 2], math.inf)] == [0, 0]


def test_a_batch_that_is_over_counts_as_progress_and_one_that_runs_too_long_is_not_alive(
    build: Build, doubler: Doubler, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = build(queue_rows=2, stuck_seconds=5)
    before = engine.last_progress
    assert engine.busy_since is None
    hold(engine, doubler)
    [waiting, other] = engine.submit([1, 2], math.inf)
    assert engine.busy_since is not None
    assert engine.alive, "a full queue is no reason to be killed"
    now = time.monotonic()
    with monkeypatch.context() as later:
        later.setattr(time, "monotonic", lambda: now + 6)
        assert not engine.alive
        with pytest.raises(NotReadyError):
            engine.submit([3], math.inf)
    doubler.go.set()
    waiting.result(20)
    other.result(20)
    engine.between_batches(lambda: None).result(20)
    assert engine.alive
    assert engine.last_progress > before
