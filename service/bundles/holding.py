"""A request keeps the generation that it began with: counted, so that a swap knows when the old one is free.

The middleware opens a hold for each request; the first look at what serves fills it, and every later look of the same
request finds the same generation, also when another one serves meanwhile. The hold ends with the answer's last byte.
"""

import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

if TYPE_CHECKING:
    from service.bundles.generation import Generation


class Holders:
    """Counts who holds a generation. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._count = 0

    @property
    def count(self) -> int:
        """How many requests hold it."""
        return self._count

    def acquire(self) -> None:
        """One more."""
        with self._changed:
            self._count += 1

    def release(self) -> None:
        """One less."""
        with self._changed:
            self._count -= 1
            self._changed.notify_all()

    def wait_until_none(self, seconds: float) -> bool:
        """Wait until nobody holds it; False if somebody still does after so many seconds."""
        end = time.monotonic() + seconds
        with self._changed:
            while self._count:
                left = end - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
        return True


class Hold:
    """What one request holds: nothing until it first asks what serves."""

    def __init__(self) -> None:
        self.generation: Generation | None = None

    def take(self, generation: "Generation") -> None:
        """Keep a generation until :meth:`release`."""
        generation.holders.acquire()
        self.generation = generation

    def release(self) -> None:
        """Let go."""
        generation, self.generation = self.generation, None
        if generation is not None:
            generation.holders.release()


HOLD: ContextVar[Hold | None] = ContextVar("hold", default=None)
"""The hold of the request that runs in this context; None outside of requests."""


class HoldMiddleware:
    """Opens a hold for each request; asks its client to connect anew once the service is about to stop."""

    def __init__(self, app: ASGIApp, stopping: Callable[[], bool]) -> None:
        self._app = app
        self._stopping = stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_close(message: Message) -> None:
            if message["type"] == "http.response.start" and self._stopping():
                MutableHeaders(scope=message)["connection"] = "close"
            await send(message)

        hold = Hold()
        token = HOLD.set(hold)
        try:
            await self._app(scope, receive, send_with_close)
        finally:
            hold.release()
            HOLD.reset(token)
