"""``/items/{domain}/{item_id}``: one item of the catalog is read, changed, hidden, shown or deleted."""

from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from service.bundles.generation import Generation
from service.catalog.asking import ask
from service.catalog.live import Patch
from service.catalog.tasks import DeleteTask, PatchTask
from service.context import Context, RequestId, ServiceContext
from service.description import ITEM_ERRORS, error_answers
from service.errors import ForbiddenError
from service.item_schemas import DeletedAnswer, ItemAnswer, PatchRequest
from service.limits import check_fields
from service.security.scopes import needs
from service.waiting import DeadlineHeader

_Domain = Annotated[str, Path(min_length=1, max_length=64)]
_ItemId = Annotated[str, Path(min_length=1, max_length=256, description="may hold slashes")]


def item_router() -> APIRouter:
    """The routes."""
    router = APIRouter(
        prefix="/items/{domain}/{item_id:path}",
        tags=["items"],
        dependencies=[needs("tokenize")],
        responses=error_answers(*ITEM_ERRORS),
    )

    @router.get("", operation_id="item", summary="One item of the catalog", response_model=ItemAnswer)
    async def item(domain: _Domain, item_id: _ItemId, context: Context) -> Response:
        """Return what this replica has of an item: its semantic ID, its fields, and whether it is hidden."""
        return context.answer(_item(context.runtime.running(), domain, item_id))

    @router.patch("", operation_id="patch_item", summary="Change one item", response_model=ItemAnswer)
    async def patch_item(
        domain: _Domain,
        item_id: _ItemId,
        body: PatchRequest,
        request: Request,
        context: Context,
        request_id: RequestId,
        deadline_ms: DeadlineHeader = None,
    ) -> Response:
        """Replace or remove fields, hide the item or show it again.

        It is so on this replica once this answers, on every other one within two seconds, and after every restart.
        Changed text keeps its semantic ID unless `retokenize` asks for another one. What changes nothing makes no new
        version of the catalog.
        """
        _check_allowed(context)
        request.state.charge(1)
        running = context.runtime.running()

        def check(fields: Mapping[str, object]) -> None:
            check_fields(fields, context.settings)

        patch = Patch(body.fields.changes(), body.hidden, body.retokenize, check)
        await ask(PatchTask(domain, item_id, patch), running, request, context, request_id, deadline_ms)
        return context.answer(_item(running, domain, item_id))

    @router.delete("", operation_id="delete_item", summary="Delete one item", response_model=DeletedAnswer)
    async def delete_item(
        domain: _Domain,
        item_id: _ItemId,
        request: Request,
        context: Context,
        request_id: RequestId,
        deadline_ms: DeadlineHeader = None,
    ) -> Response:
        """Take an item out of the catalog, also if it came with the bundle, and out of every later bundle.

        This replica recommends it no more once this answers, every other one within two seconds. Its text is forgotten,
        and its semantic ID never becomes another item's. Deleting it again answers the same; registering it brings it
        back.
        """
        _check_allowed(context)
        request.state.charge(1)
        running = context.runtime.running()
        done = await ask(DeleteTask(domain, item_id), running, request, context, request_id, deadline_ms)
        return context.answer(DeletedAnswer(domain=domain, item_id=item_id, catalog_version=done.catalog_version))

    return router


def _check_allowed(context: ServiceContext) -> None:
    if not context.settings.allow_register:
        raise ForbiddenError("changing items is switched off on this service (SIDERA_ALLOW_REGISTER)")


def _item(running: Generation, domain: str, item_id: str) -> ItemAnswer:
    found = running.catalog.item(domain, item_id)
    return ItemAnswer(
        domain=domain,
        item_id=item_id,
        sid=list(found.sid),
        moved=found.moved,
        hidden=found.hidden,
        fields=dict(found.fields),
        tokenizer_version=running.description.tokenizer_digest,
        catalog_version=found.catalog_version,
    )
