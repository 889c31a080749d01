"""Deadlines, and clients that have gone."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.waiting import deadline_of
from tests.service.fakes import FakeModel

Serve = Callable[..., TestClient]


@pytest.mark.parametrize(("asked", "seconds"), [(None, 10), (250, 0.25), (10_000, 10), (10**9, 10)])
def test_a_client_may_shorten_the_deadline_of_the_service_and_not_lengthen_it(
    asked: int | None, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.waiting.time.monotonic", lambda: 100.0)
    assert deadline_of(asked, 10_000) == pytest.approx(100 + seconds)


def test_tokenize_takes_the_deadline_too(client: TestClient) -> None:
    body = {"domain": "drama", "items": [{"item_id": "x", "title": "X"}]}
    refused = client.post("/tokenize", json=body, headers={"x-sidera-deadline-ms": "0"})
    assert refused.status_code == 422
    assert client.post("/tokenize", json=body, headers={"x-sidera-deadline-ms": "60000"}).status_code == 200


@pytest.mark.parametrize("filters", [{}, {"a": 1}])
def test_a_client_that_has_gone_before_its_row_is_queued_costs_no_search(
    serve: Serve, model: FakeModel, filters: dict[str, int]
) -> None:
    client = serve(model)
    computed = len(model.batches)
    gone = False

    def leave(*_: object) -> None:
        nonlocal gone
        gone = True

    model.before_check = leave
    sent: list[Any] = []
    body = json.dumps({"domain": "drama", "filters": filters}).encode()
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        assert gone
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/recommend",
        "raw_path": b"/recommend",
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "headers": [(b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "state": {},
    }
    assert client.portal is not None
    client.portal.call(client.app, scope, receive, send)
    assert sent[0]["status"] == 499
    assert len(model.batches) == computed
