"""``/search``, ``/codes``, ``/fields``, ``/near``, ``/map``, ``/evaluation_users`` and ``/report``.

What a person looks at beside recommendations.
"""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, Response

from service.catalog_views import CatalogViews
from service.context import Context
from service.description import VIEW_ERRORS, error_answers
from service.errors import InvalidRequestError, NotFoundError
from service.queries import request_error
from service.security.scopes import needs
from service.view_schemas import (
    CodeAnswer,
    CodesAnswer,
    CodesRequest,
    EvaluationUser,
    EvaluationUsersAnswer,
    ExampleAnswer,
    FieldAnswer,
    FieldsAnswer,
    FieldsRequest,
    FieldValueAnswer,
    FoundItemAnswer,
    MapAnswer,
    MappedItem,
    NamedItem,
    NearAnswer,
    NearItemAnswer,
    NearRequest,
    SearchAnswer,
    SearchRequest,
)
from sidera.catalog import Catalog
from sidera.errors import CatalogError, UnknownDomainError

_REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; sandbox"


def view_router() -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["catalog"], dependencies=[needs("recommend")], responses=error_answers(*VIEW_ERRORS))

    @router.post("/search", operation_id="search", summary="Find items by words", response_model=SearchAnswer)
    async def search(body: SearchRequest, request: Request, context: Context) -> Response:
        """Find items by the words of their titles, the last one as far as it is typed, or by their ids.

        Small mistakes are forgiven. Registered and changed items are found at once, deleted ones no more; hidden ones
        are found, and said to be hidden. The first search of a new bundle may have to wait for its words: 503.
        """
        running = context.runtime.running()
        try:
            found, version = await _views(request).find(running, body.text, body.num_results, body.domain)
        except UnknownDomainError as error:
            raise request_error(error) from error
        items = [
            FoundItemAnswer(
                domain=one.domain, item_id=one.item_id, title=one.title, sid=list(one.sid), hidden=one.hidden
            )
            for one in found
        ]
        return context.answer(SearchAnswer(items=items, catalog_version=version))

    @router.post("/codes", operation_id="codes", summary="What codes stand for", response_model=CodesAnswer)
    async def codes(body: CodesRequest, request: Request, context: Context) -> Response:
        """Return what lies below a prefix of semantic IDs of a domain: its codes, how many items, and their words."""
        running = context.runtime.running()
        try:
            node, version = await _views(request).node(running, body.domain, tuple(body.prefix))
        except UnknownDomainError as error:
            raise request_error(error) from error
        except CatalogError as error:
            raise InvalidRequestError(str(error), field="prefix") from error
        return context.answer(
            CodesAnswer(
                domain=body.domain,
                prefix=body.prefix,
                items=node.items,
                codes=[
                    CodeAnswer(
                        code=child.code,
                        items=child.items,
                        words=list(child.words),
                        examples=[ExampleAnswer(item_id=one.item_id, title=one.title) for one in child.examples],
                    )
                    for child in node.children
                ],
                catalog_version=version,
            )
        )

    @router.post("/fields", operation_id="fields", summary="What items can be filtered by", response_model=FieldsAnswer)
    async def fields(body: FieldsRequest, request: Request, context: Context) -> Response:
        """Return the fields of a domain's items with their frequent values, from a sample of at most 2048 items."""
        running = context.runtime.running()
        try:
            told, version = await _views(request).fields(running, body.domain)
        except UnknownDomainError as error:
            raise request_error(error) from error
        return context.answer(
            FieldsAnswer(
                domain=body.domain,
                sampled_items=told.sampled,
                fields=[
                    FieldAnswer(
                        name=one.name,
                        items=one.items,
                        values=[FieldValueAnswer(value=value, items=items) for value, items in one.values],
                        min=one.least,
                        max=one.most,
                    )
                    for one in told.fields
                ],
                catalog_version=version,
            )
        )

    @router.post("/near", operation_id="near", summary="Items near semantic IDs", response_model=NearAnswer)
    async def near(body: NearRequest, request: Request, context: Context) -> Response:
        """Return the known items whose codes stand for nearly the same, for semantic IDs that need not be any item's.

        Of a large domain, those items are compared that begin with the same codes.
        """
        running = context.runtime.running()
        try:
            found, version = await _views(request).near(running, body.sids, body.num_results, body.except_domain)
        except CatalogError as error:
            raise InvalidRequestError(str(error), field="sids") from error
        results = [
            [
                NearItemAnswer(
                    domain=one.domain,
                    item_id=one.item_id,
                    title=one.title,
                    sid=list(one.sid),
                    similarity=one.similarity,
                    shared_codes=one.shared,
                )
                for one in own
            ]
            for own in found
        ]
        return context.answer(NearAnswer(results=results, catalog_version=version))

    @router.get("/map", operation_id="map", summary="A map of the items", response_model=MapAnswer)
    async def item_map(request: Request, context: Context) -> Response:
        """Return a sample of the items in two dimensions: items whose codes stand for nearly the same lie together.

        It is made once for each version of the catalog.
        """
        drawn, catalog = await _views(request).map(context.runtime.running())
        items = [
            MappedItem(domain=one.domain, item_id=one.item_id, title=one.title, sid=list(one.sid), x=one.x, y=one.y)
            for one in drawn.items
        ]
        return context.answer(
            MapAnswer(
                items=items,
                catalog_items=len(catalog),
                variance=list(drawn.variance),
                catalog_version=catalog.version,
            )
        )

    @router.get(
        "/evaluation_users",
        operation_id="evaluation_users",
        summary="Users with a held-back item",
        response_model=EvaluationUsersAnswer,
    )
    async def evaluation_users(request: Request, context: Context) -> Response:
        """Return a few users of the bundle's data, each with the item that training did not see."""
        running = context.runtime.running()
        users = await _views(request).users(running)
        catalog = running.catalog.catalog
        return context.answer(EvaluationUsersAnswer(users=[_user(user, catalog) for user in users]))

    @router.head("/report", include_in_schema=False)
    @router.get("/report", include_in_schema=False)
    async def report(request: Request, context: Context) -> Response:
        page = await _views(request).report(context.runtime.running())
        if page is None:
            raise NotFoundError("this bundle has no report; train it again to get one")
        return HTMLResponse(page, headers={"content-security-policy": _REPORT_POLICY})

    return router


def _views(request: Request) -> CatalogViews:
    views: CatalogViews = request.app.state.views
    return views


def _user(user: Mapping[str, Any], catalog: Catalog) -> EvaluationUser:
    return EvaluationUser(
        domain=user["domain"],
        history=[_named(entry["domain"], entry["item_id"], catalog) for entry in user["history"]],
        target=_named(user["domain"], user["target"], catalog),
    )


def _named(domain: str, item_id: str, catalog: Catalog) -> NamedItem:
    number = catalog.find(domain, item_id)
    return NamedItem(domain=domain, item_id=item_id, title=None if number is None else catalog.name(number)[1])
