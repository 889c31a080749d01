"""What a route gets of its service: settings, metrics, log and runtime, kept on the app and never in a module."""

from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request
from pydantic import BaseModel
from starlette.responses import Response
from structlog.typing import FilteringBoundLogger

from service.checking import Checker
from service.errors import InternalError, RequestError
from service.metrics import Metrics
from service.queries import request_error
from service.responses import json_response
from service.runtime import Runtime
from service.settings import Settings
from sidera.errors import FilterError, UnknownDomainError


@dataclass(frozen=True)
class ServiceContext:
    """One service."""

    settings: Settings
    metrics: Metrics
    log: FilteringBoundLogger
    runtime: Runtime
    checker: Checker = field(default_factory=Checker)

    def answer(self, answer: BaseModel) -> Response:
        """The answer of a route, as bytes."""
        with self.metrics.serialisation():
            return json_response(answer)

    def blame(self, error: BaseException, request_id: str) -> RequestError:
        """What a client is told of an error that came out of an engine; what is our fault goes to the log."""
        if isinstance(error, RequestError):
            return error
        if isinstance(error, UnknownDomainError | FilterError):
            return request_error(error)
        self.log.error("a row failed", request_id=request_id, exc_info=error)
        return InternalError()


async def _context(request: Request) -> ServiceContext:
    context: ServiceContext = request.app.state.context
    return context


async def _request_id(request: Request) -> str:
    return str(request.state.request_id)


Context = Annotated[ServiceContext, Depends(_context)]
RequestId = Annotated[str, Depends(_request_id)]
