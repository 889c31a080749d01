"""Who is let into an engine's queue, and who leaves it together: what fits, and what will be computed in time.

A request that would wait beyond its deadline is refused at once: it would take the engine's time from others, or its
room in the queue, and its client would learn nothing but later. How long it would wait is measured (``pacing``), so a
queue gets as long as a deadline allows on this machine, with this model, and no longer.

Not thread-safe: the engine guards it, except where something else is said. Times are seconds of ``time.monotonic()``.
"""

import math
from typing import Generic, TypeVar

from service.errors import QueueFullError
from service.job_queue import Job, JobQueue, work_of
from service.pacing import Pace

Question = TypeVar("Question")
Answer = TypeVar("Answer")

_CLEAR_SECONDS = 0.02
"""How often a full queue is searched for rows that nobody waits for; a flood of requests must cost next to nothing."""

_CAUTION = 2.0
"""How much longer than measured a batch may take: the next one is of other rows, on a machine that others use."""


class Entrance(Generic[Question, Answer]):
    """See the module.

    Args:
        queue: what waits.
        pace: how fast it is computed.
        keeps_deadlines: whether what would come too late is refused; else only what does not fit into the queue.
    """

    def __init__(self, queue: JobQueue[Question, Answer], pace: Pace, keeps_deadlines: bool) -> None:
        self._queue = queue
        self._pace = pace
        self._keeps_deadlines = keeps_deadlines
        self._cleared_at = -math.inf
        self._batch_ends: float | None = None

    def refusal(self, rows: int, work: int, deadline: float, now: float) -> QueueFullError | None:
        """Why a request is not let in; None: it is. Any thread may ask, without the engine's lock, for a hint."""
        waiting, seconds = len(self._queue), self._pace.retry_after(self._queue.work)
        if not self._queue.has_room(rows, work):
            return QueueFullError(
                f"{waiting} rows already wait, as much as is let in; retry in {seconds} s", retry_after=seconds
            )
        if self._comes_too_late(work, deadline, now):
            return QueueFullError(
                f"{waiting} rows already wait, so this request would miss its deadline; retry in {seconds} s",
                retry_after=seconds,
            )
        return None

    def cleared(self, now: float) -> list[Job[Question, Answer]]:
        """Rows that nobody waits for any more, taken out of the queue, once in a while."""
        if now - self._cleared_at < _CLEAR_SECONDS:
            return []
        self._cleared_at = now
        return self._queue.take_unwanted(now)

    def next_batch(self, budget: int, now: float) -> list[Job[Question, Answer]]:
        """Take a batch within the budget, and no longer than its first row can wait for."""
        first = self._queue.first(now) if self._keeps_deadlines else None
        if first is not None:
            in_time = self._pace.work_within((first.deadline - now) / _CAUTION)
            if in_time >= first.cost.total:  # else it is late already, and a short batch makes the next rows late too
                budget = int(min(budget, in_time))
        batch = self._queue.take(budget, now)
        self._batch_ends = now + self._pace.seconds_for(work_of(batch))
        return batch

    def batch_ended(self) -> None:
        """What :meth:`next_batch` gave is computed."""
        self._batch_ends = None

    def _comes_too_late(self, work: int, deadline: float, now: float) -> bool:
        """Whether it is not computed in time; a request before which there is nothing is always tried."""
        ends = self._batch_ends
        if not self._keeps_deadlines or (ends is None and not self._queue):
            return False
        before = max(0.0, (ends or now) - now)
        return now + _CAUTION * (before + self._pace.seconds_for(self._queue.work + work)) > deadline
