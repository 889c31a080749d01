"""What memory learnt step by step is what counting all stored events anew gives."""

import functools
import itertools
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.catalog.database import Database
from service.catalog.state import Numbered
from service.errors import StoreUnavailableError
from service.events.counting import Counting
from service.events.ledger import RECORD, Ledger, records_of
from service.events.memory import Bounds, EventMemory
from service.events.rows import StoredEvent
from service.events.store import EventStore
from service.events.tables import DELETED_USERS, EVENTS
from sidera.catalog import Catalog, create_catalog
from sidera.items.transitions import TransitionDelta, TransitionRule
from tests.service.events.made_up import event
from tests.service.fakes import SIZES, bundle_items, film

WEIGHTS = {"view": 1.0, "skip": -0.5, "look": 0.0}
RULE = TransitionRule(window=3, half_life_days=0.001)
MOST = 4


class World:
    """A store, a catalog that grows, and memories of a bundle that was trained until second 10 in domain drama."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.store = EventStore(database, MOST)
        self.catalog: Catalog = create_catalog(bundle_items(), SIZES)
        self.numbering = 0
        self.used: list[tuple[TransitionDelta, int]] = []

    def memory(self, bounds: Bounds | None = None) -> EventMemory:
        return EventMemory(
            self.store,
            Counting(RULE, {"drama": 10.0, "comedy": None}),
            WEIGHTS,
            bounds or Bounds(MOST, 10_000_000),
            lambda: Numbered(self.catalog, self.numbering),
            lambda delta, now, numbering: self.used.append((delta, numbering)),
        )

    def register(self, number: int) -> None:
        if self.catalog.find("drama", f"drama-{number}") is None:
            self.catalog = self.catalog.with_items([film(number)], self.catalog.version + 1)

    def delete_item(self, number: int) -> None:
        if self.catalog.find("drama", f"drama-{number}") is not None:
            self.catalog = self.catalog.without_items([("drama", f"drama-{number}")], self.catalog.version + 1)

    def clear(self) -> None:
        with self.database.writing() as connection:
            connection.execute(EVENTS.delete())
            connection.execute(DELETED_USERS.delete())


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    database = Database(str(tmp_path / "items.db"))
    yield World(database)
    database.close()


def counts(memory: EventMemory) -> dict[tuple[int, int], float]:
    return {(before, after): count for before, after, count in memory.delta}


def anew(world: World) -> dict[tuple[int, int], float]:
    memory = world.memory()
    memory.rebuild()
    return counts(memory)


def between_items(world: World, counted: dict[tuple[int, int], float]) -> dict[tuple[int, int], float]:
    """Those between items that can be recommended; what is left of a deleted item leads to nothing."""
    there = {number for index in world.catalog.indexes.values() for number in index.number_of_leaf.tolist()}
    return {pair: count for pair, count in counted.items() if there.issuperset(pair)}


def pairs(world: World, *names: str) -> list[tuple[int, int]]:
    numbers = [world.catalog.find("drama", name) or 0 for name in names]
    return list(itertools.pairwise(numbers))


EVENT = st.tuples(
    st.sampled_from(["anna", "ben", "eve"]),
    st.sampled_from(["drama-0", "drama-1", "drama-2", "drama-7", "comedy-1"]),
    st.integers(0, 30),
    st.sampled_from(list(WEIGHTS)),
)
STEP = st.one_of(
    st.lists(EVENT, min_size=1, max_size=4),
    st.sampled_from(["forget anna", "forget ben", "register", "delete the item", "learn"]),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(STEP, max_size=10))
def test_learning_step_by_step_is_counting_all_stored_events_anew(world: World, steps: list[object]) -> None:
    world.clear()
    world.catalog = create_catalog(bundle_items(), SIZES)
    memory, sent = world.memory(), 0
    memory.rebuild()
    for step in [*steps, "learn"]:
        if isinstance(step, list):
            rows = []
            for user_id, item_id, seconds, kind in step:
                domain = item_id.partition("-")[0]
                rows.append(event(f"{sent}", user_id, item_id, 10_000_000_000 + seconds, kind, domain))
                if seconds < 15:  # before and at the end of training
                    rows[-1] = event(f"{sent}", user_id, item_id, seconds, kind, domain)
                sent += 1
            world.store.add(rows)
        elif step == "register":
            world.register(7)
        elif step == "delete the item":
            world.delete_item(7)
        elif step == "learn":
            memory.refresh()
        else:
            user_id = str(step).split()[1]
            world.store.delete_user(user_id)
            memory.forget(user_id)
    assert between_items(world, counts(memory)) == between_items(world, anew(world))


def test_only_transitions_to_events_after_training_count(world: World) -> None:
    memory = world.memory()
    world.store.add([event(f"e{n}", "anna", f"drama-{n}", 8 + n) for n in range(4)])
    memory.refresh()
    [one, two, three] = pairs(world, "drama-0", "drama-1", "drama-2", "drama-3")
    learnt = counts(memory)
    assert one not in learnt
    assert two not in learnt, "second 10 is what training saw last"
    assert learnt[three] > 0
    assert (two[0], three[1]) in learnt, "an older event stands before a newer one"


def test_old_events_alone_teach_nothing_and_are_not_kept_in_memory(world: World) -> None:
    memory = world.memory()
    world.store.add([event(f"e{n}", "anna", f"drama-{n}", n) for n in range(4)])
    assert memory.refresh()
    assert (counts(memory), memory.users) == ({}, 0)


def test_events_of_one_user_in_two_domains_do_not_follow_each_other(world: World) -> None:
    memory = world.memory()
    world.store.add([event("a", "anna", "drama-0", 20), event("b", "anna", "comedy-0", 21, domain="comedy")])
    memory.refresh()
    assert counts(memory) == {}
    assert memory.users == 1


def test_a_negative_event_weakens_and_one_of_an_unknown_kind_counts_nothing(world: World) -> None:
    memory = world.memory()
    world.store.add([event("a", "anna", "drama-0", 20), event("b", "anna", "drama-1", 21, "skip")])
    world.store.add([event("c", "ben", "drama-2", 20), event("d", "ben", "drama-3", 21, "retired kind")])
    memory.refresh()
    [disliked] = pairs(world, "drama-0", "drama-1")
    assert counts(memory)[disliked] < 0
    assert {before for before, _ in counts(memory)} == {disliked[0]}


def test_an_event_of_an_unknown_item_counts_once_the_item_is_registered(world: World) -> None:
    memory = world.memory()
    world.store.add([event("a", "anna", "drama-0", 20), event("b", "anna", "drama-7", 21)])
    memory.refresh()
    assert counts(memory) == {}
    assert not memory.refresh()
    world.register(7)
    assert memory.refresh()
    assert pairs(world, "drama-0", "drama-7")[0] in counts(memory)
    assert counts(memory) == anew(world)


def test_the_events_of_a_deleted_item_stay_and_count_again_once_it_is_back(world: World) -> None:
    memory = world.memory()
    world.register(7)
    world.store.add([event("a", "anna", "drama-0", 20), event("b", "anna", "drama-7", 21)])
    memory.refresh()
    learnt = counts(memory)
    world.delete_item(7)
    world.store.add([event("c", "anna", "drama-1", 22)])
    memory.refresh()
    assert between_items(world, counts(memory)) == between_items(world, anew(world)) != {}
    world.register(7)
    memory.refresh()
    assert counts(memory) == anew(world)
    assert learnt.items() <= counts(memory).items()


def test_items_that_got_other_numbers_are_counted_anew(world: World) -> None:
    memory = world.memory()
    for number in (7, 8):
        world.register(number)
    world.store.add([event("a", "anna", "drama-0", 20), event("b", "anna", "drama-8", 21)])
    memory.refresh()
    world.catalog = create_catalog(bundle_items(), SIZES)
    for number in (8, 7):
        world.register(number)
    world.numbering += 1
    assert memory.refresh()
    assert counts(memory) == anew(world)


def test_counting_anew_that_the_database_cuts_off_is_begun_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = world.memory()
    for user_id in ("anna", "ben"):
        world.store.add([event(f"{n}{user_id}", user_id, f"drama-{n}", 20 + n) for n in range(2)])
    memory.refresh()
    whole = world.store.all_beyond

    def cut_off(learnt_us: Mapping[str, int]) -> Iterator[tuple[int, list[list[StoredEvent]]]]:
        for version, histories in whole(learnt_us):
            yield version, histories[:1]
            raise StoreUnavailableError("no answer")

    world.numbering += 1
    with monkeypatch.context() as failing:
        failing.setattr(world.store, "all_beyond", cut_off)
        with pytest.raises(StoreUnavailableError):
            memory.refresh()
    assert memory.refresh()
    assert counts(memory) == anew(world) != {}


def test_an_item_that_is_registered_while_the_database_does_not_answer_counts_once_it_does(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = world.memory()
    world.store.add([event("a", "anna", "drama-0", 20), event("b", "anna", "drama-7", 21)])
    memory.refresh()
    world.register(7)

    def fail(users: object) -> None:
        raise StoreUnavailableError("no answer")

    with monkeypatch.context() as failing:
        failing.setattr(world.store, "histories", fail)
        with pytest.raises(StoreUnavailableError):
            memory.refresh()
    assert memory.refresh()
    assert counts(memory) == anew(world) != {}


def test_forgetting_a_user_takes_back_at_once_what_the_user_taught_and_nothing_else(world: World) -> None:
    memory = world.memory()
    world.store.add([event("a", "anna", "drama-0", 20), event("b", "anna", "drama-1", 21)])
    memory.refresh()
    others = counts(memory)
    world.store.add([event("c", "eve", "drama-0", 20), event("d", "eve", "drama-1", 25)])
    memory.refresh()
    assert counts(memory) != others
    world.store.delete_user("eve")
    memory.forget("eve")
    assert counts(memory) == others
    assert world.used[-1] == (memory.delta, 0), "what is in use has forgotten"
    memory.refresh()
    assert counts(memory) == others


def test_a_user_who_is_deleted_while_everything_is_counted_anew_is_forgotten_and_waits_for_a_page_only(
    world: World,
) -> None:
    memory = world.memory()
    for user_id, first in (("anna", 0), ("eve", 2)):
        world.store.add([event(f"{n}{user_id}", user_id, f"drama-{first + n}", 20 + n) for n in range(2)])
    forgotten = []

    def meanwhile() -> None:
        """The first page is read, and waits to be counted."""
        world.store.delete_user("eve")
        world.store.add([event(f"{n}new", "eve", f"drama-{4 + n}", time.time() + n) for n in range(2)])
        forgetting = threading.Thread(target=memory.forget, args=("eve",))
        forgetting.start()
        forgetting.join(20)
        forgotten.append(not forgetting.is_alive())

    memory.rebuild(meanwhile)
    assert forgotten == [True]
    assert set(pairs(world, "drama-2", "drama-3")).isdisjoint(counts(memory))
    assert counts(memory) == anew(world) != {}
    memory.refresh()
    assert counts(memory) == anew(world)


def test_a_memory_that_is_far_behind_learns_page_by_page_what_counting_anew_gives(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, looked = world.memory(), []
    for place in range(5):
        users = ("anna", "ben", "dan") if place < 3 else ("anna", "ben")
        world.store.add([event(f"{place}{name}", name, f"drama-{place}", 20 + place) for name in users])
        if place == 2:
            world.store.delete_user("dan")
    monkeypatch.setattr(world.store, "since", functools.partial(world.store.since, page=2))
    while memory.refresh():
        looked.append(memory.is_behind)
    assert looked == [True, True, True, True, False]
    assert counts(memory) == anew(world) != {}


def test_a_database_that_went_back_is_counted_anew(world: World) -> None:
    memory = world.memory()
    world.store.add([event("a", "anna", "drama-0", 20), event("b", "anna", "drama-1", 21)])
    memory.refresh()
    with world.database.writing() as connection:
        connection.execute(EVENTS.delete())
        connection.exec_driver_sql("UPDATE event_state SET version = 0")
    assert memory.refresh()
    assert counts(memory) == {}


def test_a_ledger_that_is_full_lets_the_quietest_user_go_and_the_counts_follow(world: World) -> None:
    memory = world.memory(Bounds(MOST, 2 * 1100))  # bytes for counts, and as many for users: three of them
    for number, user_id in enumerate(["anna", "ben", "eve", "dan"]):
        world.store.add([event(f"a{user_id}", user_id, f"drama-{number}", 20)])
        world.store.add([event(f"b{user_id}", user_id, f"drama-{number + 1}", 21)])
        memory.refresh()
    assert (memory.users, memory.bytes < 2 * 1100) == (3, True)
    [first, *others] = pairs(world, *(f"drama-{number}" for number in range(5)))
    assert first not in counts(memory)
    assert all(pair in counts(memory) for pair in others)


def test_a_ledger_tells_events_of_equal_times_apart_by_when_they_came() -> None:
    rows = [(5, 1, 1, 11, 0, 1.0, True), (5, 1, 0, 10, 0, 1.0, True), (5, 2, 0, 12, 0, 1.0, True)]
    known, new = np.array(rows[:2], dtype=RECORD).tobytes(), np.array(rows[1:], dtype=RECORD).tobytes()
    merged, _ = records_of(Ledger(10, 10_000).merged([known], [new]))
    assert merged["number"].tolist() == [10, 11, 12]
