"""POST /recommend: what comes too late, is too much, or does not fit into memory."""

import threading
import time
from collections.abc import Callable, Sequence

import pytest
from starlette.testclient import TestClient

from sidera.recommender import Query
from tests.service.answers import error_of
from tests.service.fakes import FakeModel, Gate

Serve = Callable[..., TestClient]


def assert_set(event: threading.Event) -> None:
    assert event.wait(20)


def test_a_request_whose_deadline_passes_while_it_is_computed_is_a_504(serve: Serve, model: FakeModel) -> None:
    client = serve(model, deadline_ms=50)
    gate = Gate(model)
    response = client.post("/recommend", json={"domain": "drama"})
    gate.open()
    assert response.status_code == 504
    error = error_of(response)
    assert (error["code"], error["retryable"]) == ("deadline_exceeded", True)


def test_a_request_whose_deadline_passes_while_it_waits_is_never_computed(serve: Serve, model: FakeModel) -> None:
    client = serve(model, deadline_ms=100)
    gate = Gate(model)
    holder = threading.Thread(target=client.post, args=("/recommend",), kwargs={"json": {"domain": "drama"}})
    holder.start()
    assert gate.entered.wait(20)
    response = client.post("/recommend", json={"domain": "comedy"})
    gate.open()
    holder.join()
    assert response.status_code == 504
    model.before_recommend = lambda queries: None
    assert client.post("/recommend", json={"domain": "drama", "num_results": 1}).status_code == 200
    assert all(query.domain != "comedy" for batch in model.batches[2:] for query in batch)


def test_a_full_queue_is_a_429_with_retry_after_while_what_was_accepted_goes_on(serve: Serve, model: FakeModel) -> None:
    client = serve(model, max_queue=2, max_rows=2)
    gate = Gate(model)
    answers: list[int] = []

    def ask() -> None:
        answers.append(client.post("/recommend", json={"domain": "drama"}).status_code)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    threads[0].start()
    assert gate.entered.wait(20)
    for thread in threads[1:]:
        thread.start()
    while 'sidera_queue_length{engine="recommend"} 2.0' not in client.get("/metrics").text:
        time.sleep(0.01)
    response = client.post("/recommend", json={"domain": "drama"})
    assert client.get("/health/live").status_code == 200
    gate.open()
    for thread in threads:
        thread.join()
    assert response.status_code == 429
    assert response.headers["retry-after"] == "1"
    error = error_of(response)
    assert (error["code"], error["retryable"]) == ("queue_full", True)
    assert answers == [200, 200, 200]


def test_the_work_of_a_request_is_bounded_in_tokens(serve: Serve, model: FakeModel) -> None:
    client = serve(model, max_request_tokens=50)
    assert client.post("/recommend", json={"domain": "drama", "beam_width": 49}).status_code == 200
    computed = len(model.batches)
    for body in (
        {"domain": "drama", "beam_width": 50},
        {"domain": "drama", "beam_width": 50, "validate_only": True},
        {"requests": [{"domain": "drama"}, {"domain": "comedy"}, {"domain": "drama"}]},
    ):
        response = client.post("/recommend", json=body)
        assert response.status_code == 422
        assert "at most 50 are allowed" in error_of(response)["message"]
    assert len(model.batches) == computed


def test_a_filter_is_made_ready_away_from_the_engine_and_the_event_loop(serve: Serve, model: FakeModel) -> None:
    client = serve(model)
    checked_by: list[str] = []
    entered, go = threading.Event(), threading.Event()

    def hold(query: Query) -> None:
        if query.conditions:
            checked_by.append(threading.current_thread().name)
            entered.set()
            assert go.wait(20)

    model.before_check = hold
    answers: list[int] = []

    def ask() -> None:
        answers.append(client.post("/recommend", json={"domain": "drama", "filters": {"a": 1}}).status_code)

    slow = threading.Thread(target=ask)
    slow.start()
    assert entered.wait(20)
    assert client.post("/recommend", json={"domain": "drama"}).status_code == 200
    assert not answers
    go.set()
    slow.join(20)
    assert answers == [200]
    assert checked_by[0].startswith("checker")


def test_a_filter_that_is_not_ready_at_the_deadline_is_a_504_and_is_never_computed(
    serve: Serve, model: FakeModel
) -> None:
    client = serve(model)
    computed = len(model.batches)
    go = threading.Event()
    model.before_check = lambda query: assert_set(go)
    headers = {"x-sidera-deadline-ms": "50"}
    response = client.post("/recommend", json={"domain": "drama", "filters": {"a": 1}}, headers=headers)
    go.set()
    assert response.status_code == 504
    assert len(model.batches) == computed


def test_the_header_shortens_the_deadline(serve: Serve, model: FakeModel) -> None:
    client = serve(model)
    gate = Gate(model)
    response = client.post("/recommend", json={"domain": "drama"}, headers={"x-sidera-deadline-ms": "50"})
    gate.open()
    assert response.status_code == 504


def test_the_header_cannot_lengthen_the_deadline(serve: Serve, model: FakeModel) -> None:
    client = serve(model, deadline_ms=50)
    gate = Gate(model)
    response = client.post("/recommend", json={"domain": "drama"}, headers={"x-sidera-deadline-ms": "9" * 30})
    gate.open()
    assert response.status_code == 504


@pytest.mark.parametrize("value", ["0", "-5", "soon", "1.5", ""])
def test_a_deadline_that_is_none_is_refused(client: TestClient, value: str) -> None:
    response = client.post("/recommend", json={"domain": "drama"}, headers={"x-sidera-deadline-ms": value})
    assert response.status_code == 422
    assert error_of(response)["field"] == "X-Sidera-Deadline-Ms"


def test_memory_that_is_short_for_one_row_is_a_503_that_may_be_retried(client: TestClient, model: FakeModel) -> None:
    def fill(queries: Sequence[Query]) -> None:
        if any(query.num_results == 7 for query in queries):
            raise MemoryError

    model.before_recommend = fill
    body = {"requests": [{"domain": "drama", "num_results": 7}, {"domain": "comedy"}]}
    first, second = client.post("/recommend", json=body).json()["results"]
    assert (first["error"]["code"], first["error"]["retryable"]) == ("out_of_memory", True)
    assert len(second["items"]) == 3
