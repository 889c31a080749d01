"""Events wait for recommendations: what is done for them is done in pauses, while no recommendation is computed.

One interpreter runs one thread at a time, so what is done for events beside a batch makes the batch late. A sender of
events waits for no more than that they are safe, so they can wait; what is learnt of them can wait longer. Never for
long: where recommendations leave no pause, events are taken beside them, a little at a time.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Turns:
    """How long something waits, and works where it waited in vain before it waits again; both in seconds."""

    wait: float
    work: float


SENDERS = Turns(wait=0.5, work=0.05)
"""Of what somebody waits for."""

LEARNING = Turns(wait=1.0, work=0.1)
"""Of what nobody waits for: a tenth of the time is enough for thousands of events a second."""


class Patience:
    """Waits for pauses. For one thread, and for the event loop."""

    def __init__(self, wait: Callable[[float], bool], turns: Turns = SENDERS) -> None:
        """``wait`` waits for the next pause, for so many seconds at the most; says whether there was one."""
        self._wait = wait
        self._turns = turns
        self._not_before = 0.0
        self._waiting: asyncio.Future[bool] | None = None
        self._turn = asyncio.Lock()

    def wait(self) -> None:
        """Wait for a pause, in a thread; at once if it waited in vain a moment ago."""
        if time.monotonic() >= self._not_before and not self._wait(self._turns.wait):
            self._not_before = time.monotonic() + self._turns.work

    async def on_loop(self) -> None:
        """Wait for a pause, on the event loop. One goes after the other, so that a recommendation comes in between."""
        ends = time.monotonic() + self._turns.wait
        async with self._turn:
            left = ends - time.monotonic()
            if left <= 0 or self._wait(0):
                return
            if self._waiting is None or self._waiting.done():
                self._waiting = asyncio.get_running_loop().run_in_executor(None, self._wait, left)
            await asyncio.wait({self._waiting}, timeout=left)
