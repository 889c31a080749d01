"""Search, codes, evaluation users and the report over HTTP."""

import json
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from starlette.testclient import TestClient

import service.catalog_views
from sidera.catalog import Catalog
from sidera.items.code_map import CodeVectors, ItemMap, item_map
from sidera.items.item_search import LiveItemSearch
from tests.service.conftest import Serve
from tests.service.fakes import FakeModel
from tests.service.playground.bundles import bundle_with_users


def test_items_are_found_by_words_with_their_ids(client: TestClient) -> None:
    answer = client.post("/search", json={"text": "film 2", "domain": "drama"}).json()
    assert answer["items"] == [
        {"domain": "drama", "item_id": "drama-2", "title": "Film 2", "sid": [0, 2], "hidden": False}
    ]


def test_an_item_is_found_once_it_is_registered_and_not_once_it_is_deleted(client: TestClient) -> None:
    def found() -> list[str]:
        return [one["item_id"] for one in client.post("/search", json={"text": "zebra"}).json()["items"]]

    assert found() == []
    client.post("/tokenize", json={"domain": "books", "items": [{"item_id": "z", "title": "Zebra"}], "register": True})
    assert found() == ["z"]
    client.patch("/items/books/z", json={"fields": {"title": "Okapi"}})
    assert found() == []
    client.patch("/items/books/z", json={"fields": {"title": "Zebra crossing"}})
    assert found() == ["z"]
    client.delete("/items/books/z")
    assert found() == []


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({}, 422, "text"),
        ({"text": "x" * 201}, 422, "text"),
        ({"text": "x", "num_results": 51}, 422, "num_results"),
        ({"text": "x", "domain": "cinema"}, 404, "domain"),
    ],
)
def test_a_search_that_cannot_be_made_says_why(client: TestClient, body: object, status: int, field: str) -> None:
    answer = client.post("/search", json=body)
    assert (answer.status_code, answer.json()["error"]["field"]) == (status, field)


def test_a_catalog_over_the_limit_is_not_indexed(serve: Serve) -> None:
    answer = serve(max_search_items=8).post("/search", json={"text": "film"})
    assert answer.status_code == 403
    assert "SIDERA_MAX_SEARCH_ITEMS" in answer.json()["error"]["message"]


def test_while_the_index_is_made_a_search_is_told_to_come_again(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()

    def slow(*given: object) -> LiveItemSearch:
        assert go_on.wait(20)
        return LiveItemSearch(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(service.catalog_views, "LiveItemSearch", slow)
    monkeypatch.setattr(service.catalog_views, "_PATIENCE_SECONDS", 0.01)
    client = serve()
    answer = client.post("/search", json={"text": "film"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert client.post("/recommend", json={"domain": "drama"}).status_code == 200
    monkeypatch.setattr(service.catalog_views, "_PATIENCE_SECONDS", 20)
    go_on.set()
    assert client.post("/search", json={"text": "film"}).status_code == 200


def test_too_many_waiting_views_are_refused(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.catalog_views, "_MOST_WAITING", 0)
    answer = serve().post("/codes", json={"domain": "drama"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")


def test_codes_tell_what_lies_below_a_prefix(client: TestClient) -> None:
    answer = client.post("/codes", json={"domain": "drama", "prefix": [1]}).json()
    assert (answer["items"], [code["code"] for code in answer["codes"]]) == (2, [0, 1])
    assert answer["codes"][1]["examples"] == [{"item_id": "drama-5", "title": "Film 5"}]
    root = client.post("/codes", json={"domain": "drama"}).json()
    assert [(code["code"], code["items"]) for code in root["codes"]] == [(0, 4), (1, 2)]


def test_codes_count_registered_items(client: TestClient) -> None:
    before = client.post("/codes", json={"domain": "comedy"}).json()
    client.post("/tokenize", json={"domain": "comedy", "items": [{"item_id": "n", "title": "New"}], "register": True})
    after = client.post("/codes", json={"domain": "comedy"}).json()
    assert (after["items"], after["catalog_version"]) == (before["items"] + 1, before["catalog_version"] + 1)


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"domain": "cinema"}, 404, "domain"),
        ({"domain": "drama", "prefix": [3]}, 422, "prefix"),
        ({"domain": "drama", "prefix": [0, 0]}, 422, "prefix"),
        ({"domain": "drama", "prefix": [-1]}, 422, "prefix.0"),
        ({"domain": "drama", "prefix": [0] * 65}, 422, "prefix"),
    ],
)
def test_codes_of_no_item_say_so(client: TestClient, body: object, status: int, field: str) -> None:
    answer = client.post("/codes", json=body)
    assert (answer.status_code, answer.json()["error"]["field"]) == (status, field)


def test_fields_tell_what_items_can_be_filtered_by(client: TestClient) -> None:
    answer = client.post("/fields", json={"domain": "drama"}).json()
    assert answer["sampled_items"] == 6
    assert answer["fields"] == [{"name": "categories", "items": 6, "values": [{"value": "Film", "items": 6}]}]


def test_fields_of_registered_items_are_told_once_they_are_there(client: TestClient) -> None:
    items = [{"item_id": "n", "title": "New", "year": 2001, "categories": ["Film", "Farce"]}]
    assert "year" not in str(client.post("/fields", json={"domain": "drama"}).json())
    client.post("/tokenize", json={"domain": "drama", "items": items, "register": True})
    fields = client.post("/fields", json={"domain": "drama"}).json()["fields"]
    assert fields[0]["values"] == [{"value": "Film", "items": 7}, {"value": "Farce", "items": 1}]
    assert fields[1] == {"name": "year", "items": 1, "values": [{"value": 2001, "items": 1}], "min": 2001, "max": 2001}


def test_near_items_come_for_each_semantic_id(client: TestClient) -> None:
    body = {"sids": [[3, 3], [0, 1]], "num_results": 1, "except_domain": "comedy"}
    first, second = client.post("/near", json=body).json()["results"]
    assert second == [
        {
            "domain": "drama",
            "item_id": "drama-1",
            "title": "Film 1",
            "sid": [0, 1],
            "similarity": pytest.approx(1, abs=1e-6),
            "shared_codes": 2,
        }
    ]
    assert [one["item_id"] for one in first] == ["drama-5"]


@pytest.mark.parametrize(
    ("path", "body", "status", "field"),
    [
        ("/fields", {"domain": "cinema"}, 404, "domain"),
        ("/near", {"sids": []}, 422, "sids"),
        ("/near", {"sids": [[0]]}, 422, "sids"),
        ("/near", {"sids": [[0, 4]]}, 422, "sids"),
        ("/near", {"sids": [[0, -1]]}, 422, "sids.0.1"),
        ("/near", {"sids": [[0, 0]] * 17}, 422, "sids"),
        ("/near", {"sids": [[0, 0]], "num_results": 11}, 422, "num_results"),
    ],
)
def test_a_view_that_cannot_be_made_says_why(
    client: TestClient, path: str, body: object, status: int, field: str
) -> None:
    answer = client.post(path, json=body)
    assert (answer.status_code, answer.json()["error"]["field"]) == (status, field)


def test_the_map_has_the_items_and_is_made_once_a_version(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def counted(catalog: Catalog, vectors: CodeVectors) -> ItemMap:
        made.append(catalog.version)
        return item_map(catalog, vectors)

    monkeypatch.setattr(service.catalog_views, "item_map", counted)
    answer = client.get("/map").json()
    assert len(answer["items"]) == answer["catalog_items"] == 9
    assert {"domain", "item_id", "title", "sid", "x", "y"} == set(answer["items"][0])
    assert all(-1 <= one["x"] <= 1 and -1 <= one["y"] <= 1 for one in answer["items"])
    assert client.get("/map").json() == answer
    assert len(made) == 1
    client.post("/tokenize", json={"domain": "books", "items": [{"item_id": "z", "title": "Z"}], "register": True})
    assert [one["item_id"] for one in client.get("/map").json()["items"] if one["domain"] == "books"] == ["z"]
    assert len(made) == 2


def test_views_are_computed_off_the_event_loop_and_the_engine(serve: Serve, model: FakeModel) -> None:
    threads: list[str] = []

    def noted(sids_NL: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        threads.append(threading.current_thread().name)
        return sids_NL.astype(np.float32)

    model.code_vectors = noted  # type: ignore[method-assign]
    client = serve(model)
    client.get("/map")
    client.post("/near", json={"sids": [[0, 1]]})
    assert threads
    assert all(name.startswith("views") for name in threads)


def test_evaluation_users_come_from_the_bundle_with_titles(serve: Serve, tmp_path: Path) -> None:
    client = serve(bundle_with_users(tmp_path / "bundle"), bundle=tmp_path / "bundle")
    assert client.get("/evaluation_users").json() == {
        "users": [
            {
                "domain": "drama",
                "history": [{"domain": "drama", "item_id": "drama-3", "title": "Film 3"}],
                "target": {"domain": "drama", "item_id": "drama-1", "title": "Film 1"},
            }
        ]
    }


def test_a_bundle_without_users_or_report_has_none(client: TestClient) -> None:
    assert client.get("/evaluation_users").json() == {"users": []}
    assert client.get("/report").status_code == 404


def test_the_report_is_shown_without_scripts(serve: Serve, tmp_path: Path) -> None:
    answer = serve(bundle_with_users(tmp_path / "bundle"), bundle=tmp_path / "bundle").get("/report")
    assert answer.text.endswith("A report")
    assert "sandbox" in answer.headers["content-security-policy"]
    assert "script-src" not in answer.headers["content-security-policy"]


def test_whether_there_is_a_report_is_told_without_sending_it(serve: Serve, tmp_path: Path) -> None:
    client = serve(bundle_with_users(tmp_path / "bundle"), bundle=tmp_path / "bundle")
    assert client.head("/report").status_code == 200
    assert serve(api_keys=("a-key-of-some-length",)).head("/report").status_code == 401


def test_a_file_of_the_bundle_that_was_changed_is_refused(serve: Serve, tmp_path: Path) -> None:
    client = serve(bundle_with_users(tmp_path / "bundle"), bundle=tmp_path / "bundle")
    file = tmp_path / "bundle/samples/evaluation_users.json"
    file.write_text(json.dumps(json.loads(file.read_text())[:0]))
    assert client.get("/evaluation_users").status_code == 404


def test_a_folder_that_holds_another_bundle_by_now_is_not_read(serve: Serve, tmp_path: Path) -> None:
    model = bundle_with_users(tmp_path / "bundle")
    model.description = type(model.description)("another", "scratch:tiny", "rqvae", "tokenizer-a", "encoder-a")
    client = serve(model, bundle=tmp_path / "bundle")
    assert client.get("/evaluation_users").json() == {"users": []}
