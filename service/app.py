"""Puts one service together. There is no app, setting or model in any module: everything hangs on what this returns."""

import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.routing import NoMatchFound

from service.admin_routes import admin_router
from service.bundles.holding import HoldMiddleware
from service.catalog.rows import CatalogStore
from service.catalog_views import CatalogViews
from service.context import ServiceContext
from service.description import describe
from service.early_refusal import EarlyRefusalMiddleware
from service.event_routes import event_router
from service.instant_refusal import InstantRefusal
from service.item_routes import item_router
from service.layers import Layers
from service.logs import make_logger
from service.metrics import Metrics
from service.model import Model, load_model
from service.playground.page import playground_router
from service.recommend_routes import recommend_router
from service.responses import install_error_handlers
from service.runtime import Runtime, open_store
from service.settings import Settings
from service.status_routes import info_router, probe_router
from service.tokenize_routes import tokenize_router
from service.tracing import Tracing, make_tracing
from service.user_routes import deleted_router, user_router
from service.view_routes import view_router
from sidera import __version__


def _load(settings: Settings) -> Model:
    assert settings.bundle is not None  # the lifecycle names the folder
    return load_model(
        settings.bundle,
        settings.device,
        settings.weights,
        settings.history_cache_bytes,
        settings.threads,
        settings.filter_bytes,
    )


def _ignore(failure: str | None) -> None:
    pass


def create_app(
    settings: Settings,
    *,
    load: Callable[[Settings], Model] = _load,
    store: Callable[[Settings], CatalogStore] = open_store,
    on_outcome: Callable[[str | None], None] = _ignore,
    settle: Callable[[], object] = gc.collect,
    trace: Callable[[Settings], Tracing] = make_tracing,
) -> FastAPI:
    """An app that loads the bundle once it is started, and answers 503 until then.

    Args:
        settings: what the operator set.
        load: makes the model; called in a background thread.
        store: opens the database of registered items; called in the same thread.
        on_outcome: told None once the service is ready, or else in one sentence why it cannot start.
        settle: collects garbage once a bundle was let go.
        trace: makes the traces of requests.
    """
    metrics = Metrics()
    log = make_logger(settings.log_level)
    tracing = trace(settings)
    layers = Layers.of(settings, metrics, log, tracing)
    runtime = Runtime(settings, metrics, log, load, store, on_outcome, settle)

    views = CatalogViews(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        runtime.start()
        yield
        await run_in_threadpool(views.stop)
        await run_in_threadpool(runtime.stop)
        await run_in_threadpool(tracing.stop)

    app = FastAPI(
        title="Sidera",
        summary="Next-item recommendation across many domains",
        description="Recommends the next item of a user, and gives new items their semantic IDs without retraining.",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        middleware=[
            *layers.stack(),
            Middleware(EarlyRefusalMiddleware, refusal=runtime.refusal, metrics=metrics),
            Middleware(HoldMiddleware, stopping=lambda: runtime.stopping),
        ],
    )
    app.state.context = ServiceContext(settings, metrics, log, runtime)
    app.state.instant_refusal = InstantRefusal(layers, runtime.refusal)
    app.include_router(recommend_router())
    app.include_router(tokenize_router())
    app.include_router(item_router())
    app.include_router(event_router())
    app.include_router(user_router())
    app.state.views = views
    app.include_router(view_router())
    if settings.serves_playground:
        app.include_router(playground_router())
    if settings.probes_on != "admin":
        app.include_router(probe_router())
    app.include_router(info_router())
    install_error_handlers(app, metrics)
    _describe_once(app)
    _make_routes(app)
    return app


def create_admin_app(public: FastAPI) -> FastAPI:
    """The app of the admin port: it acts on the service of the public app, which is started and stopped by that one."""
    context: ServiceContext = public.state.context
    app = FastAPI(
        title="Sidera admin",
        summary="Bundles, the live catalog, and users to forget",
        description="Swaps another bundle in while requests are answered, and goes back; folds what was changed in the "
        "catalog; lists the users whom training must forget.",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        middleware=Layers.of(context.settings, context.metrics, context.log).stack(),
    )
    app.state.context = context
    app.include_router(admin_router())
    app.include_router(deleted_router())
    if context.settings.probes_on != "public":
        app.include_router(probe_router())
    install_error_handlers(app, context.metrics)
    _describe_once(app)
    _make_routes(app)
    return app


def _describe_once(app: FastAPI) -> None:
    document: dict[str, Any] = {}

    def openapi() -> dict[str, Any]:
        if not document:
            document.update(describe(app))
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _make_routes(app: FastAPI) -> None:
    """Make the routes of the included routers now, and not in the thread of the first request.

    FastAPI makes them when a route is first looked for, and catches warnings meanwhile, which is not safe where other
    threads do the same.
    """
    with suppress(NoMatchFound):
        app.url_path_for("no route has this name")
