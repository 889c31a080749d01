"""Every public route as a call: what is sent, and how its answer is read. Nothing here sends anything."""

import email.utils
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from sidera_client.answers import (
    CatalogItem,
    Deleted,
    DeletedUser,
    ErrorAnswer,
    ErrorDetail,
    EventsStored,
    Info,
    Recommendation,
    RecommendBatchAnswer,
    Tokenized,
    UserHistory,
    Validation,
)
from sidera_client.errors import ApiError, ServerFailedError, UnavailableError, UnexpectedAnswerError, kind_of_status
from sidera_client.models import Event, Item, RecommendRequest

Read = TypeVar("Read")
AnswerModel = TypeVar("AnswerModel", bound=BaseModel)

DEADLINE_HEADER = "x-sidera-deadline-ms"
"""Tells the service how many milliseconds the client waits, so that nothing is computed for nobody."""


@dataclass(frozen=True)
class Call(Generic[Read]):
    """One request, and what makes a value of its answer."""

    method: str
    path: str
    read: Callable[[httpx.Response], Read]
    body: bytes | None = None

    def headers(self, seconds: float) -> dict[str, str]:
        """What this call sends beside the client's own headers.

        Args:
            seconds: how long the answer is waited for.
        """
        told = {DEADLINE_HEADER: str(max(1, int(seconds * 1000)))}
        return told if self.body is None else told | {"content-type": "application/json"}


def recommend(request: RecommendRequest) -> Call[Recommendation]:
    """``POST /recommend`` of one request."""
    return Call("POST", "/recommend", _reader(Recommendation), _json(request.as_json()))


def validate(request: RecommendRequest) -> Call[Validation]:
    """``POST /recommend`` that checks everything and computes nothing."""
    return Call("POST", "/recommend", _reader(Validation), _json(request.as_json() | {"validate_only": True}))


def recommend_batch(requests: Sequence[RecommendRequest]) -> Call[list[Recommendation | ApiError]]:
    """``POST /recommend`` of several; a row that failed is an error in its place."""

    def read(response: httpx.Response) -> list[Recommendation | ApiError]:
        rows = _reader(RecommendBatchAnswer)(response).results
        if len(rows) != len(requests):
            raise UnexpectedAnswerError(f"{len(requests)} rows were sent, {len(rows)} came back")
        return [row if isinstance(row, Recommendation) else row_error(row.error) for row in rows]

    body = {"requests": [request.as_json() for request in requests]}
    return Call("POST", "/recommend", read, _json(body))


def tokenize(domain: str, items: Sequence[Item], register: bool) -> Call[Tokenized]:
    """``POST /tokenize``."""
    body = {"domain": domain, "items": [item.as_json() for item in items], "register": register}
    return Call("POST", "/tokenize", _reader(Tokenized), _json(body))


def item(domain: str, item_id: str) -> Call[CatalogItem]:
    """``GET /items/{domain}/{item_id}``."""
    return Call("GET", path_of("items", domain, item_id), _reader(CatalogItem))


def patch_item(
    domain: str, item_id: str, fields: Mapping[str, Any], hidden: bool | None, retokenize: bool
) -> Call[CatalogItem]:
    """``PATCH /items/{domain}/{item_id}``."""
    body = {"fields": dict(fields), "hidden": hidden, "retokenize": retokenize}
    return Call("PATCH", path_of("items", domain, item_id), _reader(CatalogItem), _json(body))


def delete_item(domain: str, item_id: str) -> Call[Deleted]:
    """``DELETE /items/{domain}/{item_id}``."""
    return Call("DELETE", path_of("items", domain, item_id), _reader(Deleted))


def send_events(events: Sequence[Event]) -> Call[EventsStored]:
    """``POST /events`` of several."""

    def read(response: httpx.Response) -> EventsStored:
        stored = _reader(EventsStored)(response)
        if len(stored.results) != len(events):
            raise UnexpectedAnswerError(f"{len(events)} events were sent, {len(stored.results)} results came back")
        return stored

    return Call("POST", "/events", read, _json({"events": [event.as_json() for event in events]}))


def user_history(user_id: str) -> Call[UserHistory]:
    """``GET /users/{user_id}/history``."""
    return Call("GET", path_of("users", user_id, "history"), _reader(UserHistory))


def delete_user(user_id: str) -> Call[DeletedUser]:
    """``DELETE /users/{user_id}``."""
    return Call("DELETE", path_of("users", user_id), _reader(DeletedUser))


def info() -> Call[Info]:
    """``GET /v1/info``."""
    return Call("GET", "/v1/info", _reader(Info))


def health(which: str) -> Call[None]:
    """``GET /health/live`` or ``GET /health/ready``."""
    return Call("GET", f"/health/{which}", lambda response: None)


def error_of(response: httpx.Response) -> ApiError | None:
    """The error that an answer tells of; None for a success."""
    if response.is_success:
        return None
    retry_after = _retry_after(response.headers)
    request_id = response.headers.get("x-request-id")
    try:
        detail = ErrorAnswer.model_validate_json(response.content).error
    except ValidationError:
        # A proxy in front of the service answers for it, in words of its own.
        away = response.status_code in (502, 503, 504)
        return (UnavailableError if away else ServerFailedError)(
            f"the answer is {response.status_code} {response.reason_phrase}, and not in the service's words",
            code="not_the_service",
            retryable=away,
            status=response.status_code,
            retry_after=retry_after,
            request_id=request_id,
        )
    return kind_of_status(response.status_code)(
        detail.message,
        code=detail.code,
        retryable=detail.retryable,
        field=detail.field,
        status=response.status_code,
        retry_after=retry_after,
        request_id=request_id,
    )


def row_error(detail: ErrorDetail) -> ApiError:
    """The error of one row of a batch."""
    return ApiError(detail.message, code=detail.code, retryable=detail.retryable, field=detail.field)


def path_of(*parts: str) -> str:
    """A path of these segments, each of them quoted whole."""
    return "".join("/" + quote(part, safe="") for part in parts)


def _reader(model: type[AnswerModel]) -> Callable[[httpx.Response], AnswerModel]:
    def read(response: httpx.Response) -> AnswerModel:
        try:
            return model.model_validate_json(response.content)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, problem["loc"])) or "the answer"
            raise UnexpectedAnswerError(
                f"{response.request.url}: {where}: {problem['msg']}; is this the service, and of this version?"
            ) from error

    return read


def _json(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, from a number or a date (RFC 9110, 10.2.3); None where there is no readable one."""
    told = headers.get("retry-after")
    if told is None:
        return None
    if told.strip().isdigit():
        return float(told)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(told).timestamp() - time.time())
    except ValueError:
        return None
