"""What may take seconds before a row is queued, away from the event loop and from the engines.

The first filter on a field reads that field of all items of its domain. That happens in a few threads of its own, so
neither other requests nor the batch that is being computed wait for it.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from service.errors import DeadlineError, QueueFullError

Result = TypeVar("Result")

_THREADS = 4
_MAX_WAITING = 64
"""How many requests may be checked or wait for it; more get 429."""


class Checker:
    """Runs checks in threads of its own."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="checker")
        self._waiting = 0

    async def run(self, check: Callable[[], Result], deadline: float) -> Result:
        """The result of a check, or its error; called on the event loop.

        Args:
            deadline: in ``time.monotonic()`` seconds.

        Raises:
            DeadlineError: it is not there at the deadline; what it has begun goes on, so a later request finds it.
            QueueFullError: too many checks wait.
        """
        if self._waiting >= _MAX_WAITING:
            raise QueueFullError("too many requests wait until their filters can be used; retry in 1 s", retry_after=1)
        self._waiting += 1
        try:
            running = asyncio.get_running_loop().run_in_executor(self._pool, check)
            return await asyncio.wait_for(running, max(0.0, deadline - time.monotonic()))
        except TimeoutError as error:
            raise DeadlineError("the filters could not be used before the deadline; retry later") from error
        finally:
            self._waiting -= 1
