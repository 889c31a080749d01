"""A real server on a real socket: what no test client shows."""

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from service.app import create_app
from service.catalog.store import SqlStore
from tests.service.fakes import FakeModel, Gate, settings


@contextlib.contextmanager
def listening(tmp_path: Path, model: FakeModel) -> Iterator[int]:
    """A ready service on a free port of this machine."""
    ready = threading.Event()
    app = create_app(
        settings(),
        load=lambda _: model,
        store=lambda _: SqlStore(str(tmp_path / "items.db")),
        on_outcome=lambda failure: ready.set(),
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, server_header=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            assert ready.wait(20)
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(20)


def post(port: int, path: str, body: object) -> tuple[int, dict[str, object]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response.status, answer


def metrics(port: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return text


def wait_for(port: int, line: str) -> None:
    begun = time.monotonic()
    while line not in metrics(port).splitlines():
        assert time.monotonic() - begun < 20, line
        time.sleep(0.01)


def raw_request(body: bytes, *headers: str) -> bytes:
    head = ["POST /recommend HTTP/1.1", "host: test", "content-type: application/json", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def test_a_request_whose_client_has_gone_is_never_computed(tmp_path: Path) -> None:
    model = FakeModel()
    with listening(tmp_path, model) as port:
        gate = Gate(model)
        holder = threading.Thread(target=post, args=(port, "/recommend", {"domain": "drama"}))
        holder.start()
        assert gate.entered.wait(20)
        body = json.dumps({"domain": "comedy", "num_results": 2}).encode()
        gone = socket.create_connection(("127.0.0.1", port))
        gone.sendall(raw_request(body, f"content-length: {len(body)}"))
        wait_for(port, 'sidera_queue_length{engine="recommend"} 1.0')
        gone.close()
        wait_for(port, 'sidera_errors_total{code="client_gone"} 1.0')
        gate.open()
        holder.join()
        assert post(port, "/recommend", {"domain": "drama", "num_results": 1})[0] == 200
        asked = [query.num_results for batch in model.batches for query in batch]
        assert 2 not in asked
        wait_for(port, 'sidera_dropped_rows_total{engine="recommend",reason="cancelled"} 1.0')
        wait_for(port, 'sidera_requests_total{method="POST",route="/recommend",status="499"} 1.0')


def test_a_client_that_goes_while_its_request_is_computed_does_not_disturb_the_next(tmp_path: Path) -> None:
    model = FakeModel()
    with listening(tmp_path, model) as port:
        gate = Gate(model)
        body = json.dumps({"domain": "comedy"}).encode()
        gone = socket.create_connection(("127.0.0.1", port))
        gone.sendall(raw_request(body, f"content-length: {len(body)}"))
        assert gate.entered.wait(20)
        gone.close()
        wait_for(port, 'sidera_errors_total{code="client_gone"} 1.0')
        gate.open()
        for _ in range(3):
            assert post(port, "/recommend", {"domain": "drama"})[0] == 200


def test_a_chunked_body_over_the_limit_is_refused_before_it_ends(tmp_path: Path) -> None:
    with listening(tmp_path, FakeModel()) as port:
        client = socket.create_connection(("127.0.0.1", port))
        client.sendall(raw_request(b"", "transfer-encoding: chunked"))
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        with contextlib.suppress(ConnectionError):  # the answer may come, and the connection end, in the middle of it
            for _ in range(40):
                client.sendall(chunk)
        client.settimeout(20)
        with client.makefile("rb") as answer:
            assert answer.readline().startswith(b"HTTP/1.1 413 ")
        client.close()


def test_keep_alive_connections_serve_many_requests(tmp_path: Path) -> None:
    with listening(tmp_path, FakeModel()) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        for _ in range(5):
            connection.request("POST", "/recommend", '{"domain": "drama"}', {"content-type": "application/json"})
            response = connection.getresponse()
            assert (response.status, "server" in response.headers) == (200, False)
            response.read()
        connection.close()
