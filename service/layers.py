"""What every request passes before a route, outermost first: context, CORS, keys and rates, body limits.

Every app of a service, that of the admin port included, has these layers.
"""

from dataclasses import dataclass

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from structlog.typing import FilteringBoundLogger

from service.metrics import Metrics
from service.middleware import RequestContext, RequestContextMiddleware
from service.security.access import AccessMiddleware, Door
from service.security.body import BodyLimitMiddleware
from service.security.key_ring import KeyRing
from service.security.rate_limit import RateLimiter
from service.settings import Settings
from service.tracing import NoTracing, Tracing

_NO_TRACING = NoTracing()


@dataclass(frozen=True)
class Layers:
    """What the layers of one app are made of."""

    settings: Settings
    context: RequestContext
    door: Door

    @classmethod
    def of(
        cls, settings: Settings, metrics: Metrics, log: FilteringBoundLogger, tracing: Tracing = _NO_TRACING
    ) -> "Layers":
        """Read the keys.

        Raises:
            StartError: the file of keys cannot be used.
        """
        door = Door(KeyRing(settings, metrics, log), RateLimiter(settings, metrics), metrics)
        return cls(settings, RequestContext(metrics, log, tracing), door)

    def stack(self) -> list[Middleware]:
        """The layers, outermost first."""
        stack = [Middleware(RequestContextMiddleware, context=self.context)]
        if self.settings.cors_origins:
            stack.append(
                Middleware(
                    CORSMiddleware,
                    allow_origins=self.settings.cors_origins,
                    allow_methods=["GET", "POST", "PATCH", "DELETE"],
                    allow_headers=["authorization", "content-type", "x-api-key", "x-request-id"],
                    expose_headers=["x-request-id", "retry-after"],
                )
            )
        stack.append(Middleware(AccessMiddleware, door=self.door))
        stack.append(
            Middleware(
                BodyLimitMiddleware,
                max_body_bytes=self.settings.max_body_bytes,
                timeout_ms=self.settings.body_timeout_ms,
                metrics=self.context.metrics,
            )
        )
        return stack
