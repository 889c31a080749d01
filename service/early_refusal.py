"""Refuses ``POST /recommend`` before anything looks at its body while the queue has no room for even one row.

A flood of requests must cost next to nothing, or refusing takes the time that those let in need: reading and checking
a request with a history of 20 items takes several times what this does. A request that would be invalid is told that
the queue is full, too; it learns the rest when it comes again.
"""

from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import RequestError
from service.metrics import Metrics
from service.responses import error_response

PATH = "/recommend"


@dataclass(frozen=True)
class RefusedRoute:
    """What metrics and logs call the route of a request that never came to one."""

    path: str


class EarlyRefusalMiddleware:
    """See the module. ``refusal`` gives the error of a row that would come now; None while one would be let in."""

    def __init__(self, app: ASGIApp, refusal: Callable[[], RequestError | None], metrics: Metrics) -> None:
        self._app = app
        self._refusal = refusal
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == PATH and scope["method"] == "POST":
            error = self._refusal()
            if error is not None:
                scope["route"] = RefusedRoute(PATH)
                await error_response(error, self._metrics)(scope, receive, send)
                return
        await self._app(scope, receive, send)
