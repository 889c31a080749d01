"""Events survive in SQLite and in PostgreSQL: each once, in the order in which they happened, and none is missed."""

import threading
import time

import pytest

from service.catalog.database import Database
from service.errors import StoreUnavailableError
from service.events.rows import DeletedUser, StoredEvent
from service.events.store import EventStore
from tests.postgres import Postgres
from tests.service.events.conftest import Open
from tests.service.events.made_up import event


def items(events: list[StoredEvent]) -> list[str]:
    return [one.item_id for one in events]


def test_an_event_is_stored_once_however_often_it_comes(store: EventStore) -> None:
    assert store.add([event("a", "anna", "x", 1)] * 3) == ["accepted", "duplicate", "duplicate"]
    for _ in range(3):
        assert store.add([event("a", "anna", "y", 2)]) == ["duplicate"]
    assert items(store.histories(["anna"])["anna"]) == ["x"]


def test_histories_are_in_the_order_of_time_however_late_events_come(store: EventStore) -> None:
    store.add([event("c", "anna", "third", 30), event("a", "anna", "first", 10), event("x", "ben", "other", 5)])
    store.add([event("b", "anna", "second", 20.5, domain="comedy"), event("d", "anna", "fourth", 30)])
    found = store.histories(["anna", "ben", "nobody"])
    assert {user_id: items(events) for user_id, events in found.items()} == {
        "anna": ["first", "second", "third", "fourth"],
        "ben": ["other"],
    }
    assert (found["anna"][1].domain, found["anna"][1].happened_us, found["anna"][1].kind) == (
        "comedy",
        20_500_000,
        "view",
    )


def test_texts_come_back_as_they_were(store: EventStore) -> None:
    odd = 'Zoë "quoted" \\ 日本 \u2028 😀'
    store.add([event(odd, odd, odd, 1, domain="d-1")])
    [found] = store.histories([odd])[odd]
    assert (found.user_id, found.item_id) == (odd, odd)


def test_a_user_of_many_events_keeps_the_newest_and_the_table_stays_small(opened: Open) -> None:
    store = opened(most=16)
    for begin in range(0, 1000, 50):
        store.add([event(f"e{place}", "anna", f"i{place}", place) for place in range(begin, begin + 50)])
    assert items(store.histories(["anna"])["anna"]) == [f"i{place}" for place in range(984, 1000)]
    version = store.version()
    stored = sum(len(own) for _, batch in store.all_beyond({}) for own in batch)
    assert stored == 16
    new = store.since(0)
    assert new is not None
    assert (len(new.events) <= 18, new.version) == (True, version)


def test_an_older_event_of_a_user_who_has_enough_changes_nothing(opened: Open) -> None:
    store = opened(most=3)
    store.add([event(f"e{place}", "anna", f"i{place}", 100 + place) for place in range(3)])
    assert store.add([event("late", "anna", "late", 1)]) == ["accepted"]
    assert items(store.histories(["anna"])["anna"]) == ["i0", "i1", "i2"]


def test_what_came_after_a_version_is_told_in_order_and_nothing_else(store: EventStore) -> None:
    store.add([event("a", "anna", "x", 3)])
    seen = store.version()
    assert store.since(seen) is None
    store.add([event("c", "ben", "z", 9), event("b", "anna", "y", 1)])
    store.add([event("a", "anna", "x", 3)])
    new = store.since(seen)
    assert new is not None
    assert (items(list(new.events)), new.deleted) == (["z", "y"], ())
    assert store.since(new.version) is None


def test_much_that_came_is_told_in_pages_of_whole_transactions(store: EventStore) -> None:
    for place in range(3):
        store.add([event(f"{place}{name}", name, f"i{place}", place) for name in ("anna", "ben")])
    store.delete_user("ben")
    store.add([event("last", "ben", "z", time.time() + 9)])
    told, version, pages = [], 0, 0
    while (new := store.since(version, page=2)) is not None:
        told += [(one.item_id, one.user_id) for one in new.events] + [("deleted", name) for name in new.deleted]
        assert new.is_page is (new.version < store.version())
        version, pages = new.version, pages + 1
    assert told == [("i0", "anna"), ("i1", "anna"), ("i2", "anna"), ("z", "ben"), ("deleted", "ben")]
    assert pages == 2
    big = store.since(0, page=1)
    assert big is not None
    store.add([event(f"big{place}", "eve", "x", place) for place in range(5)])
    after = store.since(version, page=2)
    assert after is not None
    assert (len(after.events), after.is_page) == (5, False)


def test_two_writers_that_race_never_make_a_reader_miss_an_event(opened: Open) -> None:
    reader, writers = opened(), [opened(), opened()]
    done = threading.Event()

    def write(number: int) -> None:
        for place in range(40):
            writers[number].add([event(f"{number}-{place}", f"user-{place % 5}", "x", place)])

    threads = [threading.Thread(target=write, args=(number,)) for number in range(2)]
    seen: list[StoredEvent] = []
    version = 0
    for thread in threads:
        thread.start()
    while not done.is_set():
        if not any(thread.is_alive() for thread in threads):
            done.set()  # and look once more
        new = reader.since(version)
        if new is not None:
            version = new.version
            seen += new.events
    assert len(seen) == 80
    assert len({(one.version, one.position) for one in seen}) == 80


def test_a_deleted_user_is_gone_and_what_happened_before_stays_refused(store: EventStore) -> None:
    store.add([event("a", "anna", "x", 1), event("b", "ben", "x", 1)])
    seen = store.version()
    removed, deleted_us = store.delete_user("anna")
    assert removed == 1
    assert store.histories(["anna"]) == {}
    assert store.add([event("late", "anna", "y", 2), event("c", "ben", "y", 2)]) == ["forgotten", "accepted"]
    new = store.since(seen)
    assert new is not None
    assert (new.deleted, items(list(new.events))) == (("anna",), ["y"])
    assert store.add([event("back", "anna", "z", deleted_us / 1_000_000 + 1)]) == ["accepted"]
    assert items(store.histories(["anna"])["anna"]) == ["z"]


def test_an_event_of_a_clock_that_is_fast_does_not_come_back_once_its_user_was_deleted(store: EventStore) -> None:
    later = time.time() + 200
    store.add([event("a", "anna", "x", later)])
    _, deleted_us = store.delete_user("anna")
    assert deleted_us == round(later * 1_000_000)
    assert store.add([event("a", "anna", "x", later)]) == ["forgotten"]
    assert store.delete_user("anna") == (0, deleted_us), "deleted again, the user is not forgotten up to earlier"
    assert store.add([event("b", "anna", "y", later + 1)]) == ["accepted"]


def test_the_list_of_deleted_users_has_each_once_with_the_last_time_in_pages(store: EventStore) -> None:
    for user_id in ("c", "a", "b", "a"):
        last = store.delete_user(user_id)
    assert last[0] == 0
    pages = [store.deleted("", 2), store.deleted("b", 2), store.deleted("c", 2)]
    assert [[user.user_id for user in page] for page in pages] == [["a", "b"], ["c"], []]
    assert pages[0][0] == DeletedUser("a", last[1])


def test_only_users_with_events_beyond_what_was_learnt_are_read_whole(store: EventStore) -> None:
    store.add([event("a", "old", "x", 1), event("b", "new", "x", 2), event("c", "new", "y", 11)])
    store.add([event("d", "elsewhere", "x", 3, domain="comedy")])
    read = [own for version, batch in store.all_beyond({"drama": 10_000_000}) for own in batch]
    assert {own[0].user_id: items(own) for own in read} == {"new": ["x", "y"], "elsewhere": ["x"]}
    read = [own for version, batch in store.all_beyond({"drama": 10_000_000, "comedy": 3_000_000}) for own in batch]
    assert {own[0].user_id for own in read} == {"new"}


def test_a_database_that_is_gone_is_told_of(postgres: Postgres) -> None:
    url = postgres.new_database()
    database = Database(url)
    store = EventStore(database, 10)
    postgres.disconnect(url)
    with pytest.raises(StoreUnavailableError):
        store.add([event("a", "anna", "x", 1)])
    postgres.let_in(url)
    assert store.add([event("a", "anna", "x", 1)]) == ["accepted"]
    database.close()
    postgres.drop(url)
