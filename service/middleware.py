"""What every request passes, outermost first: request context, keys, body limit.

Pure ASGI: under Starlette's function middleware a client's disconnect is never seen. What is refused here was never
parsed. The request id lies in ``scope["state"]["request_id"]``.
"""

import hashlib
import hmac
import re
import time
import uuid
from collections.abc import Iterable
from typing import Any

from pydantic import SecretStr
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.typing import FilteringBoundLogger

from service.errors import BodyTooLargeError, ClientGoneError, InternalError, RequestError, UnauthorizedError
from service.metrics import Metrics
from service.responses import error_response

PROBES = frozenset({"/health/live", "/health/ready", "/metrics"})
"""Open without a key, so that Kubernetes and Prometheus need none; logged only at level debug."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")

_HEADERS = {
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
}


class RequestContextMiddleware:
    """Gives a request its id, and an answer its headers; counts and logs both. No exception passes."""

    def __init__(self, app: ASGIApp, metrics: Metrics, log: FilteringBoundLogger) -> None:
        self._app = app
        self._metrics = metrics
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.monotonic()
        request_id = _request_id(Headers(scope=scope).get("x-request-id"))
        scope.setdefault("state", {})["request_id"] = request_id
        status: int | None = None

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception as error:
            self._log.error("request failed", request_id=request_id, route=_route(scope), exc_info=error)
            if status is None:
                await error_response(InternalError(), self._metrics)(scope, receive, send_with_headers)
        finally:
            self._record(scope, request_id, status or ClientGoneError.status, time.monotonic() - begun)

    def _record(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        route = _route(scope)
        self._metrics.request(scope["method"], route, status, seconds)
        log = self._log.debug if scope["path"] in PROBES else self._log.info
        log(
            "request",
            request_id=request_id,
            method=scope["method"][:16],
            route=route or "unmatched",
            status=status,
            milliseconds=round(seconds * 1000, 3),
        )


class ApiKeyMiddleware:
    """Lets in who knows a key, as ``Authorization: Bearer KEY`` or ``X-API-Key: KEY``; the probes are open."""

    def __init__(self, app: ASGIApp, keys: Iterable[SecretStr], metrics: Metrics) -> None:
        self._app = app
        self._digests = tuple(_digest(key.get_secret_value()) for key in keys)
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PROBES or self._is_known(_given_key(Headers(scope=scope))):
            await self._app(scope, receive, send)
            return
        error = UnauthorizedError("an API key is needed; send it as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'")
        response = error_response(error, self._metrics)
        response.headers["www-authenticate"] = "Bearer"
        await response(scope, receive, send)

    def _is_known(self, key: str | None) -> bool:
        if key is None:
            return False
        given = _digest(key)
        # Every digest is compared, so that the time tells nothing of which key matched, or how far.
        return sum(hmac.compare_digest(given, known) for known in self._digests) > 0


class BodyLimitMiddleware:
    """Reads a body into memory before anything looks at it, and refuses it once it is over the limit."""

    def __init__(self, app: ASGIApp, max_body_bytes: int, metrics: Metrics) -> None:
        self._app = app
        self._limit = max_body_bytes
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            body = await self._read(scope, receive)
        except RequestError as error:
            response = error_response(error, self._metrics)
            response.headers["connection"] = "close"
            await response(scope, receive, send)
            return
        given = False

        async def receive_again() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, receive_again, send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes:
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isascii() and declared.isdigit() and int(declared[:20]) > self._limit:
            raise self._too_large()
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError("the client closed the connection before its body was there")
            body += message.get("body", b"")
            if len(body) > self._limit:
                raise self._too_large()
            if not message.get("more_body", False):
                return bytes(body)

    def _too_large(self) -> BodyTooLargeError:
        return BodyTooLargeError(f"the body has more than {self._limit} bytes; split the request")


def _request_id(given: str | None) -> str:
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given
    return uuid.uuid4().hex


def _given_key(headers: Headers) -> str | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token.strip()
    return headers.get("x-api-key")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _route(scope: Scope) -> str | None:
    route: Any = scope.get("route")
    path = getattr(route, "path", None)
    return path if isinstance(path, str) else None
