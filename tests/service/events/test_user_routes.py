"""What is stored of a user is recommended from, shown, and forgotten."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from service.app import create_admin_app
from sidera.recommender import Query
from tests.service.events.made_up import body
from tests.service.events.test_event_routes import history, learning_model, post, within_seconds
from tests.service.fakes import FakeModel, serving

Serve = Callable[..., TestClient]


def recommend(client: TestClient, **changes: Any) -> dict[str, Any]:
    answer: dict[str, Any] = client.post("/recommend", json={"domain": "drama"} | changes).json()
    return answer


def test_a_user_id_stands_for_the_stored_events_of_all_domains_oldest_first(
    client: TestClient, model: FakeModel
) -> None:
    post(
        client,
        body("b", "anna", "drama-1", 30),
        body("a", "anna", "comedy-1", 20, domain="comedy"),
        body("c", "ben", "drama-2", 25),
    )
    answer = recommend(client, user_id="anna")
    assert model.batches[-1] == [Query("drama", (("comedy", "comedy-1"), ("drama", "drama-1")))]
    assert answer["fallback"] is None
    assert "drama-1" not in [item["item_id"] for item in answer["items"]]


def test_a_user_whom_nobody_knows_has_an_empty_history(client: TestClient, model: FakeModel) -> None:
    assert recommend(client, user_id="nobody")["fallback"] == "prior"
    assert model.batches[-1] == [Query("drama")]


def test_a_request_with_both_a_history_and_a_user_is_refused_in_a_sentence(client: TestClient) -> None:
    answer = recommend(client, user_id="anna", history=[{"item_id": "drama-0"}])
    assert answer["error"]["message"] == "a request has either a history or a user_id; leave one of them out"


def test_rows_of_users_and_of_histories_stand_in_one_batch(client: TestClient, model: FakeModel) -> None:
    post(client, body("a", "anna", "drama-1", 30))
    rows = [
        {"domain": "drama", "user_id": "anna"},
        {"domain": "drama", "history": [{"item_id": "drama-3"}]},
        {"domain": "drama", "user_id": "anna", "validate_only": True},
        {"domain": "nope", "user_id": "anna"},
    ]
    results = client.post("/recommend", json={"requests": rows}).json()["results"]
    assert [next(iter(result)) for result in results] == ["items", "items", "valid", "error"]
    assert {query.history for batch in model.batches for query in batch} >= {
        (("drama", "drama-1"),),
        (("drama", "drama-3"),),
    }


def test_what_a_user_did_not_want_is_no_history_and_does_not_come_back(client: TestClient, model: FakeModel) -> None:
    post(
        client,
        body("a", "anna", "drama-0", 20),
        body("b", "anna", "drama-1", 21),
        body("c", "anna", "drama-1", 22, type="dislike"),
        body("d", "anna", "drama-2", 23, type="skip"),
        body("e", "anna", "drama-2", 24),
    )
    recommend(client, user_id="anna", exclude=["drama-5"])
    expected = Query("drama", (("drama", "drama-0"), ("drama", "drama-2")), exclude=frozenset({"drama-1", "drama-5"}))
    assert model.batches[-1] == [expected]


def test_an_event_that_counts_nothing_brings_no_disliked_item_back(serve: Serve, model: FakeModel) -> None:
    client = serve(model, event_weights="view=1,impression=0,dislike=-1")
    post(
        client,
        body("a", "anna", "drama-0", 20),
        body("b", "anna", "drama-1", 21),
        body("c", "anna", "drama-1", 22, type="dislike"),
        body("d", "anna", "drama-1", 23, type="impression"),
    )
    recommend(client, user_id="anna")
    assert model.batches[-1] == [Query("drama", (("drama", "drama-0"),), exclude=frozenset({"drama-1"}))]


def test_a_setting_lets_disliked_items_come_back(serve: Serve, model: FakeModel) -> None:
    client = serve(model, exclude_disliked=False)
    post(client, body("a", "anna", "drama-1", 22, type="dislike"))
    recommend(client, user_id="anna")
    assert model.batches[-1] == [Query("drama")]


def test_a_history_has_at_most_as_many_items_as_one_that_is_sent(serve: Serve, model: FakeModel) -> None:
    client = serve(model, max_history_items=2)
    post(client, *(body(f"e{n}", "anna", f"drama-{n}", 20 + n) for n in range(4)))
    recommend(client, user_id="anna")
    assert [item for _, item in model.batches[-1][0].history] == ["drama-2", "drama-3"]


def test_a_million_events_of_one_user_would_be_as_little_work_as_the_newest_ones(serve: Serve) -> None:
    model = learning_model()
    client = serve(model, max_user_events=5, event_memory_seconds=0.05)
    for begin in range(0, 2000, 500):
        post(client, *(body(f"e{n}", "bot", f"drama-{n % 6}", 20 + n) for n in range(begin, begin + 500)))
    assert len(history(client, "bot")) == 5
    within_seconds(lambda: bool(model.learnt.entries))
    within_seconds(lambda: sum(count for _, _, count in model.learnt) < 20)


def test_the_history_shows_what_is_stored(client: TestClient) -> None:
    post(client, body("a", "an/na", "drama-0", 20.5), body("b", "an/na", "x", 21, type="dislike"))
    assert client.get("/users/an/na/history").json() == {
        "user_id": "an/na",
        "events": [
            {"domain": "drama", "item_id": "drama-0", "type": "view", "timestamp": 20.5},
            {"domain": "drama", "item_id": "x", "type": "dislike", "timestamp": 21.0},
        ],
    }


def test_a_deleted_user_is_forgotten_at_once_and_may_come_back_as_a_new_one(serve: Serve) -> None:
    model = learning_model()
    client = serve(model, event_memory_seconds=0.05)
    post(client, body("a", "anna", "drama-0", 20), body("b", "anna", "drama-1", 21))
    within_seconds(lambda: bool(model.learnt.entries))
    told = client.delete("/users/anna").json()
    assert (told["user_id"], told["removed_events"]) == ("anna", 2)
    assert list(model.learnt) == [], "before the answer came"
    assert history(client, "anna") == []
    assert recommend(client, user_id="anna")["fallback"] == "prior"
    [late] = post(client, body("a", "anna", "drama-0", 20))
    assert (late["outcome"], late["error"]["field"]) == ("rejected", "user_id")
    alone = client.post("/events", json=body("a", "anna", "drama-1", 20))
    assert (alone.status_code, alone.json()["error"]["field"]) == (422, "user_id")
    assert "stays forgotten" in alone.json()["error"]["message"]
    [new] = post(client, body("c", "anna", "drama-3", told["deleted_at"] + 1))
    assert new["outcome"] == "accepted"
    assert history(client, "anna") == ["drama-3"]
    assert client.delete("/users/nobody").json()["removed_events"] == 0


def test_the_admin_port_lists_deleted_users_in_pages(client: TestClient) -> None:
    times = {name: client.delete(f"/users/{name}").json()["deleted_at"] for name in ("c", "a", "b")}
    admin = TestClient(create_admin_app(client.app))  # type: ignore[arg-type]
    first = admin.get("/admin/users/deleted", params={"limit": 2}).json()
    rest = admin.get("/admin/users/deleted", params={"limit": 2, "after": first["next"]}).json()
    assert first["users"] == [{"user_id": name, "deleted_at": times[name]} for name in "ab"]
    assert rest == {"users": [{"user_id": "c", "deleted_at": times["c"]}], "next": None}
    assert client.get("/admin/users/deleted").status_code == 404


def test_another_replica_learns_and_forgets_within_seconds(tmp_path: Path) -> None:
    models = [learning_model(), learning_model()]
    with ExitStack() as stack:
        here, there = (
            stack.enter_context(serving(tmp_path / "items.db", model, event_memory_seconds=0.05)) for model in models
        )
        post(here, body("a", "anna", "drama-0", 20), body("b", "anna", "drama-1", 21))
        assert history(there, "anna") == ["drama-0", "drama-1"], "a history is never behind"
        within_seconds(lambda: bool(models[1].learnt.entries))
        assert list(models[0].learnt) == list(models[1].learnt) or not models[0].learnt.entries
        there.delete("/users/anna")
        within_seconds(lambda: not models[0].learnt.entries)
        assert "sidera_event_memory_users 0.0" in there.get("/metrics").text


def test_a_service_that_starts_has_learnt_what_was_stored_before_it_answers(tmp_path: Path) -> None:
    with serving(tmp_path / "items.db") as client:
        post(client, body("a", "anna", "drama-0", 20), body("b", "anna", "drama-1", 21))
    model = learning_model()
    with serving(tmp_path / "items.db", model):
        assert [(before, after) for before, after, _ in model.learnt] == [(0, 1), (1, 0)]


def test_what_memory_holds_and_how_far_it_is_behind_is_told(serve: Serve) -> None:
    model = learning_model()
    client = serve(model, event_memory_seconds=0.05)
    post(client, body("a", "anna", "drama-0", 20), body("b", "anna", "drama-1", 21), body("b", "anna", "drama-1", 21))
    within_seconds(lambda: "sidera_event_memory_transitions 2.0" in client.get("/metrics").text)
    text = client.get("/metrics").text
    assert 'sidera_events_total{outcome="accepted"} 2.0' in text
    assert 'sidera_events_total{outcome="duplicate"} 1.0' in text
    assert "sidera_event_memory_users 1.0" in text
    lag = next(line for line in text.splitlines() if line.startswith("sidera_event_memory_lag_seconds "))
    assert 0 <= float(lag.split()[1]) < 20
    assert client.app.state.context.runtime.running().learning.memory.bytes > 0  # type: ignore[attr-defined]


def test_a_bundle_that_counts_no_transitions_stores_events_all_the_same(client: TestClient) -> None:
    post(client, body("a", "anna", "drama-0", 20))
    assert history(client, "anna") == ["drama-0"]
    assert "\nsidera_event_memory_users " not in client.get("/metrics").text
