"""POST /recommend."""

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from starlette.testclient import TestClient

from sidera.decoding.diversity import Diversity
from sidera.decoding.sampling import Sampling
from sidera.errors import FilterError, UnknownDomainError
from sidera.explain.item_explanation import CodeProbability, HistoryEffect, ItemExplanation, OtherCode, Parts
from sidera.items.conditions import conditions_of
from sidera.recommender import Query
from tests.service.answers import error_of
from tests.service.fakes import FakeModel

Serve = Callable[..., TestClient]
JSON = {"content-type": "application/json"}


def test_items_come_best_first_with_ranks_scores_sids_and_titles(client: TestClient) -> None:
    answer = client.post("/recommend", json={"domain": "drama", "num_results": 2}).json()
    assert answer["items"] == [
        {"item_id": "drama-0", "score": -0.5, "rank": 1, "sid": [0, 0], "title": "Film 0"},
        {"item_id": "drama-1", "score": -1.5, "rank": 2, "sid": [0, 1], "title": "Film 1"},
    ]
    assert (answer["domain"], answer["bundle_version"], answer["catalog_version"]) == ("drama", "bundle-1", 1)
    assert (answer["exact"], answer["fallback"]) == (True, "prior")
    assert "returned_reason" not in answer


def test_an_answer_has_exactly_the_documented_fields(client: TestClient) -> None:
    answer = client.post("/recommend", json={"domain": "drama", "num_results": 100}).json()
    assert set(answer) == {
        "items",
        "missing_ids",
        "domain",
        "request_id",
        "bundle_version",
        "catalog_version",
        "exact",
        "fallback",
        "returned_reason",
    }


def test_the_defaults_are_ten_items_and_an_excluded_history(client: TestClient, model: FakeModel) -> None:
    body = {"domain": "drama", "history": [{"item_id": "drama-0"}, {"item_id": "comedy-1", "domain": "comedy"}]}
    answer = client.post("/recommend", json=body).json()
    assert [item["item_id"] for item in answer["items"]] == [f"drama-{n}" for n in range(1, 6)]
    assert answer["fallback"] is None
    assert model.batches[-1] == [Query("drama", (("drama", "drama-0"), ("comedy", "comedy-1")), 10)]
    assert model.checked[-1] == model.batches[-1][0]


def test_every_field_reaches_the_recommender(client: TestClient, model: FakeModel) -> None:
    body = {
        "domain": "drama",
        "history": [{"item_id": "drama-0"}],
        "num_results": 3,
        "exclude": ["drama-1"],
        "exclude_history": False,
        "beam_width": 50,
        "allow": ["drama-2", "drama-3"],
        "filters": {"price": {"min": 5, "max": 7.5}, "categories": ["Film", "Western"], "new": True},
        "diversity": {"max_per_prefix": 2, "prefix_length": 1},
        "sampling": {"seed": 7, "temperature": 2},
        "explain": True,
    }
    assert client.post("/recommend", json=body).status_code == 200
    conditions = conditions_of({"categories": ["Film", "Western"], "new": True, "price": {"min": 5, "max": 7.5}})
    assert model.batches[-1] == [
        Query(
            domain="drama",
            history=(("drama", "drama-0"),),
            num_results=3,
            exclude=frozenset({"drama-1"}),
            exclude_history=False,
            beam_width=50,
            conditions=conditions,
            only=frozenset({"drama-2", "drama-3"}),
            diversity=Diversity(2, 1),
            sampling=Sampling(7, 2.0),
            explain=True,
        )
    ]


def test_unknown_history_items_come_back_in_missing_ids(client: TestClient) -> None:
    body = {
        "domain": "drama",
        "history": [{"item_id": "nope"}, {"item_id": "drama-0"}, {"item_id": "x", "domain": "y"}],
    }
    answer = client.post("/recommend", json=body).json()
    assert (answer["missing_ids"], answer["fallback"]) == (["nope", "x"], None)


def test_fewer_items_than_asked_for_come_with_a_reason(client: TestClient) -> None:
    answer = client.post("/recommend", json={"domain": "comedy", "num_results": 4}).json()
    assert len(answer["items"]) == 3
    assert answer["returned_reason"] == "only 3 items are allowed"


def test_an_item_without_a_title_has_no_title_field(client: TestClient) -> None:
    client.post("/tokenize", json={"domain": "n", "items": [{"item_id": "a", "brand": "B"}], "register": True})
    [item] = client.post("/recommend", json={"domain": "n", "num_results": 1}).json()["items"]
    assert set(item) == {"item_id", "score", "rank", "sid"}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"colour": 1}, "colour"),
        ({"history": [{"item_id": "a", "when": 1}]}, "history.0.when"),
        ({"history": [{"item_id": "a"}, {"item_id": 5}]}, "history.1.item_id"),
        ({"history": "a"}, "history"),
        ({"num_results": 0}, "num_results"),
        ({"num_results": 101}, "num_results"),
        ({"num_results": "10"}, "num_results"),
        ({"num_results": True}, "num_results"),
        ({"beam_width": 257}, "beam_width"),
        ({"exclude": ["a"] * 4}, "exclude"),
        ({"history": [{"item_id": "a"}] * 5}, "history"),
        ({"domain": ""}, "domain"),
        ({"domain": None}, "domain"),
        ({"domain": "\ud800"}, "domain"),
        ({"allow": []}, "allow"),
        ({"allow": ["a"] * 4}, "allow"),
        ({"allow": [""]}, "allow.0"),
        ({"filters": []}, "filters"),
        ({"filters": {"a": 1, "b": 2, "c": 3}}, "filters"),
        ({"filters": {"a": [1, 2, 3], "b": 4}}, "filters"),
        ({"filters": {"a": []}}, "filters.a"),
        ({"filters": {"a": None}}, "filters.a"),
        ({"filters": {"a": [[1]]}}, "filters.a"),
        ({"filters": {"a": float("nan")}}, "filters.a"),
        ({"filters": {"a": {}}}, "filters.a"),
        ({"filters": {"a": {"least": 1}}}, "filters.a"),
        ({"filters": {"a": {"min": "1"}}}, "filters.a"),
        ({"filters": {"a": {"min": 2, "max": 1}}}, "filters.a"),
        ({"filters": {"\ud800": 1}}, "filters.\ufffd\ufffd\ufffd"),
        ({"filters": {"year": {"min": 1990}}}, "filters.year"),
        ({"diversity": 2}, "diversity"),
        ({"diversity": {}}, "diversity.max_per_prefix"),
        ({"diversity": {"max_per_prefix": 0}}, "diversity.max_per_prefix"),
        ({"diversity": {"max_per_prefix": 10**30}}, "diversity.max_per_prefix"),
        ({"diversity": {"max_per_prefix": 1, "prefix_length": 0}}, "diversity.prefix_length"),
        ({"diversity": {"max_per_prefix": 1, "prefix_length": 3}}, "diversity.prefix_length"),
        ({"sampling": {}}, "sampling.seed"),
        ({"sampling": {"seed": -1}}, "sampling.seed"),
        ({"sampling": {"seed": 2**63}}, "sampling.seed"),
        ({"sampling": {"seed": 1, "temperature": 0}}, "sampling.temperature"),
        ({"sampling": {"seed": 1, "temperature": float("nan")}}, "sampling.temperature"),
        ({"explain": 1}, "explain"),
        ({"explain": True, "num_results": 6}, "explain"),
        ({"validate_only": "yes"}, "validate_only"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_path_of_its_field(
    serve: Serve, change: dict[str, Any], field: str
) -> None:
    client = serve(
        max_history_items=4,
        max_exclude_items=3,
        max_allow_items=3,
        max_filters=2,
        max_filter_values=3,
        max_explained_items=5,
    )
    response = client.post("/recommend", content=json.dumps({"domain": "drama"} | change), headers=JSON)
    assert response.status_code == 422
    error = error_of(response)
    assert (error["code"], error["field"], error["retryable"]) == ("invalid_request", field, False)
    assert "Input should" not in error["message"], "the sentence is ours"


def test_a_field_name_that_is_no_text_is_refused_in_the_one_shape(client: TestClient) -> None:
    response = client.post("/recommend", content=b'{"domain": "drama", "\\ud800": 1}', headers=JSON)
    assert response.status_code == 422
    assert error_of(response)["code"] == "invalid_request"


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"domain": 1' + b"0" * 5000 + b"}"])
def test_a_body_that_is_not_json_is_a_400(client: TestClient, body: bytes) -> None:
    response = client.post("/recommend", content=body, headers=JSON)
    assert response.status_code == 400
    assert error_of(response)["code"] == "invalid_json"


def test_json_that_is_not_declared_as_json_is_a_400_that_says_so(client: TestClient) -> None:
    response = client.post("/recommend", content=b'{"domain": "drama"}', headers={"content-type": "text/plain"})
    assert response.status_code == 400
    assert "content-type: application/json" in error_of(response)["message"]


@pytest.mark.parametrize("body", [b"null", b"[1]", b"7", b'"drama"'])
def test_a_body_of_another_kind_of_json_is_a_422(client: TestClient, body: bytes) -> None:
    response = client.post("/recommend", content=body, headers=JSON)
    assert response.status_code == 422
    assert error_of(response)["message"] == "expected a JSON object"


def test_an_unknown_domain_is_a_404(client: TestClient, model: FakeModel) -> None:
    response = client.post("/recommend", json={"domain": "cinema"})
    assert response.status_code == 404
    error = error_of(response)
    assert (error["code"], error["field"]) == ("unknown_domain", "domain")
    assert all(query.domain != "cinema" for batch in model.batches for query in batch)


def test_a_batch_answers_row_by_row_and_bad_rows_do_not_fail_their_neighbours(client: TestClient) -> None:
    rows = [
        {"domain": "drama", "num_results": 1},
        {"domain": "cinema"},
        {"domain": "drama", "nonsense": 1},
        7,
        {"domain": "drama", "beam_width": 5000},
        {"domain": "comedy", "num_results": 1},
    ]
    response = client.post("/recommend", json={"requests": rows})
    assert response.status_code == 200
    results = response.json()["results"]
    assert [result["items"][0]["item_id"] if "items" in result else None for result in results] == [
        "drama-0",
        None,
        None,
        None,
        None,
        "comedy-0",
    ]
    errors = [result["error"] for result in results if "error" in result]
    assert [error["code"] for error in errors] == ["unknown_domain"] + ["invalid_request"] * 3
    assert [error.get("field") for error in errors] == ["domain", "nonsense", None, "beam_width"]
    assert results[0]["request_id"] == response.headers["x-request-id"]


def test_the_rows_of_a_batch_request_are_computed_together(client: TestClient, model: FakeModel) -> None:
    client.post("/recommend", json={"requests": [{"domain": "drama"}, {"domain": "comedy"}]})
    assert [query.domain for query in model.batches[-1]] == ["drama", "comedy"]


def test_a_row_answers_as_it_does_alone(client: TestClient) -> None:
    rows = [{"domain": "drama", "num_results": 3}, {"domain": "comedy", "exclude": ["comedy-0"]}]
    headers = {"x-request-id": "same"}
    together = client.post("/recommend", json={"requests": rows}, headers=headers).json()["results"]
    assert together == [client.post("/recommend", json=row, headers=headers).json() for row in rows]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"requests": []}, "requests"),
        ({"requests": [{"domain": "drama"}] * 4}, "requests"),
        ({"requests": [{"domain": "drama"}], "more": 1}, "more"),
        ({"requests": {"domain": "drama"}}, "requests"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused_as_a_whole(serve: Serve, body: dict[str, Any], field: str) -> None:
    response = serve(max_rows=3).post("/recommend", json=body)
    assert response.status_code == 422
    assert error_of(response)["field"] == field


def test_a_row_that_fails_by_a_defect_is_a_500_without_its_text_and_leaves_its_neighbours(
    client: TestClient, model: FakeModel
) -> None:
    def fail(queries: Sequence[Query]) -> None:
        if any(query.num_results == 7 for query in queries):
            raise RuntimeError("secret detail")

    model.before_recommend = fail
    body = {"requests": [{"domain": "drama"}, {"domain": "drama", "num_results": 7}, {"domain": "comedy"}]}
    response = client.post("/recommend", json=body)
    first, second, third = response.json()["results"]
    assert (len(first["items"]), len(third["items"])) == (6, 3)
    assert (second["error"]["code"], second["error"]["retryable"]) == ("internal", False)
    alone = client.post("/recommend", json={"domain": "drama", "num_results": 7})
    assert alone.status_code == 500
    assert "secret" not in response.text + alone.text
    assert "Traceback" not in alone.text


def test_a_domain_that_the_recommender_does_not_know_after_all_is_a_404(client: TestClient, model: FakeModel) -> None:
    def refuse(queries: Sequence[Query]) -> None:
        raise UnknownDomainError("there is no domain 'drama'")

    model.before_recommend = refuse
    assert error_of(client.post("/recommend", json={"domain": "drama"}))["code"] == "unknown_domain"


def test_a_request_to_validate_only_is_checked_and_not_computed(client: TestClient, model: FakeModel) -> None:
    computed = len(model.batches)
    body = {
        "domain": "drama",
        "history": [{"item_id": "drama-0"}, {"item_id": "nope"}],
        "beam_width": 30,
        "validate_only": True,
    }
    response = client.post("/recommend", json=body)
    assert response.status_code == 200
    answer = response.json()
    assert answer.pop("request_id") == response.headers["x-request-id"]
    assert answer == {
        "valid": True,
        "tokens": 2 * 3 + 1 + 30,
        "missing_ids": ["nope"],
        "domain": "drama",
        "bundle_version": "bundle-1",
        "catalog_version": 1,
    }
    assert len(model.batches) == computed
    assert client.post("/recommend", json=body | {"filters": {"year": 1}}).status_code == 422


def test_rows_to_validate_stand_beside_rows_to_compute(client: TestClient, model: FakeModel) -> None:
    rows = [
        {"domain": "drama", "validate_only": True},
        {"domain": "comedy", "num_results": 1},
        {"domain": "cinema", "validate_only": True},
    ]
    first, second, third = client.post("/recommend", json={"requests": rows}).json()["results"]
    assert first["valid"]
    assert second["items"][0]["item_id"] == "comedy-0"
    assert third["error"]["code"] == "unknown_domain"
    assert [query.domain for query in model.batches[-1]] == ["comedy"]


def test_a_field_that_vanished_after_the_check_is_a_422(client: TestClient, model: FakeModel) -> None:
    def refuse(queries: Sequence[Query]) -> None:
        raise FilterError("no item has the field 'a'", "a")

    model.before_recommend = refuse
    response = client.post("/recommend", json={"domain": "drama", "filters": {"a": 1}})
    assert response.status_code == 422
    assert error_of(response)["field"] == "filters.a"


def test_explanations_come_with_the_items(client: TestClient, model: FakeModel) -> None:
    model.explanation = ItemExplanation(
        codes=(CodeProbability(0, 0.5, None), CodeProbability(3, 0.25, 0.125, (OtherCode(2, 0.5, 0.75),))),
        gamma=0.5,
        parts=Parts(0.1, 0.2, 0.3, 0.4),
        history=(HistoryEffect(0, "drama", "drama-1", math.inf), HistoryEffect(1, "drama", "drama-2", -0.5)),
    )
    body = {"domain": "drama", "num_results": 1, "explain": True}
    [item] = client.post("/recommend", json=body).json()["items"]
    assert item["explanation"] == {
        "codes": [
            {"code": 0, "universal": 0.5, "domain": None, "others": []},
            {
                "code": 3,
                "universal": 0.25,
                "domain": 0.125,
                "others": [{"code": 2, "universal": 0.5, "domain": 0.75}],
            },
        ],
        "gamma": 0.5,
        "parts": {"language_model": 0.1, "followed": 0.2, "alike": 0.3, "popular": 0.4},
        "history": [
            {"place": 0, "domain": "drama", "item_id": "drama-1", "effect": None},
            {"place": 1, "domain": "drama", "item_id": "drama-2", "effect": -0.5},
        ],
    }


def test_short_answers_are_counted(client: TestClient) -> None:
    client.post("/recommend", json={"domain": "comedy", "num_results": 3})
    assert "sidera_short_results_total 0.0" in client.get("/metrics").text
    client.post("/recommend", json={"domain": "comedy", "num_results": 4})
    assert "sidera_short_results_total 1.0" in client.get("/metrics").text
