"""Lets in who knows a key, as often as its rate allows, and says who it was in ``scope["state"]``.

``state["caller"]`` is the :class:`~service.security.scopes.Caller`; ``state["charge"]`` charges rows to it.
"""

from functools import partial

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import RequestError, UnauthorizedError
from service.metrics import Metrics
from service.responses import error_response
from service.security.key_ring import KeyRing
from service.security.rate_limit import RateLimiter
from service.security.scopes import EVERYBODY

PROBES = frozenset({"/health/live", "/health/ready", "/metrics"})
"""Open without a key, so that Kubernetes and Prometheus need none; logged only at level debug."""


class AccessMiddleware:
    """Every path but the probes needs a known key, as ``Authorization: Bearer KEY`` or ``X-API-Key: KEY``."""

    def __init__(self, app: ASGIApp, keys: KeyRing, limiter: RateLimiter, metrics: Metrics) -> None:
        self._app = app
        self._keys = keys
        self._limiter = limiter
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._let_in(scope)
        except RequestError as error:
            response = error_response(error, self._metrics)
            if isinstance(error, UnauthorizedError):
                response.headers["www-authenticate"] = "Bearer"
            await response(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _let_in(self, scope: Scope) -> None:
        state = scope.setdefault("state", {})
        if scope["path"] in PROBES:
            state["caller"] = EVERYBODY
            return
        caller = self._keys.caller(_given_key(Headers(scope=scope)))
        if caller is None:
            raise UnauthorizedError(
                "a known API key is needed; send it as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'"
            )
        state["caller"] = caller
        state["charge"] = partial(self._limiter.rows, caller)
        self._limiter.request(caller)


def _given_key(headers: Headers) -> str | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token.strip()
    return headers.get("x-api-key")
