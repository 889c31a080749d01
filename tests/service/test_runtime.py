"""Start, readiness, death and stop of a service."""

import gc
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.catalog.store import SqlStore
from service.errors import StartError, StoreUnavailableError
from service.model import Model
from service.settings import Settings
from sidera.errors import BundleError
from sidera.recommender import Query
from tests.service.fakes import FakeModel, Gate, bundle_items, film, serving, settings

Serve = Callable[..., TestClient]


class Outcome:
    """What a service says of its start."""

    def __init__(self) -> None:
        self.said = threading.Event()
        self.failure: str | None = None

    def __call__(self, failure: str | None) -> None:
        self.failure = failure
        self.said.set()


def start(tmp_path: Path, load: Callable[[Settings], Model], outcome: Outcome) -> TestClient:
    app = create_app(
        settings(),
        load=load,
        store=lambda _: SqlStore(str(tmp_path / "items.db")),
        on_outcome=outcome,
    )
    return TestClient(app, raise_server_exceptions=False)


def test_a_service_is_live_at_once_and_ready_once_its_bundle_is_loaded(tmp_path: Path) -> None:
    go, outcome = threading.Event(), Outcome()

    def load(_: Settings) -> Model:
        assert go.wait(20)
        return FakeModel()

    with start(tmp_path, load, outcome) as client:
        assert client.get("/health/live").json() == {"status": "live"}
        for method, path in (
            ("GET", "/health/ready"),
            ("GET", "/v1/info"),
            ("POST", "/recommend"),
            ("POST", "/tokenize"),
        ):
            body = {"domain": "drama"} | ({"items": [{"item_id": "a", "title": "T"}]} if path == "/tokenize" else {})
            response = client.request(method, path, json=body)
            assert response.status_code == 503, path
            assert response.json()["error"]["code"] == "not_ready"
            assert response.json()["error"]["retryable"] is True
            assert response.headers["retry-after"]
        go.set()
        assert outcome.said.wait(20)
        assert client.get("/health/ready").json() == {"status": "ready"}
        assert client.post("/recommend", json={"domain": "drama"}).status_code == 200


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (StartError("the bundle cannot be served: x"), "the bundle cannot be served: x"),
        (BundleError("manifest.json is missing"), "manifest.json is missing"),
        (RuntimeError("odd"), "the bundle cannot be served: RuntimeError: odd"),
    ],
)
def test_a_bundle_that_cannot_be_loaded_is_one_sentence_for_the_operator_and_a_503_without_it_for_clients(
    tmp_path: Path, error: Exception, sentence: str
) -> None:
    outcome = Outcome()

    def load(_: Settings) -> Model:
        raise error

    with start(tmp_path, load, outcome) as client:
        assert outcome.said.wait(20)
        assert outcome.failure == sentence
        response = client.get("/health/ready")
        assert response.status_code == 503
        assert "odd" not in response.text
        assert client.get("/health/live").status_code == 200


def test_the_bundles_samples_are_replayed_before_it_is_ready(serve: Serve) -> None:
    model = FakeModel(
        samples=[{"domain": "comedy", "num_results": 3}, {"domain": "drama", "history": [{"item_id": "x"}]}]
    )
    serve(model)
    assert model.batches == [[Query("comedy", num_results=3)], [Query("drama", (("drama", "x"),))]]


def test_a_bundle_without_samples_warms_up_every_domain(serve: Serve) -> None:
    model = FakeModel()
    serve(model)
    assert model.batches == [[Query("comedy")], [Query("drama")]]


@pytest.mark.parametrize(
    ("samples", "sentence"),
    [
        ([{"domain": "drama"}, {"domian": "drama"}], "samples/requests.json of the bundle, row 1"),
        ([{"domain": "no-such"}], "warm-up requests fail"),
    ],
)
def test_samples_that_fail_keep_a_bundle_from_serving(tmp_path: Path, samples: Sequence[object], sentence: str) -> None:
    class Strict(FakeModel):
        def _recommend(self, query: Query) -> Any:
            if query.domain not in self.catalog.domains:
                raise BundleError("no such domain")
            return super()._recommend(query)

    outcome = Outcome()
    with start(tmp_path, lambda _: Strict(samples=samples), outcome) as client:
        assert outcome.said.wait(20)
        assert outcome.failure is not None
        assert sentence in outcome.failure
        assert client.get("/health/ready").status_code == 503


def test_a_dead_engine_makes_the_service_neither_ready_nor_live(client: TestClient, model: FakeModel) -> None:
    def die(queries: Sequence[Query]) -> None:
        raise SystemExit

    model.before_recommend = die
    response = client.post("/recommend", json={"domain": "drama"})
    assert (response.status_code, response.json()["error"]["code"]) == (503, "not_ready")
    while client.get("/health/ready").status_code == 200:
        time.sleep(0.01)
    for path in ("/health/ready", "/health/live", "/v1/info"):
        assert client.get(path).status_code == 503, path
    assert client.post("/recommend", json={"domain": "drama"}).status_code == 503


def test_another_bundle_serves_registered_items_once_it_is_ready(tmp_path: Path) -> None:
    body = {"domain": "drama", "items": [{"item_id": "x", "title": "T"}], "register": True}
    with serving(tmp_path / "items.db") as client:
        version = client.post("/tokenize", json=body).json()["catalog_version"]
    other = FakeModel([*bundle_items(), film(6)], tokenizer="tokenizer-b")
    with serving(tmp_path / "items.db", other) as client:
        answer = client.post("/recommend", json={"domain": "drama"}).json()
        assert "x" in [item["item_id"] for item in answer["items"]]
        assert answer["catalog_version"] == version + 1
        assert client.get("/v1/info").json()["tokenizer"]["version"] == "tokenizer-b"


def test_two_services_in_one_process_share_nothing(tmp_path: Path) -> None:
    body = {"domain": "drama", "items": [{"item_id": "x", "title": "T"}], "register": True}
    with serving(tmp_path / "one.db") as one, serving(tmp_path / "two.db") as two:
        one.post("/tokenize", json=body)
        assert one.get("/v1/info").json()["catalog_version"] == 2
        assert two.get("/v1/info").json()["catalog_version"] == 1
        assert 'route="/tokenize"' not in two.get("/metrics").text


def test_a_stopped_service_leaves_no_thread_behind(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with serving(tmp_path / "items.db"):
        assert {"engine-recommend", "engine-tokenize"} <= {thread.name for thread in threading.enumerate()}
    assert {thread.name for thread in set(threading.enumerate()) - before if thread.name.startswith("engine")} == set()


def test_a_full_queue_makes_the_service_not_ready_but_never_not_live(serve: Serve, model: FakeModel) -> None:
    client = serve(model, max_queue=2, max_rows=2)
    gate = Gate(model)
    rows = {"requests": [{"domain": "drama"}, {"domain": "drama"}]}
    asking = [threading.Thread(target=client.post, args=("/recommend",), kwargs={"json": rows})]
    asking[0].start()
    assert gate.entered.wait(20)
    asking.append(threading.Thread(target=client.post, args=("/recommend",), kwargs={"json": rows}))
    asking[1].start()
    while client.get("/health/ready").status_code == 200:
        time.sleep(0.005)
    assert client.get("/health/ready").json()["error"]["code"] == "not_ready"
    assert client.get("/health/live").status_code == 200
    assert client.post("/recommend", json=rows).status_code == 429
    gate.open()
    for thread in asking:
        thread.join(20)
    assert client.get("/health/ready").status_code == 200


def test_a_batch_that_hangs_makes_the_service_not_live_until_it_ends(serve: Serve, model: FakeModel) -> None:
    client = serve(model, stuck_ms=1000)
    gate = Gate(model)
    asking = threading.Thread(target=client.post, args=("/recommend",), kwargs={"json": {"domain": "drama"}})
    asking.start()
    assert gate.entered.wait(20)
    while client.get("/health/live").status_code == 200:
        time.sleep(0.01)
    assert client.get("/health/ready").status_code == 503
    gate.open()
    asking.join(20)
    assert client.get("/health/live").status_code == 200


def test_a_database_that_does_not_answer_keeps_the_service_ready_with_what_it_has(tmp_path: Path) -> None:
    class Down(SqlStore):
        """It answers until it is down."""

        down = False

        def version(self) -> int:
            if self.down:
                raise StoreUnavailableError("the database does not answer")
            return super().version()

    store = Down(str(tmp_path / "items.db"))
    with serving(tmp_path / "items.db", store=lambda _: store) as client:
        store.down = True
        assert client.get("/health/ready").status_code == 200
        assert client.post("/recommend", json={"domain": "drama"}).status_code == 200


def test_a_service_looks_for_garbage_less_often_until_it_stops(tmp_path: Path) -> None:
    before = gc.get_threshold()
    with serving(tmp_path / "items.db"):
        assert gc.get_threshold()[0] > before[0]
        assert gc.get_threshold()[1:] == before[1:]
    assert gc.get_threshold() == before
