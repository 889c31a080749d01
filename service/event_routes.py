"""``POST /events``: what users do is stored, and learnt from within seconds."""

import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.routing import APIRoute
from pydantic import TypeAdapter
from starlette.responses import Response

from service.context import Context, ServiceContext
from service.description import EVENT_ERRORS, error_answers
from service.errors import InvalidRequestError, RequestError
from service.event_schemas import EventBatch, EventResult, EventsAnswer, EventsBody, plain_events
from service.events.desk import EventDesk
from service.events.rows import Event, Outcome
from service.limits import check_size
from service.metrics import Metrics
from service.responses import error_detail
from service.schemas import InvalidRow, invalid
from service.security.scopes import Access
from service.waiting import DeadlineHeader, collect, deadline_of
from sidera.catalog import Catalog
from sidera.errors import CatalogError
from sidera.names import check_domain_name

Result = Mapping[str, Any]
"""What :class:`service.event_schemas.EventResult` says, without an object of it for each of thousands a second."""

_ANSWER = TypeAdapter[Any](Any)
_ACCESS = Access("events")
_DEADLINE = "x-sidera-deadline-ms"


class _Patient(APIRoute):
    """Takes a body apart in a moment in which no recommendation is computed, if one comes soon.

    A batch of plain rows goes by a short way: it is read as a whole, and answered like any other.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def wait_and_handle(request: Request) -> Response:
            context: ServiceContext = request.app.state.context
            await context.runtime.patience.on_loop()
            is_plain = request.headers.get("content-type") == "application/json" and _DEADLINE not in request.headers
            if is_plain:
                await _ACCESS(request)
                rows = plain_events(await request.body())
                if rows is not None:
                    return await _answered(rows, request, context)
            return await handle(request)

        return wait_and_handle


def event_router() -> APIRouter:
    """The route."""
    router = APIRouter(tags=["events"], dependencies=[Depends(_ACCESS)], route_class=_Patient)

    @router.post(
        "/events",
        operation_id="events",
        summary="Store what users did",
        response_model=EventResult | EventsAnswer,
        responses=error_answers(*EVENT_ERRORS),
    )
    async def events(
        body: EventsBody, request: Request, context: Context, deadline_ms: DeadlineHeader = None
    ) -> Response:
        """Store one event, or `{"events": [...]}`, which is answered by `{"results": [...]}` with a result a row.

        What is accepted survives a crash, and counts in recommendations of every replica within seconds. An event that
        is sent again is a duplicate and counts once, so a request that got no answer is best sent again. Events may
        come late and in any order. An event of an item that the catalog does not hold is kept, and counts once the item
        is registered.
        """
        rows = body.events if isinstance(body, EventBatch) else [body.event()]
        return await _answered(rows, request, context, deadline_ms, is_batch=isinstance(body, EventBatch))

    return router


async def _answered(
    rows: Sequence[Event | InvalidRow],
    request: Request,
    context: ServiceContext,
    deadline_ms: int | None = None,
    *,
    is_batch: bool = True,
) -> Response:
    """Store what can be stored of the rows, and tell what became of each."""
    check_size("events", len(rows), context.settings.max_events)
    request.state.charge(len(rows))
    running, desk = context.runtime.running(), context.runtime.events
    catalog = running.catalog.catalog
    checked = _Checking(catalog, desk, context.settings.event_skew_seconds).events(rows)
    good = [event for event in checked if isinstance(event, Event)]
    outcomes: Sequence[Outcome] = ()
    if good:
        deadline = deadline_of(deadline_ms, context.settings.deadline_ms)
        [stored] = await collect([desk.put(good, deadline)], deadline, request.receive)
        if isinstance(stored, BaseException):
            raise context.blame(stored, request.state.request_id)
        outcomes = stored
    results = _results(good, outcomes, desk.numbers.of_all(catalog, [event[2:4] for event in good]), catalog)
    if len(good) < len(rows):
        told = iter(results)
        results = [
            _rejected(row, event) if isinstance(event, RequestError) else next(told)
            for row, event in zip(rows, checked, strict=True)
        ]
    _count(results, context.metrics)
    if not is_batch and isinstance(checked[0], RequestError):
        raise checked[0]
    if not is_batch and outcomes[0] == "forgotten":
        raise _forgotten()
    for code in (result["error"].code for result in results if "error" in result):
        context.metrics.error(code)
    with context.metrics.serialisation():
        answer = _ANSWER.dump_json({"results": results} if is_batch else results[0])
    return Response(answer, media_type="application/json")


class _Checking:
    """Checks the rows of one request."""

    def __init__(self, catalog: Catalog, desk: EventDesk, skew_seconds: float) -> None:
        self._domains = catalog.indexes
        self._weights = desk.weights
        self._latest_us = int((time.time() + skew_seconds) * 1e6)

    def events(self, rows: Sequence[Event | InvalidRow]) -> Sequence[Event | RequestError]:
        """Each row as an event, or why it is none."""
        events = [row for row in rows if isinstance(row, Event)]
        if len(events) == len(rows):
            _, _, domains, _, kinds, times_us = zip(*events, strict=True)
            if (
                max(times_us) <= self._latest_us
                and self._weights.keys() >= {*kinds}
                and self._domains.keys() >= {*domains}
            ):
                return events
        return [self._event(row) for row in rows]

    def _event(self, row: Event | InvalidRow) -> Event | RequestError:
        if isinstance(row, InvalidRow):
            return invalid(row)
        if row.happened_us > self._latest_us:
            return InvalidRequestError(
                "the time lies in the future; send unix seconds, not milliseconds, of a clock that is right",
                field="timestamp",
            )
        if row.kind not in self._weights:
            return InvalidRequestError(
                f"there is no type {row.kind!r} here; the types are {', '.join(self._weights)}", field="type"
            )
        if row.domain not in self._domains:
            try:
                check_domain_name(row.domain)
            except CatalogError as error:
                return InvalidRequestError(str(error), field="domain")
        return row


def _rejected(row: Event | InvalidRow, error: RequestError) -> Result:
    event_id = row.item_id if isinstance(row, InvalidRow) else row.event_id
    return {"event_id": event_id, "outcome": "rejected", "error": error_detail(error)}


def _forgotten() -> RequestError:
    return InvalidRequestError("the user was deleted after this happened; it stays forgotten", field="user_id")


def _results(
    events: Sequence[Event], outcomes: Sequence[Outcome], numbers: Sequence[int | None], catalog: Catalog
) -> list[Result]:
    """What became of events; ``numbers`` are those of their items, None of what the catalog does not hold."""
    return [
        {"event_id": event.event_id, "outcome": outcome}
        if number is not None and outcome != "forgotten"
        else _odd_result(event, outcome, "item" if event.domain in catalog.indexes else "domain")
        for event, outcome, number in zip(events, outcomes, numbers, strict=True)
    ]


def _odd_result(event: Event, outcome: Outcome, unknown: Literal["domain", "item"]) -> Result:
    if outcome == "forgotten":
        return _rejected(event, _forgotten())
    return {"event_id": event.event_id, "outcome": outcome, "unknown": unknown}


def _count(results: Sequence[Result], metrics: Metrics) -> None:
    for outcome, count in Counter([result["outcome"] for result in results]).items():
        metrics.events.rows(outcome, count)
    metrics.events.unknown(sum(["unknown" in result for result in results]))
