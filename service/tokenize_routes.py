"""``POST /tokenize``: the SIDs of items, and their registration."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.catalog.asking import ask
from service.catalog.live import NewItem, Placement
from service.catalog.tasks import Tokenized, TokenizeTask
from service.context import Context, RequestId, ServiceContext
from service.description import TOKENIZE_ERRORS, error_answers
from service.errors import DuplicateRowError, ForbiddenError, InvalidRequestError, NoFreeSidError, RequestError
from service.limits import check_item, check_size
from service.responses import error_detail, json_response
from service.schemas import InvalidRow, TokenizeAnswer, TokenizedItem, TokenizeItem, TokenizeRequest, invalid
from service.security.scopes import needs
from service.waiting import DeadlineHeader
from sidera.errors import CatalogError
from sidera.names import check_domain_name


def tokenize_router() -> APIRouter:
    """The route."""
    router = APIRouter(tags=["tokenize"], dependencies=[needs("tokenize")])

    @router.post(
        "/tokenize",
        operation_id="tokenize",
        summary="Give items their semantic IDs",
        response_model=TokenizeAnswer,
        responses=error_answers(*TOKENIZE_ERRORS),
    )
    async def tokenize(
        body: TokenizeRequest,
        request: Request,
        context: Context,
        request_id: RequestId,
        deadline_ms: DeadlineHeader = None,
    ) -> Response:
        """Return the semantic ID that each item has, or would get now.

        With `register` the items join the catalog, survive a restart, and can be recommended once this answers; the
        domain may be a new one. The same text again changes nothing; changed text replaces what is kept of an item,
        but never its semantic ID; a deleted item comes back. An item that has none says why in `error`, while the
        others go on.
        """
        _check_request(body, context)
        request.state.charge(len(body.items))
        running = context.runtime.running()
        rows = _checked_rows(body, context)
        items = [row for row in rows if isinstance(row, NewItem)]
        tokenized = Tokenized((), running.catalog.catalog.version)
        if items:
            task = TokenizeTask(body.domain, tuple(items), body.register_)
            tokenized = await ask(task, running, request, context, request_id, deadline_ms)
        placements = iter(tokenized.placements)
        answers = [
            _answer(row.item_id, next(placements), body.domain) if isinstance(row, NewItem) else row for row in rows
        ]
        for answer in answers:
            _count(answer, body.register_, context)
        return json_response(
            TokenizeAnswer(
                items=answers,
                tokenizer_version=running.description.tokenizer_digest,
                catalog_version=tokenized.catalog_version,
            )
        )

    return router


def _check_request(body: TokenizeRequest, context: ServiceContext) -> None:
    check_size("items", len(body.items), context.settings.max_tokenize_items)
    try:
        check_domain_name(body.domain)
    except CatalogError as error:
        raise InvalidRequestError(str(error), field="domain") from error
    if body.register_ and not context.settings.allow_register:
        raise ForbiddenError(
            "registering items is switched off on this service (SIDERA_ALLOW_REGISTER)", field="register"
        )


def _checked_rows(body: TokenizeRequest, context: ServiceContext) -> list[NewItem | TokenizedItem]:
    """Each row as an item that has text, or as the answer that says why it is none."""
    rows: list[NewItem | TokenizedItem] = []
    seen: set[str] = set()
    for row in body.items:
        try:
            item = _checked(row, context)
            if item.item_id in seen:
                raise DuplicateRowError("this item_id is in the request twice; send it once", field="item_id")
            seen.add(item.item_id)
            rows.append(item)
        except RequestError as error:
            rows.append(_failed(row.item_id, error))
    return rows


def _checked(row: TokenizeItem | InvalidRow, context: ServiceContext) -> NewItem:
    if isinstance(row, InvalidRow):
        raise invalid(row)
    check_item(row, context.settings)
    return NewItem(row.item_id, row.fields())


def _answer(item_id: str, placement: Placement, domain: str) -> TokenizedItem:
    if placement.sid is None:
        error = NoFreeSidError(f"domain {domain!r} has no free semantic ID left; train a bundle with larger codebooks")
        return _failed(item_id, error)
    return TokenizedItem(
        item_id=item_id, sid=list(placement.sid), moved=placement.moved, registered=placement.registered
    )


def _failed(item_id: str | None, error: RequestError) -> TokenizedItem:
    return TokenizedItem(item_id=item_id, sid=None, moved=False, registered=False, error=error_detail(error))


def _count(answer: TokenizedItem, register: bool, context: ServiceContext) -> None:
    if answer.error is not None:
        context.metrics.error(answer.error.code)
        context.metrics.tokenized("failed")
    elif register:
        context.metrics.tokenized("registered")
    else:
        context.metrics.tokenized("known" if answer.registered else "placed")
