"""Answers as bytes: every error in the one shape, counted by its code."""

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import compile_path

from service.errors import (
    BodyTooLargeError,
    InternalError,
    InvalidJsonError,
    InvalidRequestError,
    MethodNotAllowedError,
    NotFoundError,
    RequestError,
)
from service.metrics import Metrics
from service.schemas import ErrorAnswer, ErrorDetail, body_field_path, sentence


def json_response(answer: BaseModel) -> Response:
    """An answer that fits its schema."""
    return Response(answer.model_dump_json(), media_type="application/json")


def error_detail(error: RequestError) -> ErrorDetail:
    """The value of ``error`` in an answer."""
    return ErrorDetail(code=error.code, message=error.message, field=error.field, retryable=error.retryable)


def error_response(error: RequestError, metrics: Metrics) -> Response:
    """An error as the whole answer."""
    metrics.error(error.code)
    response = json_response(ErrorAnswer(error=error_detail(error)))
    response.status_code = error.status
    if error.retry_after is not None:
        response.headers["retry-after"] = str(error.retry_after)
    return response


def install_error_handlers(app: FastAPI, metrics: Metrics) -> None:
    """Give the framework's own errors our shape."""

    async def on_request_error(request: Request, error: Exception) -> Response:
        return error_response(error if isinstance(error, RequestError) else InternalError(), metrics)

    async def on_validation_error(request: Request, error: Exception) -> Response:
        problems = error.errors() if isinstance(error, RequestValidationError) else []
        return error_response(_validation_error(problems, request), metrics)

    async def on_http_exception(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        response = error_response(_http_error(status, request), metrics)
        if status == 405:
            response.headers["allow"] = ", ".join(_methods(request))
        return response

    app.add_exception_handler(RequestError, on_request_error)
    app.add_exception_handler(RequestValidationError, on_validation_error)
    app.add_exception_handler(HTTPException, on_http_exception)


def _methods(request: Request) -> list[str]:
    """What a path takes; each of its methods is a route of its own."""
    path = request.scope["path"]
    takes = {
        method
        for route in iter_route_contexts(request.app.routes)
        if route.path and compile_path(route.path)[0].match(path)
        for method in route.methods or ()
    }
    return sorted(takes)


def _validation_error(problems: Sequence[Any], request: Request) -> RequestError:
    problem, media_type = problems[0], request.headers.get("content-type", "").partition(";")[0].strip().lower()
    field = body_field_path(problem["loc"])
    if problem["type"] == "json_invalid":
        return InvalidJsonError("the body is not JSON; send a JSON object")
    if problem["loc"][0] == "body" and not media_type.endswith(("/json", "+json")):
        return InvalidJsonError("the body is not declared as JSON; send the header 'content-type: application/json'")
    if problem["type"] == "missing" and field is None:
        return InvalidJsonError("there is no body; send a JSON object")
    return InvalidRequestError(sentence(problem["type"], problem["msg"], problem.get("ctx")), field=field)


def _http_error(status: int, request: Request) -> RequestError:
    if status == 404:
        return NotFoundError("there is no such route; /openapi.json lists them")
    if status == 405:
        return MethodNotAllowedError(
            f"this route does not take {request.method[:16]}; /openapi.json lists what it takes"
        )
    if status == 400:
        return InvalidJsonError("the body is not JSON; send a JSON object")
    if status == 413:
        return BodyTooLargeError("the body is too large; split the request")
    return InternalError()
