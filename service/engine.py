"""One thread, one bounded queue, batches of what waits.

The engine knows nothing of HTTP, of asyncio or of what it computes: it is given a function that answers a batch of
questions, and everything that this function touches is touched by the engine's thread alone.

- A batch is whatever waits when the thread is free, up to ``max_batch`` questions; nothing waits for company.
- A question whose future was cancelled, or whose deadline has passed, is never computed.
- A batch that fails is computed again question by question, so only those that fail by themselves fail.
- Actions, such as swapping a snapshot in, run between batches and before any question that waits.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from service.errors import DeadlineError, NotReadyError, QueueFullError

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class EngineObserver(Protocol):
    """What an engine reports, from its own thread. Times are in seconds."""

    def batch_started(self, rows: int, queue_seconds: Sequence[float]) -> None:
        """A batch leaves the queue; one waiting time a row."""

    def batch_ended(self, rows: int, compute_seconds: float) -> None:
        """A batch was computed, or failed."""

    def dropped(self, reason: str) -> None:
        """A question was not computed: ``cancelled`` or ``expired``."""

    def died(self, error: BaseException) -> None:
        """The thread ended by an error that no question can be blamed for."""


@dataclass(frozen=True, slots=True, eq=False)
class _Job(Generic[Question, Answer]):
    question: Question
    deadline: float
    queued_at: float
    future: "Future[Answer]"


class Engine(Generic[Question, Answer]):
    """Answers questions in one thread of its own."""

    def __init__(
        self,
        name: str,
        answer: Callable[[Sequence[Question]], Sequence[Answer]],
        *,
        max_queue: int,
        max_batch: int,
        observer: EngineObserver,
    ) -> None:
        """``answer`` maps a batch to one answer a question, in order; it is only ever called by the engine's thread."""
        self.name = name
        self._answer = answer
        self._max_queue = max_queue
        self._max_batch = max_batch
        self._observer = observer
        self._wake = threading.Condition()
        self._jobs: deque[_Job[Question, Answer]] = deque()
        self._actions: deque[tuple[Callable[[], None], Future[None]]] = deque()
        self._running: list[_Job[Question, Answer]] = []
        self._open = False
        self._thread = threading.Thread(target=self._run, name=f"engine-{name}", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether the thread runs and takes questions."""
        return self._open and self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """How many questions wait."""
        return len(self._jobs)

    def start(self) -> None:
        """Begin to answer."""
        self._open = True
        self._thread.start()

    def stop(self) -> None:
        """Finish the batch that runs, refuse what waits, and end the thread."""
        with self._wake:
            self._open = False
            self._wake.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def submit(self, questions: Sequence[Question], deadline: float) -> list["Future[Answer]"]:
        """Queue questions, all of them or none.

        Args:
            questions: what to answer.
            deadline: the ``time.monotonic()`` after which nobody wants the answers.

        Raises:
            QueueFullError: they do not all fit into the queue.
            NotReadyError: the engine does not run.
        """
        now = time.monotonic()
        with self._wake:
            self._refuse_when_closed()
            if len(self._jobs) + len(questions) > self._max_queue:
                self._jobs = deque(job for job in self._jobs if not job.future.cancelled())
            if len(self._jobs) + len(questions) > self._max_queue:
                raise QueueFullError(
                    f"{len(self._jobs)} of at most {self._max_queue} rows already wait; retry in a second",
                    retry_after=1,
                )
            jobs: list[_Job[Question, Answer]] = [_Job(question, deadline, now, Future()) for question in questions]
            self._jobs.extend(jobs)
            self._wake.notify()
        return [job.future for job in jobs]

    def between_batches(self, action: Callable[[], None]) -> "Future[None]":
        """Run ``action`` in the engine's thread as soon as the running batch ends.

        Raises:
            NotReadyError: the engine does not run.
        """
        done: Future[None] = Future()
        with self._wake:
            self._refuse_when_closed()
            self._actions.append((action, done))
            self._wake.notify()
        return done

    def _refuse_when_closed(self) -> None:
        if not self.alive:
            raise NotReadyError(f"the {self.name} engine does not run; retry against another replica", retry_after=5)

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                self._run_actions()
                batch = self._take_batch()
                if batch:
                    self._running = batch
                    self._compute(batch)
                    self._running = []
        except BaseException as error:
            self._observer.died(error)
        finally:
            self._close()

    def _wait_for_work(self) -> bool:
        with self._wake:
            while self._open and not self._jobs and not self._actions:
                self._wake.wait()
            return self._open

    def _run_actions(self) -> None:
        while True:
            with self._wake:
                if not self._actions:
                    return
                action, done = self._actions.popleft()
            if not done.set_running_or_notify_cancel():
                continue
            try:
                action()
            except Exception as error:
                done.set_exception(error)
            else:
                done.set_result(None)

    def _take_batch(self) -> list[_Job[Question, Answer]]:
        batch: list[_Job[Question, Answer]] = []
        while len(batch) < self._max_batch:
            with self._wake:
                if not self._jobs:
                    break
                job = self._jobs.popleft()
            # From here on the future cannot be cancelled any more, so setting its result cannot fail.
            if not job.future.set_running_or_notify_cancel():
                self._observer.dropped("cancelled")
            elif not self._expire(job):
                batch.append(job)
        return batch

    def _expire(self, job: _Job[Question, Answer]) -> bool:
        if time.monotonic() < job.deadline:
            return False
        self._observer.dropped("expired")
        job.future.set_exception(DeadlineError("the deadline passed while the request waited; retry later"))
        return True

    def _compute(self, batch: Sequence[_Job[Question, Answer]]) -> None:
        begun = time.monotonic()
        self._observer.batch_started(len(batch), [begun - job.queued_at for job in batch])
        try:
            answers = self._answer([job.question for job in batch])
            pairs = list(zip(batch, answers, strict=True))
        except Exception as error:
            self._observer.batch_ended(len(batch), time.monotonic() - begun)
            if len(batch) == 1:
                batch[0].future.set_exception(error)
                return
            for job in batch:
                if not self._expire(job):
                    self._compute([job])
            return
        self._observer.batch_ended(len(batch), time.monotonic() - begun)
        for job, answer in pairs:
            job.future.set_result(answer)

    def _close(self) -> None:
        with self._wake:
            self._open = False
            waiting, self._jobs = list(self._jobs), deque()
            actions, self._actions = list(self._actions), deque()
        stopped = NotReadyError(f"the {self.name} engine has stopped; retry against another replica", retry_after=5)
        for job in waiting:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(stopped)
        for job in self._running:
            if not job.future.done():
                job.future.set_exception(stopped)
        for _, done in actions:
            if done.set_running_or_notify_cancel():
                done.set_exception(stopped)
