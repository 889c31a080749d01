"""The live catalog over a real bundle: a replica that took every change over one by one, and one that starts later."""

from io import StringIO
from pathlib import Path

import numpy as np
import pytest

from service.catalog.live import LiveCatalog, NewItem, Patch
from service.catalog.store import SqlStore
from service.logs import make_logger
from service.model import Model, load_model
from sidera.recommender import Query
from tests.tiny import title


def start(bundle: Path, store: SqlStore, history_cache_bytes: int = 0) -> tuple[LiveCatalog, Model]:
    model = load_model(bundle, "cpu", history_cache_bytes=history_cache_bytes)
    live = LiveCatalog(
        model,
        store,
        lambda snapshot, vectors, anew: model.stage(snapshot.catalog, vectors, anew=anew),
        max_domains=9,
        log=make_logger("error", StringIO()),
    )
    live.restore()
    return live, model


def test_replicas_recommend_the_same_however_the_changes_reached_them(tiny_bundle: Path, tmp_path: Path) -> None:
    store = SqlStore(str(tmp_path / "items.db"))
    one, model = start(tiny_bundle, store)
    other, other_model = start(tiny_bundle, store)
    one.delete("films", "films-4")  # first: it leaves its places in lists of items alike empty until the next start
    one.register("films", [NewItem(f"new-{n}", {"title": title("games", n)}) for n in range(4)])
    other.refresh()
    one.delete("films", "films-6")
    one.register("films", [NewItem("films-6", {"title": "green stone"})])
    one.patch("films", "films-8", Patch({"title": "pink clock games"}, retokenize=True))
    one.patch("films", "films-10", Patch(hidden=True))
    one.register("songs", [NewItem("song", {"title": "blue river"})])
    one.delete("books", "books-1")
    other.refresh()
    late, late_model = start(tiny_bundle, store)

    queries = [
        Query("films", (("films", "films-2"), ("films", "new-1")), num_results=43, beam_width=64),
        Query("films", (("films", "films-6"), ("films", "films-8")), num_results=43, beam_width=64),
        Query("books", (("films", "films-10"),), num_results=30, beam_width=64),
        Query("songs", num_results=1),
    ]
    answers = [each.recommend(queries) for each in (model, other_model, late_model)]
    for answer in answers:
        films = {item.item_id for item in answer[0].items}
        assert films >= {"new-0", "new-2", "new-3", "films-6", "films-8"}
        assert not films & {"films-4", "films-10"}
        assert "books-1" not in {item.item_id for item in answer[2].items}
        assert [item.item_id for item in answer[3].items] == ["song"]
        for row, expected in zip(answer, answers[0], strict=True):
            assert {item.item_id for item in row.items} == {item.item_id for item in expected.items}
            scores = {item.item_id: item.score for item in row.items}
            wanted = {item.item_id: item.score for item in expected.items}
            for item_id, score in wanted.items():
                assert scores[item_id] == pytest.approx(score, abs=1e-4)
    for catalog in (other.catalog, late.catalog):
        assert catalog.version == one.catalog.version
        for domain in ("books", "films", "songs"):
            np.testing.assert_array_equal(catalog.sids(domain), one.catalog.sids(domain))
    store.close()


def test_a_domain_can_lose_every_item_of_its_bundle_and_get_others(tiny_bundle: Path, tmp_path: Path) -> None:
    store = SqlStore(str(tmp_path / "items.db"))
    live, model = start(tiny_bundle, store)
    for number in range(30):
        live.delete("books", f"books-{number}")
    assert "books" not in live.catalog.domains
    assert len(model.recommend([Query("films", (("books", "books-2"),))])[0].items) == 10
    live.register("books", [NewItem("only", {"title": "amber boat"})])
    assert [item.item_id for item in model.recommend([Query("books")])[0].items] == ["only"]
    store.close()


def test_a_fold_changes_no_score_and_keeps_what_is_known_of_histories(tiny_bundle: Path, tmp_path: Path) -> None:
    store = SqlStore(str(tmp_path / "items.db"))
    live, model = start(tiny_bundle, store, history_cache_bytes=1_000_000)
    live.register("films", [NewItem(f"new-{n}", {"title": title("games", n)}) for n in range(4)])
    live.register("songs", [NewItem("song", {"title": "blue river"})])
    live.delete("films", "films-4")
    live.patch("films", "films-10", Patch(hidden=True))
    queries = [
        Query("films", (("films", "films-2"), ("films", "new-1")), num_results=43, beam_width=64),
        Query("books", (("films", "films-10"),), num_results=30, beam_width=64),
        Query("songs", num_results=1),
    ]
    before = model.recommend(queries)
    cache = model.history_cache
    assert cache is not None
    misses = cache.misses
    live.fold(lambda: None)
    assert (live.overlay, live.catalog.version) == (0, model.catalog.version)
    assert model.catalog is live.catalog
    found = [[(item.item_id, item.sid) for item in answer.items] for answer in model.recommend(queries)]
    assert found == [[(item.item_id, item.sid) for item in answer.items] for answer in before]
    assert cache.misses <= misses + 1, "only the request without a history finds nothing"
    store.close()
