"""``POST /events``: what users do is stored, and learnt from within seconds."""

import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from pydantic import TypeAdapter
from starlette.responses import Response

from service.context import Context, RequestId, ServiceContext
from service.description import EVENT_ERRORS, error_answers
from service.errors import InvalidRequestError, RequestError
from service.event_schemas import EventBatch, EventResult, EventsAnswer, EventsBody
from service.events.desk import EventDesk
from service.events.rows import Event, Outcome
from service.limits import check_size
from service.metrics import Metrics
from service.responses import error_detail
from service.schemas import InvalidRow, invalid
from service.security.scopes import needs
from service.waiting import DeadlineHeader, collect, deadline_of
from sidera.catalog import Catalog
from sidera.errors import CatalogError
from sidera.names import check_domain_name

Result = Mapping[str, Any]
"""What :class:`service.event_schemas.EventResult` says, without an object of it for each of thousands a second."""


_ANSWER = TypeAdapter[Any](Any)


class _Patient(APIRoute):
    """Takes a body apart in a moment in which no recommendation is computed, if one comes soon."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def wait_and_handle(request: Request) -> Response:
            context: ServiceContext = request.app.state.context
            await context.runtime.patience.on_loop()
            return await handle(request)

        return wait_and_handle


def event_router() -> APIRouter:
    """The route."""
    router = APIRouter(tags=["events"], dependencies=[needs("events")], route_class=_Patient)

    @router.post(
        "/events",
        operation_id="events",
        summary="Store what users did",
        response_model=EventResult | EventsAnswer,
        responses=error_answers(*EVENT_ERRORS),
    )
    async def events(
        body: EventsBody,
        request: Request,
        context: Context,
        request_id: RequestId,
        deadline_ms: DeadlineHeader = None,
    ) -> Response:
        """Store one event, or `{"events": [...]}`, which is answered by `{"results": [...]}` with a result a row.

        What is accepted survives a crash, and counts in recommendations of every replica within seconds. An event that
        is sent again is a duplicate and counts once, so a request that got no answer is best sent again. Events may
        come late and in any order. An event of an item that the catalog does not hold is kept, and counts once the item
        is registered.
        """
        rows: Sequence[Event | InvalidRow] = body.events if isinstance(body, EventBatch) else [body.event()]
        check_size("events", len(rows), context.settings.max_events)
        request.state.charge(len(rows))
        running, desk = context.runtime.running(), context.runtime.events
        checking = _Checking(running.catalog.catalog, desk, context.settings.event_skew_seconds)
        checked = [checking.event(row) for row in rows]
        good = [event for event in checked if isinstance(event, Event)]
        outcomes: Iterator[Outcome] = iter(())
        if good:
            deadline = deadline_of(deadline_ms, context.settings.deadline_ms)
            [stored] = await collect([desk.put(good, deadline)], deadline, request.receive)
            if isinstance(stored, BaseException):
                raise context.blame(stored, request_id)
            outcomes = iter(stored)
        results = [
            _rejected(row, event)
            if isinstance(event, RequestError)
            else _result(event, next(outcomes), checking.unknown(event))
            for row, event in zip(rows, checked, strict=True)
        ]
        _count(results, context.metrics)
        if not isinstance(body, EventBatch) and isinstance(checked[0], RequestError):
            raise checked[0]
        for code in (result["error"].code for result in results if "error" in result):
            context.metrics.error(code)
        with context.metrics.serialisation():
            answer = _ANSWER.dump_json({"results": results} if isinstance(body, EventBatch) else results[0])
        return Response(answer, media_type="application/json")

    return router


class _Checking:
    """Checks the rows of one request."""

    def __init__(self, catalog: Catalog, desk: EventDesk, skew_seconds: float) -> None:
        self._catalog = catalog
        self._desk = desk
        self._latest_us = int((time.time() + skew_seconds) * 1e6)

    def event(self, row: Event | InvalidRow) -> Event | RequestError:
        """A row as an event, or why it is none."""
        if isinstance(row, InvalidRow):
            return invalid(row)
        if row.happened_us > self._latest_us:
            return InvalidRequestError(
                "the time lies in the future; send unix seconds, not milliseconds, of a clock that is right",
                field="timestamp",
            )
        if row.kind not in self._desk.weights:
            return InvalidRequestError(
                f"there is no type {row.kind!r} here; the types are {', '.join(self._desk.weights)}", field="type"
            )
        if row.domain not in self._catalog.indexes:
            try:
                check_domain_name(row.domain)
            except CatalogError as error:
                return InvalidRequestError(str(error), field="domain")
        return row

    def unknown(self, event: Event) -> Literal["domain", "item"] | None:
        """What of it the catalog does not hold."""
        if self._desk.numbers.of(self._catalog, event.domain, event.item_id) is not None:
            return None
        return "item" if event.domain in self._catalog.indexes else "domain"


def _rejected(row: Event | InvalidRow, error: RequestError) -> Result:
    event_id = row.item_id if isinstance(row, InvalidRow) else row.event_id
    return {"event_id": event_id, "outcome": "rejected", "error": error_detail(error)}


def _result(event: Event, outcome: Outcome, unknown: Literal["domain", "item"] | None) -> Result:
    if outcome == "forgotten":
        error = InvalidRequestError("the user was deleted after this happened; it stays forgotten", field="user_id")
        return _rejected(event, error)
    if unknown is not None:
        return {"event_id": event.event_id, "outcome": outcome, "unknown": unknown}
    return {"event_id": event.event_id, "outcome": outcome}


def _count(results: Sequence[Result], metrics: Metrics) -> None:
    for outcome, count in Counter(result["outcome"] for result in results).items():
        metrics.events.rows(outcome, count)
    metrics.events.unknown(sum("unknown" in result for result in results))
