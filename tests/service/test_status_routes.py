"""Information, metrics, and the description of the API."""

import re

from starlette.testclient import TestClient

from tests.service.fakes import FakeModel


def test_info_says_what_is_served(client: TestClient) -> None:
    info = client.get("/v1/info").json()
    limits = info.pop("limits")
    assert info == {
        "bundle_version": "bundle-1",
        "catalog_version": 1,
        "domains": [{"name": "comedy", "items": 3}, {"name": "drama", "items": 6}],
        "backbone": "scratch:tiny",
        "tokenizer": {"method": "rqvae", "version": "tokenizer-a", "codebook_sizes": [4, 4]},
    }
    assert limits["max_num_results"] == 100


def test_metrics_tell_of_rows_items_beams_batches_catalog_and_errors(client: TestClient, model: FakeModel) -> None:
    client.post("/recommend", json={"requests": [{"domain": "drama", "beam_width": 50}, {"domain": "nope"}]})
    client.post("/tokenize", json={"domain": "n", "items": [{"item_id": "a", "title": "T"}, {"item_id": "b"}]})
    text = client.get("/metrics").text
    for line in (
        "sidera_items_returned_sum 6.0",
        "sidera_beams_sum 50.0",
        'sidera_fallbacks_total{kind="prior"} 1.0',
        'sidera_errors_total{code="unknown_domain"} 1.0',
        'sidera_errors_total{code="invalid_request"} 1.0',
        'sidera_tokenized_items_total{outcome="placed"} 1.0',
        'sidera_tokenized_items_total{outcome="failed"} 1.0',
        'sidera_catalog_items{domain="drama"} 6.0',
        "sidera_catalog_version 1.0",
        'sidera_bundle{bundle_version="bundle-1"} 1.0',
        'sidera_batch_rows_count{engine="recommend"} 3.0',
        'sidera_queue_seconds_count{engine="recommend"} 3.0',
        'sidera_compute_seconds_count{engine="recommend"} 3.0',
        'sidera_queue_length{engine="tokenize"} 0.0',
        'sidera_request_seconds_count{route="/recommend"} 1.0',
    ):
        assert line in text.splitlines(), line
    assert client.get("/metrics").headers["content-type"].startswith("text/plain; version=")


def test_no_metric_has_a_label_that_a_client_chooses(client: TestClient) -> None:
    for n in range(20):
        client.get(f"/scan/{n}", headers={"x-request-id": f"id-{n}"})
        client.post("/recommend", json={"domain": f"domain-{n}"})
    text = client.get("/metrics").text
    assert re.findall("scan|id-1|domain-1", text) == []


def test_the_description_is_served_for_programs_and_for_people(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    page = client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    for path in document["paths"]:
        assert path in page.text
    for name in document["components"]["schemas"]:
        assert f"id='{name}'" in page.text


def test_the_page_for_people_loads_nothing_and_runs_nothing(client: TestClient) -> None:
    page = client.get("/docs")
    policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
    assert page.headers["content-security-policy"] == policy
    assert re.findall(r"<script|src=|https?://", page.text) == []


def test_an_unknown_route_and_a_wrong_method_have_the_one_error_shape(client: TestClient) -> None:
    unknown = client.get("/recommendations")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "not_found")
    wrong = client.get("/recommend")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"
    assert client.post("/recommend/", json={}).status_code == 404
