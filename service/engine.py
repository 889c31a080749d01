"""One thread, one bounded queue, batches of bounded work.

The engine knows nothing of HTTP, of asyncio or of what it computes: it is given a function that answers a batch of
questions, and one that says what each costs. What the first one touches is touched by the engine's thread alone.

- A batch is the oldest row and what fits into the budget with it, whatever requests the rows are from; rows have a
  fair order (``job_queue``). An engine that is free waits for company only where it is sure to come (``pacing``).
- A row whose future was cancelled, or whose deadline has passed, is never computed.
- A batch that fails is halved and tried again, so only the rows that fail by themselves fail. Where memory was short,
  batches stay smaller for a while.
- Actions, such as swapping a snapshot in, run between batches and before any row that waits.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

from service.batch_runner import BatchRunner, EngineObserver, is_memory_error
from service.entrance import Entrance
from service.errors import NotReadyError, QueueFullError
from service.job_queue import Cost, Job, JobQueue, one_each
from service.pacing import Budget, Pace

Question = TypeVar("Question")
Answer = TypeVar("Answer")

_LAST_BATCH_SECONDS = 10.0
"""How long a stop waits for a batch that is being computed; the thread does not keep the process alive."""


@dataclass(frozen=True)
class EngineLimits:
    """How much an engine takes.

    Attributes:
        queue_rows: rows that may wait.
        queue_work: work that may wait, in the units of ``Cost``.
        batch_work: work of one batch; a single row may be more.
        wait_seconds: the longest pause between arrivals that a free engine waits out; 0: none.
        stuck_seconds: a batch or an action that runs for longer is stuck, and with it the engine.
        keeps_deadlines: whether a request is refused that would be computed too late, as far as can be foreseen.
    """

    queue_rows: int
    queue_work: int
    batch_work: int
    wait_seconds: float = 0.0
    stuck_seconds: float = math.inf
    keeps_deadlines: bool = False

    def __post_init__(self) -> None:
        if min(self.queue_rows, self.queue_work, self.batch_work) < 1 or min(self.wait_seconds, self.stuck_seconds) < 0:
            raise ValueError(f"{self}: rows and work must be at least 1, seconds at least 0")


class Engine(Generic[Question, Answer]):
    """Answers questions in one thread of its own."""

    def __init__(
        self,
        name: str,
        answer: Callable[[Sequence[Question]], Sequence[Answer]],
        *,
        limits: EngineLimits,
        observer: EngineObserver,
        cost: Callable[[Question], Cost] = one_each,
        is_out_of_memory: Callable[[Exception], bool] = is_memory_error,
    ) -> None:
        """``answer`` maps a batch to one answer a question, in order; it is only ever called by the engine's thread."""
        self.name = name
        self.cost = cost
        self._observer = observer
        self._runner = BatchRunner(answer, observer, is_out_of_memory)
        self._wake = threading.Condition()
        self._resting = threading.Event()
        self._queue: JobQueue[Question, Answer] = JobQueue(limits.queue_rows, limits.queue_work)
        self._pace = Pace(limits.wait_seconds)
        self._entrance = Entrance(self._queue, self._pace, limits.keeps_deadlines)
        self._budget = Budget(limits.batch_work)
        self._actions: deque[tuple[Callable[[], None], Future[None]]] = deque()
        self._requests = 0
        self._last_arrival = 0.0
        self._stuck_seconds = limits.stuck_seconds
        self._open = False
        self._end_by: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"engine-{name}", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether the thread runs, takes questions and gets anywhere; a full queue changes nothing."""
        busy_since = self.busy_since
        stuck = busy_since is not None and time.monotonic() - busy_since > self._stuck_seconds
        return self._open and self._thread.is_alive() and not stuck

    @property
    def waiting(self) -> int:
        """How many rows wait."""
        return len(self._queue)

    @property
    def waiting_work(self) -> int:
        """How much work waits, in the units of ``Cost``."""
        return self._queue.work

    @property
    def last_progress(self) -> float:
        """The ``time.monotonic()`` when a batch or an action ended last."""
        return self._runner.last_progress

    @property
    def busy_since(self) -> float | None:
        """The ``time.monotonic()`` when the batch or action that runs began; None while none runs."""
        return self._runner.busy_since

    def wait_until_it_rests(self, seconds: float) -> bool:
        """Wait until nothing is computed and nothing waits, for so long at the most; says whether it is so."""
        return self._resting.wait(seconds)

    def start(self) -> None:
        """Begin to answer."""
        self._open = True
        self._thread.start()

    def stop(self, *, drain: bool = False, grace_seconds: float = 30.0) -> bool:
        """Refuse new questions, finish the batch that runs, and end the thread.

        Args:
            drain: whether what waits is computed too; otherwise it is refused.
            grace_seconds: for how long; what waits then is refused.

        Returns:
            Whether the thread has ended: not if a batch takes very long.
        """
        grace = grace_seconds if drain else 0.0
        with self._wake:
            self._open = False
            self._end_by = time.monotonic() + grace
            self._wake.notify()
        if self._thread.ident is None:
            return True
        self._thread.join(grace + _LAST_BATCH_SECONDS)
        return not self._thread.is_alive()

    def submit(self, questions: Sequence[Question], deadline: float) -> list["Future[Answer]"]:
        """Queue the rows of one request, all of them or none.

        Args:
            questions: what to answer.
            deadline: the ``time.monotonic()`` after which nobody wants the answers.

        Raises:
            QueueFullError: they do not all fit into the queue, or would be computed too late.
            NotReadyError: the engine does not run.
        """
        costs = [self.cost(question) for question in questions]
        work = sum(cost.total for cost in costs)
        now = time.monotonic()
        unwanted: list[Job[Question, Answer]] = []
        try:
            with self._wake:
                self._refuse_when_closed()
                if self._entrance.refusal(len(questions), work, deadline, now) is not None:
                    unwanted = self._entrance.cleared(now)
                if (error := self._entrance.refusal(len(questions), work, deadline, now)) is not None:
                    raise error
                jobs = self._jobs(questions, costs, deadline, now)
                self._queue.add(jobs)
                self._resting.clear()
                self._last_arrival = now
                self._wake.notify()
        finally:
            self._runner.wanted(unwanted)
        return [job.future for job in jobs]

    def refusal(self, deadline: float = math.inf) -> QueueFullError | None:
        """The error that ``submit`` would raise of the smallest row now; None while it would be let in."""
        now = time.monotonic()
        if self._entrance.refusal(1, 1, deadline, now) is None:
            return None
        with self._wake:
            unwanted = self._entrance.cleared(now)
            error = self._entrance.refusal(1, 1, deadline, now)
        self._runner.wanted(unwanted)
        return error

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

    def _jobs(
        self, questions: Sequence[Question], costs: Sequence[Cost], deadline: float, now: float
    ) -> list[Job[Question, Answer]]:
        self._requests += 1
        jobs: list[Job[Question, Answer]] = []
        before = 0
        for question, cost in zip(questions, costs, strict=True):
            turn = now + self._pace.seconds_for(before)
            jobs.append(Job(question, cost, turn, self._requests, now, deadline, Future()))
            before += cost.total
        return jobs

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                self._run_actions()
                batch = self._take_batch()
                if batch:
                    self._compute(batch)
        except BaseException as error:
            self._observer.died(error)
        finally:
            self._close()

    def _wait_for_work(self) -> bool:
        """Wait until there is something to do, and perhaps a little for company; False: end."""
        with self._wake:
            while self._open and not self._queue and not self._actions:
                self._resting.set()
                self._wake.wait()
            self._resting.clear()
            began = time.monotonic()
            while self._open and not self._actions and not self._queue.fills(self._budget.current(began)):
                now = time.monotonic()
                until = self._pace.wait_until(self._queue.requests, now, self._last_arrival, began)
                if until <= now:
                    break
                self._wake.wait(until - now)
            if self._end_by is None:
                return True
            return bool(self._queue or self._actions) and time.monotonic() < self._end_by

    def _run_actions(self) -> None:
        while True:
            with self._wake:
                if not self._actions:
                    return
                action, done = self._actions.popleft()
            if not done.set_running_or_notify_cancel():
                continue
            try:
                with self._runner.busy():
                    action()
            except Exception as error:
                done.set_exception(error)
            else:
                done.set_result(None)

    def _take_batch(self) -> list[Job[Question, Answer]]:
        now = time.monotonic()
        with self._wake:
            jobs = self._entrance.next_batch(self._budget.current(now), now)
        wanted = self._runner.wanted(jobs)
        if not wanted:
            self._entrance.batch_ended()
        return wanted

    def _compute(self, batch: Sequence[Job[Question, Answer]]) -> None:
        effort = self._runner.run(batch)
        now = time.monotonic()
        with self._wake:
            self._entrance.batch_ended()
            self._pace.batch_ended(effort.requests, effort.work, effort.seconds, now)
            if effort.too_much is not None:
                self._budget.halve(effort.too_much, now)

    def _close(self) -> None:
        with self._wake:
            self._open = False
            waiting = self._queue.take_all()
            actions, self._actions = list(self._actions), deque()
        stopped = NotReadyError(f"the {self.name} engine has stopped; retry against another replica", retry_after=5)
        for job in waiting:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(stopped)
        self._runner.fail_rest(stopped)
        for _, done in actions:
            if done.set_running_or_notify_cancel():
                done.set_exception(stopped)
