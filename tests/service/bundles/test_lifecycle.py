"""Swaps: what serves, what is kept, what is refused, and what is freed."""

import errno
import os
import threading
import weakref
from concurrent.futures import wait
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.bundles import lifecycle
from service.bundles.choice import read_choice
from service.catalog.follower import CatalogFollower
from service.catalog.live import LiveCatalog, NewItem
from service.catalog.store import SqlStore
from service.catalog.tasks import Tokenized, TokenizeTask
from service.errors import StartError, StoreUnavailableError
from tests.service.bundles.stores import Loader, store_service, until, write_version
from tests.service.fakes import FakeModel, Gate, bundle_items, film, settings

REGISTER = {"domain": "drama", "items": [{"item_id": "x", "title": "T"}], "register": True}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two versions."""
    folder = tmp_path / "store"
    write_version(folder, "one", day=1)
    write_version(folder, "two", day=2)
    return folder


def names(answer: dict[str, object]) -> list[str]:
    items = answer["items"]
    assert isinstance(items, list)
    return [item["item_id"] for item in items]


def test_the_newest_complete_bundle_serves_first(store: Path) -> None:
    write_version(store, "three", day=3)
    (store / "three" / "report" / "metrics.json").unlink()
    with store_service(store, Loader()) as service:
        assert service.states() == {"two": "serving", "one": "complete", "three": "refused"}


def test_a_version_is_swapped_in_by_name_or_by_bundle_version_and_back_again(store: Path) -> None:
    version = write_version(store, "three", day=3)
    loader = Loader(make={"one": lambda: FakeModel([*bundle_items(), film(9)])})
    with store_service(store, loader) as service:
        service.activate("one")
        answer = service.public.post("/recommend", json={"domain": "drama"}).json()
        assert "drama-9" in names(answer)
        assert service.serving() == "one"
        assert service.overview()["rollback_to"] == "three"
        service.activate(version)
        answer = service.public.post("/recommend", json={"domain": "drama"}).json()
        assert (answer["bundle_version"], "drama-9" in names(answer)) == (version, False)
        assert service.public.get("/v1/info").json()["bundle_version"] == version


def test_rollback_goes_back_step_by_step_and_then_says_that_there_is_no_more(store: Path) -> None:
    write_version(store, "three", day=3)
    with store_service(store, Loader()) as service:
        service.activate("one")
        service.activate("two")
        for expected in ("one", "three"):
            response = service.admin.post("/admin/bundles/rollback")
            assert (response.status_code, response.json()["version"]) == (202, expected)
            service.settled()
            assert service.serving() == expected
        refused = service.admin.post("/admin/bundles/rollback")
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "unknown_version")


def test_a_bundle_that_fails_leaves_the_old_one_serving_and_says_why_everywhere(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loader = Loader(errors={"one": StartError("the bundle cannot be served: a byte differs")})
    with store_service(store, loader) as service:
        service.activate("one")
        overview = service.overview()
        assert overview["serving"]["name"] == "two"
        [failed] = [version for version in overview["versions"] if version["name"] == "one"]
        assert (failed["state"], failed["problem"]) == ("failed", "the bundle cannot be served: a byte differs")
        lines = service.public.get("/metrics").text.splitlines()
        assert 'sidera_bundle_swaps_total{outcome="failed"} 1.0' in lines
        assert service.public.post("/recommend", json={"domain": "drama"}).status_code == 200
        assert service.public.get("/health/ready").status_code == 200
    assert "a byte differs" in capsys.readouterr().err


@pytest.mark.parametrize("samples", [[{"domian": "drama"}], [{"domain": "no-such"}]])
def test_a_bundle_whose_warm_up_fails_never_serves_and_its_engines_end(store: Path, samples: list[object]) -> None:
    loader = Loader(make={"one": lambda: FakeModel(samples=samples)})
    with store_service(store, loader) as service:
        service.activate("one")
        assert service.states()["one"] == "failed"
        names = [thread.name for thread in threading.enumerate()]
        assert (names.count("engine-recommend"), names.count("engine-tokenize")) == (1, 1)


def test_a_start_tries_the_next_bundle_when_the_newest_fails(store: Path) -> None:
    loader = Loader(errors={"two": StartError("damaged")})
    with store_service(store, loader) as service:
        assert service.states() == {"two": "failed", "one": "serving"}


def test_a_second_swap_is_refused_while_one_runs(store: Path) -> None:
    loader = Loader(held={"one"})
    with store_service(store, loader) as service:
        assert service.admin.post("/admin/bundles/activate", json={"version": "one"}).status_code == 202
        assert loader.holding.wait(20)
        swap = service.overview()["swap"]
        assert (swap["version"], swap["reason"], swap["step"]) == ("one", "admin", "verifying and loading")
        second = service.admin.post("/admin/bundles/activate", json={"version": "two"})
        assert (second.status_code, second.json()["error"]["code"]) == (409, "swap_in_progress")
        assert second.json()["error"]["retryable"] is True
        loader.go.set()
        service.settled()
        assert service.serving() == "one"


def test_activating_what_serves_does_nothing(store: Path) -> None:
    loader = Loader()
    with store_service(store, loader) as service:
        response = service.admin.post("/admin/bundles/activate", json={"version": "two"})
        assert (response.status_code, response.json()) == (200, {"version": "two", "state": "serving"})
        assert loader.loaded == ["two"]


def test_what_serves_survives_a_restart_and_so_does_the_way_back(store: Path) -> None:
    with store_service(store, Loader()) as service:
        service.activate("one")
    loader = Loader()
    with store_service(store, loader) as service:
        assert (loader.loaded, service.serving()) == (["one"], "one")
        assert service.overview()["rollback_to"] == "two"


def test_a_request_ends_on_the_generation_that_it_began_with(store: Path) -> None:
    loader = Loader(make={"one": lambda: FakeModel([*bundle_items(), film(9)])})
    with store_service(store, loader) as service:
        old = service.overview()["serving"]["bundle_version"]
        gate = Gate(loader.models["two"])
        answers: list[dict[str, object]] = []
        asking = threading.Thread(
            target=lambda: answers.append(service.public.post("/recommend", json={"domain": "drama"}).json())
        )
        asking.start()
        assert gate.entered.wait(20)
        assert service.admin.post("/admin/bundles/activate", json={"version": "one"}).status_code == 202
        until(lambda: (service.overview()["swap"] or {}).get("step") == "draining")
        new = service.public.post("/recommend", json={"domain": "drama"}).json()
        assert new["bundle_version"] != old
        assert "drama-9" in names(new)
        assert not answers
        gate.open()
        asking.join(20)
        assert answers[0]["bundle_version"] == old
        assert "drama-9" not in names(answers[0])
        service.settled()


def test_the_old_generation_is_freed_whole(store: Path) -> None:
    loader = Loader()
    with store_service(store, loader) as service:
        service.public.post("/recommend", json={"requests": [{"domain": "drama", "beam_width": 10_000}] * 2})
        generation = service.runtime.running()
        kept = [weakref.ref(one) for one in (generation, generation.catalog, loader.models.pop("two"))]
        engines = [weakref.ref(one) for one in (generation.recommender, generation.tokenizer)]
        del generation
        service.activate("one")
        assert [one() for one in kept + engines] == [None] * 5
        names = [thread.name for thread in threading.enumerate()]
        assert (names.count("engine-recommend"), names.count("engine-tokenize")) == (1, 1)


def test_a_request_that_never_ends_holds_the_old_generation_only_so_long(store: Path) -> None:
    loader = Loader()
    with store_service(store, loader, drain_seconds=0.05) as service:
        service.runtime.running().holders.acquire()
        service.activate("one")
        assert service.serving() == "one"


def test_an_item_that_is_registered_while_a_bundle_loads_is_there_once_it_serves(store: Path) -> None:
    loader = Loader(held={"one"}, make={"one": lambda: FakeModel(tokenizer="tokenizer-b", encoder="encoder-b")})
    with store_service(store, loader) as service:
        assert service.admin.post("/admin/bundles/activate", json={"version": "one"}).status_code == 202
        assert loader.holding.wait(20)
        assert service.public.post("/tokenize", json=REGISTER).json()["items"][0]["registered"] is True
        loader.go.set()
        service.settled()
        answer = service.public.post("/recommend", json={"domain": "drama"}).json()
        assert "x" in names(answer)
        assert service.public.get("/v1/info").json()["tokenizer"]["version"] == "tokenizer-b"


def test_no_change_is_lost_between_the_restore_of_a_new_bundle_and_its_first_answer(store: Path) -> None:
    """The warm-up of the new bundle is held, after its catalog was restored."""
    held = FakeModel()
    gate = Gate(held)
    with store_service(store, Loader(make={"one": lambda: held})) as service:
        assert service.admin.post("/admin/bundles/activate", json={"version": "one"}).status_code == 202
        assert gate.entered.wait(20)
        service.public.post("/tokenize", json=REGISTER)
        gate.open()
        service.settled()
        assert service.serving() == "one"
        assert "x" in names(service.public.post("/recommend", json={"domain": "drama"}).json())


def test_a_change_that_ends_on_the_old_generation_is_on_the_new_one_once_it_is_answered(store: Path) -> None:
    loader = Loader()
    with store_service(store, loader) as service:
        old = service.runtime.running()
        old.holders.acquire()
        assert service.admin.post("/admin/bundles/activate", json={"version": "one"}).status_code == 202
        until(lambda: service.overview()["swap"]["step"] == "draining")
        task = TokenizeTask("drama", (NewItem("late", {"title": "T"}),), register=True)
        old.tokenizer.submit([task], float("inf"))[0].result(20)
        assert "late" in names(service.public.post("/recommend", json={"domain": "drama"}).json())
        old.holders.release()
        service.settled()


def test_a_change_that_is_stored_while_a_swap_no_longer_waits_for_it_is_on_the_new_generation_once_it_is_answered(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stored after the new generation was brought up to date, and before that one serves."""
    monkeypatch.setattr(CatalogFollower, "start", lambda self: None)  # nobody but the swap sees to it
    held, go = threading.Event(), threading.Event()

    class Late:
        def run(self, catalog: LiveCatalog) -> Tokenized:
            held.set()
            assert go.wait(20)
            return TokenizeTask("drama", (NewItem("late", {"title": "T"}),), register=True).run(catalog)

    refresh = LiveCatalog.refresh
    with store_service(store, Loader(), tokenize_deadline_ms=1) as service:
        change = service.runtime.running().tokenizer.submit([Late()], float("inf"))[0]
        assert held.wait(20)

        def brought_up_to_date(catalog: LiveCatalog) -> bool:
            changed = refresh(catalog)
            if not go.is_set():
                go.set()
                wait([change], 0.5)  # it is not answered here: that is after the swap
            return changed

        monkeypatch.setattr(LiveCatalog, "refresh", brought_up_to_date)
        assert service.admin.post("/admin/bundles/activate", json={"version": "one"}).status_code == 202
        change.result(20)
        assert service.runtime.running().catalog.catalog.find("drama", "late") is not None
        service.settled()
        assert service.serving() == "one"


def test_a_rollback_gives_items_the_sids_that_they_had_under_that_tokenizer(store: Path) -> None:
    loader = Loader(make={"one": lambda: FakeModel(tokenizer="tokenizer-b")})
    with store_service(store, loader) as service:
        before = service.public.post("/tokenize", json=REGISTER).json()["items"][0]["sid"]
        service.activate("one")
        service.admin.post("/admin/bundles/rollback")
        service.settled()
        assert (
            service.public.post("/tokenize", json={**REGISTER, "register": False}).json()["items"][0]["sid"] == before
        )


def test_metrics_name_one_bundle_and_its_catalog(store: Path) -> None:
    loader = Loader(make={"one": lambda: FakeModel([film(1)])})
    with store_service(store, loader) as service:
        service.activate("one")
        version = service.overview()["serving"]["bundle_version"]
        lines = service.public.get("/metrics").text.splitlines()
        assert [line for line in lines if line.startswith("sidera_bundle{")] == [
            f'sidera_bundle{{bundle_version="{version}"}} 1.0'
        ]
        assert [line for line in lines if line.startswith("sidera_catalog_items{")] == [
            'sidera_catalog_items{domain="drama"} 1.0'
        ]
        assert 'sidera_bundle_swaps_total{outcome="served"} 2.0' in lines


# Watching


def test_a_newer_bundle_that_appears_is_taken(store: Path) -> None:
    loader = Loader()
    with store_service(store, loader, watch_bundles=0.01) as service:
        write_version(store, "three", day=3)
        until(lambda: service.serving() == "three")
    assert loader.loaded == ["two", "three"]


def test_a_replica_that_watches_follows_what_another_one_was_told_to_serve(store: Path) -> None:
    write_version(store, "three", day=3)
    first, second = Loader(), Loader(errors={"one": StartError("a damaged copy")})
    with (
        store_service(store, first, watch_bundles=0.01) as told,
        store_service(store, second, watch_bundles=0.01) as other,
    ):
        told.activate("two")
        until(lambda: other.serving() == "two" and other.overview()["swap"] is None)
        assert other.overview()["rollback_to"] == "three"
        assert other.admin.post("/admin/bundles/rollback").json()["version"] == "three"
        until(lambda: told.serving() == "three" and told.overview()["swap"] is None)
        assert told.overview()["rollback_to"] is None, "a rollback counts once, whoever follows it"
        told.activate("one")
        until(lambda: other.states()["one"] == "failed")
        assert other.serving() == "three"
        assert second.loaded.count("one") == 1, "it is not tried again and again"


def test_a_replica_that_does_not_watch_follows_what_another_one_was_told_to_serve_and_takes_no_newer_bundle(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "_FOLLOW_SECONDS", 0.01)
    with store_service(store, Loader()) as told, store_service(store, Loader()) as other:
        write_version(store, "three", day=3)
        told.activate("one")
        until(lambda: other.serving() == "one" and other.overview()["swap"] is None)
        assert other.admin.post("/admin/bundles/rollback").status_code == 202
        until(lambda: told.serving() == "two" and told.overview()["swap"] is None)
        assert "three" not in (told.serving(), other.serving())


@pytest.mark.parametrize("watch_bundles", [0, 0.01])
def test_a_replica_whose_copy_of_the_chosen_bundle_is_damaged_serves_another_and_the_others_keep_theirs(
    store: Path, monkeypatch: pytest.MonkeyPatch, watch_bundles: float
) -> None:
    monkeypatch.setattr(lifecycle, "_FOLLOW_SECONDS", 0.01)
    first, second = Loader(), Loader(errors={"one": StartError("a damaged copy")})
    with store_service(store, first, watch_bundles=watch_bundles) as told:
        told.activate("one")
        with store_service(store, second, watch_bundles=watch_bundles) as other:
            assert other.states() == {"one": "failed", "two": "serving"}
            assert _chosen(store) == "one"
            assert other.overview()["rollback_to"] is None, "two serves already"
            del second.errors["one"]
            write_version(store, "one", day=1, text="[]")
            until(lambda: other.serving() == "one" and other.overview()["swap"] is None)
        assert told.serving() == "one"
        assert first.loaded[:2] == ["two", "one"]


def test_a_choice_that_could_not_be_written_is_written_later_and_not_taken_back(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store_service(store, Loader(), watch_bundles=0.02) as service:
        with monkeypatch.context() as failing:
            failing.setattr(SqlStore, "write_note", _unavailable)
            service.activate("one")
        until(lambda: _chosen(store) == "one")
        assert service.serving() == "one"


def _unavailable(*arguments: object) -> None:
    raise StoreUnavailableError("no answer")


def _chosen(store: Path) -> str:
    opened = SqlStore(str(store.parent / "items.db"))
    try:
        choice = read_choice(opened)
    finally:
        opened.close()
    return "" if choice is None else choice.name


def test_without_watching_nothing_is_taken(store: Path) -> None:
    loader = Loader()
    with store_service(store, loader) as service:
        write_version(store, "three", day=3)
        service.activate("one")
        assert loader.loaded == ["two", "one"]


def test_what_an_operator_went_back_from_is_not_taken_again_even_after_a_restart(store: Path) -> None:
    loader = Loader()
    with store_service(store, loader, watch_bundles=0.01) as service:
        service.activate("one")
    with store_service(store, loader, watch_bundles=0.01) as service:
        write_version(store, "older", day=1)
        write_version(store, "three", day=3)
        until(lambda: service.serving() == "three")
    assert loader.loaded == ["two", "one", "one", "three"]


def test_a_bundle_that_failed_is_tried_again_only_once_it_changes(store: Path) -> None:
    loader = Loader(errors={"three": StartError("damaged")})
    with store_service(store, loader, watch_bundles=0.01) as service:
        write_version(store, "three", day=3)
        until(lambda: service.states().get("three") == "failed")
        looks = threading.Event()
        versions = service.runtime.lifecycle._versions._folder
        assert versions is not None
        seen = [0]
        look = versions.versions

        def counted() -> object:
            seen[0] += 1
            if seen[0] > 3:
                looks.set()
            return look()

        versions.versions = counted  # type: ignore[method-assign,assignment]
        assert looks.wait(20)
        assert loader.loaded == ["two", "three"]
        del loader.errors["three"]
        write_version(store, "three", day=3, text="[]")
        until(lambda: service.serving() == "three")


def test_a_folder_that_the_file_system_cannot_read_is_told_of_once_and_taken_once_it_can(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lstat, looks = Path.lstat, threading.Semaphore(0)

    def fail(path: Path) -> os.stat_result:
        if path.name == "three":
            looks.release()
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return lstat(path)

    with store_service(store, Loader(), watch_bundles=0.01, log_level="info") as service:
        with monkeypatch.context() as failing:
            failing.setattr(Path, "lstat", fail)
            write_version(store, "three", day=3)
            for _ in range(10):
                assert looks.acquire(timeout=20)
            assert service.serving() == "two"
            assert service.public.post("/recommend", json={"domain": "drama"}).status_code == 200
        until(lambda: service.serving() == "three")
    [line] = [line for line in capsys.readouterr().err.splitlines() if "cannot be looked at" in line]
    assert '"version": "three"' in line
    assert "it cannot be read now (Stale file handle); it is looked at again" in line


def test_a_folder_that_is_being_copied_is_taken_only_once_it_is_whole(store: Path, tmp_path: Path) -> None:
    loader = Loader()
    write_version(tmp_path, "made", day=3)
    with store_service(store, loader, watch_bundles=0.01) as service:
        half = store / "three"
        half.mkdir()
        (half / "manifest.json").write_bytes((tmp_path / "made" / "manifest.json").read_bytes())
        until(lambda: service.states().get("three") == "refused")
        assert loader.loaded == ["two"]
        (half / "report").mkdir()
        (half / "report" / "metrics.json").write_bytes((tmp_path / "made" / "report" / "metrics.json").read_bytes())
        until(lambda: service.serving() == "three")


# Starting


def test_a_store_without_a_complete_bundle_is_one_sentence(tmp_path: Path) -> None:
    said: list[str | None] = []
    told = threading.Event()

    def on_outcome(failure: str | None) -> None:
        said.append(failure)
        told.set()

    (tmp_path / "empty").mkdir()
    app = create_app(
        settings(bundle=None, bundle_store=tmp_path / "empty", database=str(tmp_path / "items.db")),
        on_outcome=on_outcome,
    )
    with TestClient(app):
        assert told.wait(20)
    assert said[0] is not None
    assert "holds no complete bundle" in said[0]


def test_a_stop_ends_a_load_that_has_begun(store: Path) -> None:
    loader = Loader(held={"one"})
    before = set(threading.enumerate())
    with store_service(store, loader) as service:
        service.admin.post("/admin/bundles/activate", json={"version": "one"})
        assert loader.holding.wait(20)
        threading.Timer(0.05, loader.go.set).start()
    left = [thread.name for thread in set(threading.enumerate()) - before if thread.name.startswith(("engine", "bund"))]
    assert left == []
