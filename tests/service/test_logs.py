"""One JSON object a line, and nothing in it that is nobody's business."""

import json
import logging
import logging.config
import threading
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.logs import make_logger, server_log_config
from tests.service.fakes import FakeModel, serving, settings


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
        "key": "everybody",
    }


def test_a_line_names_the_key_that_called(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(tmp_path / "items.db", log_level="info", api_keys="first-key,second-key") as client:
        client.get("/v1/info", headers={"x-api-key": "second-key"})
        client.get("/v1/info", headers={"x-api-key": "wrong-key"})
    logged = [line for line in lines(capsys.readouterr().err) if line["event"] == "request"]
    assert [line["key"] for line in logged] == ["plain-2", None]


@pytest.mark.parametrize(
    ("text", "secret", "kept"),
    [
        ("cannot reach postgresql+psycopg://sidera:hunter2@db:5432/items now", "hunter2", "@db:5432/items now"),
        ("postgresql://sidera:p:w@rd@db/items", "p:w@rd", "@db/items"),
        ("sent 'Authorization: Bearer abc.DEF-123=' to", "abc.DEF-123", "' to"),
        ("basic dXNlcjpwYXNz and", "dXNlcjpwYXNz", " and"),
        ("key sidera_" + "k" * 43 + " of", "k" * 43, " of"),
    ],
)
def test_what_looks_like_a_secret_is_blanked_in_every_line_whoever_wrote_it(text: str, secret: str, kept: str) -> None:
    stream = StringIO()
    log = make_logger("info", stream)
    log.info(text, detail=text)
    try:
        raise RuntimeError(text)
    except RuntimeError as error:
        log.error("failed", exc_info=error)
    formatter = logging.config.DictConfigurator(server_log_config("info")).configure_formatter(
        server_log_config("info")["formatters"]["json"]
    )
    record = logging.LogRecord("uvicorn.error", logging.WARNING, __file__, 1, text, (), None)
    written = stream.getvalue() + formatter.format(record)
    assert secret not in written
    assert written.count(kept) == 4
    assert all(isinstance(json.loads(line), dict) for line in written.splitlines())


def test_a_database_that_cannot_be_reached_does_not_log_its_password(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failures: list[str | None] = []
    done = threading.Event()

    def on_outcome(failure: str | None) -> None:
        failures.append(failure)
        done.set()

    database = "postgresql+psycopg://sidera:hunter2-secret@127.0.0.1:1/items?connect_timeout=1"
    app = create_app(settings(database=database), load=lambda _: FakeModel(), on_outcome=on_outcome)
    with TestClient(app) as client:
        assert done.wait(20)
        body = client.get("/health/ready").text
    [failure] = failures
    assert failure is not None
    assert "hunter2-secret" not in failure + body + capsys.readouterr().err


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
            client.post("/tokenize?token=private-query", content=b"{private-history", headers=headers)
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
