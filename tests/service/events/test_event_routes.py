"""POST /events."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from starlette.testclient import TestClient

from service.event_schemas import EventResult, EventsAnswer
from service.events.counting import Counting
from service.security.keys import file_entry
from sidera.items.transitions import TransitionRule
from tests.postgres import Postgres
from tests.service.events.made_up import body
from tests.service.fakes import FakeModel, serving

Serve = Callable[..., TestClient]


def learning_model() -> FakeModel:
    """A stand-in that counts events, and saw dramas up to second 10."""
    return FakeModel(counting=Counting(TransitionRule(), {"drama": 10.0}))


def within_seconds(holds: Callable[[], bool]) -> None:
    ends = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.01)


def post(client: TestClient, *rows: dict[str, Any]) -> list[dict[str, Any]]:
    answer = client.post("/events", json={"events": list(rows)})
    assert answer.status_code == 200, answer.text
    results: list[dict[str, Any]] = answer.json()["results"]
    return results


def history(client: TestClient, user_id: str) -> list[str]:
    return [event["item_id"] for event in client.get(f"/users/{user_id}/history").json()["events"]]


def test_answers_are_the_bytes_that_their_schema_writes(client: TestClient) -> None:
    client.delete("/users/gone")
    good = body("ä", "anna", "drama-0", 20)
    rows = [good, good, body("b", "anna", "nothing", 20), body("c", "gone", "drama-0", 20), {"event_id": "d"}]
    batch = client.post("/events", json={"events": rows})
    assert [row["outcome"] for row in batch.json()["results"]] == ["accepted", "duplicate", "accepted"] + [
        "rejected"
    ] * 2
    assert batch.text == EventsAnswer.model_validate_json(batch.text).model_dump_json()
    single = client.post("/events", json=body("e", "anna", "drama-0", 20))
    assert single.text == EventResult.model_validate_json(single.text).model_dump_json()


@pytest.mark.parametrize(
    "odd", [{}, {"timestamp": 9e9 - 1}, {"type": "stare"}, {"domain": "no/domain"}, {"domain": "new"}]
)
def test_a_plain_batch_gets_the_answer_that_it_gets_row_by_row(serve: Serve, odd: dict[str, Any]) -> None:
    client = serve(event_weights="view=1", event_skew_seconds=0)
    client.delete("/users/gone")

    def answer(prefix: str, content_type: str) -> str:
        rows = [body(f"{prefix}-{item}", "anna", item, 20) for item in ("drama-0", "drama-1", "nothing")]
        rows += [
            rows[0],
            body(f"{prefix}-gone", "gone", "drama-0", 20),
            body(f"{prefix}-odd", "ben", "drama-0", 20) | odd,
        ]
        text = json.dumps({"events": rows})
        told = client.post("/events", content=text, headers={"content-type": content_type})
        assert told.status_code == 200
        return told.text.replace(prefix, "")

    assert answer("at-once", "application/json") == answer("by-row", "application/json; charset=utf-8")


def test_a_plain_batch_is_within_the_limit_of_rows_or_refused(serve: Serve) -> None:
    client = serve(max_events=2)
    rows = [body(str(number), "anna", "drama-0", 20) for number in range(3)]
    assert [row["outcome"] for row in post(client, *rows[:2])] == ["accepted"] * 2
    refused = client.post("/events", json={"events": rows})
    assert (refused.status_code, refused.json()["error"]["field"]) == (422, "events")


def test_a_plain_batch_needs_a_key_that_may_send_events(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    entries = [
        file_entry("sender", "sender-key", ["events"], None),
        file_entry("reader", "its-key", ["tokenize"], None),
    ]
    path.write_text("".join(f"- {entry}\n" for entry in entries))
    client = serve(api_keys_file=path)
    for key, status in (("sender-key", 200), ("its-key", 403), ("nobodys-key", 401)):
        told = client.post("/events", json={"events": [body("a", "anna", "x", 20)]}, headers={"x-api-key": key})
        assert told.status_code == status


def test_each_row_is_answered_by_itself(client: TestClient) -> None:
    results = post(
        client,
        body("a", "anna", "drama-0", 20),
        {"event_id": "b", "user_id": "anna"},
        body("a", "anna", "drama-0", 20),
        "no row",  # type: ignore[arg-type]
        body("c", "anna", "drama-1", "2026-01-01T00:00:00+01:00", type="purchase"),
    )
    assert [(row["event_id"], row["outcome"]) for row in results] == [
        ("a", "accepted"),
        ("b", "rejected"),
        ("a", "duplicate"),
        (None, "rejected"),
        ("c", "accepted"),
    ]
    assert results[1]["error"] == {
        "code": "invalid_request",
        "message": "this field is needed",
        "field": "domain",
        "retryable": False,
    }
    assert history(client, "anna") == ["drama-0", "drama-1"]


def test_one_event_without_a_list_is_answered_without_one(client: TestClient) -> None:
    assert client.post("/events", json=body("a", "anna", "drama-0", 20)).json() == {
        "event_id": "a",
        "outcome": "accepted",
    }
    refused = client.post("/events", json=body("b", "anna", "drama-0", 20, type="stare"))
    assert (refused.status_code, refused.json()["error"]["field"]) == (422, "type")
    assert "view, click" in refused.json()["error"]["message"]
    assert 'sidera_errors_total{code="invalid_request"} 1.0' in client.get("/metrics").text, "it is counted once"


def test_the_same_event_a_thousand_times_counts_once(serve: Serve) -> None:
    model = learning_model()
    client = serve(model, event_memory_seconds=0.05)
    same = [body("a", "anna", "drama-0", 20), body("b", "anna", "drama-1", 21)]
    for _ in range(2):
        post(client, *same * 250)
    within_seconds(lambda: bool(model.learnt.entries))
    once = list(model.learnt)
    assert [row["outcome"] for row in post(client, *same)] == ["duplicate", "duplicate"]
    time.sleep(0.2)
    assert list(model.learnt) == once
    assert [count for _, _, count in once] == pytest.approx([1.0, 0.2], abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"timestamp": 9e12}, "timestamp"),
        ({"timestamp": -1}, "timestamp"),
        ({"timestamp": 10**400}, "timestamp"),
        ({"timestamp": "yesterday"}, "timestamp"),
        ({"timestamp": "2026-01-01T00:00:00"}, "timestamp"),
        ({"timestamp": True}, "timestamp"),
        ({"timestamp": None}, "timestamp"),
        ({"event_id": ""}, "event_id"),
        ({"event_id": "x" * 129}, "event_id"),
        ({"user_id": "a\0b"}, "user_id"),
        ({"user_id": 7}, "user_id"),
        ({"item_id": "\ud800"}, "item_id"),
        ({"domain": "no/domain"}, "domain"),
        ({"type": "stare"}, "type"),
        ({"extra": 1}, "extra"),
    ],
)
def test_a_bad_row_says_which_field_is_wrong_and_its_neighbours_are_stored(
    client: TestClient, changes: dict[str, Any], field: str
) -> None:
    rows = [body("good", "anna", "drama-0", 20), body("bad", "anna", "drama-1", 21) | changes]
    text = json.dumps({"events": rows})
    results = client.post("/events", content=text, headers={"content-type": "application/json"}).json()["results"]
    assert [row["outcome"] for row in results] == ["accepted", "rejected"]
    assert results[1]["error"]["field"] == field
    assert history(client, "anna") == ["drama-0"]


def test_an_event_in_the_future_is_refused_beyond_the_skew_that_is_allowed(serve: Serve) -> None:
    client = serve(event_skew_seconds=100)
    results = post(
        client, body("a", "anna", "drama-0", time.time() + 50), body("b", "anna", "drama-0", time.time() + 200)
    )
    assert [row["outcome"] for row in results] == ["accepted", "rejected"]


def test_events_of_unknown_items_and_domains_are_kept_reported_and_count_once_they_are_registered(serve: Serve) -> None:
    model = learning_model()
    client = serve(model, event_memory_seconds=0.05)
    results = post(
        client,
        body("a", "anna", "drama-0", 20),
        body("b", "anna", "new", 21),
        body("c", "anna", "x", 22, domain="western"),
    )
    assert [(row["outcome"], row.get("unknown")) for row in results] == [
        ("accepted", None),
        ("accepted", "item"),
        ("accepted", "domain"),
    ]
    assert "sidera_events_unknown_item_total 2.0" in client.get("/metrics").text
    item = {"item_id": "new", "title": "New"}
    client.post("/tokenize", json={"domain": "drama", "items": [item], "register": True})
    within_seconds(lambda: bool(model.learnt.entries))
    number = model.catalog.find("drama", "new")
    assert [(before, after) for before, after, _ in model.learnt] == [(0, number), (number, 0)]


def test_more_rows_than_allowed_are_refused_as_a_whole(serve: Serve) -> None:
    client = serve(max_events=2)
    rows = [body(f"e{n}", "anna", "drama-0", 20) for n in range(3)]
    answer = client.post("/events", json={"events": rows})
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "events")
    assert client.post("/events", json={"events": []}).status_code == 422
    assert history(client, "anna") == []


def test_rows_are_charged_to_the_key(serve: Serve) -> None:
    client = serve(max_rows=4, max_tokenize_items=4, max_events=4, rate_rows_per_second=0.04, rate_burst_seconds=100)
    rows = [body(f"e{n}", "anna", "drama-0", 20) for n in range(3)]
    assert client.post("/events", json={"events": rows}).status_code == 200
    assert client.post("/events", json={"events": rows}).json()["error"]["code"] == "rate_limited"


def test_a_database_that_does_not_answer_is_told_of_and_recommending_goes_on(postgres: Postgres) -> None:
    url = postgres.new_database()
    with serving(url) as client:  # type: ignore[arg-type]
        post(client, body("a", "anna", "drama-0", 20))
        postgres.disconnect(url)
        for answer in (
            client.post("/events", json={"events": [body("b", "anna", "drama-1", 21)]}),
            client.post("/recommend", json={"domain": "drama", "user_id": "anna"}),
            client.get("/users/anna/history"),
            client.delete("/users/anna"),
        ):
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "database_unavailable")
        assert client.post("/recommend", json={"domain": "drama"}).status_code == 200
        postgres.let_in(url)
        assert [row["outcome"] for row in post(client, body("b", "anna", "drama-1", 21))] == ["accepted"]
        assert history(client, "anna") == ["drama-0", "drama-1"]
    postgres.drop(url)


def test_no_user_is_named_in_logs_or_metrics(serve: Serve, capfd: pytest.CaptureFixture[str]) -> None:
    client = serve(learning_model(), log_level="debug", event_memory_seconds=0.05)
    post(client, body("secret-event", "secret-user", "drama-0", 20), body("e", "secret-user", "nope", 9e12))
    client.post("/recommend", json={"domain": "drama", "user_id": "secret-user"})
    client.get("/users/secret-user/history")
    client.delete("/users/secret-user")
    written = capfd.readouterr()
    assert "/users/{user_id:user}" in written.out + written.err
    assert "secret" not in written.out + written.err + client.get("/metrics").text


def test_the_path_of_a_history_deletes_no_user(serve: Serve) -> None:
    client = serve(learning_model())
    answer = client.delete("/users/anna/history")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
    assert client.delete("/users/anna/b").json()["user_id"] == "anna/b"
    refused = client.post("/events", json=body("e", "anna/history", "drama-0", 20)).json()
    assert refused["error"]["message"].startswith("'/history' ends the path of a user's history")


@pytest.mark.parametrize("user_id", ["history", "a/b", "history/a", "historyhistory", "a?b#c", " ", "\N{SNOWMAN}"])
def test_every_user_who_can_be_stored_can_be_read_and_deleted(serve: Serve, user_id: str) -> None:
    client = serve(learning_model())
    path = f"/users/{quote(user_id, safe='')}"
    assert post(client, body("e", user_id, "drama-0", 20))[0]["outcome"] == "accepted"
    assert [event["item_id"] for event in client.get(f"{path}/history").json()["events"]] == ["drama-0"]
    assert client.delete(path).json()["removed_events"] == 1


@pytest.mark.parametrize("user_id", [".", ".."])
def test_a_user_whom_no_path_can_name_is_refused(serve: Serve, user_id: str) -> None:
    [told] = post(serve(learning_model()), body("e", user_id, "drama-0", 20))
    assert (told["outcome"], told["error"]["field"]) == ("rejected", "user_id")
    assert "steps of a path" in told["error"]["message"]


def test_a_wrong_path_or_header_of_a_request_without_a_body_is_what_the_refusal_names(serve: Serve) -> None:
    client = serve(learning_model())
    for wrong in ("a%0Db", "a%0Ab"):
        answer = client.get(f"/users/{wrong}/history")
        assert (answer.status_code, answer.json()["error"]["field"]) == (422, "user_id")
    answer = client.get("/users/anna/history", headers={"x-sidera-deadline-ms": "soon"})
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "X-Sidera-Deadline-Ms")
