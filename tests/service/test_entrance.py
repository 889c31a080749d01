"""Who is let in: what fits, and what will be computed before its deadline."""

import math
from concurrent.futures import Future

import pytest

from service.entrance import Entrance
from service.job_queue import Cost, Job, JobQueue
from service.pacing import Pace

NOW = 100.0


def entrance(waiting: int = 0, *, measured: bool = True, keeps_deadlines: bool = True) -> Entrance[int, None]:
    """A unit of work takes 0.1 s; so many rows of one unit wait, each for 10 s from now at most."""
    pace = Pace(0.0)
    if measured:
        pace.batch_ended(requests=1, work=10, seconds=1.0, now=NOW)
    queue: JobQueue[int, None] = JobQueue(max_rows=1000, max_work=1000)
    queue.add(Job(number, Cost(), 0.0, number, NOW, NOW + 10.0, Future()) for number in range(waiting))
    return Entrance(queue, pace, keeps_deadlines)


def refused(at: Entrance[int, None], seconds: float, work: int = 1) -> bool:
    """Whether a request is refused whose deadline is so far away."""
    return at.refusal(1, work, NOW + seconds, NOW) is not None


def test_a_request_that_would_be_computed_too_late_is_refused_and_told_when_to_come_again() -> None:
    error = entrance(waiting=40).refusal(1, 1, NOW + 2.0, NOW)
    assert error is not None
    assert (error.code, error.status, error.retry_after) == ("queue_full", 429, 4)
    assert "deadline" in error.message


@pytest.mark.parametrize(("seconds", "is_refused"), [(8.1, True), (8.3, False), (math.inf, False)])
def test_what_waits_and_the_request_itself_may_take_twice_as_long_as_measured(seconds: float, is_refused: bool) -> None:
    assert refused(entrance(waiting=40), seconds) == is_refused  # 41 units are 4.1 s, with caution 8.2 s


def test_the_batch_that_runs_counts_too_until_it_is_over() -> None:
    at = entrance(waiting=20)
    assert len(at.next_batch(1000, NOW)) == 20
    assert refused(at, 4.1)
    assert not refused(at, 4.3)
    at.batch_ended()
    assert not refused(at, 0.01)


def test_a_request_with_nothing_before_it_is_let_in_however_near_its_deadline_is() -> None:
    assert not refused(entrance(), 0.001, work=500)


def test_before_anything_was_measured_nobody_is_refused_for_a_deadline() -> None:
    assert not refused(entrance(waiting=40, measured=False), 0.001)


def test_an_engine_that_keeps_no_deadlines_refuses_only_what_does_not_fit() -> None:
    at = entrance(waiting=40, keeps_deadlines=False)
    assert not refused(at, 0.001)
    assert refused(at, math.inf, work=961)


def test_a_batch_is_no_longer_than_its_first_row_can_wait_for() -> None:
    at = entrance(waiting=200)
    assert len(at.next_batch(1000, NOW)) == 50  # 10 s, with caution 5 s
    assert len(entrance(waiting=200, keeps_deadlines=False).next_batch(1000, NOW)) == 200


def test_a_first_row_that_cannot_be_in_time_does_not_shorten_the_batch() -> None:
    assert len(entrance(waiting=150).next_batch(1000, NOW + 9.95)) == 150


def test_rows_that_nobody_waits_for_are_cleared_once_in_a_while() -> None:
    at = entrance(waiting=40)
    assert len(at.cleared(NOW + 11.0)) == 40
    again = entrance(waiting=40)
    assert again.cleared(NOW) == []
    assert again.cleared(NOW + 0.001) == []
    assert len(again.cleared(NOW + 11.0)) == 40
