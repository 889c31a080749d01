"""How the API describes itself: the errors of each route, the keys, and a page for people.

The page is plain HTML of our own: the usual documentation pages load their scripts from a foreign host, which a closed
network does not reach and a careful one does not want.
"""

import html
import json
from collections.abc import Mapping
from typing import Any

import yaml
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service import errors
from service.errors import RequestError
from service.schemas import ErrorAnswer
from service.security.scopes import declared

COMMON_ERRORS: tuple[type[RequestError], ...] = (
    errors.InvalidJsonError,
    errors.UnauthorizedError,
    errors.ForbiddenError,
    errors.MethodNotAllowedError,
    errors.BodyTimeoutError,
    errors.BodyTooLargeError,
    errors.InvalidRequestError,
    errors.RateLimitedError,
    errors.QueueFullError,
    errors.InternalError,
    errors.NotReadyError,
    errors.DeadlineError,
)
RECOMMEND_ERRORS = (*COMMON_ERRORS, errors.DomainNotFoundError)
TOKENIZE_ERRORS = (*COMMON_ERRORS, errors.ConflictError)
EVENT_ERRORS = (*COMMON_ERRORS, errors.DatabaseDownError)
ITEM_ERRORS = (*TOKENIZE_ERRORS, errors.ItemNotFoundError)
VIEW_ERRORS = (*COMMON_ERRORS, errors.DomainNotFoundError)
INFO_ERRORS = (
    errors.UnauthorizedError,
    errors.MethodNotAllowedError,
    errors.BodyTimeoutError,
    errors.BodyTooLargeError,
    errors.RateLimitedError,
    errors.InternalError,
    errors.NotReadyError,
)
READY_ERRORS = (
    errors.MethodNotAllowedError,
    errors.BodyTimeoutError,
    errors.BodyTooLargeError,
    errors.InternalError,
    errors.NotReadyError,
)

_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key as 'Authorization: Bearer KEY'."},
    "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "An API key."},
}
_STYLE = "body{font:15px sans-serif;max-width:60em;margin:2em auto}pre{background:#f4f4f4;padding:1em;overflow:auto}"


def error_answers(*kinds: type[RequestError]) -> dict[int | str, dict[str, Any]]:
    """The errors of a route, for its description."""
    sentences: dict[int, list[str]] = {}
    for kind in sorted(kinds, key=lambda kind: kind.status):
        sentences.setdefault(kind.status, []).append((kind.__doc__ or kind.code).strip())
    return {status: {"model": ErrorAnswer, "description": " ".join(said)} for status, said in sentences.items()}


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of an app; it does not depend on settings."""
    document = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        description=app.description,
        routes=app.routes,
    )
    document["components"]["securitySchemes"] = _KEYS
    access_of = declared(app)
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            [access] = access_of[f"{method.upper()} {path}"]
            scopes = [] if access.scope is None else [access.scope]
            operation["security"] = [{}, *({name: [*scopes]} for name in _KEYS)] if access.key else []
    return document


def as_yaml(document: Mapping[str, Any]) -> str:
    """The document as YAML; the same document is always the same text."""
    return yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True, width=120)


def docs_page(document: Mapping[str, Any]) -> str:
    """The document as a page for people, without scripts."""
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{_text(document['info']['title'])}</title>",
        f"<style>{_STYLE}</style><h1>{_text(document['info']['title'])} {_text(document['info']['version'])}</h1>",
        f"<p>{_text(document['info'].get('description', ''))} The whole description: "
        "<a href=/openapi.json>/openapi.json</a>.</p>",
    ]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts.append(
                f"<h2>{_text(method.upper())} {_text(path)}</h2><p>{_text(operation.get('description', ''))}</p>"
            )
            body = operation.get("requestBody")
            if body is not None:
                parts.append(f"<h3>Body</h3>{_schema(body['content']['application/json']['schema'])}")
            parts.append("<ul>")
            for status, answer in operation["responses"].items():
                parts.append(f"<li>{_text(status)}: {_text(answer['description'])}</li>")
            parts.append("</ul>")
    parts.append("<h2>Schemas</h2>")
    for name, schema in document["components"]["schemas"].items():
        parts.append(f"<h3 id='{_text(name)}'>{_text(name)}</h3>{_schema(schema)}")
    return "".join(parts)


def _schema(schema: object) -> str:
    return f"<pre>{_text(json.dumps(schema, indent=2, ensure_ascii=False))}</pre>"


def _text(value: object) -> str:
    return html.escape(str(value))
