"""Folding a live catalog: nothing waits for it, nothing is lost, and a failure leaves what serves."""

import threading
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest

from service.catalog.folding import CatalogFolding
from service.catalog.live import LiveCatalog, Patch
from service.errors import StoreUnavailableError
from service.logs import make_logger
from service.metrics import Metrics
from tests.service.bundles.stores import Loader, store_service, until, write_version
from tests.service.catalog.world import World, new, sid_of

REGISTER = {"domain": "drama", "items": [{"item_id": "x", "title": "T"}], "register": True}


@pytest.fixture
def live(tmp_path: Path) -> LiveCatalog:
    """Six items joined, one of them in a new domain, and two left."""
    live = World(str(tmp_path / "items.db")).start()
    live.register("drama", [new(f"new-{number}") for number in range(5)])
    live.register("noir", [new("only")])
    live.delete("drama", "drama-1")
    live.delete("drama", "new-2")
    return live


def items(live: LiveCatalog) -> dict[tuple[str, str], tuple[int, tuple[int, ...]]]:
    """Number and SID of every item."""
    catalog = live.catalog
    return {
        (domain, catalog.name(number)[0]): (number, catalog.sid(domain, number))
        for domain in catalog.domains
        for number in catalog.index(domain).number_of_leaf.tolist()
    }


def folding(live: object, most: int = 0) -> tuple[CatalogFolding, Metrics, StringIO]:
    metrics, logged = Metrics(), StringIO()
    return CatalogFolding(live, metrics, make_logger("info", logged), most), metrics, logged  # type: ignore[arg-type]


def test_a_fold_keeps_items_numbers_sids_and_the_version(live: LiveCatalog) -> None:
    before, version = items(live), live.catalog.version
    live.patch("drama", "drama-2", Patch(hidden=True))
    assert live.overlay == 6
    live.fold(lambda: None)
    assert live.overlay == 0
    assert (items(live), live.catalog.version) == (before, version + 1)
    assert live.item("drama", "drama-2").hidden
    live.fold(lambda: None)


def test_changes_that_come_while_it_is_folded_are_not_held_up_and_not_lost(live: LiveCatalog, tmp_path: Path) -> None:
    other = World(str(tmp_path / "items.db")).start()
    other.register("drama", [new("from-another-replica")])
    pauses: list[int] = []

    def meanwhile() -> None:
        if not pauses:
            live.register("drama", [new("later")])
            live.delete("drama", "new-3")
            live.patch("drama", "drama-3", Patch({"title": "Another"}, retokenize=True))
            assert live.refresh() is False
        pauses.append(1)

    live.fold(meanwhile)
    assert pauses
    found = items(live)
    assert {("drama", "later"), ("drama", "from-another-replica")} <= set(found)
    assert not {("drama", "new-3"), ("drama", "drama-1")} & set(found)
    assert 0 < live.overlay < 8
    again = World(str(tmp_path / "items.db")).start()
    assert {key: sid for key, (_, sid) in items(again).items()} == {key: sid for key, (_, sid) in found.items()}
    live.register("drama", [new("new-2")])
    live.fold(lambda: None)
    again.refresh()
    assert sid_of(live, "drama", "new-2") == sid_of(again, "drama", "new-2")
    assert live.overlay == 0


def test_a_fold_that_fails_or_is_ended_changes_nothing(live: LiveCatalog) -> None:
    before, catalog = items(live), live.catalog

    def fail() -> None:
        raise StoreUnavailableError("ended")

    with pytest.raises(StoreUnavailableError):
        live.fold(fail)
    assert live.catalog is catalog
    assert items(live) == before


class Pile:
    """Something to fold: ``overlay`` leaves, and what happens in a fold."""

    def __init__(self, overlay: int, fold: Callable[[Callable[[], None]], None] = lambda check: None) -> None:
        self.overlay = overlay
        self.folds = 0
        self._fold = fold

    def fold(self, check: Callable[[], None]) -> None:
        self.folds += 1
        self._fold(check)
        self.overlay = 0


def test_it_folds_by_itself_once_more_than_so_many_changes_are_there() -> None:
    for overlay, most, folds in ((11, 10, 1), (10, 10, 0), (11, 0, 0)):
        pile = Pile(overlay)
        keeper, _, _ = folding(pile, most)
        assert keeper._is_due() is bool(folds)
        if folds:
            keeper.start()
            until(lambda pile=pile: pile.folds)  # type: ignore[misc]
            assert keeper.stop()
            assert keeper.state.folded_at is not None


def test_a_fold_is_done_when_asked_and_only_if_there_is_something() -> None:
    pile = Pile(3)
    keeper, metrics, _ = folding(pile)
    keeper.start()
    assert keeper.ask()
    until(lambda: keeper.state.folded_at)
    assert keeper.ask() is False
    assert keeper.stop()
    assert pile.folds == 1
    assert b'sidera_catalog_folds_total{outcome="folded"} 1.0' in metrics.render()


@pytest.mark.parametrize("error", [StoreUnavailableError("no room"), ZeroDivisionError("no room")])
def test_a_failure_is_told_and_what_serves_goes_on(error: Exception) -> None:
    def fail(check: Callable[[], None]) -> None:
        raise error

    pile = Pile(11, fail)
    keeper, metrics, logged = folding(pile, 10)
    keeper.start()
    until(lambda: keeper.state.problem)
    assert keeper.stop()
    assert "no room" in str(keeper.state.problem)
    assert keeper.state.since is None
    assert "no room" in logged.getvalue()
    assert b'sidera_catalog_folds_total{outcome="failed"} 1.0' in metrics.render()
    assert not keeper._is_due(), "it is tried again later, not at once"
    assert pile.folds == 1


def test_the_end_of_the_service_ends_a_fold_that_runs() -> None:
    begun = threading.Event()

    def endless(check: Callable[[], None]) -> None:
        begun.set()
        while True:
            check()

    pile = Pile(11, endless)
    keeper, metrics, _ = folding(pile, 10)
    keeper.start()
    assert begun.wait(20)
    assert keeper.stop()
    assert keeper.state.problem is None
    assert b'sidera_catalog_folds_total{outcome="failed"} 0.0' in metrics.render()


def test_an_operator_sees_the_changes_and_folds_them(tmp_path: Path) -> None:
    write_version(tmp_path / "store", "one", day=1)
    with store_service(tmp_path / "store", Loader()) as service:
        assert service.admin.post("/admin/catalog/fold").json() == {"state": "folded"}
        assert service.public.post("/tokenize", json=REGISTER).status_code == 200
        state = service.admin.get("/admin/catalog").json()
        assert (state["items"], state["overlay"], state["fold"]["folded_at"]) == (10, 1, None)
        answer = service.public.post("/recommend", json={"domain": "drama"}).json()
        assert "sidera_catalog_overlay_items 1.0" in service.public.get("/metrics").text
        changed = _changed_at(service.public.get("/metrics").text)
        begun = service.admin.post("/admin/catalog/fold")
        assert (begun.status_code, begun.json()) == (202, {"state": "folding"})
        until(lambda: service.admin.get("/admin/catalog").json()["fold"]["folded_at"])
        state = service.admin.get("/admin/catalog").json()
        assert (state["overlay"], state["fold"]["running_since"], state["fold"]["problem"]) == (0, None, None)
        again = service.public.post("/recommend", json={"domain": "drama"}).json()
        assert (again["items"], again["catalog_version"]) == (answer["items"], answer["catalog_version"])
        text = service.public.get("/metrics").text
        assert "sidera_catalog_overlay_items 0.0" in text
        assert _changed_at(text) == changed, "the version in use came when it came"


def test_a_replica_folds_by_itself_what_is_more_than_its_setting(tmp_path: Path) -> None:
    write_version(tmp_path / "store", "one", day=1)
    with store_service(tmp_path / "store", Loader(), fold_items=1) as service:
        items = [{"item_id": str(number), "title": "T"} for number in range(2)]
        assert service.public.post("/tokenize", json=REGISTER | {"items": items}).status_code == 200
        until(lambda: service.admin.get("/admin/catalog").json()["overlay"] == 0)
        answer = service.public.post("/recommend", json={"domain": "drama"}).json()
        assert {"0", "1"} <= {item["item_id"] for item in answer["items"]}


def _changed_at(text: str) -> str:
    [line] = [line for line in text.splitlines() if line.startswith("sidera_catalog_changed_timestamp_seconds ")]
    return line
