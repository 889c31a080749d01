"""The service's HTTP protocol: a request that would be refused is not begun, but answered once it has come as a whole.

Parsed as every other one is; what it costs beyond that is its answer. A request of which the body does not come, or is
long, goes the long way, where sizes and times of bodies are guarded.
"""

import asyncio
from typing import Protocol, cast

from starlette.responses import Response
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from service.security.slow_headers import ImpatientProtocol

_MOST_BODY_BYTES = 65_536
_BODY_SECONDS = 1.0
"""A body that is larger, or comes later, is read on the long way."""


class Refusal(Protocol):
    """Who refuses; see ``service.instant_refusal``."""

    def may_refuse(self, scope: Scope) -> bool:
        """Whether a request, whose headers have come, would be refused now."""

    def answer(self, scope: Scope) -> Response | None:
        """The refusal of a request that has come as a whole; None: it goes the long way."""


class RefusingProtocol(ImpatientProtocol):
    """See the module."""

    refusal: Refusal

    _held_body: bytearray | None = None
    """The body of a request that is held back; None while none is."""
    _body_timer: asyncio.TimerHandle | None = None

    def on_headers_complete(self) -> None:
        if self._may_hold():
            self._headers_came()
            self._held_body = bytearray()
            self._body_timer = self.loop.call_later(_BODY_SECONDS, self._let_go)
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self._held_body is None:
            super().on_body(body)
            return
        self._progressed = True
        self._held_body += body
        if len(self._held_body) > _MOST_BODY_BYTES:
            self._let_go()

    def on_message_complete(self) -> None:
        if self._held_body is not None:
            response = self.refusal.answer(self._scope)
            if response is not None:
                self._in_message = False
                self._stop_holding()
                self._answer(response)
                return
            self._let_go()
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_holding()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        self._let_go()
        super().shutdown()

    def _may_hold(self) -> bool:
        plain = self.parser.get_http_version() == "1.1" and not self.parser.should_upgrade()
        if self._answering() or not plain or self.expect_100_continue or self.flow.write_paused:
            return False
        self._scope["method"] = self.parser.get_method().decode("ascii")
        self._scope["path"] = self.url.decode("ascii", "replace")
        return self.refusal.may_refuse(self._scope)

    @property
    def _scope(self) -> Scope:
        return cast(Scope, self.scope)

    def _let_go(self) -> None:
        """Begin the request that is held back, with what has come of its body."""
        body = self._held_body
        self._stop_holding()
        if body is not None:
            super().on_headers_complete()
            super().on_body(bytes(body))
            self._watch()  # it is being answered now

    def _stop_holding(self) -> None:
        self._held_body = None
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None

    def _answer(self, response: Response) -> None:
        stays = self.parser.should_keep_alive()
        head = [STATUS_LINE[response.status_code]]
        for name, value in (*self.server_state.default_headers, *response.raw_headers):
            head += (name, b": ", value, b"\r\n")
        head.append(b"\r\n" if stays else b"connection: close\r\n\r\n")
        self.transport.write(b"".join(head) + bytes(response.body))
        if not stays:
            self.transport.close()
        self.on_response_complete()


def refusing_protocol(seconds: float, max_header_bytes: int, refusal: Refusal) -> type[asyncio.Protocol]:
    """The protocol of a server; times and sizes are those of :class:`ImpatientProtocol`."""
    values = {"header_seconds": seconds, "max_header_bytes": max_header_bytes, "refusal": refusal}
    return type("Refusing", (RefusingProtocol,), values)
