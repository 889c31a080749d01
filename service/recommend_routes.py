"""``POST /recommend``: one request, or a batch that is answered row by row."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.answering import Recommended
from service.bundles.generation import Generation
from service.context import Context, RequestId, ServiceContext
from service.description import RECOMMEND_ERRORS, error_answers
from service.errors import ClientGoneError, InvalidRequestError, RequestError
from service.events.desk import UserHistory
from service.explanations import explanation_of
from service.limits import check_recommend, check_size
from service.queries import query_of, request_error
from service.recommend_schemas import (
    RecommendAnswer,
    RecommendBatch,
    RecommendBatchAnswer,
    RecommendBody,
    RecommendedItem,
    RecommendRequest,
    ValidAnswer,
)
from service.responses import error_detail
from service.schemas import ErrorAnswer, InvalidRow, invalid
from service.security.scopes import needs
from service.waiting import DeadlineHeader, collect, deadline_of
from sidera.errors import SideraError
from sidera.queries import Query

Users = Mapping[str, UserHistory | RequestError]
RowAnswer = RecommendAnswer | ValidAnswer | RequestError


@dataclass(frozen=True)
class _Row:
    """A row that can be computed."""

    request: RecommendRequest
    query: Query


def recommend_router() -> APIRouter:
    """The route."""
    router = APIRouter(tags=["recommend"], dependencies=[needs("recommend")])

    @router.post(
        "/recommend",
        operation_id="recommend",
        summary="Recommend the next items",
        response_model=RecommendAnswer | ValidAnswer | RecommendBatchAnswer,
        responses=error_answers(*RECOMMEND_ERRORS),
    )
    async def recommend(
        body: RecommendBody,
        request: Request,
        context: Context,
        request_id: RequestId,
        deadline_ms: DeadlineHeader = None,
    ) -> Response:
        """Recommend the next items of a domain, best first.

        The body is one request, or `{"requests": [...]}`, which is answered by `{"results": [...]}` with an answer or
        an error a row: one bad row never fails its neighbours. All rows are computed or, where the queue is full, none.
        The first filter on a field may take seconds; later ones do not.
        """
        rows = body.requests if isinstance(body, RecommendBatch) else [body]
        check_size("requests", len(rows), context.settings.max_rows)
        request.state.charge(len(rows))
        deadline = deadline_of(deadline_ms, context.settings.deadline_ms)
        answers = await _Answering(request, context, request_id, deadline).answers(rows)
        if isinstance(body, RecommendBatch):
            for answer in answers:
                if isinstance(answer, RequestError):
                    context.metrics.error(answer.code)
            results = [
                ErrorAnswer(error=error_detail(answer)) if isinstance(answer, RequestError) else answer
                for answer in answers
            ]
            return context.answer(RecommendBatchAnswer(results=results))
        if isinstance(answers[0], RequestError):
            raise answers[0]
        return context.answer(answers[0])

    return router


class _Answering:
    """Answers the rows of one request, with one generation."""

    def __init__(self, request: Request, context: ServiceContext, request_id: str, deadline: float) -> None:
        self._request = request
        self._context = context
        self._request_id = request_id
        self._deadline = deadline
        self._running: Generation = context.runtime.running()

    async def answers(self, rows: Sequence[RecommendRequest | InvalidRow]) -> list[RowAnswer]:
        """One answer or error a row, in order.

        Raises:
            RequestError: none of them can be answered.
        """
        users = await self._users(rows)
        checked = await self._checked([_understood(row, self._context, users) for row in rows])
        good = [row for row in checked if isinstance(row, _Row)]
        self._check_work(good)
        outcomes = iter(await self._computed([row.query for row in good if not row.request.validate_only]))
        answers: list[RowAnswer] = []
        for row in checked:
            if isinstance(row, RequestError):
                answers.append(row)
            elif row.request.validate_only:
                answers.append(self._valid(row.query))
            else:
                answers.append(self._answer(row.query, next(outcomes)))
        return answers

    async def _users(self, rows: Sequence[RecommendRequest | InvalidRow]) -> Users:
        """What is stored of the users that rows name, or why it cannot be read."""
        named = {row.user_id: None for row in rows if isinstance(row, RecommendRequest) and row.user_id is not None}
        if not named:
            return {}
        desk = self._context.runtime.events
        read = await collect(desk.ask(list(named), self._deadline), self._deadline, self._request.receive)
        return {
            user_id: self._context.blame(found, self._request_id)
            if isinstance(found, BaseException)
            else desk.history(found)
            for user_id, found in zip(named, read, strict=True)
        }

    async def _checked(self, rows: Sequence[_Row | RequestError]) -> list[_Row | RequestError]:
        """Refuse the rows that the catalog does not fit, and get ready what their filters need."""

        def check() -> list[_Row | RequestError]:
            return [row if isinstance(row, RequestError) else self._check(row) for row in rows]

        if any(isinstance(row, _Row) and row.query.conditions for row in rows):
            return await self._context.checker.run(check, self._deadline)
        return check()

    def _check(self, row: _Row) -> _Row | RequestError:
        try:
            self._running.check(row.query)
        except SideraError as error:
            return request_error(error)
        return row

    def _check_work(self, rows: Sequence[_Row]) -> None:
        tokens, most = sum(self._tokens(row.query) for row in rows), self._context.settings.max_request_tokens
        if tokens > most:
            raise InvalidRequestError(
                f"the request is {tokens} tokens of work, but at most {most} are allowed; send fewer rows, shorter "
                "histories or narrower beams, or ask for fewer explanations"
            )

    def _tokens(self, query: Query) -> int:
        return self._running.recommender.cost(query).total

    async def _computed(self, queries: Sequence[Query]) -> list[Recommended | BaseException]:
        if queries and await self._request.is_disconnected():
            raise ClientGoneError("the client closed the connection before its request was queued")
        submitted = time.monotonic()
        futures = self._running.recommender.submit(queries, self._deadline) if queries else []
        outcomes = await collect(futures, self._deadline, self._request.receive)
        self._request.state.trace.rows(submitted, outcomes)
        return outcomes

    def _answer(self, query: Query, outcome: Recommended | BaseException) -> RecommendAnswer | RequestError:
        if isinstance(outcome, BaseException):
            return self._context.blame(outcome, self._request_id)
        found = outcome.recommendation
        self._context.metrics.recommended(len(found.items), found.beams, found.fallback)
        if len(found.items) < query.num_results:
            self._context.metrics.short_result()
        return RecommendAnswer(
            items=[
                RecommendedItem(
                    item_id=item.item_id,
                    score=item.score,
                    rank=rank,
                    sid=list(item.sid),
                    title=item.title,
                    explanation=None if item.explanation is None else explanation_of(item.explanation),
                )
                for rank, item in enumerate(found.items, start=1)
            ],
            missing_ids=[item_id for _, item_id in found.missing],
            domain=query.domain,
            request_id=self._request_id,
            bundle_version=self._running.description.bundle_version,
            catalog_version=outcome.catalog_version,
            exact=found.exact,
            fallback="prior" if found.fallback is not None else None,
            returned_reason=found.returned_reason,
        )

    def _valid(self, query: Query) -> ValidAnswer:
        catalog = self._running.catalog.catalog
        return ValidAnswer(
            valid=True,
            tokens=self._tokens(query),
            missing_ids=[item_id for domain, item_id in query.history if catalog.find(domain, item_id) is None],
            domain=query.domain,
            request_id=self._request_id,
            bundle_version=self._running.description.bundle_version,
            catalog_version=catalog.version,
        )


def _understood(row: RecommendRequest | InvalidRow, context: ServiceContext, users: Users) -> _Row | RequestError:
    if isinstance(row, InvalidRow):
        return invalid(row)
    user = None if row.user_id is None else users[row.user_id]
    if isinstance(user, RequestError):
        return user
    try:
        check_recommend(row, context.settings)
        return _Row(row, query_of(row, user))
    except RequestError as error:
        return error
