"""What a bundle of a real run holds, and what it says of itself."""

import json
import shutil
import subprocess
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import training.bundling
from sidera.bundle import open_bundle, verify_bundle
from sidera.catalog import CatalogItem, create_catalog
from sidera.errors import CatalogError
from sidera.loading import load_bundle
from sidera.recommender import Query, Recommender
from tests import tiny
from training.bundling import save_vectors
from training.config import load_config
from training.data import read_dataset
from training.evaluation import evaluate, query_of
from training.pipeline import train
from training.split import Part, split_events, targets


def test_a_bundle_is_whole_and_laid_out_as_designed(tiny_bundle: Path) -> None:
    assert verify_bundle(tiny_bundle) == []
    manifest = open_bundle(tiny_bundle).manifest
    names = set(manifest.files)
    assert names >= {
        "tokenizer/config.json",
        "tokenizer/weights.safetensors",
        "embedder/config.json",
        "backbone/config.json",
        "backbone/model.safetensors",
        "catalog/items.arrow",
        "catalog/tries.safetensors",
        "catalog/vectors.safetensors",
        "catalog/item_ids.marisa",
        "samples/evaluation_users.json",
        "samples/requests.json",
        "report/metrics.json",
        "report/tokenization.json",
        "report/tokenization.html",
    }
    for name, entry in manifest.domains.items():
        assert entry.adapter in (None, f"adapters/domain-{name}")
    suffixes = {Path(name).suffix for name in names}
    assert suffixes <= {".json", ".safetensors", ".arrow", ".marisa", ".html"}, "nothing that executes or unpickles"


def test_the_targets_of_evaluation_users_are_those_of_validation(tiny_bundle: Path) -> None:
    users = json.loads((tiny_bundle / "samples" / "evaluation_users.json").read_text())
    config = load_config(tiny_bundle.parent / "config.yaml")
    dataset = read_dataset(Path(config.data), config.domains or None, config.min_interactions)
    held_back = targets(split_events(dataset, config.split), Part.VALIDATION)
    asked = [(query_of(target, dataset.domains), target) for target in held_back]
    expected = {
        (query.domain, query.history[-1], dataset.domains[target.domain].item_ids[target.item])
        for query, target in asked
        if query.history
    }
    assert {user["domain"] for user in users} == set(tiny.DOMAINS)
    for user in users:
        newest = user["history"][-1]
        assert (user["domain"], (newest["domain"], newest["item_id"]), user["target"]) in expected


def test_the_manifest_says_what_the_bundle_was_made_from(tiny_bundle: Path) -> None:
    manifest = open_bundle(tiny_bundle).manifest
    config = load_config(tiny_bundle.parent / "config.yaml")
    assert manifest.config == json.loads(json.dumps(config.digestible()))
    assert "data" not in manifest.config
    assert len(manifest.lineage["data"]) == len(manifest.lineage["stages"]) == 64
    assert manifest.parts["language_model"]["backbone"] == "scratch:tiny"
    assert manifest.metrics["part"] == "test"


def test_no_model_file_names_a_place_on_this_machine(tiny_bundle: Path) -> None:
    for path in [*tiny_bundle.glob("backbone/*.json"), *tiny_bundle.glob("adapters/*/*.json")]:
        assert str(tiny_bundle.parent) not in path.read_text()


def test_every_item_has_its_own_vector_by_its_number(tiny_bundle: Path) -> None:
    loaded = load_bundle(tiny_bundle, "cpu")
    vectors_ND = load_file(tiny_bundle / "catalog" / "vectors.safetensors")["vectors"]
    assert vectors_ND.shape == (sum(tiny.DOMAINS.values()), 16)
    assert len({vector.tobytes() for vector in vectors_ND}) == len(vectors_ND)
    assert len(loaded.recommender.catalog) == len(vectors_ND)


def test_vectors_are_written_each_to_its_number_row_by_row_into_a_file_that_safetensors_reads(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    sizes = {"shop": 4000, "films": 3001}
    sids = {name: [(n // 256, n % 256) for n in range(size)] for name, size in sizes.items()}
    items = [CatalogItem(name, f"{name}-{n}", sid) for name in sizes for n, sid in enumerate(sids[name])]
    catalog = create_catalog(items, (256, 256))
    given, expected_ND = {}, np.empty((len(items), 384), dtype=np.float32)
    for name, size in sizes.items():
        file = np.lib.format.open_memmap(tmp_path / f"{name}.npy", "w+", np.float32, (size, 384))
        file[:] = random.standard_normal(file.shape)
        given[name] = (tuple(f"{name}-{n}" for n in range(size)), file)
        for item_id, vector_D in zip(*given[name], strict=True):
            expected_ND[catalog.find(name, item_id)] = vector_D
    tracemalloc.start()
    try:
        save_vectors(tmp_path / "vectors.safetensors", catalog, given)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < expected_ND.nbytes / 20
    read = load_file(tmp_path / "vectors.safetensors")
    assert list(read) == ["vectors"]
    assert np.array_equal(read["vectors"], expected_ND)
    with pytest.raises(CatalogError, match="'film-x' of 'films' has a vector but is not in the catalog"):
        save_vectors(tmp_path / "vectors.safetensors", catalog, {"films": (("film-x",), expected_ND[:1])})


def test_what_is_loaded_answers_as_what_was_in_memory(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_bundle.parent / "bundle.work", tmp_path / "bundle.work")
    shutil.rmtree(tmp_path / "bundle.work" / "evaluation")
    in_memory: list[Recommender] = []

    def watched(recommender: Recommender, *rest: Any) -> dict[str, Any]:
        in_memory.append(recommender)
        return evaluate(recommender, *rest)

    monkeypatch.setattr("training.pipeline.evaluate", watched)
    config = load_config(tiny_bundle.parent / "config.yaml", {"out": str(tmp_path / "bundle")})
    train(config, lambda sentence: None)
    loaded = load_bundle(tmp_path / "bundle", "cpu")
    queries = [
        Query(sample["domain"], tuple((entry["domain"], entry["item_id"]) for entry in sample["history"]))
        for sample in loaded.samples
    ]
    assert len(queries) == 27
    # A loaded model's layers are joined, so that sums are those of other products, in another order.
    for ours, theirs in zip(loaded.recommender.recommend(queries), in_memory[0].recommend(queries), strict=True):
        assert [item.item_id for item in ours.items] == [item.item_id for item in theirs.items]
        assert [item.score for item in ours.items] == pytest.approx([item.score for item in theirs.items], abs=1e-5)


@pytest.mark.parametrize("change", ["no git", "no checkout"])
def test_a_bundle_names_no_commit_where_there_is_none(
    change: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if change == "no git":

        def missing(*_: Any, **__: Any) -> None:
            raise FileNotFoundError("git")

        monkeypatch.setattr(subprocess, "run", missing)
    else:
        subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
        monkeypatch.setattr(training.bundling, "__file__", str(tmp_path / "site-packages" / "training" / "bundling.py"))
    assert training.bundling.commit_of_code() is None
