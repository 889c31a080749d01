"""What every request passes before a route, outermost first: context, CORS, keys and rates, body limits.

Every app of a service, that of the admin port included, has these layers.
"""

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from structlog.typing import FilteringBoundLogger

from service.metrics import Metrics
from service.middleware import RequestContextMiddleware
from service.security.access import AccessMiddleware
from service.security.body import BodyLimitMiddleware
from service.security.key_ring import KeyRing
from service.security.rate_limit import RateLimiter
from service.settings import Settings
from service.tracing import NoTracing, Tracing

_NO_TRACING = NoTracing()


def layers(
    settings: Settings, metrics: Metrics, log: FilteringBoundLogger, tracing: Tracing = _NO_TRACING
) -> list[Middleware]:
    """The layers of one app.

    Raises:
        StartError: the file of keys cannot be used.
    """
    keys, limiter = KeyRing(settings, metrics, log), RateLimiter(settings, metrics)
    stack = [Middleware(RequestContextMiddleware, metrics=metrics, log=log, tracing=tracing)]
    if settings.cors_origins:
        stack.append(
            Middleware(
                CORSMiddleware,
                allow_origins=settings.cors_origins,
                allow_methods=["GET", "POST", "PATCH", "DELETE"],
                allow_headers=["authorization", "content-type", "x-api-key", "x-request-id"],
                expose_headers=["x-request-id", "retry-after"],
            )
        )
    stack.append(Middleware(AccessMiddleware, keys=keys, limiter=limiter, metrics=metrics))
    stack.append(
        Middleware(
            BodyLimitMiddleware,
            max_body_bytes=settings.max_body_bytes,
            timeout_ms=settings.body_timeout_ms,
            metrics=metrics,
        )
    )
    return stack
