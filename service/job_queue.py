"""The rows that wait for an engine: bounded, in a fair order, and handed out in batches of bounded work.

Knows futures, costs and deadlines; does not know threads, models or HTTP. Not thread-safe: the engine guards it.

The order is by age, and a request of many rows counts as if its rows had come one after the other, as fast as the
engine computes them. So a small request that comes after a large one waits for no more of it than had been computed by
then anyway, and a large one is never put off for longer than that: time passes for all alike.
"""

from bisect import insort
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

Question = TypeVar("Question")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Cost:
    """What a row costs, in units of work that its engine's owner chose.

    Attributes:
        padded: what every row of a batch costs as much of as the row that has most, such as the tokens of a history.
        added: what adds up, such as the tokens of beams.
    """

    padded: int = 0
    added: int = 1

    @property
    def total(self) -> int:
        """Of the row alone."""
        return self.padded + self.added


def one_each(question: object) -> Cost:
    """Every question costs the same."""
    return Cost()


@dataclass(frozen=True, slots=True, eq=False)
class Job(Generic[Question, Answer]):
    """A row that waits. Times are those of ``time.monotonic()``.

    Attributes:
        turn: when it counts as having come.
        request: the number of its request; rows of one request share it.
        deadline: after it nobody wants the answer.
    """

    question: Question
    cost: Cost
    turn: float
    request: int
    queued_at: float
    deadline: float
    future: "Future[Answer]"

    def is_unwanted(self, now: float) -> bool:
        """Whether its client has gone, or its deadline has passed."""
        return self.future.cancelled() or now >= self.deadline


class JobQueue(Generic[Question, Answer]):
    """Rows in the order of their turns.

    Args:
        max_rows: how many may wait.
        max_work: how much work may wait, in the units of :class:`Cost`.
    """

    def __init__(self, max_rows: int, max_work: int) -> None:
        self.max_rows, self.max_work = max_rows, max_work
        self._jobs: list[Job[Question, Answer]] = []
        self.work = 0

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def requests(self) -> int:
        """How many requests the rows belong to."""
        return len({job.request for job in self._jobs})

    def has_room(self, rows: int, work: int) -> bool:
        """Whether so much more may wait."""
        return len(self._jobs) + rows <= self.max_rows and self.work + work <= self.max_work

    def add(self, jobs: Iterable[Job[Question, Answer]]) -> None:
        """Let rows wait; whoever calls has asked :meth:`has_room`."""
        for job in jobs:
            insort(self._jobs, job, key=lambda one: (one.turn, one.request))
            self.work += job.cost.total

    def take(self, budget: int, now: float) -> list[Job[Question, Answer]]:
        """Remove the next batch: the first row, and of those behind it all that fit into the budget with it.

        Unwanted rows on the way come out too; they take nothing of the budget.
        """
        taken: list[Job[Question, Answer]] = []
        left: list[Job[Question, Answer]] = []
        rows = padded = added = 0
        for job in self._jobs:
            if job.is_unwanted(now):
                taken.append(job)
                continue
            most = max(padded, job.cost.padded)
            if rows and (rows + 1) * most + added + job.cost.added > budget:
                left.append(job)
                continue
            rows, padded, added = rows + 1, most, added + job.cost.added
            taken.append(job)
        self._keep(left)
        return taken

    def first(self, now: float) -> Job[Question, Answer] | None:
        """The row that the next batch begins with; None where nobody waits."""
        return next((job for job in self._jobs if not job.is_unwanted(now)), None)

    def fills(self, budget: int) -> bool:
        """Whether the rows that wait are as much work as one batch may be."""
        return self.work >= budget

    def take_unwanted(self, now: float) -> list[Job[Question, Answer]]:
        """Remove the rows that nobody waits for any more."""
        wanted: list[Job[Question, Answer]] = []
        unwanted: list[Job[Question, Answer]] = []
        for job in self._jobs:
            (unwanted if job.is_unwanted(now) else wanted).append(job)
        self._keep(wanted)
        return unwanted

    def take_all(self) -> list[Job[Question, Answer]]:
        """Remove all rows."""
        jobs = self._jobs
        self._keep([])
        return jobs

    def _keep(self, jobs: list[Job[Question, Answer]]) -> None:
        self._jobs = jobs
        self.work = sum(job.cost.total for job in jobs)


def work_of(jobs: Iterable[Job[Question, Answer]]) -> int:
    """What a batch costs, its rows padded to the longest."""
    costs = [job.cost for job in jobs]
    return len(costs) * max((cost.padded for cost in costs), default=0) + sum(cost.added for cost in costs)
