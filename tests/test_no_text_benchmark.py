"""The benchmark of hidden texts: what it hides and compares; no quality is asserted."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from benchmarks.no_text import cosine_figures, hide, knn_figures, main, popular_part
from tests import tiny
from training.data import read_dataset
from training.errors import DataError
from training.split import Part, split_events


def test_hidden_items_have_train_events_and_all_others_keep_their_texts_vectors(tiny_data: Path) -> None:
    dataset = read_dataset(tiny_data, ["books"])
    vectors_ND = np.random.default_rng(0).standard_normal((tiny.DOMAINS["books"], 16)).astype(np.float32)
    hidden = hide(dataset, vectors_ND, 0.2)
    assert len(hidden.hidden_M) == 6
    events = split_events(dataset)
    assert set(hidden.hidden_M.tolist()) <= set(events.item_E[events.part_E == Part.TRAIN].tolist())
    shown = np.setdiff1d(np.arange(30), hidden.hidden_M)
    assert set(hidden.vectors) == {"text", "graph", "mean", "random"}
    assert np.array_equal(hidden.vectors["text"], vectors_ND)
    for name in ("graph", "mean", "random"):
        assert np.array_equal(hidden.vectors[name][shown], vectors_ND[shown])
        assert np.isfinite(hidden.vectors[name]).all()
    np.testing.assert_allclose(hidden.vectors["mean"][hidden.hidden_M[0]], vectors_ND[shown].mean(axis=0), atol=1e-5)
    others = {tuple(row) for row in vectors_ND[shown].tolist()}
    assert {tuple(row) for row in hidden.vectors["random"][hidden.hidden_M].tolist()} <= others

    other_ND = vectors_ND.copy()
    other_ND[hidden.hidden_M] = 7.0
    assert np.array_equal(hide(dataset, other_ND, 0.2).vectors["graph"], hidden.vectors["graph"])


def test_figures_compare_with_the_text_that_was_hidden(tiny_data: Path) -> None:
    vectors_ND = np.random.default_rng(0).standard_normal((30, 16)).astype(np.float32)
    hidden = hide(read_dataset(tiny_data, ["books"]), vectors_ND, 0.2)
    perfect = {**hidden.vectors, "graph": hidden.vectors["text"]}
    figures = cosine_figures(type(hidden)(hidden.domain, hidden.events, hidden.hidden_M, perfect))
    assert figures["cosine_graph"].value == pytest.approx(1.0)
    assert figures["cosine_graph_above_mean"].holds is True
    figures = knn_figures(type(hidden)(hidden.domain, hidden.events, hidden.hidden_M, perfect))
    assert figures["ndcg_knn_graph_beside_text"].value == 0
    assert figures["ndcg_knn_graph"].value == figures["ndcg_knn_text"].value
    touched = int(figures["ndcg_knn_touched_text"].note.split()[0])
    assert 0 < touched < int(figures["ndcg_knn_text"].note.split()[0])


def test_the_popular_part_holds_the_items_with_most_train_events_and_their_events_only(tmp_path: Path) -> None:
    items = [{"item_id": name, "title": name} for name in "abcd"]
    walks = {"u": "cbcad", "v": "bcbaa", "w": "dca"}
    events = [(user, item, 2 * 10**9 + at) for user, own in walks.items() for at, item in enumerate(own)]
    tiny.write_domain(tmp_path / "shop", items, events)
    (part,) = popular_part(read_dataset(tmp_path), 2).domains
    assert part.item_ids == ("b", "c")
    assert [fields["title"] for fields in part.fields] == ["b", "c"]
    assert part.item_E.tolist() == [1, 0, 1, 0, 1, 0, 1]
    assert part.user_E.tolist() == [0, 0, 0, 1, 1, 1, 2]


def test_data_that_cannot_be_measured_are_refused(tmp_path: Path) -> None:
    items = [{"item_id": "a", "title": "Ant"}, {"item_id": "b"}]
    tiny.write_domain(tmp_path / "shop", items, [("u", item, at) for at, item in enumerate("abab")])
    vectors_ND = np.ones((2, 3), dtype=np.float32)
    with pytest.raises(DataError, match="domain 'shop' has items without text; measure on one whose items all have"):
        hide(read_dataset(tmp_path), vectors_ND, 0.5)
    tiny.write_domain(tmp_path / "shop", items[:1], [("u", "a", at) for at in range(4)])
    with pytest.raises(DataError, match=r"--share 0.9 hides 1 of 1 items; hide some of them, not all"):
        hide(read_dataset(tmp_path), vectors_ND[:1], 0.9)


def test_the_program_writes_its_figures_and_refuses_in_one_sentence(
    tmp_path: Path, tiny_data: Path, tiny_encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures.json"
    settings: dict[str, Any] = {
        "share": 0.2,
        "encoder": str(tiny_encoder),
        "encoder_tokens": 32,
        "work": tmp_path / "work",
    }
    main(tiny_data, "books", out, **settings, quick=True)
    document = json.loads(out.read_text())
    assert (document["domain"], document["share"], document["items"]) == ("books", 0.2, 30)
    assert {"cosine_graph", "cosine_mean", "cosine_random", "ndcg_knn_graph_beside_text"} <= set(document["figures"])
    with pytest.raises(typer.Exit):
        main(tiny_data, "music", out, **settings, quick=False)
    assert "there is no domain 'music'" in capsys.readouterr().err
