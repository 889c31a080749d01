"""Changes of the catalog survive, in SQLite and in PostgreSQL."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from service.catalog.rows import Changes, ItemVector, StoredItem
from service.catalog.store import SqlStore
from service.errors import StaleCatalogError, StoreUnavailableError
from tests.postgres import Postgres

VECTOR = ItemVector("encoder", np.array([0.5, -1.0], dtype=np.float32))

Open = Callable[[], SqlStore]


def write(store: SqlStore, version: int, *items: StoredItem, tokenizer: str = "a") -> None:
    changes = Changes(items, {item.key: VECTOR for item in items}, [item for item in items if item.sid is not None])
    store.commit(changes, tokenizer=tokenizer, expected_version=version - 1, version=version)


def item(item_id: str, sid: tuple[int, ...] | None, title: str = "Film") -> StoredItem:
    return StoredItem("drama", item_id, {"title": title, "year": 1952, "tags": ["a", "ü", "\0"]}, sid)


@pytest.fixture
def opened(database: str) -> Iterator[Open]:
    stores: list[SqlStore] = []

    def open_store() -> SqlStore:
        stores.append(SqlStore(database))
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()


@pytest.fixture
def store(opened: Open) -> SqlStore:
    return opened()


def test_what_was_written_is_there_in_the_order_of_registration_after_opening_again(
    store: SqlStore, opened: Open
) -> None:
    assert store.version() == store.load("a").version == 0
    write(store, 1, item("z", (0, 1)), item("b", (0, 2)))
    write(store, 2, item("a", (3, 3)))
    store.close()
    again = opened()
    loaded = again.load("a")
    assert again.version() == loaded.version == 2
    assert loaded.items == (item("z", (0, 1)), item("b", (0, 2)), item("a", (3, 3)))
    [vector] = again.vectors([("drama", "a")]).values()
    assert (vector.encoder, vector.vector_D.tolist()) == ("encoder", [0.5, -1.0])


def test_each_tokenizer_has_its_own_sids_of_the_same_items(store: SqlStore) -> None:
    write(store, 1, item("x", (0, 1)))
    store.commit(Changes(given=[item("x", (2, 2))]), tokenizer="b", expected_version=1, version=2)
    assert [store.load(name).items[0].sid for name in "abc"] == [(0, 1), (2, 2), None]


def test_a_changed_item_keeps_its_sid_its_place_and_its_vector(store: SqlStore) -> None:
    write(store, 1, item("x", (0, 1)), item("y", (0, 2)))
    changed = item("x", (0, 1), title="Other")
    store.commit(Changes([changed]), tokenizer="a", expected_version=1, version=2)
    assert store.load("a").items == (changed, item("y", (0, 2)))
    assert set(store.vectors([("drama", "x"), ("drama", "none")])) == {("drama", "x")}


def test_a_deleted_item_stays_as_a_row_without_text_and_vector_and_keeps_its_sid(store: SqlStore) -> None:
    write(store, 1, item("x", (0, 1)))
    deleted = StoredItem("drama", "x", None, (0, 1), deleted=True)
    store.commit(Changes([deleted], {deleted.key: None}), tokenizer="a", expected_version=1, version=2)
    assert store.load("a").items == (deleted,)
    assert store.vectors([deleted.key]) == {}


def test_an_item_that_gets_another_sid_leaves_the_old_one_retired(store: SqlStore) -> None:
    write(store, 1, item("x", (0, 1)))
    store.commit(Changes(given=[item("x", (2, 2))]), tokenizer="a", expected_version=1, version=2)
    loaded = store.load("a")
    assert (loaded.items[0].sid, loaded.retired) == ((2, 2), {"drama": [(0, 1)]})
    with pytest.raises(StaleCatalogError):
        write(store, 3, item("y", (0, 1)))


def test_a_reserved_sid_is_nobodys_and_one_that_is_taken_stays_as_it_is(store: SqlStore) -> None:
    write(store, 1, item("x", (0, 1)), item("y", (0, 2)))
    reserved = [item("x", (3, 3)), item("x", (0, 2))]
    store.commit(Changes(reserved=reserved), tokenizer="a", expected_version=1, version=2)
    loaded = store.load("a")
    assert [row.sid for row in loaded.items] == [(0, 1), (0, 2)]
    assert loaded.retired == {"drama": [(3, 3)]}


def test_what_changed_since_a_version_is_all_that_is_read(store: SqlStore) -> None:
    write(store, 1, item("x", (0, 1)), item("y", (0, 2)))
    write(store, 2, item("z", (0, 3)))
    store.commit(Changes([item("x", None, title="Other")]), tokenizer="a", expected_version=2, version=3)
    store.commit(Changes(given=[item("y", (1, 1))]), tokenizer="a", expected_version=3, version=4)
    store.commit(Changes(given=[item("z", (1, 1))]), tokenizer="b", expected_version=4, version=5)
    changed = [[row.item_id for row in store.load("a", since=since).items] for since in range(6)]
    assert changed == [["x", "y", "z"], ["x", "y", "z"], ["x", "y"], ["y"], [], []]
    assert [row.item_id for row in store.load("b", since=4).items] == ["z"]
    assert store.load("a", since=3).retired == {"drama": [(0, 2)]}
    assert store.load("a", since=4).retired == {}


def test_a_change_from_an_old_version_is_refused_and_writes_nothing(store: SqlStore) -> None:
    write(store, 1, item("x", (0, 1)))
    with pytest.raises(StaleCatalogError):
        write(store, 1, item("y", (0, 2)))
    assert store.load("a").items == (item("x", (0, 1)),)


def test_a_taken_sid_is_refused_and_the_whole_change_with_it(store: SqlStore) -> None:
    write(store, 1, item("x", (0, 1)))
    with pytest.raises(StaleCatalogError):
        write(store, 2, item("y", (0, 2)), item("z", (0, 1)))
    assert store.load("a").version == 1
    assert store.load("a").items == (item("x", (0, 1)),)


def test_a_reader_sees_one_state_while_another_process_writes(store: SqlStore, opened: Open) -> None:
    write(store, 1, item("x", (0, 1)))
    with store._database.reading() as connection:
        before = connection.exec_driver_sql("SELECT catalog_version FROM catalog_state").scalar()
        write(opened(), 2, item("y", (0, 2)))
        count = connection.exec_driver_sql("SELECT count(*) FROM catalog_items").scalar()
    assert (before, count, store.version()) == (1, 1, 2)


def test_notes_are_kept_by_name(store: SqlStore, opened: Open) -> None:
    assert store.note("choice") is None
    store.write_note("choice", "one")
    store.write_note("choice", "two")
    store.write_note("other", "three")
    assert (opened().note("choice"), store.note("other")) == ("two", "three")


def test_a_server_that_does_not_answer_is_said_so_and_used_again_once_it_does(postgres: Postgres) -> None:
    url = postgres.new_database()
    store = SqlStore(url)
    write(store, 1, item("x", (0, 1)))
    postgres.disconnect(url)
    for attempt in (store.version, lambda: write(store, 2, item("y", (0, 2)))):
        with pytest.raises(StoreUnavailableError):
            attempt()
    postgres.let_in(url)
    write(store, 2, item("y", (0, 2)))
    assert store.version() == 2
    store.close()
    postgres.drop(url)
