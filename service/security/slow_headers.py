"""Ends connections whose next request does not arrive: a client that sends a byte a minute holds nothing for long.

uvicorn itself ends a connection that is silent after an answer, but waits forever for the rest of begun headers, and
for the first byte of a new connection.
"""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


def impatient_protocol(seconds: float) -> type[asyncio.Protocol]:
    """The HTTP protocol of a server that gives every request this many seconds for its headers."""

    class ImpatientProtocol(H11Protocol):
        """Arms a timer while headers are awaited."""

        _header_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_watching()
            super().connection_lost(exc)

        def _watch(self) -> None:
            """A timer runs for as long as headers have begun, or a new connection has sent nothing."""
            begun = bool(self.conn.trailing_data[0]) or self.cycle is None
            if self.conn.their_state is not h11.IDLE or not begun:
                self._stop_watching()
            elif self._header_timer is None:
                self._header_timer = self.loop.call_later(seconds, self.transport.close)

        def _stop_watching(self) -> None:
            if self._header_timer is not None:
                self._header_timer.cancel()
                self._header_timer = None

    return ImpatientProtocol
