"""Vectors and SIDs of a parquet file of items: what they are, resumed, through Ray, and what is refused."""

import importlib.util
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import sidera.jobs.item_batch
from sidera.cli import main
from sidera.errors import BatchError, EmbeddingError
from sidera.items.assignment import assign_sids
from sidera.jobs.item_batch import EmbedConfig, Embedded, embed_file
from sidera.loading import load_bundle
from tests import tiny

PLAYS = EmbedConfig("plays", "cpu")


def write(path: Path, rows: Sequence[Mapping[str, Any]], row_group_size: int = 7) -> Path:
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path, row_group_size=row_group_size)
    return path


def plays(count: int) -> list[dict[str, Any]]:
    return [
        {"item_id": f"plays-{item}", "title": tiny.title("books", item), "year": 1990, "categories": ["stage", "old"]}
        for item in range(count)
    ]


def rows_of(path: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    table = pq.read_table(path)
    assert table.column_names == ["item_id", "vector", "sid"]
    return table["item_id"].to_pylist(), np.array(table["vector"].to_pylist()), np.array(table["sid"].to_pylist())


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sidera.jobs.item_batch, "ITEMS_A_PART", 8)


def test_items_of_a_new_domain_get_the_vectors_and_sids_that_the_bundles_encoder_and_tokenizer_give(
    tiny_bundle: Path, tmp_path: Path, small_parts: None
) -> None:
    items, out = plays(20), tmp_path / "deep" / "out.parquet"
    done = embed_file(tiny_bundle, write(tmp_path / "items.parquet", items), out, PLAYS)
    assert done == Embedded(20, 0)
    item_ids, vectors_ND, sids_NL = rows_of(out)
    assert item_ids == [item["item_id"] for item in items]
    encoder = load_bundle(tiny_bundle, "cpu").item_encoder
    np.testing.assert_allclose(vectors_ND, encoder.vectors(items), atol=1e-5)
    assert np.array_equal(sids_NL, assign_sids(encoder.tokenizer, encoder.vectors(items), "plays")[0])
    assert len({tuple(sid) for sid in sids_NL.tolist()}) == 20
    assert not (tmp_path / "deep" / "out.parquet.parts").exists()
    assert embed_file(tiny_bundle, tmp_path / "items.parquet", out, PLAYS) == done, "a second start finds it done"


def test_known_items_keep_the_sids_that_they_have_in_the_bundle_and_new_ones_stand_beside_all_of_them(
    tiny_bundle: Path, tmp_path: Path, small_parts: None
) -> None:
    rows = [{"item_id": f"films-{item}", "title": "blue lamp films"} for item in (3, 100, 7, 101)]
    out = tmp_path / "out.parquet"
    done = embed_file(tiny_bundle, write(tmp_path / "items.parquet", rows), out, EmbedConfig("films", "cpu"))
    assert done == Embedded(4, 2)
    _, _, sids_NL = rows_of(out)
    catalog = load_bundle(tiny_bundle, "cpu").recommender.catalog
    for row, item_id in ((0, "films-3"), (2, "films-7")):
        number = catalog.find("films", item_id)
        assert number is not None
        assert tuple(sids_NL[row]) == catalog.sid("films", number)
    taken = {tuple(sid) for sid in catalog.sids("films").tolist()}
    assert taken.isdisjoint({tuple(sids_NL[1]), tuple(sids_NL[3])})
    assert tuple(sids_NL[1]) != tuple(sids_NL[3])


def test_a_second_start_makes_the_parts_that_are_missing_and_the_same_rows(
    tiny_bundle: Path, tmp_path: Path, small_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = write(tmp_path / "items.parquet", plays(30))
    embed_file(tiny_bundle, items, tmp_path / "whole.parquet", PLAYS)
    plain, made = sidera.jobs.item_batch.embed_part, list[str]()

    def stopping(encoder: Any, part: Path, vectors: Path) -> None:
        if len(made) == 2:
            raise KeyboardInterrupt
        plain(encoder, part, vectors)
        made.append(part.name)

    monkeypatch.setattr(sidera.jobs.item_batch, "embed_part", stopping)
    out = tmp_path / "out.parquet"
    with pytest.raises(KeyboardInterrupt):
        embed_file(tiny_bundle, items, out, PLAYS)
    assert not out.exists()

    def counted(encoder: Any, part: Path, vectors: Path) -> None:
        made.append(part.name)
        plain(encoder, part, vectors)

    monkeypatch.setattr(sidera.jobs.item_batch, "embed_part", counted)
    embed_file(tiny_bundle, items, out, PLAYS)
    assert made == [f"part-{number:06d}.parquet" for number in range(4)], "no part twice"
    assert pq.read_table(out).equals(pq.read_table(tmp_path / "whole.parquet"))


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra 'ray' is not installed")
@pytest.mark.filterwarnings("ignore")
def test_a_worker_of_ray_gives_the_rows_that_one_process_gives(
    tiny_bundle: Path, tmp_path: Path, small_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parts go through Ray's pickling to the class that its workers run; ``test_batch`` has real workers."""
    from ray import cloudpickle

    from sidera.jobs import ray_batch

    asked = []

    def work(workers: int, address: str | None, *rest: Any) -> None:
        *job, parts, advance = rest
        worker, arguments = cloudpickle.loads(cloudpickle.dumps(job))
        made = worker(*arguments)
        for number in parts:
            advance(sum(made({"part": np.array([number])})["rows"]))
        asked.append((workers, address, len(parts)))

    monkeypatch.setattr(ray_batch, "_work", work)
    items = write(tmp_path / "items.parquet", plays(30))
    ours, theirs = tmp_path / "ours.parquet", tmp_path / "theirs.parquet"
    embedder = ray_batch.ray_embedder(2, "auto")
    assert embed_file(tiny_bundle, items, theirs, PLAYS, embedder) == embed_file(tiny_bundle, items, ours, PLAYS)
    assert asked == [(2, "auto", 4)]
    one, two = rows_of(ours), rows_of(theirs)
    assert two[0] == one[0]
    np.testing.assert_allclose(two[1], one[1], atol=1e-5)
    assert np.array_equal(two[2], one[2])


def test_the_command_says_what_it_wrote_and_refuses_in_one_sentence(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items, out = write(tmp_path / "items.parquet", plays(5)), tmp_path / "out.parquet"
    arguments = ["embed", str(tiny_bundle), "--items", str(items), "--domain", "plays", "--out", str(out)]
    for _ in range(2):
        with pytest.raises(SystemExit):
            main(arguments)
        told = capsys.readouterr()
        assert (told.out, told.err) == (
            f"5 items are in {out}: 0 with the SIDs that they have in the bundle, 5 with new ones.\n",
            "",
        )
    out.write_text("mine")
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith(f"Error: {out}: the file exists and holds something else; delete it")
    assert out.read_text() == "mine"


def test_items_that_cannot_be_embedded_are_refused_before_anything_is_computed(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sidera.jobs.item_batch, "load_item_encoder", None)
    path, out = tmp_path / "items.parquet", tmp_path / "out.parquet"
    cases: list[tuple[list[dict[str, Any]], type[Exception], str]] = [
        (
            [{"item_id": "a", "title": "x"}, {"item_id": "a", "title": "y"}],
            BatchError,
            "row 2: there are two items 'a'",
        ),
        ([{"item_id": "a", "title": "x"}, {"item_id": None, "title": "y"}], BatchError, "row 2 has no item_id; give"),
        (
            [{"item_id": "a", "title": "x"}, {"item_id": "b", "title": " "}],
            EmbeddingError,
            "item 'b' has no text; give",
        ),
        ([{"item_id": "a", "title": "x", "flag": True}], EmbeddingError, "item 'a': field 'flag' holds bool"),
        ([{"item_id": 1, "title": "x"}], BatchError, "item_id is of type int64; write it as text"),
        ([{"item_id": "a"}], BatchError, "the columns are item_id; give item_id and at least one text field"),
        ([{"title": "a", "year": 1}], BatchError, "the columns are title, year; give item_id and"),
    ]
    for rows, kind, sentence in cases:
        write(path, rows)
        with pytest.raises(kind, match=sentence):
            embed_file(tiny_bundle, path, out, PLAYS)
    path.write_text("no parquet")
    with pytest.raises(BatchError, match="cannot be read as parquet"):
        embed_file(tiny_bundle, path, out, PLAYS)
    pq.write_table(pa.table({"item_id": pa.array([], pa.string()), "title": pa.array([], pa.string())}), path)
    with pytest.raises(BatchError, match="the file holds no item; write a row an item"):
        embed_file(tiny_bundle, path, out, PLAYS)
    with pytest.raises(BatchError, match=r"domain name '\.\./x' is not allowed"):
        EmbedConfig("../x")
    assert not out.exists()


def test_a_folder_that_is_there_for_something_else_is_left_alone(tiny_bundle: Path, tmp_path: Path) -> None:
    work = tmp_path / "out.parquet.parts"
    work.mkdir()
    (work / "note.json").write_text(json.dumps("mine"))
    items = write(tmp_path / "items.parquet", plays(3))
    with pytest.raises(BatchError, match="the folder holds other files"):
        embed_file(tiny_bundle, items, tmp_path / "out.parquet", PLAYS)
    shutil.rmtree(work)
