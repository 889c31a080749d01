"""The outermost layer: gives a request its id, an answer its headers, and both a line of log and a count.

Pure ASGI: under Starlette's function middleware a client's disconnect is never seen. The request id lies in
``scope["state"]["request_id"]``.
"""

import re
import time
import uuid
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.typing import FilteringBoundLogger

from service.errors import ClientGoneError, InternalError
from service.metrics import Metrics
from service.responses import error_response
from service.security.access import PROBES
from service.security.scopes import Caller
from service.tracing import NoTrace, RequestTrace, Tracing

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")

_HEADERS = {
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
}


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """A request that is being answered; ``begun`` in seconds of ``time.monotonic()``."""

    request_id: str
    trace: RequestTrace
    begun: float

    def dress(self, headers: MutableHeaders) -> None:
        """Give an answer the headers that every answer has."""
        headers["x-request-id"] = self.request_id
        for name, value in _HEADERS.items():
            headers.setdefault(name, value)


class RequestContext:
    """Opens requests, and records them once they are answered. See the module."""

    def __init__(self, metrics: Metrics, log: FilteringBoundLogger, tracing: Tracing) -> None:
        self.metrics = metrics
        self.log = log
        self._tracing = tracing

    def open(self, scope: Scope) -> OpenRequest:
        """Begin to answer a request, and put its id and trace into its state."""
        begun = time.monotonic()
        headers = Headers(scope=scope)
        request_id = _request_id(headers.get("x-request-id"))
        trace = self._trace(scope, request_id, headers)
        scope.setdefault("state", {}).update(request_id=request_id, trace=trace)
        return OpenRequest(request_id, trace, begun)

    def _trace(self, scope: Scope, request_id: str, headers: Headers) -> RequestTrace:
        if scope["path"] in PROBES:
            return NoTrace()
        return self._tracing.request(scope["method"][:16], request_id, headers)

    def record(self, scope: Scope, opened: OpenRequest, status: int) -> None:
        """A request was answered."""
        route, seconds = _route(scope), time.monotonic() - opened.begun
        self.metrics.request(scope["method"], route, status, seconds)
        opened.trace.end(route or "unmatched", status)
        log = self.log.debug if scope["path"] in PROBES else self.log.info
        caller: Caller | None = scope["state"].get("caller")
        log(
            "request",
            request_id=opened.request_id,
            method=scope["method"][:16],
            route=route or "unmatched",
            status=status,
            milliseconds=round(seconds * 1000, 3),
            key=None if caller is None else caller.name,
            **({} if opened.trace.trace_id is None else {"trace_id": opened.trace.trace_id}),
        )


class RequestContextMiddleware:
    """See the module. No exception passes."""

    def __init__(self, app: ASGIApp, context: RequestContext) -> None:
        self._app = app
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        opened = self._context.open(scope)
        status: int | None = None

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                opened.dress(MutableHeaders(scope=message))
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception as error:
            self._context.log.error("request failed", request_id=opened.request_id, route=_route(scope), exc_info=error)
            if status is None:
                await error_response(InternalError(), self._context.metrics)(scope, receive, send_with_headers)
        finally:
            self._context.record(scope, opened, status or ClientGoneError.status)


def _request_id(given: str | None) -> str:
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given
    return uuid.uuid4().hex


def _route(scope: Scope) -> str | None:
    route: Any = scope.get("route")
    path = getattr(route, "path", None)
    return path if isinstance(path, str) else None
