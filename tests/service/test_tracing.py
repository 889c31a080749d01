"""Traces continue a caller's, show where the time of a request went, and are off unless asked for."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from pydantic import ValidationError
from starlette.testclient import TestClient

from service.app import create_app
from service.catalog.store import SqlStore
from service.errors import StartError
from service.open_telemetry import OpenTelemetryTracing
from service.tracing import NoTracing, make_tracing
from sidera.stages import stage_ended
from tests.service.fakes import FakeModel, settings

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class StagedModel(FakeModel):
    """Passes the stages of the real one."""

    def __init__(self) -> None:
        super().__init__()
        self.before_recommend = self._stages

    def _stages(self, queries: Any) -> None:
        stage_ended("tokenisation")
        stage_ended("prefill")
        stage_ended("decode")


@contextmanager
def traced(tmp_path: Path, sample_ratio: float = 1.0) -> Iterator[tuple[TestClient, InMemorySpanExporter]]:
    exporter = InMemorySpanExporter()
    ready = threading.Event()
    app = create_app(
        settings(),
        load=lambda _: StagedModel(),
        store=lambda _: SqlStore(str(tmp_path / "items.db")),
        on_outcome=lambda failure: ready.set(),
        trace=lambda _: OpenTelemetryTracing(SimpleSpanProcessor(exporter), sample_ratio),
    )
    with TestClient(app) as client:
        assert ready.wait(20)
        yield client, exporter


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    spans = exporter.get_finished_spans()
    assert len({span.name for span in spans}) == len(spans)
    return {span.name: span for span in spans}


def parent_of(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def test_a_traceparent_is_continued_and_the_request_shows_its_queue_batch_and_stages(tmp_path: Path) -> None:
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "mine"}
    with traced(tmp_path) as (client, exporter):
        assert client.post("/recommend", json={"domain": "drama"}, headers=headers).status_code == 200
        spans = by_name(exporter)
    assert set(spans) == {"POST /recommend", "queue", "batch", "tokenisation", "prefill", "decode"}
    assert {format(span.context.trace_id, "032x") for span in spans.values() if span.context} == {TRACE}
    request = spans["POST /recommend"]
    assert parent_of(request) == int(PARENT, 16)
    assert request.context is not None
    assert spans["batch"].context is not None
    assert {parent_of(spans[name]) for name in ("queue", "batch")} == {request.context.span_id}
    for name in ("tokenisation", "prefill", "decode"):
        assert parent_of(spans[name]) == spans["batch"].context.span_id
    assert request.attributes == {
        "http.request.method": "POST",
        "http.route": "/recommend",
        "http.response.status_code": 200,
        "sidera.request_id": "mine",
    }


def test_spans_lie_within_their_parents_and_one_after_the_other(tmp_path: Path) -> None:
    with traced(tmp_path) as (client, exporter):
        client.post("/recommend", json={"domain": "drama"})
        spans = by_name(exporter)
    times = {name: (span.start_time or 0, span.end_time or 0) for name, span in spans.items()}
    request, queue, batch = times["POST /recommend"], times["queue"], times["batch"]
    slack = 5_000_000  # nanoseconds between the two clocks
    assert request[0] - slack <= queue[0] <= queue[1] <= batch[0] + slack
    assert batch[1] <= request[1] + slack
    stages = [times[name] for name in ("tokenisation", "prefill", "decode")]
    assert [begun for begun, _ in stages] == sorted(begun for begun, _ in stages)
    assert batch[0] - slack <= stages[0][0]
    assert stages[-1][1] <= batch[1] + slack


def test_rows_of_one_batch_share_their_spans(tmp_path: Path) -> None:
    with traced(tmp_path) as (client, exporter):
        client.post("/recommend", json={"requests": [{"domain": "drama"}] * 3 + [{"domain": "none"}]})
        names = [span.name for span in exporter.get_finished_spans()]
        rows = [
            span.attributes["sidera.rows"]
            for span in exporter.get_finished_spans()
            if span.name == "batch" and span.attributes
        ]
    assert names.count("batch") == len(rows) == names.count("queue")
    assert sum(int(str(count)) for count in rows) == 3


def test_an_answer_of_500_is_an_error(tmp_path: Path) -> None:
    with traced(tmp_path) as (client, exporter):
        client.app.state.context.runtime.running = None  # type: ignore[attr-defined]
        assert client.post("/recommend", json={"domain": "drama"}).status_code == 500
        [span] = exporter.get_finished_spans()
    assert span.status.status_code is StatusCode.ERROR


def test_probes_are_not_traced_and_an_unknown_route_has_no_name_of_its_own(tmp_path: Path) -> None:
    with traced(tmp_path) as (client, exporter):
        client.get("/health/live")
        client.get("/metrics")
        client.get("/nothing")
        [span] = exporter.get_finished_spans()
    assert span.name == "GET unmatched"
    assert span.status.is_unset


def test_a_caller_that_does_not_sample_is_followed(tmp_path: Path) -> None:
    with traced(tmp_path) as (client, exporter):
        client.post("/recommend", json={"domain": "drama"}, headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
        assert exporter.get_finished_spans() == ()


def test_a_ratio_of_0_traces_only_what_callers_trace(tmp_path: Path) -> None:
    with traced(tmp_path, sample_ratio=0.0) as (client, exporter):
        client.get("/v1/info")
        assert exporter.get_finished_spans() == ()
        client.get("/v1/info", headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
        assert len(exporter.get_finished_spans()) == 1


def test_traces_are_off_by_default() -> None:
    assert isinstance(make_tracing(settings()), NoTracing)


def test_an_endpoint_makes_traces() -> None:
    tracing = make_tracing(settings(traces_endpoint="http://127.0.0.1:1/v1/traces"))
    assert isinstance(tracing, OpenTelemetryTracing)
    tracing.stop()


def test_an_endpoint_that_is_no_url_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"like http://collector:4318/v1/traces"):
        settings(traces_endpoint="collector:4318")


def test_without_the_packages_an_endpoint_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "service.open_telemetry")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(StartError, match=r"install the extra 'tracing': pip install 'sidera\[service,tracing\]'"):
        make_tracing(settings(traces_endpoint="http://127.0.0.1:1/v1/traces"))
