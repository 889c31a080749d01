"""Puts one service together. There is no app, setting or model in any module: everything hangs on what this returns."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from service.context import ServiceContext
from service.description import describe
from service.logs import make_logger
from service.metrics import Metrics
from service.middleware import ApiKeyMiddleware, BodyLimitMiddleware, RequestContextMiddleware
from service.model import Model, load_model
from service.recommend_routes import recommend_router
from service.responses import install_error_handlers
from service.runtime import Runtime, open_store
from service.settings import Settings
from service.status_routes import status_router
from service.store import CatalogStore
from service.tokenize_routes import tokenize_router
from sidera import __version__


def _load(settings: Settings) -> Model:
    return load_model(
        settings.bundle, settings.device, settings.weights, settings.history_cache_bytes, settings.threads
    )


def _ignore(failure: str | None) -> None:
    pass


def create_app(
    settings: Settings,
    *,
    load: Callable[[Settings], Model] = _load,
    store: Callable[[Settings], CatalogStore] = open_store,
    on_outcome: Callable[[str | None], None] = _ignore,
) -> FastAPI:
    """An app that loads the bundle once it is started, and answers 503 until then.

    Args:
        settings: what the operator set.
        load: makes the model; called in a background thread.
        store: opens the database of registered items; called in the same thread.
        on_outcome: told None once the service is ready, or else in one sentence why it cannot start.
    """
    metrics = Metrics()
    log = make_logger(settings.log_level)
    runtime = Runtime(settings, metrics, log, load, store, on_outcome)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        runtime.start()
        yield
        await run_in_threadpool(runtime.stop)

    app = FastAPI(
        title="Sidera",
        summary="Next-item recommendation across many domains",
        description="Recommends the next item of a user, and gives new items their semantic IDs without retraining.",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        middleware=_middleware(settings, metrics, log),
    )
    app.state.context = ServiceContext(settings, metrics, log, runtime)
    app.include_router(recommend_router())
    app.include_router(tokenize_router())
    app.include_router(status_router())
    install_error_handlers(app, metrics)
    document: dict[str, Any] = {}

    def openapi() -> dict[str, Any]:
        if not document:
            document.update(describe(app))
        return document

    app.openapi = openapi  # type: ignore[method-assign]
    return app


def _middleware(settings: Settings, metrics: Metrics, log: Any) -> list[Middleware]:
    """Outermost first."""
    layers = [Middleware(RequestContextMiddleware, metrics=metrics, log=log)]
    if settings.cors_origins:
        layers.append(
            Middleware(
                CORSMiddleware,
                allow_origins=settings.cors_origins,
                allow_methods=["GET", "POST"],
                allow_headers=["authorization", "content-type", "x-api-key", "x-request-id"],
                expose_headers=["x-request-id", "retry-after"],
            )
        )
    if settings.api_keys:
        layers.append(Middleware(ApiKeyMiddleware, keys=settings.api_keys, metrics=metrics))
    layers.append(Middleware(BodyLimitMiddleware, max_body_bytes=settings.max_body_bytes, metrics=metrics))
    return layers
