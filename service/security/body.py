"""Reads a request's body before anything looks at it, within a size and a time."""

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import BodyTimeoutError, BodyTooLargeError, ClientGoneError, RequestError
from service.metrics import Metrics
from service.responses import error_response


class BodyLimitMiddleware:
    """Reads a body into memory, and refuses it once it is over the limit or late."""

    def __init__(self, app: ASGIApp, max_body_bytes: int, timeout_ms: int, metrics: Metrics) -> None:
        self._app = app
        self._limit = max_body_bytes
        self._timeout_ms = timeout_ms
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            body = await self._read_in_time(scope, receive)
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

    async def _read_in_time(self, scope: Scope, receive: Receive) -> bytes:
        try:
            async with asyncio.timeout(self._timeout_ms / 1000):
                return await self._read(scope, receive)
        except TimeoutError as error:
            raise BodyTimeoutError(
                f"the body was not there after {self._timeout_ms} ms; send it at once, or split the request"
            ) from error

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
