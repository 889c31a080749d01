"""Computes one batch after another: drops what nobody wants, halves what fails, and tells when it last got anywhere.

Knows jobs and the function that answers; does not know queues or threads. All but the two times is called by one
thread at a time. Times are seconds of ``time.monotonic()``.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from service.errors import DeadlineError, OutOfMemoryError
from service.job_queue import Job, work_of

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class EngineObserver(Protocol):
    """What an engine reports, from any thread. Times are in seconds."""

    def batch_started(self, rows: int, queue_seconds: Sequence[float]) -> None:
        """A batch leaves the queue; one waiting time a row."""

    def batch_work(self, work: int) -> None:
        """What the batch that leaves the queue costs, in the units of ``Cost``."""

    def batch_ended(self, rows: int, compute_seconds: float) -> None:
        """A batch, or a part of one that failed before, was computed, or failed."""

    def batch_halved(self, reason: str) -> None:
        """A batch failed and is tried again in halves: ``failed`` or ``out_of_memory``."""

    def dropped(self, reason: str) -> None:
        """A row was not computed: ``cancelled`` or ``expired``."""

    def died(self, error: BaseException) -> None:
        """The thread ended by an error that no row can be blamed for."""


@dataclass(frozen=True)
class Effort:
    """What a batch took.

    Attributes:
        requests: that its rows belong to.
        work: in the units of ``Cost``.
        seconds: of all attempts.
        too_much: work of the smallest part that memory was short for; None: it was enough.
    """

    requests: int
    work: int
    seconds: float
    too_much: int | None


class BatchRunner(Generic[Question, Answer]):
    """See the module.

    Args:
        answer: maps questions to one answer each, in order.
        is_out_of_memory: whether an error of ``answer`` says that memory was short.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Question]], Sequence[Answer]],
        observer: EngineObserver,
        is_out_of_memory: Callable[[Exception], bool],
    ) -> None:
        self._answer = answer
        self._observer = observer
        self._is_out_of_memory = is_out_of_memory
        self._running: Sequence[Job[Question, Answer]] = ()
        self.busy_since: float | None = None
        self.last_progress = time.monotonic()

    @contextmanager
    def busy(self) -> Iterator[None]:
        """What is done inside counts as progress once it ends."""
        self.busy_since = time.monotonic()
        try:
            yield
        finally:
            self.busy_since, self.last_progress = None, time.monotonic()

    def wanted(self, jobs: Sequence[Job[Question, Answer]]) -> list[Job[Question, Answer]]:
        """Drop the rows that nobody waits for; the futures of the others cannot be cancelled from here on."""
        wanted = []
        for job in jobs:
            if not job.future.set_running_or_notify_cancel():
                self._observer.dropped("cancelled")
            elif not self._expire(job):
                wanted.append(job)
        return wanted

    def run(self, batch: Sequence[Job[Question, Answer]]) -> Effort:
        """Answer every row, or tell it why not."""
        self._running = batch
        begun = time.monotonic()
        self._observer.batch_started(len(batch), [begun - job.queued_at for job in batch])
        self._observer.batch_work(work_of(batch))
        too_much: int | None = None
        parts = deque([batch])
        while parts:
            part = [job for job in parts.popleft() if not self._expire(job)]
            if not part:
                continue
            error = self._attempt(part)
            if error is None:
                continue
            short = self._is_out_of_memory(error)
            if short:
                too_much = min(work_of(part), too_much or work_of(part))
            if len(part) == 1:
                part[0].future.set_exception(_no_memory() if short else error)
            else:
                self._observer.batch_halved("out_of_memory" if short else "failed")
                parts.extendleft([part[len(part) // 2 :], part[: len(part) // 2]])
            del error  # its traceback holds what the batch had in memory
        self._running = ()
        requests = len({job.request for job in batch})
        return Effort(requests, work_of(batch), time.monotonic() - begun, too_much)

    def fail_rest(self, error: Exception) -> None:
        """Tell the rows of a batch that was never finished."""
        for job in self._running:
            if not job.future.done():
                job.future.set_exception(error)

    def _attempt(self, part: Sequence[Job[Question, Answer]]) -> Exception | None:
        """Answer rows that are computed together; or return why that failed."""
        begun = time.monotonic()
        try:
            with self.busy():
                answers = self._answer([job.question for job in part])
                pairs = list(zip(part, answers, strict=True))
        except Exception as error:
            return error
        finally:
            self._observer.batch_ended(len(part), time.monotonic() - begun)
        for job, answer in pairs:
            job.future.set_result(answer)
        return None

    def _expire(self, job: Job[Question, Answer]) -> bool:
        if time.monotonic() < job.deadline:
            return False
        self._observer.dropped("expired")
        job.future.set_exception(DeadlineError("the deadline passed while the request waited; retry later"))
        return True


def is_memory_error(error: Exception) -> bool:
    """Whether memory was short, for functions that raise Python's own error."""
    return isinstance(error, MemoryError)


def _no_memory() -> OutOfMemoryError:
    return OutOfMemoryError(
        "there is not enough memory for this request now; ask for less or retry later", retry_after=5
    )
