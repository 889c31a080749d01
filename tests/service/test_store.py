"""Registered items survive, in SQLite."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from service.errors import StaleCatalogError, StoreError
from service.store import Changes, ItemVector, SqliteStore, StoredItem

VECTOR = ItemVector("encoder", np.array([0.5, -1.0], dtype=np.float32))


def write(store: SqliteStore, version: int, *items: StoredItem, tokenizer: str = "a") -> None:
    changes = Changes(items, [VECTOR] * len(items), [item for item in items if item.sid is not None])
    store.commit(changes, tokenizer=tokenizer, expected_version=version - 1, version=version)


def item(item_id: str, sid: tuple[int, ...] | None, title: str = "Film") -> StoredItem:
    return StoredItem("drama", item_id, {"title": title, "year": 1952, "tags": ["a", "ü"]}, sid)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "items.db"


def test_what_was_written_is_there_in_the_order_of_registration_after_opening_again(path: Path) -> None:
    store = SqliteStore(str(path))
    assert store.load("a").version == 0
    write(store, 1, item("z", (0, 1)), item("b", (0, 2)))
    write(store, 2, item("a", (3, 3)))
    store.close()
    again = SqliteStore(f"sqlite:///{path}")
    loaded = again.load("a")
    assert loaded.version == 2
    assert loaded.items == (item("z", (0, 1)), item("b", (0, 2)), item("a", (3, 3)))
    [vector] = again.vectors([("drama", "a")])
    assert (vector.encoder, vector.vector_D.tolist()) == ("encoder", [0.5, -1.0])
    again.close()


def test_each_tokenizer_has_its_own_sids_of_the_same_items(path: Path) -> None:
    store = SqliteStore(str(path))
    write(store, 1, item("x", (0, 1)))
    store.commit(Changes(sids=[item("x", (2, 2))]), tokenizer="b", expected_version=1, version=2)
    assert [store.load(name).items[0].sid for name in "abc"] == [(0, 1), (2, 2), None]
    store.close()


def test_a_changed_item_keeps_its_sid_and_its_place(path: Path) -> None:
    store = SqliteStore(str(path))
    write(store, 1, item("x", (0, 1)), item("y", (0, 2)))
    write(store, 2, item("x", None, title="Other"))
    assert store.load("a").items == (item("x", (0, 1), title="Other"), item("y", (0, 2)))
    store.close()


def test_a_change_from_an_old_version_is_refused_and_writes_nothing(path: Path) -> None:
    store = SqliteStore(str(path))
    write(store, 1, item("x", (0, 1)))
    with pytest.raises(StaleCatalogError):
        write(store, 1, item("y", (0, 2)))
    assert store.load("a").items == (item("x", (0, 1)),)
    store.close()


def test_a_taken_sid_is_refused_and_the_whole_change_with_it(path: Path) -> None:
    store = SqliteStore(str(path))
    write(store, 1, item("x", (0, 1)))
    with pytest.raises(StaleCatalogError):
        write(store, 2, item("y", (0, 2)), item("z", (0, 1)))
    assert store.load("a").version == 1
    assert store.load("a").items == (item("x", (0, 1)),)
    store.close()


def test_acknowledged_changes_outlive_a_power_cut_by_full_synchronisation(path: Path) -> None:
    store = SqliteStore(str(path))
    with store._transaction() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2}
    store.close()


def test_two_processes_may_share_the_file(path: Path) -> None:
    one, other = SqliteStore(str(path)), SqliteStore(str(path))
    write(one, 1, item("x", (0, 1)))
    write(other, 2, item("y", (0, 2)))
    assert one.load("a") == other.load("a")
    one.close()
    other.close()


@pytest.mark.parametrize("database", ["postgresql://localhost/items", "sqlite//x://"])
def test_another_database_is_refused_by_name(database: str) -> None:
    with pytest.raises(StoreError, match="SIDERA_DATABASE"):
        SqliteStore(database)


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(StoreError, match="SIDERA_DATABASE"):
        SqliteStore(str(path))


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="SIDERA_DATABASE"):
        SqliteStore(str(tmp_path / "missing" / "items.db"))


def test_a_file_of_another_release_is_refused(path: Path) -> None:
    SqliteStore(str(path)).close()
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE catalog_state SET schema_version = 99")
    engine.dispose()
    with pytest.raises(StoreError, match="schema 99"):
        SqliteStore(str(path))


WRITER = """
import sys
from tests.service.test_store import SqliteStore, item, write
store = SqliteStore(sys.argv[1])
version = store.load("a").version
while True:
    version += 1
    write(store, version, item(f"item-{version}", (version // 100, version % 100)))
    print(version, flush=True)
"""


def test_no_acknowledged_change_is_lost_when_the_process_is_killed(path: Path) -> None:
    for _ in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
        )
        assert writer.stdout is not None
        acknowledged = int(writer.stdout.readline())
        time.sleep(0.05)
        os.kill(writer.pid, signal.SIGKILL)
        acknowledged = max([acknowledged, *(int(line) for line in writer.stdout if line.endswith("\n"))])
        writer.stdout.close()
        writer.wait()
        store = SqliteStore(str(path))
        loaded = store.load("a")
        store.close()
        assert loaded.version >= acknowledged
        assert [entry.item_id for entry in loaded.items] == [f"item-{n}" for n in range(1, loaded.version + 1)]
