"""The rows that wait: bounds, order and batches."""

import math
from concurrent.futures import Future

from service.job_queue import Cost, Job, JobQueue, work_of

NOW = 100.0


def job(
    name: str, cost: Cost | None = None, turn: float = 0.0, request: int = 1, deadline: float = math.inf
) -> Job[str, None]:
    return Job(name, cost or Cost(), turn, request, 0.0, deadline, Future())


def queue_of(*jobs: Job[str, None]) -> JobQueue[str, None]:
    queue: JobQueue[str, None] = JobQueue(max_rows=100, max_work=1000)
    queue.add(jobs)
    return queue


def names(jobs: list[Job[str, None]]) -> list[str]:
    return [job.question for job in jobs]


def test_rows_come_out_by_turn_and_of_one_turn_in_the_order_of_their_requests() -> None:
    queue = queue_of(job("late", turn=3), job("second", turn=1, request=2), job("first", turn=1, request=1))
    assert names(queue.take(10, NOW)) == ["first", "second", "late"]


def test_rows_of_one_turn_and_request_keep_their_order() -> None:
    assert names(queue_of(job("a"), job("b"), job("c")).take(10, NOW)) == ["a", "b", "c"]


def test_a_batch_counts_every_row_as_padded_to_the_longest() -> None:
    long, short = Cost(padded=10, added=1), Cost(padded=1, added=1)
    queue = queue_of(job("short", short), job("long", long), job("short too", short))
    assert names(queue.take(22, NOW)) == ["short", "long"]
    assert work_of([job("a", long), job("b", short)]) == 2 * 10 + 2


def test_a_row_that_does_not_fit_stays_first_and_goes_next_time() -> None:
    queue = queue_of(job("a", Cost(added=5)), job("big", Cost(added=9)), job("b", Cost(added=5)))
    assert names(queue.take(10, NOW)) == ["a", "b"]
    assert names(queue.take(10, NOW)) == ["big"]


def test_a_row_of_more_than_a_whole_budget_goes_alone() -> None:
    queue = queue_of(job("huge", Cost(added=50)), job("a"))
    assert names(queue.take(10, NOW)) == ["huge"]
    assert names(queue.take(10, NOW)) == ["a"]


def test_unwanted_rows_come_out_without_taking_room() -> None:
    gone, late = job("gone", Cost(added=9)), job("late", Cost(added=9), deadline=NOW)
    gone.future.cancel()
    queue = queue_of(gone, late, job("a", Cost(added=5)), job("b", Cost(added=5)))
    assert names(queue.take(10, NOW)) == ["gone", "late", "a", "b"]
    assert (len(queue), queue.work) == (0, 0)


def test_unwanted_rows_alone_can_be_taken() -> None:
    gone = job("gone", Cost(added=9))
    queue = queue_of(job("a"), gone, job("late", deadline=NOW))
    gone.future.cancel()
    assert names(queue.take_unwanted(NOW)) == ["gone", "late"]
    assert (len(queue), queue.work) == (1, 1)


def test_room_is_bounded_by_rows_and_by_work() -> None:
    queue: JobQueue[str, None] = JobQueue(max_rows=2, max_work=10)
    queue.add([job("a", Cost(padded=3, added=4))])
    assert queue.has_room(1, 3)
    assert not queue.has_room(1, 4)
    assert not queue.has_room(2, 0)


def test_requests_are_counted_once_however_many_rows_they_have() -> None:
    assert queue_of(job("a", request=1), job("b", request=1), job("c", request=2)).requests == 2
