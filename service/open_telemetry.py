"""OpenTelemetry traces with W3C context: a request and, below it, its time in the queue, its batch, and its stages.

A ``traceparent`` header is continued, its sampling decision included. The spans below a request are made once its
answer is there, from the times that the engine measured, so the engine knows nothing of traces. Rows of one request
that were computed in one batch share their spans.
"""

import time
from collections.abc import Mapping, Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service.answering import Recommended
from service.tracing import NoTrace, RequestTrace
from sidera.stages import StageTimes


def export_to(endpoint: str, sample_ratio: float) -> "OpenTelemetryTracing":
    """Traces that go to an OTLP collector over HTTP, in the background."""
    return OpenTelemetryTracing(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)), sample_ratio)


class OpenTelemetryTracing:
    """Traces with the OpenTelemetry SDK; with a provider of its own, as there may be two services in one process."""

    def __init__(self, processor: SpanProcessor, sample_ratio: float = 1.0) -> None:
        """``processor`` is the SDK's: it gets every span that ended."""

        self._provider = TracerProvider(
            resource=Resource.create({"service.name": "sidera"}),
            sampler=ParentBased(TraceIdRatioBased(sample_ratio)),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("sidera")
        self._propagator = TraceContextTextMapPropagator()

    def request(self, method: str, request_id: str, headers: Mapping[str, str]) -> RequestTrace:

        span = self._tracer.start_span(
            method,
            context=self._propagator.extract(headers),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": method, "sidera.request_id": request_id},
        )
        return _SpanTrace(self._tracer, span, method) if span.is_recording() else NoTrace()

    def stop(self) -> None:
        self._provider.shutdown()


class _SpanTrace:
    """A request that is traced."""

    def __init__(self, tracer: Tracer, span: Span, method: str) -> None:

        self._tracer = tracer
        self._span = span
        self._method = method
        self.trace_id: str | None = format(span.get_span_context().trace_id, "032x")

    def rows(self, queued_at: float, outcomes: Sequence[object]) -> None:
        batches: dict[int, list[Recommended]] = {}
        for outcome in outcomes:
            if isinstance(outcome, Recommended):
                batches.setdefault(id(outcome.times), []).append(outcome)
        for rows in batches.values():
            self._batch(queued_at, rows[0].times, len(rows))

    def end(self, route: str, status: int) -> None:

        self._span.update_name(f"{self._method} {route}")
        self._span.set_attribute("http.route", route)
        self._span.set_attribute("http.response.status_code", status)
        if status >= 500:
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()

    def _batch(self, queued_at: float, times: StageTimes, rows: int) -> None:
        self._child(self._span, "queue", queued_at, times.begun, rows)
        batch = self._child(self._span, "batch", times.begun, times.ended, rows)
        for interval in times.intervals:
            self._child(batch, interval.stage, interval.begun, interval.ended, rows)

    def _child(self, parent: Span, name: str, begun: float, ended: float, rows: int) -> Span:
        # Spans have the wall clock's time, the engine's times are those of the monotonic clock.
        offset = time.time() - time.monotonic()
        span = self._tracer.start_span(
            name,
            context=set_span_in_context(parent),
            start_time=int((begun + offset) * 1e9),
            attributes={"sidera.rows": rows},
        )
        span.end(int((ended + offset) * 1e9))
        return span
