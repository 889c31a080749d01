"""Checks that may take seconds, beside the event loop."""

import asyncio
import math
import threading
import time

import pytest

from service import checking
from service.checking import Checker
from service.errors import DeadlineError, QueueFullError


def test_a_check_runs_in_a_thread_of_its_own_and_returns_its_result() -> None:
    async def ask() -> str:
        return await Checker().run(lambda: threading.current_thread().name, math.inf)

    assert asyncio.run(ask()).startswith("checker")


def test_an_error_of_a_check_is_the_callers() -> None:
    async def ask() -> None:
        await Checker().run(lambda: int("x"), math.inf)

    with pytest.raises(ValueError, match="invalid literal"):
        asyncio.run(ask())


def test_a_check_that_is_not_over_at_the_deadline_goes_on_without_its_caller() -> None:
    go, over = threading.Event(), threading.Event()

    def slow() -> None:
        assert go.wait(20)
        over.set()

    async def ask() -> None:
        await Checker().run(slow, time.monotonic())

    with pytest.raises(DeadlineError):
        asyncio.run(ask())
    go.set()
    assert over.wait(20)


def test_more_checks_than_may_wait_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "_MAX_WAITING", 1)
    go = threading.Event()

    async def ask() -> bool:
        checker = Checker()
        first = asyncio.ensure_future(checker.run(lambda: go.wait(20), math.inf))
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError):
            await checker.run(lambda: None, math.inf)
        go.set()
        assert await first
        return await checker.run(lambda: True, math.inf)

    assert asyncio.run(ask())
