"""A full queue refuses before a body is looked at, in the same words and counts as it refuses later."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.testclient import TestClient

from tests.service.conftest import Serve
from tests.service.fakes import FakeModel, Gate

KEY = "a-key-that-is-long-enough"


@contextmanager
def full_queue(serve: Serve, model: FakeModel) -> Iterator[TestClient]:
    """A service whose engine is held, with its one place taken."""
    client = serve(model, max_queue=1, max_rows=1, api_keys=KEY)
    client.headers["x-api-key"] = KEY
    gate = Gate(model)
    waiting: list[threading.Thread] = []

    def ask() -> None:
        waiting.append(threading.Thread(target=client.post, args=("/recommend",), kwargs={"json": {"domain": "drama"}}))
        waiting[-1].start()

    ask()
    assert gate.entered.wait(20)
    ask()
    try:
        ends = time.monotonic() + 20
        while 'sidera_queue_length{engine="recommend"} 1.0' not in client.get("/metrics").text:
            assert time.monotonic() < ends
            time.sleep(0.01)
        yield client
    finally:
        gate.open()
        for thread in waiting:
            thread.join(20)


def test_a_full_queue_refuses_what_it_does_not_read(serve: Serve, model: FakeModel) -> None:
    with full_queue(serve, model) as client:
        for content in (b'{"domain": "drama"}', b"no JSON"):
            answer = client.post("/recommend", content=content, headers={"content-type": "application/json"})
            assert answer.status_code == 429
            assert answer.json()["error"]["code"] == "queue_full"
            assert answer.json()["error"]["retryable"] is True
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.headers["x-request-id"]
        text = client.get("/metrics").text
        assert 'sidera_requests_total{method="POST",route="/recommend",status="429"}' in text


def test_other_routes_are_answered_while_the_queue_is_full(serve: Serve, model: FakeModel) -> None:
    with full_queue(serve, model) as client:
        assert client.get("/v1/info").status_code == 200
        assert client.get("/health/live").status_code == 200
        assert client.get("/recommend").status_code == 405


def test_with_room_again_requests_are_read_as_ever(serve: Serve, model: FakeModel) -> None:
    with full_queue(serve, model) as client:
        pass
    assert (
        client.post("/recommend", content=b"no JSON", headers={"content-type": "application/json"}).status_code == 400
    )
    assert client.post("/recommend", json={"domain": "drama"}).status_code == 200


def test_a_stranger_is_told_nothing_of_the_queue(serve: Serve, model: FakeModel) -> None:
    with full_queue(serve, model) as client:
        assert client.post("/recommend", json={"domain": "drama"}, headers={"x-api-key": "x"}).status_code == 401
