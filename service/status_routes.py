"""Health, metrics, what is served, and a page that describes the API."""

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import HTMLResponse, Response

from service.context import Context
from service.description import INFO_ERRORS, READY_ERRORS, docs_page, error_answers
from service.errors import NotReadyError
from service.responses import json_response
from service.schemas import DomainInfo, Health, Info, TokenizerInfo
from service.security.scopes import needs_any_key, needs_no_key


def probe_router() -> APIRouter:
    """Health and metrics, on the port that the settings say."""
    router = APIRouter()

    @router.get(
        "/health/live",
        dependencies=[needs_no_key()],
        operation_id="live",
        tags=["health"],
        response_model=Health,
        responses=error_answers(*READY_ERRORS),
        summary="Is it alive",
    )
    async def live(context: Context) -> Response:
        """Answer 503 only if nothing but a restart helps."""
        if not context.runtime.alive:
            raise NotReadyError("an engine of the service has died or hangs; it needs a restart", retry_after=30)
        return json_response(Health(status="live"))

    @router.get(
        "/health/ready",
        dependencies=[needs_no_key()],
        operation_id="ready",
        tags=["health"],
        response_model=Health,
        responses=error_answers(*READY_ERRORS),
        summary="Is it ready",
    )
    async def ready(context: Context) -> Response:
        """Answer 503 until the bundle is loaded and warm, while the queue is full, and once the service is to stop."""
        context.runtime.check_ready()
        return json_response(Health(status="ready"))

    @router.get(
        "/metrics",
        dependencies=[needs_no_key()],
        operation_id="metrics",
        tags=["health"],
        summary="Metrics for Prometheus",
        response_class=MetricsResponse,
    )
    async def metrics(context: Context) -> Response:
        """Return counters, gauges and histograms in the Prometheus text format."""
        return MetricsResponse(context.metrics.render())

    return router


def info_router() -> APIRouter:
    """What is served, and the page that describes the API."""
    router = APIRouter()

    @router.get(
        "/v1/info",
        dependencies=[needs_any_key()],
        operation_id="info",
        tags=["info"],
        response_model=Info,
        responses=error_answers(*INFO_ERRORS),
        summary="What is served",
    )
    async def info(context: Context) -> Response:
        """Return versions, domains with their sizes, and the limits of this service."""
        running = context.runtime.running()
        catalog, description = running.catalog.catalog, running.description
        return json_response(
            Info(
                bundle_version=description.bundle_version,
                catalog_version=catalog.version,
                domains=[DomainInfo(name=name, items=catalog.size(name)) for name in catalog.domains],
                backbone=description.backbone,
                tokenizer=TokenizerInfo(
                    method=description.tokenizer_method,
                    version=description.tokenizer_digest,
                    codebook_sizes=list(catalog.codebook_sizes),
                ),
                limits=context.settings.limits(),
            )
        )

    @router.get("/docs", include_in_schema=False, dependencies=[needs_any_key()])
    async def docs(request: Request) -> Response:
        return HTMLResponse(
            docs_page(request.app.openapi()),
            headers={
                "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
            },
        )

    return router


class MetricsResponse(Response):
    """The Prometheus text format."""

    media_type = CONTENT_TYPE_LATEST
