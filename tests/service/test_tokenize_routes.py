"""POST /tokenize."""

import json
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.catalog.rows import Changes
from service.catalog.store import SqlStore
from service.errors import StaleCatalogError
from tests.service.fakes import FakeModel, serving

Serve = Callable[..., TestClient]


def tokenize(client: TestClient, *items: object, domain: str = "drama", **more: Any) -> dict[str, Any]:
    body = json.dumps({"domain": domain, "items": list(items), **more})
    response = client.post("/tokenize", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_an_item_of_the_catalog_has_its_sid(client: TestClient) -> None:
    answer = tokenize(client, {"item_id": "drama-3", "title": "Whatever"})
    assert answer == {
        "items": [{"item_id": "drama-3", "sid": [0, 3], "moved": False, "registered": True}],
        "tokenizer_version": "tokenizer-a",
        "catalog_version": 1,
    }


def test_a_new_item_has_the_sid_that_it_would_get_and_is_not_registered(client: TestClient) -> None:
    first = tokenize(client, {"item_id": "x", "title": "T"})
    assert first["items"][0]["registered"] is False
    assert tokenize(client, {"item_id": "x", "title": "T"}) == first
    assert client.get("/v1/info").json()["catalog_version"] == 1


def test_moved_says_that_the_items_own_leaf_was_taken(client: TestClient) -> None:
    answer = tokenize(client, {"item_id": "x", "title": "T"}, {"item_id": "y", "title": "T"}, domain="new")
    assert [item["moved"] for item in answer["items"]] == [False, True]
    assert answer["items"][0]["sid"] != answer["items"][1]["sid"]


def test_items_that_cannot_be_tokenized_say_why_while_the_others_go_on(client: TestClient) -> None:
    answer = tokenize(
        client,
        {"item_id": "no-text"},
        {"item_id": "blank", "title": "  "},
        {"item_id": "kind", "title": "T", "size": {"x": 1}},
        {"item_id": "flag", "title": "T", "new": True},
        {"item_id": "half", "title": "T", "note": "\ud800"},
        {"item_id": "name", "title": "T", "\ud800": "x"},
        {"item_id": "big", "title": "T", "weight": math.inf},
        {"item_id": 5, "title": "T"},
        {"title": "T"},
        "T",
        {"item_id": "control\n", "title": "T"},
        {"item_id": "good", "title": "T"},
        {"item_id": "good", "title": "T"},
        register=True,
    )
    items = answer["items"]
    assert [item["item_id"] for item in items] == [
        "no-text", "blank", "kind", "flag", "half", "name", "big", None, None, None, "control\n", "good", "good",
    ]  # fmt: skip
    assert [item["registered"] for item in items] == [False] * 11 + [True, False]
    assert [item["error"]["code"] if "error" in item else None for item in items] == (
        ["invalid_request"] * 11 + [None, "duplicate_item"]
    )
    assert all(item["sid"] is None and item["error"]["message"] for item in items if "error" in item)
    assert answer["catalog_version"] == 2


def test_a_text_over_the_limit_fails_its_item_alone(serve: Serve) -> None:
    client = serve(max_text_chars=10)
    long, short = tokenize(client, {"item_id": "a", "title": "x" * 11}, {"item_id": "b", "title": "x"})["items"]
    assert (long["error"]["field"], "error" in short) == ("title", False)


def test_registered_items_can_be_recommended_once_the_call_answers(client: TestClient) -> None:
    answer = tokenize(client, {"item_id": "x", "title": "New film"}, register=True)
    recommended = client.post("/recommend", json={"domain": "drama"}).json()
    assert recommended["catalog_version"] == answer["catalog_version"] == 2
    found = {item["item_id"]: item for item in recommended["items"]}
    assert found["x"]["sid"] == answer["items"][0]["sid"]
    assert found["x"]["title"] == "New film"


def test_registering_creates_a_domain_that_never_existed(client: TestClient) -> None:
    assert client.post("/recommend", json={"domain": "western"}).status_code == 404
    tokenize(client, {"item_id": "w", "title": "High Noon"}, domain="western", register=True)
    [item] = client.post("/recommend", json={"domain": "western"}).json()["items"]
    assert item["item_id"] == "w"
    assert {"name": "western", "items": 1} in client.get("/v1/info").json()["domains"]
    assert 'sidera_catalog_items{domain="western"} 1.0' in client.get("/metrics").text


def test_registered_items_are_there_after_a_restart(tmp_path: Path) -> None:
    with serving(tmp_path / "items.db") as client:
        before = tokenize(client, {"item_id": "w", "title": "High Noon"}, domain="western", register=True)
    with serving(tmp_path / "items.db") as client:
        [item] = client.post("/recommend", json={"domain": "western"}).json()["items"]
        assert item["sid"] == before["items"][0]["sid"]
        assert tokenize(client, {"item_id": "w", "title": "High Noon"}, domain="western", register=True) == before


def test_the_same_text_again_changes_nothing(client: TestClient) -> None:
    first = tokenize(client, {"item_id": "x", "title": "T", "year": 1952}, register=True)
    assert tokenize(client, {"item_id": "x", "title": "T", "year": 1952}, register=True) == first
    assert tokenize(client, {"item_id": "x", "title": "T", "year": 1952, "brand": None}, register=True) == first


def test_changed_text_keeps_the_sid_and_replaces_the_title(client: TestClient) -> None:
    first = tokenize(client, {"item_id": "drama-0", "title": "Old"}, register=True)
    second = tokenize(client, {"item_id": "drama-0", "title": "New"}, register=True)
    assert second["items"] == first["items"]
    assert second["catalog_version"] == first["catalog_version"] + 1
    assert client.post("/recommend", json={"domain": "drama"}).json()["items"][0]["title"] == "New"


def test_items_over_the_room_of_a_domain_say_so_while_the_others_are_registered(client: TestClient) -> None:
    answer = tokenize(client, *({"item_id": f"n{n}", "title": f"T{n}"} for n in range(17)), domain="n", register=True)
    assert [item["registered"] for item in answer["items"]] == [True] * 16 + [False]
    assert answer["items"][16]["error"]["code"] == "domain_full"


def test_concurrent_registrations_all_join(client: TestClient) -> None:
    def register(n: int) -> None:
        tokenize(client, {"item_id": f"n{n}", "title": "Same"}, domain="n", register=True)

    threads = [threading.Thread(target=register, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    items = client.post("/recommend", json={"domain": "n"}).json()["items"]
    assert sorted(item["item_id"] for item in items) == [f"n{n}" for n in range(8)]
    assert len({tuple(item["sid"]) for item in items}) == 8


def test_recommending_goes_on_while_items_are_encoded(serve: Serve, model: FakeModel) -> None:
    client = serve(model)
    entered, go = threading.Event(), threading.Event()
    encode = model.vectors

    def slow(items: Any) -> Any:
        entered.set()
        assert go.wait(20)
        return encode(items)

    model.vectors = slow  # type: ignore[method-assign]
    thread = threading.Thread(target=tokenize, args=(client, {"item_id": "x", "title": "T"}), kwargs={"register": True})
    thread.start()
    assert entered.wait(20)
    answer = client.post("/recommend", json={"domain": "drama"})
    go.set()
    thread.join()
    assert (answer.status_code, answer.json()["catalog_version"]) == (200, 1)
    assert client.post("/recommend", json={"domain": "drama"}).json()["catalog_version"] == 2


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"domain": "../up", "items": [{"item_id": "a", "title": "T"}]}, "domain"),
        ({"domain": "drama", "items": []}, "items"),
        ({"domain": "drama", "items": [{"item_id": "a", "title": "T"}] * 3}, "items"),
        ({"domain": "drama", "items": [{"item_id": "a", "title": "T"}], "registr": True}, "registr"),
        ({"domain": "drama", "items": [{"item_id": "a", "title": "T"}], "register": "yes"}, "register"),
        ({"domain": "drama"}, "items"),
    ],
)
def test_a_request_that_does_not_fit_is_refused(serve: Serve, body: dict[str, Any], field: str) -> None:
    response = serve(max_tokenize_items=2).post("/tokenize", json=body)
    assert response.status_code == 422
    assert response.json()["error"]["field"] == field


def test_registering_is_a_403_where_it_is_switched_off_and_tokenizing_goes_on(serve: Serve) -> None:
    client = serve(allow_register=False)
    body = {"domain": "drama", "items": [{"item_id": "x", "title": "T"}]}
    response = client.post("/tokenize", json=body | {"register": True})
    assert response.status_code == 403
    assert response.json()["error"]["code"] == "forbidden"
    assert client.post("/tokenize", json=body).status_code == 200


def test_a_domain_too_many_is_a_409(serve: Serve) -> None:
    body = {"domain": "third", "items": [{"item_id": "x", "title": "T"}], "register": True}
    response = serve(max_domains=2).post("/tokenize", json=body)
    assert response.status_code == 409
    assert response.json()["error"]["code"] == "domain_limit"


class AlwaysStale(SqlStore):
    """Another process is always faster."""

    def commit(self, changes: Changes, *, tokenizer: str, expected_version: int, version: int) -> None:
        raise StaleCatalogError("always")


def test_a_catalog_that_others_keep_changing_is_a_retryable_409(serve: Serve, tmp_path: Path) -> None:
    client = serve(store=lambda _: AlwaysStale(str(tmp_path / "other.db")))
    body = {"domain": "drama", "items": [{"item_id": "x", "title": "T"}], "register": True}
    response = client.post("/tokenize", json=body)
    assert (response.status_code, response.headers["retry-after"]) == (409, "1")
    assert response.json()["error"] == {
        "code": "conflict",
        "message": "other processes kept changing the catalog; send the request again",
        "retryable": True,
    }


def test_a_database_that_fails_is_a_500_without_its_text(serve: Serve, tmp_path: Path) -> None:
    class Broken(SqlStore):
        def commit(self, changes: Changes, *, tokenizer: str, expected_version: int, version: int) -> None:
            raise OSError("/secret/path is full")

    client = serve(store=lambda _: Broken(str(tmp_path / "other.db")))
    response = client.post(
        "/tokenize", json={"domain": "drama", "items": [{"item_id": "x", "title": "T"}], "register": True}
    )
    assert response.status_code == 500
    assert "secret" not in response.text
    assert client.post("/recommend", json={"domain": "drama"}).json()["catalog_version"] == 1
