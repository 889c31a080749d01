"""The engine under everything at once: failing rows, short memory, clients that leave, deadlines, full queues."""

import math
import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future

from service.engine import Engine, EngineLimits
from service.errors import DeadlineError, OutOfMemoryError, QueueFullError
from service.job_queue import Cost

_TOO_MUCH = 60
"""Work that memory is not enough for."""


class Observer:
    """Remembers how an engine ended, and the most work that it computed together."""

    def __init__(self) -> None:
        self.deaths: list[BaseException] = []
        self.most_work = 0

    def batch_started(self, rows: int, queue_seconds: Sequence[float]) -> None:
        pass

    def batch_work(self, work: int) -> None:
        self.most_work = max(self.most_work, work)

    def batch_ended(self, rows: int, compute_seconds: float) -> None:
        pass

    def batch_halved(self, reason: str) -> None:
        pass

    def dropped(self, reason: str) -> None:
        pass

    def died(self, error: BaseException) -> None:
        self.deaths.append(error)


def answer(questions: Sequence[int]) -> list[int]:
    if any(question % 17 == 0 for question in questions):
        raise ValueError("a row fails")
    if sum(cost_of(question).total for question in questions) > _TOO_MUCH:
        raise MemoryError
    return [2 * question for question in questions]


def cost_of(question: int) -> Cost:
    return Cost(padded=question % 5, added=1 + question % 70)


def expected(question: int) -> object:
    if question % 17 == 0:
        return ValueError
    return OutOfMemoryError if cost_of(question).total > _TOO_MUCH else 2 * question


def outcome(future: "Future[int]") -> object:
    error = future.exception(20)
    return future.result() if error is None else type(error)


def test_every_row_gets_its_own_answer_or_its_own_error_and_the_engine_lives() -> None:
    observer = Observer()
    engine = Engine(
        "test", answer, limits=EngineLimits(60, 2000, 80, wait_seconds=0.001), observer=observer, cost=cost_of
    )
    engine.start()
    wrong: list[tuple[int, object]] = []

    def client(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(150):
            questions = [rng.randrange(1, 1000) for _ in range(rng.choice([1, 1, 1, 8]))]
            deadline = rng.choice([math.inf, math.inf, time.monotonic(), time.monotonic() + 0.002])
            try:
                futures = engine.submit(questions, deadline)
            except QueueFullError:
                continue
            left = rng.random() < 0.2 and all(future.cancel() for future in futures)
            if rng.random() < 0.05:
                engine.between_batches(lambda: None).result(20)
            for question, future in zip(questions, futures, strict=True):
                if left or future.cancelled():
                    continue
                result = outcome(future)
                if result != expected(question) and not (result is DeadlineError and deadline < math.inf):
                    wrong.append((question, result))

    clients = [threading.Thread(target=client, args=(seed,)) for seed in range(6)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join(60)
    assert wrong == []
    assert observer.deaths == []
    assert engine.alive
    assert observer.most_work <= 80, "no single row of these is more than a budget"
    assert engine.stop(drain=True, grace_seconds=20)
    assert (engine.waiting, engine.waiting_work) == (0, 0)
