"""What every request passes: ids, headers, keys, body limit."""

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from service.errors import ClientGoneError
from service.logs import make_logger
from service.metrics import Metrics
from service.middleware import RequestContext, RequestContextMiddleware
from service.security.body import BodyLimitMiddleware
from service.tracing import NoTracing
from tests.service.fakes import FakeModel

Serve = Callable[..., TestClient]
KEY, OTHER = "key-of-the-first-shop", "key-of-the-second-shop"


def test_a_request_id_is_echoed_in_header_and_body(client: TestClient) -> None:
    response = client.post("/recommend", json={"domain": "drama"}, headers={"x-request-id": "abc-1.2:3"})
    assert response.headers["x-request-id"] == response.json()["request_id"] == "abc-1.2:3"


@pytest.mark.parametrize("given", [None, "", "a" * 129, 'x"y', "a b", "ü".encode()])
def test_a_request_id_is_made_where_none_or_an_unsafe_one_is_given(client: TestClient, given: str | None) -> None:
    headers = {} if given is None else {"x-request-id": given}
    made = [client.get("/health/live", headers=headers).headers["x-request-id"] for _ in range(2)]
    assert made[0] != made[1]
    assert all(len(request_id) == 32 and request_id.isalnum() for request_id in made)


@pytest.mark.parametrize("path", ["/health/live", "/nothing", "/recommend"])
def test_every_answer_has_security_headers_and_an_id(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    assert (headers["x-content-type-options"], headers["cache-control"]) == ("nosniff", "no-store")
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert (headers["x-frame-options"], headers["cross-origin-resource-policy"]) == ("DENY", "same-origin")
    assert headers["x-request-id"]


def test_cors_is_closed_by_default(client: TestClient) -> None:
    response = client.get("/v1/info", headers={"origin": "https://shop.example"})
    assert "access-control-allow-origin" not in response.headers
    preflight = {"origin": "https://shop.example", "access-control-request-method": "POST"}
    assert client.options("/recommend", headers=preflight).status_code == 405


def test_cors_opens_for_the_origins_of_the_settings_alone(serve: Serve) -> None:
    client = serve(cors_origins="https://shop.example", api_keys=KEY)
    preflight = {"access-control-request-method": "POST"}
    allowed = client.options("/recommend", headers=preflight | {"origin": "https://shop.example"})
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == "https://shop.example"
    refused = client.options("/recommend", headers=preflight | {"origin": "https://else.example"})
    assert "access-control-allow-origin" not in refused.headers


@pytest.mark.parametrize(
    "headers",
    [{}, {"x-api-key": "wrong"}, {"authorization": f"Basic {KEY}"}, {"authorization": "Bearer "}, {"x-api-key": ""}],
)
@pytest.mark.parametrize("path", ["/recommend", "/tokenize", "/v1/info", "/openapi.json", "/docs", "/nothing"])
def test_without_a_known_key_there_is_a_401(serve: Serve, headers: dict[str, str], path: str) -> None:
    response = serve(api_keys=f"{KEY},{OTHER}").post(path, content=b"no json", headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json()["error"]["code"] == "unauthorized"


@pytest.mark.parametrize(
    "headers",
    [
        {"x-api-key": KEY},
        {"x-api-key": OTHER},
        {"authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer {OTHER}"},
    ],
)
def test_every_known_key_is_let_in_by_either_header(serve: Serve, headers: dict[str, str]) -> None:
    assert serve(api_keys=f"{KEY},{OTHER}").get("/v1/info", headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/metrics"])
def test_probes_and_metrics_need_no_key(serve: Serve, path: str) -> None:
    assert serve(api_keys=KEY).get(path).status_code == 200


def test_a_body_over_the_limit_is_a_413_by_its_declared_length(serve: Serve) -> None:
    response = serve(max_body_bytes=1024).post("/recommend", json={"domain": "x" * 1024})
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "body_too_large"
    assert response.headers["x-request-id"]


def test_a_body_over_the_limit_is_a_413_without_a_declared_length(serve: Serve) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(5):
            yield b" " * 250

    client = serve(max_body_bytes=1024)
    response = client.post("/recommend", content=chunks(), headers={"content-type": "application/json"})
    assert response.status_code == 413


def test_a_body_at_the_limit_is_read(serve: Serve) -> None:
    body = json.dumps({"domain": "drama"}).encode().ljust(1024)
    response = serve(max_body_bytes=1024).post("/recommend", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 200


def test_a_body_on_an_unknown_route_is_limited_too(serve: Serve) -> None:
    assert serve(max_body_bytes=1024).post("/nothing", content=b"x" * 2000).status_code == 413


def test_a_body_over_the_limit_is_not_read_to_its_end() -> None:
    read = 0

    async def receive() -> Message:
        nonlocal read
        read += 1
        return {"type": "http.request", "body": b"x" * 600, "more_body": True}

    async def never(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError

    sent = asyncio.run(_call(BodyLimitMiddleware(never, 1024, 10_000, Metrics()), receive))
    assert sent[0]["status"] == 413
    assert read == 2


def test_a_client_that_goes_while_it_sends_is_told_nothing_and_reaches_no_route() -> None:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def never(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError

    sent = asyncio.run(_call(BodyLimitMiddleware(never, 1024, 10_000, Metrics()), receive))
    assert sent[0]["status"] == ClientGoneError.status


def test_a_body_that_does_not_come_is_a_408_that_ends_the_connection() -> None:
    sent_parts = [{"type": "http.request", "body": b"{", "more_body": True}]

    async def receive() -> Message:
        if sent_parts:
            return sent_parts.pop()
        await asyncio.sleep(60)
        raise AssertionError

    async def never(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError

    sent = asyncio.run(_call(BodyLimitMiddleware(never, 1024, 20, Metrics()), receive))
    assert sent[0]["status"] == 408
    assert (b"connection", b"close") in sent[0]["headers"]
    assert json.loads(sent[1]["body"])["error"]["code"] == "body_timeout"


def test_the_time_of_a_body_is_not_that_of_its_answer() -> None:
    async def receive() -> Message:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.1)
        await send({"type": "http.response.start", "status": 200, "headers": []})

    sent = asyncio.run(_call(BodyLimitMiddleware(slow, 1024, 20, Metrics()), receive))
    assert sent[0]["status"] == 200


def test_an_error_that_nobody_expected_is_a_500_in_the_one_shape_and_its_text_stays_in_the_log() -> None:
    from io import StringIO

    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        password = "hunter2"
        raise RuntimeError("secret detail" + password[:0])

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    log = StringIO()
    metrics = Metrics()
    sent = asyncio.run(
        _call(RequestContextMiddleware(broken, RequestContext(metrics, make_logger("info", log), NoTracing())), receive)
    )
    assert sent[0]["status"] == 500
    body = json.loads(sent[1]["body"])
    assert (body["error"]["code"], body["error"]["retryable"]) == ("internal", False)
    assert b"secret" not in sent[1]["body"]
    assert "secret detail" in log.getvalue()
    assert "hunter2" not in log.getvalue(), "local variables are not logged"
    assert 'sidera_requests_total{method="POST",route="unmatched",status="500"} 1.0' in metrics.render().decode()


def test_requests_are_counted_by_route_template_and_unknown_ones_together(client: TestClient, model: FakeModel) -> None:
    for path in ("/a", "/b", "/recommend/x", "/recommend"):
        client.get(path)
    client.request("BREW", "/recommend")
    client.post("/recommend", json={"domain": "drama"})
    text = client.get("/metrics").text
    assert 'sidera_requests_total{method="GET",route="unmatched",status="404"} 3.0' in text
    assert 'sidera_requests_total{method="GET",route="/recommend",status="405"} 1.0' in text
    assert 'sidera_requests_total{method="other",route="/recommend",status="405"} 1.0' in text
    assert 'sidera_requests_total{method="POST",route="/recommend",status="200"} 1.0' in text


async def _call(app: Any, receive: Receive) -> list[Message]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await app({"type": "http", "method": "POST", "path": "/recommend", "headers": []}, receive, send)
    return sent
