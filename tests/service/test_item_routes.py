"""GET, PATCH and DELETE /items/{domain}/{item_id}."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from starlette.testclient import TestClient

from service.catalog.rows import Changes
from service.catalog.store import SqlStore
from service.errors import StoreUnavailableError
from service.settings import Settings
from tests.service.fakes import FakeModel, serving

Serve = Callable[..., TestClient]


def register(client: TestClient, item_id: str, domain: str = "drama", **fields: Any) -> dict[str, Any]:
    body = {"domain": domain, "items": [{"item_id": item_id, **fields}], "register": True}
    response = client.post("/tokenize", json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()["items"][0]
    return answer


def recommended(client: TestClient, domain: str = "drama") -> list[str]:
    answer = client.post("/recommend", json={"domain": domain, "num_results": 20}).json()
    return [item["item_id"] for item in answer["items"]]


def test_an_item_of_the_bundle_is_shown_as_it_is(client: TestClient) -> None:
    assert client.get("/items/drama/drama-3").json() == {
        "domain": "drama",
        "item_id": "drama-3",
        "sid": [0, 3],
        "moved": False,
        "hidden": False,
        "fields": {"title": "Film 3", "categories": ["Film"]},
        "tokenizer_version": "tokenizer-a",
        "catalog_version": 1,
    }


def test_an_item_that_is_not_there_is_a_404_by_name(client: TestClient) -> None:
    for method in ("GET", "PATCH", "DELETE"):
        for path in ("/items/drama/x", "/items/western/drama-3", "/items/drama/drama-3/more"):
            response = client.request(method, path, json={} if method == "PATCH" else None)
            assert (response.status_code, response.json()["error"]["code"]) == (404, "unknown_item"), (method, path)


@pytest.mark.parametrize("item_id", ["a/b", "ü ?#%", "a/hide", "x" * 256])
def test_every_item_id_has_a_path(client: TestClient, item_id: str) -> None:
    register(client, item_id, title="T")
    path = f"/items/drama/{quote(item_id, safe='')}"
    assert client.get(path).json()["item_id"] == item_id
    assert client.patch(path, json={"hidden": True}).json()["hidden"] is True
    assert client.delete(path).status_code == 200
    assert client.get(path).status_code == 404


def test_a_patch_changes_fields_and_what_is_recommended_shows_it(client: TestClient) -> None:
    answer = client.patch("/items/drama/drama-0", json={"fields": {"title": "New", "year": 1952, "categories": None}})
    assert answer.status_code == 200
    assert answer.json()["fields"] == {"title": "New", "year": 1952}
    assert answer.json()["sid"] == [0, 0]
    assert answer.json()["catalog_version"] == 2
    assert client.get("/items/drama/drama-0").json() == answer.json()
    first = client.post("/recommend", json={"domain": "drama"}).json()
    assert (first["items"][0]["title"], first["catalog_version"]) == ("New", 2)


def test_a_patch_that_changes_nothing_makes_no_new_version(client: TestClient) -> None:
    for body in ({}, {"fields": {"title": "Film 0"}}, {"hidden": False}, {"fields": {"brand": None}}):
        assert client.patch("/items/drama/drama-0", json=body).json()["catalog_version"] == 1


def test_a_hidden_item_says_so_until_it_is_shown(client: TestClient) -> None:
    assert client.patch("/items/drama/drama-0", json={"hidden": True}).json()["hidden"] is True
    assert client.get("/items/drama/drama-0").json()["hidden"] is True
    assert client.patch("/items/drama/drama-0", json={"hidden": False}).json()["hidden"] is False


def test_retokenizing_gives_the_sid_of_the_new_text(client: TestClient) -> None:
    before = register(client, "x", title="T")
    placed = client.post("/tokenize", json={"domain": "drama", "items": [{"item_id": "y", "title": "Other"}]}).json()
    kept = client.patch("/items/drama/x", json={"fields": {"title": "Other"}}).json()
    assert kept["sid"] == before["sid"]
    moved = client.patch("/items/drama/x", json={"retokenize": True}).json()
    assert moved["sid"] == placed["items"][0]["sid"]


def test_a_deleted_item_is_recommended_no_more_once_the_call_answers(client: TestClient) -> None:
    register(client, "x", title="T")
    for item_id in ("x", "drama-2"):
        assert item_id in recommended(client)
        answer = client.delete(f"/items/drama/{item_id}")
        assert answer.status_code == 200
        assert item_id not in recommended(client)
    assert answer.json() == {"domain": "drama", "item_id": "drama-2", "catalog_version": 4}


def test_a_domain_whose_last_item_is_deleted_is_asked_for_in_vain_and_counted_no_more(client: TestClient) -> None:
    register(client, "w", "western", title="T")
    assert 'sidera_catalog_items{domain="western"} 1.0' in client.get("/metrics").text
    client.delete("/items/western/w")
    assert client.post("/recommend", json={"domain": "western"}).status_code == 404
    assert 'domain="western"' not in client.get("/metrics").text


def test_deleting_again_answers_the_same_and_registering_brings_the_item_back(client: TestClient) -> None:
    first = client.delete("/items/drama/drama-2")
    again = client.delete("/items/drama/drama-2")
    assert (again.status_code, again.json()) == (200, first.json())
    assert register(client, "drama-2", title="Back")["sid"] == [0, 2]
    assert "drama-2" in recommended(client)


def test_changes_are_there_after_a_restart_and_under_another_bundle(tmp_path: Path) -> None:
    with serving(tmp_path / "items.db") as client:
        client.delete("/items/drama/drama-1")
        client.patch("/items/drama/drama-2", json={"fields": {"title": "New"}, "hidden": True})
    for model in (FakeModel(), FakeModel(tokenizer="tokenizer-b")):
        with serving(tmp_path / "items.db", model) as client:
            assert "drama-1" not in recommended(client)
            item = client.get("/items/drama/drama-2").json()
            assert (item["fields"]["title"], item["hidden"]) == ("New", True)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_change_reaches_another_replica_on_the_same_database_by_itself(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    database = str(tmp_path / "items.db") if kind == "sqlite" else request.getfixturevalue("postgres").new_database()

    def store(_: Settings) -> SqlStore:
        return SqlStore(database)

    with serving(tmp_path, store=store) as one, serving(tmp_path, store=store) as other:
        deleted = one.delete("/items/drama/drama-1").json()
        while other.get("/v1/info").json()["catalog_version"] < deleted["catalog_version"]:
            threading.Event().wait(0.01)
        assert "drama-1" not in recommended(other)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"fields": {"title": None, "categories": None}}, "title"),
        ({"fields": {"title": 5}}, "fields.title"),
        ({"fields": {"item_id": "other"}}, "fields"),
        ({"fields": {"title": "x" * 101}}, "title"),
        ({"fields": {"size": {"x": 1}}}, None),
        ({"fields": {str(n): "x" for n in range(63)}}, None),
        ({"hidden": "yes"}, "hidden"),
        ({"hide": True}, "hide"),
        ([], None),
    ],
)
def test_a_patch_that_does_not_fit_is_refused_and_changes_nothing(
    serve: Serve, body: object, field: str | None
) -> None:
    client = serve(max_text_chars=100)
    response = client.patch("/items/drama/drama-0", json=body)
    assert response.status_code == 422, response.text
    assert response.json()["error"].get("field") == field
    assert client.get("/items/drama/drama-0").json()["catalog_version"] == 1


def test_changing_is_a_403_where_registering_is_switched_off_and_reading_goes_on(serve: Serve) -> None:
    client = serve(allow_register=False)
    assert client.patch("/items/drama/drama-0", json={"hidden": True}).status_code == 403
    assert client.delete("/items/drama/drama-0").status_code == 403
    assert client.get("/items/drama/drama-0").status_code == 200


def test_a_database_that_does_not_answer_is_a_retryable_503_and_reading_goes_on(serve: Serve, tmp_path: Path) -> None:
    class Down(SqlStore):
        def commit(self, changes: Changes, *, tokenizer: str, expected_version: int, version: int) -> None:
            raise StoreUnavailableError("database postgresql://me:***@host/name does not answer")

    client = serve(store=lambda _: Down(str(tmp_path / "down.db")))
    for response in (
        client.delete("/items/drama/drama-0"),
        client.patch("/items/drama/drama-0", json={"hidden": True}),
    ):
        assert (response.status_code, response.json()["error"]["code"]) == (503, "database_unavailable")
        assert response.json()["error"]["retryable"] is True
        assert response.headers["retry-after"]
        assert "host" not in response.text
    assert "drama-0" in recommended(client)
