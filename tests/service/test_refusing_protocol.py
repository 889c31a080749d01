"""While the queue is full a request is refused by the protocol, as the layers would refuse it; else nothing changes."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from service.app import create_app
from service.catalog.store import SqlStore
from service.refusing_protocol import refusing_protocol
from tests.service.fakes import FakeModel, Gate, settings

BODY = b'{"domain": "drama"}'
KEY = "a-key-that-is-long-enough"


@dataclass
class Flooded:
    """A service whose engine is held, with its one place taken."""

    port: int
    layers: TestClient
    gate: Gate
    began: list[str] = field(default_factory=list)
    """Paths of the requests that the app was called for."""

    def connect(self) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.port))
        client.settimeout(20)
        return client

    def waiting(self, rows: int) -> None:
        """Wait until so many rows wait."""
        ends = time.monotonic() + 20
        while f'sidera_queue_length{{engine="recommend"}} {rows}.0' not in self.layers.get("/metrics").text:
            assert time.monotonic() < ends
            time.sleep(0.01)


def head(*headers: str, length: int = len(BODY)) -> bytes:
    lines = ["POST /recommend HTTP/1.1", "host: test", "content-type: application/json", f"content-length: {length}"]
    return "\r\n".join([*lines, *headers]).encode() + b"\r\n\r\n"


def read_answer(client: socket.socket) -> tuple[int, dict[str, str], Any]:
    """Status, headers and JSON of one answer."""
    received = b""
    while b"\r\n\r\n" not in received:
        part = client.recv(1)
        assert part, received
        received += part
    lines = received.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:] if line)
    body = b""
    while len(body) < int(headers["content-length"]):
        body += client.recv(int(headers["content-length"]) - len(body))
    return int(lines[0].split(" ")[1]), headers, json.loads(body)


@contextlib.contextmanager
def flooded(tmp_path: Path, keep_alive: int = 5, **changes: object) -> Iterator[Flooded]:
    model, ready, began = FakeModel(), threading.Event(), list[str]()
    app = create_app(
        settings(max_queue=1, max_rows=1, **changes),
        load=lambda _: model,
        store=lambda _: SqlStore(str(tmp_path / "items.db")),
        on_outcome=lambda failure: ready.set(),
    )

    async def counted(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            began.append(scope["path"])
        await app(scope, receive, send)

    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        protocol = refusing_protocol(20.0, 16_384, app.state.instant_refusal)
        config = uvicorn.Config(
            counted, http=protocol, ws="none", log_config=None, server_header=False, timeout_keep_alive=keep_alive
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        stack.callback(thread.join, 20)
        stack.callback(setattr, server, "should_exit", True)
        assert ready.wait(20)
        gate = Gate(model)
        stack.callback(gate.open)
        # Without its context the client starts no second life of the app: its requests go through the layers alone.
        layers = TestClient(app, headers={"x-api-key": KEY})
        service = Flooded(listener.getsockname()[1], layers, gate, began)
        key = f"x-api-key: {KEY}"
        held, waits = (stack.enter_context(service.connect()) for _ in range(2))
        held.sendall(head(key) + BODY)
        assert gate.entered.wait(20)
        waits.sendall(head(key) + BODY)
        service.waiting(1)
        began.clear()
        yield service


def test_a_refusal_is_what_the_layers_would_say_and_no_app_is_called_for_it(tmp_path: Path) -> None:
    with flooded(tmp_path) as service, service.connect() as client:
        client.sendall(head("x-request-id: mine") + BODY)
        status, headers, body = read_answer(client)
        assert service.began == []
        layers = service.layers.post("/recommend", content=BODY, headers={"x-request-id": "mine"})
        assert (status, body) == (layers.status_code, layers.json()) == (429, body)
        assert body["error"]["code"] == "queue_full"
        assert int(headers["retry-after"]) >= 1
        assert headers.pop("date")
        assert headers == dict(layers.headers)


def test_a_refusal_is_counted_as_any_answer(tmp_path: Path) -> None:
    with flooded(tmp_path) as service, service.connect() as client:
        for _ in range(3):
            client.sendall(head() + BODY)
            assert read_answer(client)[0] == 429
        text = service.layers.get("/metrics").text
        assert 'sidera_requests_total{method="POST",route="/recommend",status="429"} 3.0' in text
        assert 'sidera_errors_total{code="queue_full"} 3.0' in text


def test_headers_and_body_may_come_apart_and_requests_one_behind_the_other(tmp_path: Path) -> None:
    with flooded(tmp_path) as service, service.connect() as client:
        for byte in head() + BODY:
            client.sendall(bytes([byte]))
        assert read_answer(client)[0] == 429
        client.sendall(2 * (head() + BODY) + b"GET /health/live HTTP/1.1\r\nhost: test\r\n\r\n")
        assert [read_answer(client)[0] for _ in range(3)] == [429, 429, 200]
        assert service.began == ["/health/live"]


def test_a_client_that_asks_for_it_is_hung_up_on_after_its_refusal(tmp_path: Path) -> None:
    with flooded(tmp_path) as service, service.connect() as client:
        client.sendall(head("connection: close") + BODY)
        status, headers, _ = read_answer(client)
        assert (status, headers["connection"], client.recv(1)) == (429, "close", b"")


def test_a_request_behind_a_refused_one_has_its_time_although_both_came_at_once(tmp_path: Path) -> None:
    with flooded(tmp_path, keep_alive=1, body_timeout_ms=300) as service, service.connect() as client:
        client.sendall(head() + BODY + head())
        assert [read_answer(client)[0] for _ in range(2)] == [429, 408]


def test_a_request_that_finds_room_when_its_body_is_there_is_answered(tmp_path: Path) -> None:
    with flooded(tmp_path) as service, service.connect() as client:
        client.sendall(head())
        client.sendall(BODY[:5])
        time.sleep(0.1)
        service.gate.open()
        service.waiting(0)
        client.sendall(BODY[5:])
        status, _, body = read_answer(client)
        assert (status, body["domain"], service.began) == (200, "drama", ["/recommend"])


def test_a_body_that_does_not_come_or_is_long_is_left_to_the_layers(tmp_path: Path) -> None:
    with flooded(tmp_path, body_timeout_ms=100) as service:
        with service.connect() as client:
            client.sendall(head())
            assert read_answer(client)[0] == 408
        with service.connect() as client:
            client.sendall(head(length=100_000) + b" " * 100_000)
            assert read_answer(client)[0] == 429
        with service.connect() as client:
            client.sendall(head(length=10_000_000))
            assert read_answer(client)[0] == 413
        assert service.began == ["/recommend"] * 3


def test_a_stranger_is_told_nothing_of_the_queue(tmp_path: Path) -> None:
    with flooded(tmp_path, api_keys=KEY) as service, service.connect() as client:
        client.sendall(head("x-api-key: another") + BODY)
        status, headers, body = read_answer(client)
        assert (status, headers["www-authenticate"], body["error"]["code"]) == (401, "Bearer", "unauthorized")
        client.sendall(head(f"x-api-key: {KEY}") + BODY)
        assert read_answer(client)[0] == 429
        assert service.began == []


def test_a_refusal_counts_against_the_rate_of_its_key_once(tmp_path: Path) -> None:
    rate: dict[str, Any] = {"rate_requests_per_second": 0.01, "rate_burst_seconds": 500}
    with flooded(tmp_path, api_keys=KEY, **rate) as service, service.connect() as client:
        codes = []
        for _ in range(4):
            client.sendall(head(f"x-api-key: {KEY}") + BODY)
            codes.append(read_answer(client)[2]["error"]["code"])
        assert codes == ["queue_full"] * 3 + ["rate_limited"]  # of five, two filled the queue


@pytest.mark.parametrize("header", ["origin: https://shop.example", "expect: 100-continue"])
def test_where_a_layer_has_a_word_in_it_the_layers_answer(tmp_path: Path, header: str) -> None:
    with flooded(tmp_path, cors_origins="https://shop.example") as service, service.connect() as client:
        client.sendall(head(header) + BODY)
        received = b""
        while b"queue_full" not in received:
            received += client.recv(1000)
        assert service.began == ["/recommend"]
        assert (b"access-control-allow-origin" in received) == header.startswith("origin")


def test_an_offer_of_http_2_changes_nothing_and_nobody_is_a_proxy(tmp_path: Path) -> None:
    upgrade = ("connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAMAAABkAARAAAAAAAIAAAAA")
    with flooded(tmp_path) as service:
        service.gate.open()
        service.waiting(0)
        with service.connect() as client:
            for byte in head(*upgrade) + BODY:
                client.sendall(bytes([byte]))
            assert read_answer(client)[0] == 200
            client.sendall(head(*upgrade) + BODY + head() + BODY)
            assert [read_answer(client)[0] for _ in range(2)] == [200, 200]
            client.sendall(head("connection: close") + BODY + b"GET")
            assert read_answer(client)[0] == 200, "what is behind the last request is not looked at"
        with service.connect() as client:
            client.sendall(b"CONNECT test:80 HTTP/1.1\r\nhost: test:80\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 400 ")
