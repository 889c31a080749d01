"""What is done for events waits while recommendations are computed, and never for long."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from starlette.testclient import TestClient

from service.catalog.database import Database
from service.catalog.state import Numbered
from service.events.counting import Counting
from service.events.memory import Bounds, EventMemory
from service.events.patience import LEARNING, SENDERS, Patience, Turns
from service.events.store import EventStore
from sidera.catalog import create_catalog
from sidera.items.transitions import TransitionRule
from sidera.recommender import Query
from tests.service.events.made_up import body, event
from tests.service.fakes import SIZES, FakeModel, bundle_items

Serve = Callable[..., TestClient]


class Pauses:
    """Says whether there is a pause, and remembers for how long it was asked to wait."""

    def __init__(self, *, is_there: bool) -> None:
        self.is_there = is_there
        self.asked: list[float] = []

    def __call__(self, seconds: float) -> bool:
        self.asked.append(seconds)
        return self.is_there


def test_a_thread_waits_for_each_pause_but_after_a_vain_wait_works_on_for_a_while() -> None:
    pauses = Pauses(is_there=True)
    patience = Patience(pauses)
    for _ in range(3):
        patience.wait()
    assert len(pauses.asked) == 3
    pauses.is_there = False
    for _ in range(3):
        patience.wait()
    assert len(pauses.asked) == 4


def test_what_nobody_waits_for_waits_longer_and_works_no_larger_part_of_the_time() -> None:
    pauses = Pauses(is_there=False)
    Patience(pauses, LEARNING).wait()
    Patience(pauses).wait()
    assert pauses.asked == [LEARNING.wait, SENDERS.wait]
    assert LEARNING.wait > SENDERS.wait
    assert LEARNING.work / LEARNING.wait <= SENDERS.work / SENDERS.wait


def test_a_thread_that_waited_in_vain_waits_again_once_it_has_worked_for_its_time() -> None:
    pauses = Pauses(is_there=False)
    patience = Patience(pauses, Turns(wait=0.5, work=0.0))
    for _ in range(3):
        patience.wait()
    assert pauses.asked == [0.5] * 3


def test_requests_wait_in_one_thread_for_a_moment_only_and_not_at_all_in_a_pause() -> None:
    pause, waiting, most = threading.Event(), 0, 0

    def wait(seconds: float) -> bool:
        nonlocal waiting, most
        waiting += seconds > 0
        most = max(most, waiting)
        came = pause.wait(seconds)
        waiting -= seconds > 0
        return came

    async def requests(patience: Patience) -> None:
        await asyncio.wait_for(asyncio.gather(*(patience.on_loop() for _ in range(10))), 20)

    asyncio.run(requests(Patience(wait)))
    assert most == 1
    pause.set()
    most = 0
    asyncio.run(requests(Patience(wait)))
    assert most == 0


def test_memory_gives_way_between_groups_of_users(tmp_path: Path) -> None:
    database = Database(str(tmp_path / "items.db"))
    store, catalog, ways = EventStore(database, 10), create_catalog(bundle_items(), SIZES), Pauses(is_there=True)
    memory = EventMemory(
        store,
        Counting(TransitionRule(), {}),
        {"view": 1.0},
        Bounds(10, 10_000_000),
        lambda: Numbered(catalog, 0),
        lambda delta, now, numbering: None,
        lambda: ways(0),
    )
    store.add([event(f"{user}-{n}", f"user-{user}", f"drama-{n}", 20 + n) for user in range(600) for n in range(2)])
    memory.refresh()
    assert (len(ways.asked), memory.users) == (1 + 3, 600)
    database.close()


def test_events_are_taken_also_where_a_recommendation_is_computed_all_the_time(serve: Serve) -> None:
    begun, go, model = threading.Event(), threading.Event(), FakeModel()
    client = serve(model)

    def hold(queries: Sequence[Query]) -> None:
        begun.set()
        assert go.wait(20)

    model.before_recommend = hold
    asking = threading.Thread(target=client.post, args=("/recommend",), kwargs={"json": {"domain": "drama"}})
    asking.start()
    try:
        assert begun.wait(20)
        assert client.post("/events", json=body("a", "anna", "drama-0", time.time())).json()["outcome"] == "accepted"
        assert not go.is_set()
    finally:
        go.set()
        asking.join(20)
