"""One JSON object a line, and nothing in it that is nobody's business."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.service.fakes import FakeModel, serving


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_every_request_is_one_line_with_its_id_route_status_and_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(tmp_path / "items.db", log_level="info") as client:
        client.post("/recommend", json={"domain": "drama"}, headers={"x-request-id": "mine"})
        client.get("/health/live")
    logged = [line for line in lines(capsys.readouterr().err) if line["event"] == "request"]
    [line] = logged
    assert line.pop("milliseconds") >= 0
    assert line.pop("timestamp")
    assert line == {
        "event": "request",
        "level": "info",
        "request_id": "mine",
        "method": "POST",
        "route": "/recommend",
        "status": 200,
    }


def test_neither_keys_nor_bodies_nor_queries_are_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = "a-very-secret-key"
    model = FakeModel()

    def fail(_: object) -> None:
        raise RuntimeError("defect")

    with serving(tmp_path / "items.db", model, log_level="debug", api_keys=key) as client:
        model.before_recommend = fail
        body = {"domain": "drama", "history": [{"item_id": "private-history"}]}
        for headers in ({"x-api-key": key}, {"authorization": f"Bearer {key}"}, {"x-api-key": "wrong-" + key}):
            client.post("/recommend?token=private-query", json=body, headers=headers)
    logged = capsys.readouterr().err
    assert "defect" in logged
    for secret in (key, "private-history", "private-query"):
        assert secret not in logged


def test_a_defect_is_logged_under_the_request_id_that_the_client_saw(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = FakeModel()
    with serving(tmp_path / "items.db", model) as client:

        def fail(_: object) -> None:
            raise RuntimeError("defect")

        model.before_recommend = fail
        request_id = client.post("/recommend", json={"domain": "drama"}).headers["x-request-id"]
    [line] = lines(capsys.readouterr().err)
    assert line["request_id"] == request_id
    assert line["exception"][0]["exc_value"] == "defect"
