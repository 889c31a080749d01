"""Folding into a bundle: the new version answers as the old one with its live items did, and has nothing to join."""

import shutil
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from service.bundles.choice import Choice, write_choice
from service.catalog.live import LiveCatalog, NewItem, Patch
from service.catalog.offline import fold_offline
from service.catalog.store import SqlStore
from service.cli import app
from service.errors import StartError
from service.logs import make_logger
from service.model import Model, load_model
from service.settings import Settings
from sidera.bundle import open_bundle, verify_bundle
from sidera.errors import BundleError, CatalogError
from sidera.loading import load_bundle
from sidera.queries import Query
from tests.tiny import title

QUERIES = [
    Query("films", (("films", "films-2"), ("films", "new-1")), num_results=44, beam_width=64),
    Query("books", (("films", "films-10"), ("books", "books-3")), num_results=30, beam_width=64),
    Query("songs", num_results=1),
]


@pytest.fixture
def bundles(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A store with one bundle."""
    (tmp_path / "bundles").mkdir()
    shutil.copytree(tiny_bundle, tmp_path / "bundles" / "one")
    return tmp_path / "bundles"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    opened = SqlStore(str(tmp_path / "items.db"))
    yield opened
    opened.close()


def start(bundle: Path, store: SqlStore) -> tuple[LiveCatalog, Model]:
    model = load_model(bundle, "cpu")
    live = LiveCatalog(
        model,
        store,
        lambda snapshot, vectors, anew: model.stage(snapshot.catalog, vectors, anew=anew),
        max_domains=9,
        log=make_logger("error", StringIO()),
    )
    live.restore()
    return live, model


def change(live: LiveCatalog) -> None:
    grow(live)
    live.delete("films", "films-4")
    live.delete("films", "new-3")


def grow(live: LiveCatalog) -> None:
    live.register("films", [NewItem(f"new-{n}", {"title": title("games", n), "year": 2001}) for n in range(4)])
    live.register("songs", [NewItem("song", {"title": "blue river"})])
    live.patch("films", "films-6", Patch({"title": "Another"}))
    live.patch("films", "films-8", Patch({"title": "pink clock games"}, retokenize=True))
    live.patch("films", "films-10", Patch(hidden=True))


def folded(bundles: Path, store: SqlStore, least: int = 1) -> Path | None:
    settings = Settings(bundle_store=bundles, database="unused")
    name = fold_offline(settings, store, make_logger("error", StringIO()), least, lambda told: None)
    return None if name is None else bundles / name


def test_the_new_bundle_recommends_what_the_old_one_did_with_its_live_items(bundles: Path, store: SqlStore) -> None:
    live, model = start(bundles / "one", store)
    grow(live)
    made = folded(bundles, store)
    assert made is not None
    assert verify_bundle(made) == []
    again, other = start(made, store)
    assert again.catalog.version == live.catalog.version
    for answer, expected in zip(other.recommend(QUERIES), model.recommend(QUERIES), strict=True):
        scores = {item.item_id: (item.sid, item.score) for item in answer.items}
        assert set(scores) == {item.item_id for item in expected.items}
        for item in expected.items:
            sid, score = scores[item.item_id]
            assert sid == item.sid
            assert score == pytest.approx(item.score, abs=1e-4)
    for domain in live.catalog.domains:
        np.testing.assert_array_equal(again.catalog.sids(domain), live.catalog.sids(domain))
    for item_id in ("films-6", "films-8", "new-0", "films-10"):
        assert again.item("films", item_id) == live.item("films", item_id)


def test_deleted_items_are_not_in_the_new_bundle_and_leave_the_others_their_share_of_its_lists(
    bundles: Path, store: SqlStore
) -> None:
    live, model = start(bundles / "one", store)
    change(live)
    made = folded(bundles, store)
    assert made is not None
    again, other = start(made, store)
    assert len(again.catalog) == len(live.catalog)
    for answer, expected in zip(other.recommend(QUERIES), model.recommend(QUERIES), strict=True):
        assert {item.item_id for item in answer.items} == {item.item_id for item in expected.items}
    assert not {"films-4", "new-3"} & {item.item_id for item in other.recommend(QUERIES[:1])[0].items}
    catalog = load_bundle(made, "cpu").recommender.catalog
    assert catalog.find("films", "films-4") is None
    assert catalog.find("films", "new-2") is not None


def test_a_start_on_the_new_bundle_joins_nothing_but_items_of_unknown_domains(bundles: Path, store: SqlStore) -> None:
    change(start(bundles / "one", store)[0])
    made = folded(bundles, store)
    assert made is not None
    live, _ = start(made, store)
    assert live.overlay == 1, "the song's domain has no token in the bundle"
    assert [item.item_id for domain in live.catalog.domains for item in live.catalog.later_items(domain).values()] == [
        "song"
    ]


def test_the_new_manifest_says_what_it_was_made_of_and_all_else_is_the_old_one(bundles: Path, store: SqlStore) -> None:
    live, _ = start(bundles / "one", store)
    change(live)
    made = folded(bundles, store)
    assert made is not None
    old, new = open_bundle(bundles / "one").manifest, open_bundle(made).manifest
    assert new.lineage["folded"] == [{"bundle": old.bundle_version, "catalog_version": live.catalog.version}]
    assert (new.parts, new.domains, new.config, new.metrics) == (old.parts, old.domains, old.config, old.metrics)
    assert {name: entry for name, entry in new.files.items() if not name.startswith("catalog/")} == {
        name: entry for name, entry in old.files.items() if not name.startswith("catalog/")
    }
    assert new.created > old.created


def test_a_rollback_to_the_old_bundle_finds_every_item_that_was_touched_on_the_new_one(
    bundles: Path, store: SqlStore
) -> None:
    live, _ = start(bundles / "one", store)
    change(live)
    made = folded(bundles, store)
    assert made is not None
    later, _ = start(made, store)
    later.patch("films", "new-0", Patch(hidden=True))
    later.patch("films", "new-1", Patch({"year": 2002}))
    later.delete("films", "new-2")
    later.register("films", [NewItem("newest", {"title": "ivory lamp"})])
    live.refresh()
    back, _ = start(bundles / "one", store)
    for catalog in (live, back):
        assert catalog.item("films", "new-0").hidden
        assert catalog.item("films", "new-0").fields["title"] == title("games", 0)
        assert catalog.item("films", "new-1").fields["year"] == 2002
        assert catalog.catalog.find("films", "new-2") is None
        np.testing.assert_array_equal(catalog.catalog.sids("films"), later.catalog.sids("films"))


def test_fewer_changes_than_asked_for_make_no_bundle(bundles: Path, store: SqlStore) -> None:
    assert folded(bundles, store) is None
    live, _ = start(bundles / "one", store)
    live.register("films", [NewItem("new", {"title": "blue boat"})])
    live.register("songs", [NewItem(f"song-{number}", {"title": f"blue river {number}"}) for number in range(5)])
    assert folded(bundles, store, least=2) is None
    assert [path.name for path in bundles.iterdir()] == ["one"]


def test_the_version_that_was_chosen_is_folded_not_the_newest(bundles: Path, store: SqlStore) -> None:
    live, _ = start(bundles / "one", store)
    live.register("films", [NewItem("new", {"title": "blue boat"})])
    first = folded(bundles, store)
    assert first is not None
    first = first.rename(bundles / "two")
    write_choice(store, Choice("one", (), 0.0))
    second = folded(bundles, store)
    assert second is not None
    versions = {path.name: open_bundle(path).manifest for path in bundles.iterdir()}
    assert versions[second.name].lineage["folded"][-1]["bundle"] == versions["one"].bundle_version


def test_old_folded_versions_are_deleted_but_not_what_serves_or_served_before(bundles: Path, store: SqlStore) -> None:
    start(bundles / "one", store)[0].register("films", [NewItem("new", {"title": "blue boat"})])
    made = folded(bundles, store)
    assert made is not None
    for name in ("a", "b", "c", "d"):
        shutil.copytree(made, bundles / name)
    shutil.rmtree(made)
    write_choice(store, Choice("one", ("c", "b"), 0.0))
    settings = Settings(bundle_store=bundles, database="unused")
    newest = fold_offline(settings, store, make_logger("error", StringIO()), 1, lambda told: None, keep=2)
    left = {path.name for path in bundles.iterdir()}
    assert {"one", "c", newest} <= left
    assert len(left) == 4, "one more of those that were folded at the same time is among the newest two"


def test_the_folded_version_that_serves_is_kept_also_where_none_was_chosen(bundles: Path, store: SqlStore) -> None:
    start(bundles / "one", store)[0].register("films", [NewItem("new", {"title": "blue boat"})])
    made = folded(bundles, store)
    assert made is not None
    serving = made.rename(bundles / "serving")
    start(serving, store)[0].register("films", [NewItem("newer", {"title": "blue lamp"})])
    settings = Settings(bundle_store=bundles, database="unused")
    newest = fold_offline(settings, store, make_logger("error", StringIO()), 1, lambda told: None, keep=1)
    assert {path.name for path in bundles.iterdir()} == {"one", "serving", newest}


def test_a_domain_without_any_item_left_is_refused_and_nothing_is_written(bundles: Path, store: SqlStore) -> None:
    live, _ = start(bundles / "one", store)
    for number in range(30):
        live.delete("books", f"books-{number}")
    with pytest.raises(CatalogError, match="domain 'books' has no item left"):
        folded(bundles, store)
    assert [path.name for path in bundles.iterdir()] == ["one"]


def test_a_damaged_bundle_and_a_service_without_a_store_are_refused(bundles: Path, store: SqlStore) -> None:
    with pytest.raises(StartError, match="SIDERA_BUNDLE_STORE"):
        fold_offline(Settings(bundle=bundles / "one"), store, make_logger("error", StringIO()), 1, lambda told: None)
    damaged = bundles / "one" / "backbone" / "config.json"
    damaged.write_bytes(damaged.read_bytes().replace(b"{", b"[", 1))
    with pytest.raises(BundleError, match="was changed"):
        folded(bundles, store)


def test_the_command_says_what_it_wrote(bundles: Path, store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    live, _ = start(bundles / "one", store)
    live.register("films", [NewItem("new", {"title": "blue boat"})])
    monkeypatch.setenv("SIDERA_BUNDLE_STORE", str(bundles))
    monkeypatch.setenv("SIDERA_DATABASE", str(bundles.parent / "items.db"))
    done = CliRunner().invoke(app, ["fold"])
    assert done.exit_code == 0, done.output
    [made] = [path.name for path in bundles.iterdir() if path.name != "one"]
    assert f"{made} holds all items of catalog version {live.catalog.version}" in done.output
