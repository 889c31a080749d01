"""Events wait for recommendations: what is done for them is done in pauses, while no recommendation is computed.

One interpreter runs one thread at a time, so what is done for events beside a batch makes the batch late. A sender of
events waits for no more than that they are safe, so they can wait. Never for long: where recommendations leave none,
events are taken beside them.
"""

import asyncio
import time
from collections.abc import Callable

_MOST_SECONDS = 0.25
"""Of one wait. Where no pause comes, a thread works for as long before it waits again."""


class Patience:
    """Waits for pauses. For one thread, and for the event loop."""

    def __init__(self, wait: Callable[[float], bool]) -> None:
        """``wait`` waits for the next pause, for so many seconds at the most; says whether there was one."""
        self._wait = wait
        self._not_before = 0.0
        self._waiting: asyncio.Future[bool] | None = None
        self._turn = asyncio.Lock()

    def wait(self) -> None:
        """Wait for a pause, in a thread; at once if it waited in vain a moment ago."""
        if time.monotonic() >= self._not_before and not self._wait(_MOST_SECONDS):
            self._not_before = time.monotonic() + _MOST_SECONDS

    async def on_loop(self) -> None:
        """Wait for a pause, on the event loop. One goes after the other, so that a recommendation comes in between."""
        ends = time.monotonic() + _MOST_SECONDS
        async with self._turn:
            left = ends - time.monotonic()
            if left <= 0 or self._wait(0):
                return
            if self._waiting is None or self._waiting.done():
                self._waiting = asyncio.get_running_loop().run_in_executor(None, self._wait, left)
            await asyncio.wait({self._waiting}, timeout=left)
