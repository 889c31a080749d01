"""An engine to test alone: what it computes with, and what it reports to."""

import math
import threading
from collections.abc import Callable, Sequence

from service.engine import Engine


class Recorder:
    """Remembers what an engine reports."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.queue_seconds: list[float] = []
        self.compute_seconds: list[float] = []
        self.work: list[int] = []
        self.halved: list[str] = []
        self.drops: list[str] = []
        self.deaths: list[BaseException] = []

    def batch_started(self, rows: int, queue_seconds: Sequence[float]) -> None:
        self.batches.append(rows)
        self.queue_seconds += queue_seconds

    def batch_work(self, work: int) -> None:
        self.work.append(work)

    def batch_halved(self, reason: str) -> None:
        self.halved.append(reason)

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


def hold(engine: Engine[int, int], doubler: Doubler) -> None:
    """Keep the thread busy until ``doubler.go`` is set."""
    engine.submit([0], math.inf)
    assert doubler.entered.wait(20)
