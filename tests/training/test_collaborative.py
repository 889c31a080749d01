"""Collaborative-filtering vectors: fitted on the train part alone, or read from files of one's own."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from threadpoolctl import threadpool_limits

import training.collaborative
from sidera.loading import load_bundle
from tests import tiny
from training.collaborative import CfSource, _item_factors, cf_files_digest, cf_vectors, shared_prefixes
from training.config import TrainConfig, load_config
from training.data import Dataset, DomainData, read_dataset
from training.errors import DataError, StageError
from training.pipeline import train
from training.split import Part, split_events

SOURCE = CfSource(folder=None, dim=4, iterations=10, regularization=0.01, confidence=20.0, seed=0)
REAL = 1_600_000_000


def dataset(walks: dict[str, list[list[int]]], items: int = 12) -> Dataset:
    """``walks``: for each domain the items of user 0, 1, ..., oldest first."""
    domains = []
    for name, steps in walks.items():
        events = [(user, item, REAL + place) for user, own in enumerate(steps) for place, item in enumerate(own)]
        user_E, item_E, time_E = (np.array(column) for column in zip(*events, strict=True))
        ids = tuple(f"{name}-{item}" for item in range(items))
        columns = user_E.astype(np.int32), item_E.astype(np.int32), time_E.astype(np.int64)
        domains.append(DomainData(name, ids, tuple({} for _ in ids), *columns))
    return Dataset(tuple(domains), tuple(f"user-{user}" for user in range(40)), "digest")


def random_walks(seed: int = 0) -> list[list[int]]:
    """Users of even numbers take even items, the others odd ones; the last two users have two events each."""
    random = np.random.default_rng(seed)
    walks = [[*(2 * random.permutation(5)[:4] + user % 2).tolist(), 0, 0] for user in range(20)]
    return [*walks, [0, 1], [2, 3]]


def fitted(data: Dataset, source: CfSource = SOURCE) -> dict[str, Any]:
    return cf_vectors(data, split_events(data), source)


def test_no_validation_test_or_context_event_reaches_the_vectors() -> None:
    walks = random_walks()
    before = fitted(dataset({"films": walks}))["films"]
    random = np.random.default_rng(1)
    other = [[*steps[:-2], *random.integers(12, size=2).tolist()] for steps in walks]
    assert other != walks
    data = dataset({"films": other})
    parts = split_events(data).part_E
    assert {int(part) for part in np.unique(parts)} == {Part.TRAIN, Part.VALIDATION, Part.TEST, Part.CONTEXT}
    assert np.array_equal(fitted(data)["films"], before, equal_nan=True)
    other[3][0] = (other[3][0] + 2) % 10
    assert not np.array_equal(fitted(dataset({"films": other}))["films"], before, equal_nan=True)


def test_items_without_train_events_have_no_vector_and_all_others_have_one() -> None:
    walks = random_walks()
    vectors = fitted(dataset({"films": walks, "books": [[1, 2]]}))
    taken = {item for steps in walks[:20] for item in steps[:-2]}
    has = np.isfinite(vectors["films"]).all(axis=1)
    assert set(np.flatnonzero(has).tolist()) == taken
    assert np.isnan(vectors["films"][~has]).all()
    assert vectors["books"].shape == (12, 4)
    assert np.isnan(vectors["books"]).all()


def test_items_of_the_same_users_are_near_and_of_others_far() -> None:
    vectors = fitted(dataset({"films": random_walks()}))["films"][:10]
    directions = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = directions @ directions.T
    same = np.add.outer(np.arange(10), np.arange(10)) % 2 == 0
    np.fill_diagonal(same, False)
    assert similarity[same].mean() > similarity[~same & ~np.eye(10, dtype=bool)].mean() + 0.2


def test_a_domain_s_vectors_depend_on_its_own_events_and_settings_alone_and_come_out_the_same_again() -> None:
    walks = random_walks()
    alone = fitted(dataset({"films": walks}))["films"]
    beside = dataset({"books": random_walks(5), "films": walks})
    backwards = np.arange(len(beside.users), dtype=np.int32)[::-1]
    renumbered = [dataclasses.replace(domain, user_E=backwards[domain.user_E]) for domain in beside.domains]
    beside = dataclasses.replace(beside, domains=tuple(renumbered))
    assert np.array_equal(alone, fitted(beside)["films"], equal_nan=True)
    other = dataclasses.replace(SOURCE, seed=1)
    assert not np.array_equal(alone, fitted(dataset({"films": walks}), other)["films"], equal_nan=True)


def vectors_of_300() -> Any:
    """Vectors of 300 items that 40 users took at random."""
    walks = [np.random.default_rng(user).integers(300, size=20).tolist() for user in range(40)]
    return fitted(dataset({"films": walks}, 300))["films"]


def test_processes_of_other_numbers_of_threads_and_hash_seeds_make_the_same_vectors() -> None:
    program = (
        "import sys; from tests.training.test_collaborative import vectors_of_300; "
        "sys.stdout.buffer.write(vectors_of_300().tobytes())"
    )
    limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYTHONHASHSEED"), "3")
    run = subprocess.run([sys.executable, "-c", program], env=os.environ | limits, capture_output=True, check=True)
    with threadpool_limits(1):
        here = vectors_of_300()
    assert here.shape[0] == 300
    assert run.stdout == here.tobytes()


def test_fitted_vectors_are_kept_so_that_a_fit_goes_on_with_them_where_products_round_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = dataset({"films": random_walks(), "books": random_walks(1)})
    first = cf_vectors(data, split_events(data), SOURCE, tmp_path / "work")
    monkeypatch.setattr(
        training.collaborative, "_item_factors", lambda *rest, made=_item_factors: made(*rest) * np.float32(1 + 1e-6)
    )
    assert not np.array_equal(fitted(data)["films"], first["films"], equal_nan=True)
    again = cf_vectors(data, split_events(data), SOURCE, tmp_path / "work")
    assert sorted(again) == ["books", "films"]
    assert all(np.array_equal(again[name], first[name], equal_nan=True) for name in first)
    other = dataset({"films": random_walks(), "books": random_walks(2)})
    for events, source in ((other, SOURCE), (data, dataclasses.replace(SOURCE, iterations=11))):
        made = cf_vectors(events, split_events(events), source, tmp_path / "work")["books"]
        assert np.array_equal(made, fitted(events, source)["books"], equal_nan=True)


def test_kept_vectors_that_are_damaged_are_refused_by_file(tmp_path: Path) -> None:
    data = dataset({"films": random_walks()})
    cf_vectors(data, split_events(data), SOURCE, tmp_path)
    (tmp_path / "collaborative.safetensors").write_bytes(b"torn")
    with pytest.raises(StageError, match=r"collaborative\.safetensors cannot be read .*; delete it"):
        cf_vectors(data, split_events(data), SOURCE, tmp_path)


def brought(folder: Path, ids: list[str], vectors: Any, name: str = "films") -> CfSource:
    pq.write_table(pa.table({"item_id": pa.array(ids, pa.string()), "vector": vectors}), folder / f"{name}.parquet")
    return CfSource(str(folder), 4, 10, 0.01, 20.0, 0)


@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.list_(pa.float32(), 2), pa.large_list(pa.float32())])
def test_vectors_of_one_s_own_go_to_their_items_whatever_the_order(tmp_path: Path, kind: Any) -> None:
    source = brought(tmp_path, ["films-3", "films-0"], pa.array([[1.0, 2.0], [3.0, 4.0]], kind))
    vectors = fitted(dataset({"films": [[0, 1, 2]]}), source)["films"]
    assert vectors.dtype == np.float32
    assert vectors[[3, 0]].tolist() == [[1, 2], [3, 4]]
    assert np.isnan(vectors[[1, 2, *range(4, 12)]]).all()


@pytest.mark.parametrize(
    ("ids", "vectors", "reason"),
    [
        (["films-0", "film-1"], [[1.0], [2.0]], "row 1: item 'film-1' is not in items.jsonl"),
        (["films-0", "films-0"], [[1.0], [2.0]], "row 1: item 'films-0' has a vector already"),
        (["films-0", "films-1"], [[1.0], [2.0, 3.0]], r"the vectors' widths are \['1', '2'\]"),
        (["films-0"], [[]], r"the vectors' widths are \['0'\]"),
        (["films-0"], [None], r"the vectors' widths are \['None'\]"),
        ([], [], r"the vectors' widths are \[\]"),
        (["films-0", "films-1"], [[1.0], [float("nan")]], "row 1: the vector of item 'films-1' holds NaN"),
        (["films-0"], [[None]], "row 0: the vector of item 'films-0' holds NaN"),
    ],
)
def test_rows_that_cannot_be_meant_are_refused_by_file_and_row(
    tmp_path: Path, ids: list[str], vectors: list[Any], reason: str
) -> None:
    source = brought(tmp_path, ids, pa.array(vectors, pa.list_(pa.float32())))
    with pytest.raises(DataError, match=rf"films\.parquet: {reason}"):
        fitted(dataset({"films": [[0, 1, 2]]}), source)


def test_a_file_that_is_missing_torn_or_of_other_columns_is_refused_by_name(tmp_path: Path) -> None:
    source = brought(tmp_path, ["films-0"], pa.array([1.0]))
    data = dataset({"films": [[0, 1, 2]]})
    with pytest.raises(DataError, match=r"films\.parquet: column 'vector' holds double; write lists of numbers"):
        fitted(data, source)
    pq.write_table(pa.table({"id": ["films-0"], "vector": [[1.0]]}), tmp_path / "films.parquet")
    with pytest.raises(DataError, match=r"films\.parquet: column 'item_id' is missing"):
        fitted(data, source)
    (tmp_path / "films.parquet").write_bytes(b"torn")
    with pytest.raises(DataError, match=r"films\.parquet: cannot be read"):
        fitted(data, source)
    (tmp_path / "films.parquet").unlink()
    with pytest.raises(DataError, match=r"films\.parquet: there is no such file; write the domain's columns"):
        fitted(data, source)


def test_the_digest_of_the_files_follows_their_content(tmp_path: Path) -> None:
    source = brought(tmp_path, ["films-0"], pa.array([[1.0]]))
    first = cf_files_digest(source, ["films"])
    assert first is not None
    assert cf_files_digest(source, ["films"]) == first
    brought(tmp_path, ["films-0"], pa.array([[2.0]]))
    assert cf_files_digest(source, ["films"]) != first
    assert cf_files_digest(source, ["films", "books"]) is None
    assert cf_files_digest(SOURCE, ["films"]) is None
    assert cf_files_digest(None, ["films"]) is None


def test_shared_prefixes_count_pairs_of_neighbours_and_pairs_by_chance() -> None:
    cf = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1], [np.nan, 0]], dtype=np.float32)
    codes = np.array([[0, 0], [0, 1], [1, 0], [1, 0], [0, 0]])
    everyone = np.ones(5, dtype=bool)
    assert shared_prefixes(cf, codes, everyone, neighbours=1) == {
        "items": 4,
        "neighbours": [1.0, 0.5],
        "chance": [pytest.approx(1 / 3), pytest.approx(1 / 6)],
    }
    only_first = np.array([True, False, False, False, True])
    assert shared_prefixes(cf, codes, only_first, neighbours=1) == {
        "items": 1,
        "neighbours": [1.0, 0.0],
        "chance": [pytest.approx(1 / 3), 0.0],
    }
    assert shared_prefixes(cf, codes, np.arange(5) == 4) is None


def test_a_run_with_letter_learns_the_events_of_its_train_part_and_reports_what_codes_share(
    tmp_path: Path, tiny_encoder: Path
) -> None:
    data = tiny.write_data(tmp_path / "data", {"books": 24}, users=20, steps=6)
    train(letter_config(tmp_path, data, tiny_encoder), lambda sentence: None)
    tokenizer = load_bundle(tmp_path / "bundle", "cpu").tokenizer
    assert tokenizer.method == "letter"
    report = json.loads((tmp_path / "bundle" / "report" / "tokenization.json").read_text())
    shared = report["domains"]["books"]["codes_shared_with_cf_neighbours"]
    assert len(shared["all"]["neighbours"]) == len(shared["all"]["chance"]) == 3
    read = read_dataset(data)
    books = cf_vectors(read, split_events(read), CfSource(None, 4, 15, 0.01, 20.0, 0))["books"]
    assert shared["all"]["items"] == int(np.isfinite(books).all(axis=1).sum())
    assert (tmp_path / "bundle.work" / "tokenizer" / "collaborative.safetensors").is_file()


def test_a_run_with_vectors_of_one_s_own_is_kept_until_their_content_changes(
    tmp_path: Path, tiny_encoder: Path
) -> None:
    data = tiny.write_data(tmp_path / "data", {"books": 24}, users=20, steps=6)
    ids = [f"books-{item}" for item in range(24)]
    own = np.random.default_rng(0).normal(size=(24, 5))
    (tmp_path / "cf").mkdir()
    config = letter_config(tmp_path, data, tiny_encoder, cf_vectors=str(tmp_path / "cf"))
    with pytest.raises(DataError, match=r"books\.parquet: there is no such file"):
        train(config, lambda sentence: None)
    brought(tmp_path / "cf", ids, pa.array(own.tolist()), "books")
    manifest = train(config, lambda sentence: None)
    assert "cf_vectors" not in manifest.config["tokenizer"], "a place on the machine that trained"
    said: list[str] = []
    train(config, said.append)
    assert said[0].startswith("everything kept")
    brought(tmp_path / "cf", ids, pa.array((own + 1).tolist()), "books")
    train(config, said.append)
    assert any(sentence.startswith("tokenizer: fitted, letter") for sentence in said)


def letter_config(folder: Path, data: Path, encoder: Path, **settings: Any) -> TrainConfig:
    document = tiny.config_of(data, folder / "bundle", encoder)
    document["tokenizer"] |= {"method": "letter", "cf_dim": 4, **settings}
    document["language_model"]["universal"]["epochs"] = 1
    return load_config(tiny.write_config(folder / "config.yaml", document))
