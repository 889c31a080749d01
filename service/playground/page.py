"""Serves the playground: a few files that are read once, and need no key, for they tell nothing of the catalog.

What the page shows it asks of the API, with the key that its user types. Nothing comes from another host.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from service.errors import NotFoundError
from service.security.scopes import needs_no_key

PAGE_FOLDER = "/playground/"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_INDEX = "index.html"


@dataclass(frozen=True)
class _File:
    content: bytes
    media_type: str
    tag: str


def playground_router() -> APIRouter:
    """The routes."""
    router = APIRouter(include_in_schema=False, dependencies=[needs_no_key()])
    files = _files()

    @router.get("/")
    @router.get(PAGE_FOLDER.rstrip("/"))
    async def folder() -> Response:
        return RedirectResponse("playground/", 307)

    @router.get(PAGE_FOLDER + "{name:path}")
    async def file(name: str, request: Request) -> Response:
        found = files.get(name or _INDEX)
        if found is None:
            raise NotFoundError("the playground has no such file; open /playground/")
        headers = {"etag": found.tag, "cache-control": "no-cache", "content-security-policy": _POLICY}
        if request.headers.get("if-none-match") == found.tag:
            return Response(status_code=304, headers=headers)
        return Response(found.content, headers=headers, media_type=found.media_type)

    return router


def _files() -> dict[str, _File]:
    found = {}
    for path in sorted((Path(__file__).parent / "static").iterdir()):
        content = path.read_bytes()
        tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        found[path.name] = _File(content, _TYPES[path.suffix], tag)
    return found
