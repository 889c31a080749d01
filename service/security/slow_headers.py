"""Ends connections whose next request does not arrive: a client that sends a byte a minute holds nothing for long.

uvicorn itself ends a connection that is silent after an answer, but waits forever for the rest of begun headers, for
the first byte of a new connection, and for the rest of a body that was answered before it had come; and headers, those
behind a body too, may be of any size.
"""

import asyncio
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_INVALID = "Invalid HTTP request received."


class HeadersTooLargeError(Exception):
    """Request line and headers are over their limit; the parser ends the connection with 400."""


class ImpatientProtocol(HttpToolsProtocol):
    """HTTP/1.1 with a timer that runs while only the client is waited for, and a limit on the size of headers."""

    header_seconds: float
    max_header_bytes: int

    _header_timer: asyncio.TimerHandle | None = None
    _awaited = True
    """Whether headers have begun, or a new connection has sent nothing, or an idle one something that is no request."""
    _in_message = False
    _offers = False
    """Whether the request offers to speak another protocol, such as HTTP/2: it is begun anew without the offer."""
    _header_bytes = 0
    """Of the request line and the headers that have come whole."""
    _progressed = False
    """Whether what was received last ended headers, or brought some of a body."""
    _unfinished_bytes = 0
    """Received since it did; the parser keeps a line that has no end yet, however long it gets."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        self._progressed = False
        self._feed(data)
        if self.parser is None or self.transport.is_closing():
            return
        if not self._in_message and not self._answering() and self.timeout_keep_alive_task is None:
            self._awaited = True  # empty lines between two requests
        self._unfinished_bytes = 0 if self._progressed else self._unfinished_bytes + len(data)
        if self._unfinished_bytes > self.max_header_bytes:
            self.send_400_response(_INVALID)
        self._watch()

    def _feed(self, data: bytes) -> None:
        """Parse, as uvicorn does, but for an offer to speak another protocol."""
        self._unset_keepalive_if_required()
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserError:
                self.logger.warning(_INVALID)
                self.send_400_response(_INVALID)
                return
            except httptools.HttpParserUpgrade as offer:
                data = self._without_offer() + data[offer.args[0] :]

    def _without_offer(self) -> bytes:
        """The head of a request that offers another protocol, for a new parser: the old one takes its body for that."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        self._offers = False
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
        if method == b"CONNECT":
            return b"\r\n\0"  # no proxy is here; a head that no parser takes
        lines = [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join((method + b" " + self.url + b" HTTP/" + version, *lines, b"", b""))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._unset_keepalive_if_required()  # of an answer that was sent while what lies behind it was parsed
        self._awaited = self._in_message = True
        self._header_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._headers_came()
        self._offers = self.parser.should_upgrade()
        if not self._offers:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._progressed = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._offers:
            self._in_message = False
            super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_watching()
        super().connection_lost(exc)

    def _headers_came(self) -> None:
        self._awaited, self._progressed = False, True

    def _count(self, added: int) -> None:
        self._header_bytes += added
        if self._header_bytes > self.max_header_bytes:
            raise HeadersTooLargeError

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _watch(self) -> None:
        """The timer runs while headers, or the rest of a body, are awaited and no request is being answered."""
        if not (self._awaited or self._in_message) or self._answering() or self.transport.is_closing():
            self._stop_watching()
        elif self._header_timer is None:
            self._header_timer = self.loop.call_later(self.header_seconds, self.transport.close)

    def _stop_watching(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None


def impatient_protocol(seconds: float, max_header_bytes: int) -> type[asyncio.Protocol]:
    """The HTTP protocol of a server that gives every request this many seconds and bytes for its headers."""
    return type("Impatient", (ImpatientProtocol,), {"header_seconds": seconds, "max_header_bytes": max_header_bytes})
