"""What an operator chooses while another replica loads a bundle is not taken back by that one, and followed by it."""

import threading
from pathlib import Path

import pytest

from service.bundles.choice import read_choice
from service.catalog.store import SqlStore
from tests.service.bundles.stores import Loader, Service, store_service, until, write_version


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two versions."""
    folder = tmp_path / "store"
    write_version(folder, "one", day=1)
    write_version(folder, "two", day=2)
    return folder


def both_serve(version: str, store: Path, told: Service, other: Service) -> None:
    until(lambda: other.serving() == version and other.overview()["swap"] is None)
    opened = SqlStore(str(store.parent / "items.db"))
    choice = read_choice(opened)
    opened.close()
    assert choice is not None
    assert (choice.name, told.serving()) == (version, version)


def test_a_replica_that_starts_meanwhile(store: Path) -> None:
    with store_service(store, Loader(), watch_bundles=0.01) as told:
        slow = Loader(held={"two"})

        def choose() -> None:
            assert slow.holding.wait(20)
            told.activate("one")
            slow.go.set()

        choosing = threading.Thread(target=choose)
        choosing.start()
        with store_service(store, slow, watch_bundles=0.01) as other:
            choosing.join(20)
            both_serve("one", store, told, other)


def test_a_replica_that_takes_the_newer_bundle_meanwhile_that_the_operator_went_back_from(store: Path) -> None:
    slow = Loader(held={"three"})
    with (
        store_service(store, Loader(), watch_bundles=0.01) as told,
        store_service(store, slow, watch_bundles=0.01) as other,
    ):
        write_version(store, "three", day=3)
        assert slow.holding.wait(20)
        until(lambda: told.serving() == "three" and told.overview()["swap"] is None)
        assert told.admin.post("/admin/bundles/rollback").status_code == 202
        told.settled()
        slow.go.set()
        both_serve("two", store, told, other)


def test_a_replica_that_follows_the_choice_before_meanwhile(store: Path) -> None:
    slow = Loader(held={"one"})
    with (
        store_service(store, Loader(), watch_bundles=0.01) as told,
        store_service(store, slow, watch_bundles=0.01) as other,
    ):
        told.activate("one")
        assert slow.holding.wait(20)
        told.activate("two")
        slow.go.set()
        both_serve("two", store, told, other)
