"""The service on a real bundle: a real encoder, tokenizer, backbone and search, with weights that nobody trained."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient
from transformers import Qwen2Config, Qwen2ForCausalLM

from service.app import create_app
from service.errors import StartError
from service.model import load_model
from sidera.assignment import assign_sids
from sidera.bundle import BundleDetails, DomainEntry, write_bundle
from sidera.catalog import CatalogItem, create_catalog
from sidera.embedding import EncoderSpec, TextEncoder, embedder_config, item_texts
from sidera.tokenizers import save_tokenizer
from sidera.tokenizers.rqvae import RqVae
from sidera.vocabulary import Vocabulary
from tests.service.fakes import settings

DOMAINS = {"drama": 0, "comedy": 1}
TITLES = ["Quiet rivers", "The last winter", "Two brothers", "A small town", "Night train", "Loud neighbours"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    encoder = TextEncoder(EncoderSpec())
    tokenizer = RqVae(encoder.dim, (8, 8, 8), latent_dim=4, hidden_sizes=(16,)).eval()
    with torch.no_grad():
        for codebook in tokenizer.quantiser.parameters():
            codebook.normal_(std=0.05)
    vocabulary = Vocabulary(tokenizer.codebook_sizes, DOMAINS)
    items = []
    for domain in DOMAINS:
        fields = [{"title": f"{title} ({domain})", "categories": [domain]} for title in TITLES]
        sids, _ = assign_sids(tokenizer, encoder.encode(item_texts(fields)), domain)
        for number, sid in enumerate(np.asarray(sids).tolist()):
            title = str(fields[number]["title"])
            items.append(CatalogItem(domain, f"{domain}-{number}", tuple(sid), title, {"categories": [domain]}))
    config = Qwen2Config(
        vocab_size=vocabulary.size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        pad_token_id=vocabulary.pad,
        bos_token_id=None,
        eos_token_id=None,
    )

    def fill(folder: Path) -> None:
        for name in ("tokenizer", "embedder", "catalog", "samples"):
            (folder / name).mkdir()
        save_tokenizer(tokenizer, folder / "tokenizer")
        (folder / "embedder" / "config.json").write_text(json.dumps(embedder_config(encoder)))
        Qwen2ForCausalLM(config).save_pretrained(folder / "backbone")
        create_catalog(items, tokenizer.codebook_sizes).save(folder / "catalog")
        (folder / "samples" / "requests.json").write_text(json.dumps([{"domain": "drama", "num_results": 3}]))

    details = BundleDetails(
        created="2026-01-01T00:00:00+00:00",
        config={},
        lineage={},
        metrics={},
        codebook_sizes=tokenizer.codebook_sizes,
        domains={name: DomainEntry(token=row) for name, row in DOMAINS.items()},
        parts={
            "language_model": {
                "backbone": "scratch:test",
                "base_vocabulary": 0,
                "max_history": 10,
                "beam_width": 5,
                "gammas": {},
            }
        },
    )
    path = tmp_path_factory.mktemp("bundle") / "bundle"
    write_bundle(path, fill=fill, details=details)
    return path


@contextmanager
def real(bundle: Path, database: Path) -> Iterator[TestClient]:
    ready, failures = threading.Event(), list[str | None]()

    def on_outcome(failure: str | None) -> None:
        failures.append(failure)
        ready.set()

    app = create_app(settings(bundle=bundle, database=str(database), device="cpu"), on_outcome=on_outcome)
    with TestClient(app) as client:
        assert ready.wait(60)
        assert failures == [None]
        yield client


def test_a_real_bundle_recommends_every_item_once_best_first(bundle: Path, tmp_path: Path) -> None:
    with real(bundle, tmp_path / "items.db") as client:
        body = {"domain": "drama", "history": [{"item_id": "comedy-1", "domain": "comedy"}, {"item_id": "gone"}]}
        answer = client.post("/recommend", json=body).json()
        assert sorted(item["item_id"] for item in answer["items"]) == [f"drama-{n}" for n in range(6)]
        scores = [item["score"] for item in answer["items"]]
        assert scores == sorted(scores, reverse=True)
        assert max(scores) < 0
        assert (answer["missing_ids"], answer["fallback"]) == (["gone"], None)
        assert answer["returned_reason"]
        info = client.get("/v1/info").json()
        assert (info["backbone"], info["tokenizer"]["method"]) == ("scratch:test", "rqvae")


def test_a_batch_of_all_domains_scores_as_its_rows_do_alone(bundle: Path, tmp_path: Path) -> None:
    rows = [
        {"domain": "drama", "history": [{"item_id": "drama-1"}], "num_results": 3},
        {"domain": "comedy", "num_results": 2},
        {"domain": "comedy", "history": [{"item_id": f"drama-{n}", "domain": "drama"} for n in range(6)]},
    ]
    with real(bundle, tmp_path / "items.db") as client:
        together = client.post("/recommend", json={"requests": rows}).json()["results"]
        alone = [client.post("/recommend", json=row).json() for row in rows]
    for batched, single in zip(together, alone, strict=True):
        assert [item["item_id"] for item in batched["items"]] == [item["item_id"] for item in single["items"]]
        expected = [item["score"] for item in single["items"]]
        assert [item["score"] for item in batched["items"]] == pytest.approx(expected, abs=1e-4)


def test_items_registered_on_a_real_bundle_are_recommended_at_once_and_after_a_restart(
    bundle: Path, tmp_path: Path
) -> None:
    item = {"item_id": "w1", "title": "High Noon (1952)", "categories": ["Western"]}
    body = {"domain": "western", "items": [item, {**item, "item_id": "w2"}], "register": True}
    question = {"domain": "western", "history": [{"item_id": "drama-0", "domain": "drama"}]}
    with real(bundle, tmp_path / "items.db") as client:
        registered = client.post("/tokenize", json=body).json()
        assert [entry["registered"] for entry in registered["items"]] == [True, True]
        assert [entry["moved"] for entry in registered["items"]] == [False, True]
        first = client.post("/recommend", json=question).json()
        assert sorted(found["item_id"] for found in first["items"]) == ["w1", "w2"]
        assert client.post("/tokenize", json=body).json() == registered
    with real(bundle, tmp_path / "items.db") as client:
        again = client.post("/recommend", json=question).json()
        assert again["items"] == first["items"]
        assert again["catalog_version"] == first["catalog_version"] == registered["catalog_version"]


def test_a_bundle_with_a_changed_byte_is_refused_in_one_sentence(bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    for file in bundle.rglob("*"):
        if file.is_file():
            target = copy / file.relative_to(bundle)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    weights = copy / "tokenizer" / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(StartError, match=r"weights\.safetensors was changed"):
        load_model(copy, "cpu")
