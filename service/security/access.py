"""Lets in who knows a key, as often as its rate allows, and says who it was in ``scope["state"]``.

``state["caller"]`` is the :class:`~service.security.scopes.Caller`; ``state["charge"]`` charges rows to it.
"""

from functools import partial

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import RequestError, UnauthorizedError
from service.metrics import Metrics
from service.responses import error_response
from service.security.key_ring import KeyRing
from service.security.rate_limit import RateLimiter
from service.security.scopes import EVERYBODY

PROBES = frozenset({"/health/live", "/health/ready", "/metrics"})
"""Open without a key, so that Kubernetes and Prometheus need none; logged only at level debug."""


class Door:
    """Every path but probes and the playground's files needs a key: ``Authorization: Bearer KEY`` or ``X-API-Key``."""

    def __init__(self, keys: KeyRing, limiter: RateLimiter, metrics: Metrics) -> None:
        self._keys = keys
        self._limiter = limiter
        self._metrics = metrics

    def turn_away(self, scope: Scope) -> Response | None:
        """What a request is told that is not let in; None for one that is. Asked once a request, for it is charged."""
        try:
            self._let_in(scope)
        except RequestError as error:
            response = error_response(error, self._metrics)
            if isinstance(error, UnauthorizedError):
                response.headers["www-authenticate"] = "Bearer"
            return response
        return None

    def _let_in(self, scope: Scope) -> None:
        state = scope.setdefault("state", {})
        if scope["path"] in PROBES or _is_page(scope["path"]):
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


class AccessMiddleware:
    """Passes on what the door lets in."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self._app = app
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (response := self._door.turn_away(scope)) is not None:
            await response(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _is_page(path: str) -> bool:
    """Whether it leads to the playground or is a file of it: they tell nothing, and what the page asks needs a key."""
    return path == "/" or f"{path}/".startswith("/playground/")


def _given_key(headers: Headers) -> str | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token.strip()
    return headers.get("x-api-key")
