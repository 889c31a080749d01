"""``/admin/bundles``: which versions there are, which one serves, and the way to another. ``/admin/catalog``: what was
changed in the catalog since its tries were made, and the way to fold it. On the admin port alone."""

from datetime import UTC, datetime

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from service import errors
from service.admin_schemas import (
    ActivateRequest,
    Bundles,
    BundleVersion,
    CatalogState,
    Fold,
    FoldAnswer,
    RunningSwap,
    ServingBundle,
    SwapAnswer,
)
from service.bundles.folder import StoredBundle
from service.bundles.lifecycle import Overview
from service.context import Context
from service.description import INFO_ERRORS, error_answers
from service.errors import InternalError, StartError
from service.responses import json_response
from service.security.scopes import needs

_LIST_ERRORS = (*INFO_ERRORS, errors.ForbiddenError, errors.RateLimitedError)
_SWAP_ERRORS = (
    *_LIST_ERRORS,
    errors.InvalidJsonError,
    errors.BodyTimeoutError,
    errors.VersionNotFoundError,
    errors.BundleRefusedError,
    errors.InvalidRequestError,
)


def admin_router() -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["bundles"], dependencies=[needs("admin")])

    @router.get(
        "/admin/bundles",
        operation_id="bundles",
        summary="Which bundles there are, and which one serves",
        response_model=Bundles,
        responses=error_answers(*_LIST_ERRORS),
    )
    async def bundles(context: Context) -> Response:
        """List the bundle store; a swap that runs shows how far it is."""
        try:
            overview = await run_in_threadpool(context.runtime.lifecycle.overview)
        except StartError as error:
            context.log.error("the bundle store cannot be listed", reason=str(error))
            raise InternalError from error
        return json_response(_bundles(overview))

    @router.post(
        "/admin/bundles/activate",
        operation_id="activate",
        summary="Swap another bundle in",
        status_code=202,
        response_model=SwapAnswer,
        responses={200: {"model": SwapAnswer, "description": "It serves already"}, **error_answers(*_SWAP_ERRORS)},
    )
    async def activate(body: ActivateRequest, context: Context) -> Response:
        """Begin to verify, load and warm a version beside the one that serves, and return at once.

        The one that serves goes on until the new one is ready, and for good if that fails; `GET /admin/bundles` says
        how far it is, and why it failed.
        """
        begun = await run_in_threadpool(context.runtime.lifecycle.activate, body.version)
        context.log.info("a bundle was asked for", version=body.version, begun=begun)
        response = json_response(SwapAnswer(version=body.version, state="swapping" if begun else "serving"))
        response.status_code = 202 if begun else 200
        return response

    @router.post(
        "/admin/bundles/rollback",
        operation_id="rollback",
        summary="Go back to the bundle that served before",
        status_code=202,
        response_model=SwapAnswer,
        responses=error_answers(*_SWAP_ERRORS),
    )
    async def rollback(context: Context) -> Response:
        """Begin to swap in the version that served before, like `activate`; again, the one before that."""
        version = await run_in_threadpool(context.runtime.lifecycle.rollback)
        context.log.info("a rollback was asked for", version=version)
        response = json_response(SwapAnswer(version=version, state="swapping"))
        response.status_code = 202
        return response

    @router.get(
        "/admin/catalog",
        operation_id="catalog",
        summary="What was changed in the catalog since its tries were made",
        response_model=CatalogState,
        responses=error_answers(*_LIST_ERRORS),
    )
    async def catalog(context: Context) -> Response:
        """Count the changes of this replica, and tell of its last fold."""
        running = context.runtime.running()
        now, fold = running.catalog.catalog, running.folding.state
        return json_response(
            CatalogState(
                catalog_version=now.version,
                items=len(now),
                overlay=now.overlay,
                fold=Fold(
                    running_since=None if fold.since is None else _time(fold.since),
                    folded_at=None if fold.folded_at is None else _time(fold.folded_at),
                    seconds=fold.seconds,
                    problem=fold.problem,
                ),
            )
        )

    @router.post(
        "/admin/catalog/fold",
        operation_id="fold",
        summary="Fold what was changed into the tries",
        status_code=202,
        response_model=FoldAnswer,
        responses={
            200: {"model": FoldAnswer, "description": "Nothing was changed since the last fold"},
            **error_answers(*_LIST_ERRORS),
        },
    )
    async def fold(context: Context) -> Response:
        """Begin to build plain tries beside those in use, and return at once; `GET /admin/catalog` says how it went.

        It changes no answer: later changes of items cost less time again.
        """
        begun = context.runtime.running().folding.ask()
        response = json_response(FoldAnswer(state="folding" if begun else "folded"))
        response.status_code = 202 if begun else 200
        return response

    return router


def _bundles(overview: Overview) -> Bundles:
    serving, swap = overview.serving, overview.swap
    return Bundles(
        serving=None
        if serving is None
        else ServingBundle(
            name=serving.name,
            bundle_version=serving.description.bundle_version,
            catalog_version=serving.catalog.catalog.version,
            since=_time(serving.loaded_at),
        ),
        swap=None
        if swap is None
        else RunningSwap(version=swap.version, reason=swap.reason, step=swap.step, since=_time(swap.since)),
        rollback_to=overview.previous,
        versions=[_version(stored, overview) for stored in overview.versions],
    )


def _version(stored: StoredBundle, overview: Overview) -> BundleVersion:
    failure = overview.failures.get(stored.name)
    failed = failure is not None and failure.fingerprint == stored.fingerprint
    if overview.serving is not None and overview.serving.holds(stored.name, stored.bundle_version):
        return BundleVersion(
            name=stored.name,
            bundle_version=stored.bundle_version,
            created=stored.created,
            state="serving",
            problem=None,
        )
    return BundleVersion(
        name=stored.name,
        bundle_version=stored.bundle_version,
        created=stored.created,
        state="refused" if stored.problem is not None else "failed" if failed else "complete",
        problem=stored.problem or (failure.reason if failure is not None and failed else None),
    )


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
