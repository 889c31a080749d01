"""``POST /recommend``: one request, or a batch that is answered row by row."""

import time
from collections.abc import Sequence

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.context import Context, RequestId, ServiceContext
from service.description import RECOMMEND_ERRORS, error_answers
from service.errors import DomainNotFoundError, RequestError
from service.limits import check_recommend, check_size
from service.responses import error_detail, json_response
from service.runtime import Recommended, Running, query_of
from service.schemas import (
    ErrorAnswer,
    InvalidRow,
    RecommendAnswer,
    RecommendBatch,
    RecommendBatchAnswer,
    RecommendBody,
    RecommendedItem,
    RecommendRequest,
    invalid,
)
from service.waiting import collect


def recommend_router() -> APIRouter:
    """The route."""
    router = APIRouter(tags=["recommend"])

    @router.post(
        "/recommend",
        operation_id="recommend",
        summary="Recommend the next items",
        response_model=RecommendAnswer | RecommendBatchAnswer,
        responses=error_answers(*RECOMMEND_ERRORS),
    )
    async def recommend(body: RecommendBody, request: Request, context: Context, request_id: RequestId) -> Response:
        """Recommend the next items of a domain, best first.

        The body is one request, or `{"requests": [...]}`, which is answered by `{"results": [...]}` with an answer or
        an error a row: one bad row never fails its neighbours.
        """
        rows = body.requests if isinstance(body, RecommendBatch) else [body]
        check_size("requests", len(rows), context.settings.max_rows)
        answers = await _answer_rows(rows, request, context, request_id)
        if isinstance(body, RecommendBatch):
            for answer in answers:
                if isinstance(answer, RequestError):
                    context.metrics.error(answer.code)
            results = [
                ErrorAnswer(error=error_detail(answer)) if isinstance(answer, RequestError) else answer
                for answer in answers
            ]
            return json_response(RecommendBatchAnswer(results=results))
        if isinstance(answers[0], RequestError):
            raise answers[0]
        return json_response(answers[0])

    return router


async def _answer_rows(
    rows: Sequence[RecommendRequest | InvalidRow], request: Request, context: ServiceContext, request_id: str
) -> list[RecommendAnswer | RequestError]:
    running = context.runtime.running()
    deadline = time.monotonic() + context.settings.deadline_ms / 1000
    checked = [_checked(row, running, context) for row in rows]
    valid = [row for row in checked if isinstance(row, RecommendRequest)]
    futures = running.recommender.submit([query_of(row) for row in valid], deadline) if valid else []
    collected = await collect(futures, deadline, request.receive)
    outcomes = iter(collected)
    answers: list[RecommendAnswer | RequestError] = []
    for row in checked:
        if isinstance(row, RequestError):
            answers.append(row)
            continue
        outcome = next(outcomes)
        if isinstance(outcome, BaseException):
            answers.append(context.blame(outcome, request_id))
            continue
        recommendation = outcome.recommendation
        context.metrics.recommended(len(recommendation.items), recommendation.beams, recommendation.fallback)
        answers.append(_answer(row, outcome, running, request_id))
    return answers


def _checked(
    row: RecommendRequest | InvalidRow, running: Running, context: ServiceContext
) -> RecommendRequest | RequestError:
    if isinstance(row, InvalidRow):
        return invalid(row)
    try:
        check_recommend(row, context.settings)
    except RequestError as error:
        return error
    if row.domain not in running.catalog.catalog.indexes:
        return DomainNotFoundError(f"there is no domain {row.domain!r}; /v1/info lists the domains", field="domain")
    return row


def _answer(row: RecommendRequest, outcome: Recommended, running: Running, request_id: str) -> RecommendAnswer:
    recommendation = outcome.recommendation
    return RecommendAnswer(
        items=[
            RecommendedItem(item_id=item.item_id, score=item.score, rank=rank, sid=list(item.sid), title=item.title)
            for rank, item in enumerate(recommendation.items, start=1)
        ],
        missing_ids=[item_id for _, item_id in recommendation.missing],
        domain=row.domain,
        request_id=request_id,
        bundle_version=running.description.bundle_version,
        catalog_version=outcome.catalog_version,
        exact=recommendation.exact,
        fallback="prior" if recommendation.fallback is not None else None,
        returned_reason=recommendation.returned_reason,
    )
