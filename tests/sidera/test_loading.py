"""A bundle from disk: what is loaded, and what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from sidera.bundle import open_bundle
from sidera.errors import BundleError, EmbeddingError
from sidera.items.assignment import assign_sids
from sidera.loading import LoadedBundle, load_bundle
from sidera.recommender import Query
from tests import tiny


@pytest.fixture(scope="module")
def loaded(tiny_bundle: Path) -> LoadedBundle:
    return load_bundle(tiny_bundle, "cpu")


def test_a_loaded_bundle_holds_what_its_manifest_says(loaded: LoadedBundle, tiny_bundle: Path) -> None:
    manifest = open_bundle(tiny_bundle).manifest
    assert loaded.manifest == manifest
    catalog = loaded.recommender.catalog
    assert {domain: catalog.size(domain) for domain in catalog.domains} == tiny.DOMAINS
    assert catalog.codebook_sizes == manifest.codebook_sizes == loaded.tokenizer.codebook_sizes == (8, 8, 8)
    settings = manifest.parts["language_model"]
    assert (loaded.recommender.max_history, loaded.recommender.beam_width) == (12, 10)
    assert loaded.recommender.model.gammas == settings["gammas"]
    assert {name for name, entry in manifest.domains.items() if entry.adapter} == set(settings["gammas"])
    vocabulary = loaded.recommender.model.vocabulary
    assert dict(vocabulary.domains) == {"books": 0, "films": 1, "games": 2}


def test_every_sample_is_answered_with_items_of_its_domain(loaded: LoadedBundle) -> None:
    assert {sample["domain"] for sample in loaded.samples} == set(tiny.DOMAINS)
    for sample in loaded.samples:
        history = tuple((entry["domain"], entry["item_id"]) for entry in sample["history"])
        (answer,) = loaded.recommender.recommend([Query(sample["domain"], history, sample["num_results"])])
        assert answer.missing == ()
        assert len(answer.items) == sample["num_results"]
        assert all(item.item_id.startswith(sample["domain"]) for item in answer.items)
        assert not {item.item_id for item in answer.items} & {item_id for _, item_id in history}
    assert {answer_of(loaded, domain) for domain in tiny.DOMAINS} == {"prior"}


def answer_of(loaded: LoadedBundle, domain: str) -> str | None:
    return loaded.recommender.recommend([Query(domain)])[0].fallback


def test_the_items_come_back_with_title_fields_sid_and_vector(loaded: LoadedBundle, tiny_bundle: Path) -> None:
    catalog = loaded.recommender.catalog
    vectors_ND = load_file(tiny_bundle / "catalog" / "vectors.safetensors")["vectors"]
    encoder = loaded.item_encoder
    for domain, items in tiny.DOMAINS.items():
        numbers = [catalog.find(domain, f"{domain}-{item}") for item in range(items)]
        found = [catalog.item(number) for number in numbers if number is not None]
        assert [item.title for item in found] == [tiny.title(domain, item) for item in range(items)]
        assert all(item.fields == {"year": 1990} for item in found)
        assert len({item.sid for item in found}) == items
        texts = [{"title": item.title, **item.fields} for item in found]
        assert np.allclose(encoder.vectors(texts), vectors_ND[np.array(numbers)], atol=1e-5)


def test_the_loaded_tokenizer_gives_every_item_the_sid_that_the_catalog_holds(
    loaded: LoadedBundle, tiny_bundle: Path
) -> None:
    catalog = loaded.recommender.catalog
    vectors_ND = load_file(tiny_bundle / "catalog" / "vectors.safetensors")["vectors"]
    for domain, items in tiny.DOMAINS.items():
        numbers = [catalog.find(domain, f"{domain}-{item}") for item in range(items)]
        sids_NL, _ = assign_sids(loaded.tokenizer, vectors_ND[np.array(numbers)], domain)
        found = [catalog.item(number).sid for number in numbers if number is not None]
        assert found == [tuple(sid) for sid in sids_NL.tolist()]


def test_auto_takes_the_cpu_where_there_is_no_gpu(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert load_bundle(tiny_bundle).recommender.model.device.type == "cpu"


@pytest.mark.parametrize(
    "name",
    [
        "backbone/model.safetensors",
        "tokenizer/weights.safetensors",
        "catalog/tries.safetensors",
        "catalog/items.arrow",
    ],
)
def test_a_flipped_byte_in_what_is_read_is_refused_by_name(name: str, tiny_bundle: Path, tmp_path: Path) -> None:
    broken = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, broken)
    content = bytearray((broken / name).read_bytes())
    content[len(content) // 2] ^= 1
    (broken / name).write_bytes(content)
    with pytest.raises(BundleError, match=f"{name} was changed"):
        load_bundle(broken, "cpu")


def test_a_folder_without_a_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a bundle: it has no manifest"):
        load_bundle(tmp_path)


def test_another_encoder_than_the_one_that_made_the_vectors_is_refused_on_first_use(
    loaded: LoadedBundle, tmp_path: Path
) -> None:
    encoder = tmp_path / "encoder"
    shutil.copytree(loaded.embedder["name"], encoder)
    config = json.loads((encoder / "config.json").read_text())
    (encoder / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1e-3}))
    moved = replace(loaded, embedder={**loaded.embedder, "name": str(encoder)})
    with pytest.raises(EmbeddingError, match="but the vectors come from"):
        _ = moved.item_encoder
