"""What the service tells of a request to whoever traces it: by default nobody.

Traces are made by ``service.open_telemetry``, which needs the extra ``tracing`` and is imported only where a setting
asks for it.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from service.errors import StartError
from service.settings import Settings


class RequestTrace(Protocol):
    """The trace of one request."""

    @property
    def trace_id(self) -> str | None:
        """For the log, in hex; None: the request is not traced."""

    def rows(self, queued_at: float, outcomes: Sequence[object]) -> None:
        """Rows were answered.

        Args:
            queued_at: the ``time.monotonic()`` when they were submitted.
            outcomes: what became of them; those that are no ``Recommended`` tell nothing.
        """

    def end(self, route: str, status: int) -> None:
        """The request was answered."""


class Tracing(Protocol):
    """Makes traces."""

    def request(self, method: str, request_id: str, headers: Mapping[str, str]) -> RequestTrace:
        """A request begins."""

    def stop(self) -> None:
        """Send what is left."""


class NoTrace:
    """Of a request that is not traced."""

    trace_id: str | None = None

    def rows(self, queued_at: float, outcomes: Sequence[object]) -> None:
        pass

    def end(self, route: str, status: int) -> None:
        pass


class NoTracing:
    """Traces nothing."""

    def request(self, method: str, request_id: str, headers: Mapping[str, str]) -> RequestTrace:
        return NoTrace()

    def stop(self) -> None:
        pass


def make_tracing(settings: Settings) -> Tracing:
    """What the settings ask for.

    Raises:
        StartError: traces are asked for, but the packages for them are not installed.
    """
    if not settings.traces_endpoint:
        return NoTracing()
    try:
        from service.open_telemetry import export_to
    except ModuleNotFoundError as error:
        raise StartError(
            "SIDERA_TRACES_ENDPOINT needs packages that are not installed; install the extra 'tracing': "
            "pip install 'sidera[service,tracing]'"
        ) from error
    return export_to(settings.traces_endpoint, settings.traces_sample_ratio)
