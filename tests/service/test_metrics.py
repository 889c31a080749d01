"""Metrics have bounded labels, and count from the beginning."""

import time

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from service.metrics import Metrics

LABELS = {"method", "route", "status", "engine", "code", "stage", "domain", "reason", "outcome", "kind", "key", "what"}


def samples(text: str, name: str) -> list[tuple[dict[str, str], float]]:
    return [
        (sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    ]


def test_no_metric_has_a_label_that_clients_choose(client: TestClient) -> None:
    for number in range(3):
        client.post(f"/made-up-{number}", json={}, headers={"x-request-id": f"id-{number}", "x-api-key": f"k{number}"})
        client.post("/recommend", json={"domain": f"no-domain-{number}"})
        client.post("/recommend", json={"domain": "drama", "history": [{"item_id": f"no-item-{number}"}]})
    text = client.get("/metrics").text
    labels = {
        name
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        for name in sample.labels
        if family.name.startswith("sidera_")
    }
    assert labels <= LABELS | {"le", "bundle_version"}
    for chosen in ("made-up", "id-0", "k0", "no-domain", "no-item"):
        assert chosen not in text


def test_an_answer_tells_the_time_of_its_serialisation(client: TestClient) -> None:
    client.post("/recommend", json={"domain": "drama"})
    counted = samples(client.get("/metrics").text, "sidera_stage_seconds_count")
    assert ({"stage": "serialisation"}, 1.0) in counted


def test_bundle_and_catalog_tell_when_they_came(client: TestClient) -> None:
    text = client.get("/metrics").text
    for name in ("sidera_bundle_loaded_timestamp_seconds", "sidera_catalog_changed_timestamp_seconds"):
        [(_, value)] = samples(text, name)
        assert time.time() - 60 < value <= time.time()


def test_replica_lag_is_told_only_where_a_database_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics, now = Metrics(), 100.0
    monkeypatch.setattr("service.metrics.time.monotonic", lambda: now)
    assert samples(metrics.render().decode(), "sidera_replica_lag_seconds") == []
    metrics.catalog_followed()
    now += 7
    assert samples(metrics.render().decode(), "sidera_replica_lag_seconds") == [({}, 7.0)]


def test_counters_whose_first_event_matters_begin_at_0() -> None:
    text = Metrics().render().decode()
    assert samples(text, "sidera_invalid_items_total") == [({}, 0.0)]
    assert samples(text, "sidera_bundle_swaps_total") == [({"outcome": "served"}, 0.0), ({"outcome": "failed"}, 0.0)]
    assert len(samples(text, "sidera_halved_batches_total")) == 4
