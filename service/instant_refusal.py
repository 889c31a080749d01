"""Refuses ``POST /recommend`` in the protocol while the queue is full, before a task, an app or a layer is made for it.

At ten times the capacity nine of ten requests are refused, on the one interpreter that the engine needs too: what the
layers take for a refusal, some milliseconds of a busy machine, would be taken from those let in. The answer, its
headers, its count and its line of log are those that the layers make (``middleware``, ``security.access``,
``early_refusal``); a request of whose answer something else decides goes through them.
"""

from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Scope

from service.early_refusal import PATH, RefusedRoute
from service.errors import RequestError
from service.layers import Layers
from service.responses import error_response


class InstantRefusal:
    """See the module. ``refusal`` gives the error of a row that would come now; None while one would be let in."""

    def __init__(self, layers: Layers, refusal: Callable[[], RequestError | None]) -> None:
        self._layers = layers
        self._refusal = refusal

    def may_refuse(self, scope: Scope) -> bool:
        """Whether a request, whose headers have come, would be refused now."""
        return (
            scope["method"] == "POST"
            and scope["path"] == PATH
            and not self._needs_layers(Headers(scope=scope))
            and self._refusal() is not None
        )

    def answer(self, scope: Scope) -> Response | None:
        """The refusal of a request that has come as a whole, counted and logged; None: the queue has room again."""
        error = self._refusal()
        if error is None:
            return None
        context = self._layers.context
        opened = context.open(scope)
        scope["route"] = RefusedRoute(PATH)
        response = self._layers.door.turn_away(scope) or error_response(error, context.metrics)
        opened.dress(response.headers)
        context.record(scope, opened, response.status_code)
        return response

    def _needs_layers(self, headers: Headers) -> bool:
        """Whether CORS has a word in the answer, or the body may be too large."""
        settings = self._layers.settings
        length = headers.get("content-length", "")
        small = length.isascii() and length.isdigit() and len(length) < 12 and int(length) <= settings.max_body_bytes
        return not small or (bool(settings.cors_origins) and "origin" in headers)
