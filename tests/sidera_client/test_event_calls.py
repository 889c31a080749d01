"""Both clients send events and ask for users, against the real app."""

from pathlib import Path

import pytest

from sidera_client import AsyncClient, Client
from sidera_client.models import Event, RecommendRequest
from tests.service.fakes import FakeModel
from tests.service.test_uvicorn import listening
from tests.sidera_client.test_clients import in_process

EVENTS = [
    Event("a", "an/na", "drama", "drama-0", 20.5),
    Event("b", "an/na", "drama", "nothing", 21, "purchase"),
    Event("b", "an/na", "drama", "nothing", 21),
    Event("c", "an/na", "drama", "drama-1", 9e12),
]


def test_the_asynchronous_client_sends_events_and_asks_for_users(tmp_path: Path) -> None:
    async def ask(client: AsyncClient) -> None:
        results = (await client.send_events(EVENTS)).results
        assert [(row.event_id, row.outcome, row.unknown) for row in results] == [
            ("a", "accepted", None),
            ("b", "accepted", "item"),
            ("b", "duplicate", "item"),
            ("c", "rejected", None),
        ]
        assert results[3].error is not None
        assert results[3].error.field == "timestamp"
        assert [event.type for event in (await client.user_history("an/na")).events] == ["view", "purchase"]
        found = await client.recommend("drama", user_id="an/na", num_results=1)
        assert (found.items[0].item_id, found.missing_ids) == ("drama-1", ("nothing",))
        gone = await client.delete_user("an/na")
        assert (gone.user_id, gone.removed_events) == ("an/na", 2)
        assert (await client.user_history("an/na")).events == ()

    in_process(tmp_path, ask)


def test_the_synchronous_client_does_the_same_over_a_socket(tmp_path: Path) -> None:
    with listening(tmp_path, FakeModel()) as port, Client(f"http://127.0.0.1:{port}") as client:
        assert [row.outcome for row in client.send_events(EVENTS[:1]).results] == ["accepted"]
        assert client.recommend("drama", user_id="an/na", num_results=1).items[0].item_id == "drama-1"
        assert [event.item_id for event in client.user_history("an/na").events] == ["drama-0"]
        assert client.delete_user("an/na").removed_events == 1


def test_a_request_with_both_a_history_and_a_user_is_refused_before_it_is_sent() -> None:
    with pytest.raises(ValueError, match="either a history or a user_id"):
        RecommendRequest("drama", ["drama-0"], user_id="anna")
