"""What a key may do, and how a route says what it needs.

A route, or a whole router, declares it in one line: ``APIRouter(dependencies=[needs("admin")])``. Every route declares
exactly one of :func:`needs`, :func:`needs_any_key` and :func:`needs_no_key`; a test walks all routes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from fastapi import Depends, FastAPI, Request
from fastapi.routing import iter_route_contexts

from service.errors import ForbiddenError

Scope = Literal["recommend", "tokenize", "events", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)


@dataclass(frozen=True)
class Caller:
    """Who sent a request, as ``scope["state"]["caller"]``: a key's name (never the key), and what it may do."""

    name: str
    scopes: frozenset[Scope]


EVERYBODY = Caller("everybody", frozenset(SCOPES))
"""The caller of a service without keys."""


@dataclass(frozen=True)
class Access:
    """The declaration of a route, and its check: a dependency that FastAPI calls before the route.

    Attributes:
        scope: what the key must have; None: nothing.
        key: whether a key is needed at all.
    """

    scope: Scope | None
    key: bool = True

    async def __call__(self, request: Request) -> None:
        """Raise a ForbiddenError unless the caller has the scope."""
        if self.scope is None:
            return
        caller: Caller = request.state.caller  # an app without the layer that sets it fails, and lets nobody in
        if self.scope not in caller.scopes:
            raise ForbiddenError(f"this key has not the scope {self.scope!r}; use a key that has it")


def needs(scope: Scope) -> Any:
    """A dependency: only keys with this scope."""
    return Depends(Access(scope))


def needs_any_key() -> Any:
    """A dependency: any known key."""
    return Depends(Access(None))


def needs_no_key() -> Any:
    """A dependency: open to everybody, like probes."""
    return Depends(Access(None, key=False))


def declared(app: FastAPI) -> dict[str, tuple[Access, ...]]:
    """By ``METHOD path``: what each route declares. Not FastAPI's own route of the description, which needs a key."""
    return {
        f"{method} {getattr(route, 'path_format', route.path)}": tuple(
            _accesses(getattr(route, "dependencies", None) or ())
        )
        for route in iter_route_contexts(app.routes)
        if route.path != app.openapi_url
        for method in sorted(route.methods or ())
    }


def _accesses(dependencies: Sequence[Any]) -> list[Access]:
    return [depends.dependency for depends in dependencies if isinstance(depends.dependency, Access)]
