"""The service on a real bundle: a real encoder, tokenizer, backbone and search, with weights that nobody trained."""

import json
import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient
from transformers import Qwen2Config, Qwen2ForCausalLM

from service.app import create_app
from service.errors import StartError
from service.model import is_out_of_memory, load_model
from sidera.bundle_writing import write_bundle
from sidera.catalog import CatalogItem, create_catalog
from sidera.embedding import EncoderSpec, TextEncoder, embedder_config
from sidera.item_text import item_texts
from sidera.items.assignment import assign_sids
from sidera.manifest import BundleDetails, DomainEntry
from sidera.model.vocabulary import Vocabulary
from sidera.recommender import Query, Recommendation, Recommender
from sidera.tokenizers import load_tokenizer, save_tokenizer
from sidera.tokenizers.rqvae import RqVae
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
def real(bundle: Path, database: Path, **changes: Any) -> Iterator[TestClient]:
    ready, failures = threading.Event(), list[str | None]()

    def on_outcome(failure: str | None) -> None:
        failures.append(failure)
        ready.set()

    values = {"bundle": bundle, "database": str(database), "device": "cpu"} | changes
    app = create_app(settings(**values), on_outcome=on_outcome)
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


def test_filters_rules_and_explanations_reach_the_search_of_a_real_bundle(bundle: Path, tmp_path: Path) -> None:
    history = [{"item_id": "drama-1"}, {"item_id": "drama-2"}]
    asked = {"domain": "drama", "history": history, "filters": {"categories": ["drama", "?"]}, "allow": ["drama-4"]}
    with real(bundle, tmp_path / "items.db") as client:
        answer = client.post("/recommend", json=asked | {"num_results": 2, "explain": True}).json()
        assert [item["item_id"] for item in answer["items"]] == ["drama-4"]
        assert answer["returned_reason"] == "only 1 items of 'drama' are allowed; 2 were asked for"
        explanation = answer["items"][0]["explanation"]
        assert [code["code"] for code in explanation["codes"]] == answer["items"][0]["sid"]
        assert sum(explanation["parts"].values()) == pytest.approx(math.exp(answer["items"][0]["score"]), rel=1e-3)
        assert {effect["item_id"] for effect in explanation["history"]} == {"drama-1", "drama-2"}
        drawn = {"domain": "drama", "sampling": {"seed": 3}, "diversity": {"max_per_prefix": 6}, "num_results": 2}
        first, second = (client.post("/recommend", json=drawn).json()["items"] for _ in range(2))
        assert [item["item_id"] for item in first] == [item["item_id"] for item in second]
        valid = client.post("/recommend", json=asked | {"validate_only": True}).json()
        assert valid["tokens"] == 2 * 4 + 1 + 10 * 2
        for change, field in (
            ({"filters": {"colour": "red"}}, "filters.colour"),
            ({"filters": {"categories": {"min": 1}}}, "filters.categories"),
            ({"diversity": {"max_per_prefix": 1, "prefix_length": 4}}, "diversity.prefix_length"),
        ):
            error = client.post("/recommend", json={"domain": "drama"} | change).json()["error"]
            assert (error["code"], error["field"]) == ("invalid_request", field)


def test_codes_of_a_real_bundle_stand_for_what_its_tokenizer_makes_of_them(bundle: Path) -> None:
    model = load_model(bundle, "cpu")
    sids_NL = model.catalog.sids("drama")
    wanted_ND = load_tokenizer(bundle / "tokenizer").reconstruct(torch.from_numpy(sids_NL)).detach()
    assert wanted_ND.shape == (len(TITLES), 384)
    np.testing.assert_allclose(model.code_vectors(sids_NL), wanted_ND.numpy(), rtol=1e-6)


def test_memory_that_is_short_is_told_from_a_defect() -> None:
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**50)
    assert is_out_of_memory(refused.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError())
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


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


def history_of(count: int) -> dict[str, Any]:
    """A request whose history has so many items."""
    return {"domain": "drama", "history": [{"item_id": f"drama-{n}"} for n in range(count)], "exclude_history": False}


def test_a_returning_user_is_answered_from_the_history_cache_which_metrics_tell(bundle: Path, tmp_path: Path) -> None:
    with real(bundle, tmp_path / "items.db", history_cache_bytes=0) as client:
        expected = [client.post("/recommend", json=history_of(count)).json()["items"] for count in (2, 3)]
        samples = [line for line in client.get("/metrics").text.splitlines() if not line.startswith("#")]
        assert not any("history_cache" in line for line in samples)
    with real(bundle, tmp_path / "items.db") as client:
        found = [client.post("/recommend", json=history_of(count)).json()["items"] for count in (2, 3)]
        lines = client.get("/metrics").text.splitlines()
    for name in ("hits_total 1.0", "misses_total 1.0", "reused_items_total 2.0", "evictions_total 0.0"):
        assert f"sidera_history_cache_{name}" in lines
    (kept,) = [line for line in lines if line.startswith("sidera_history_cache_bytes ")]
    assert float(kept.split()[1]) > 3 * 4 * 2 * 2 * 32 * 4
    for one, other in zip(expected, found, strict=True):
        assert [item["item_id"] for item in one] == [item["item_id"] for item in other]
        assert [item["score"] for item in one] == pytest.approx([item["score"] for item in other], abs=1e-5)


@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
def test_the_weights_of_a_served_bundle_are_a_setting(bundle: Path, tmp_path: Path, weights: str) -> None:
    with real(bundle, tmp_path / "items.db") as client:
        plain = client.post("/recommend", json=history_of(4)).json()["items"]
    with real(bundle, tmp_path / "items.db", weights=weights) as client:
        rounded = client.post("/recommend", json=history_of(4)).json()["items"]
    scores = {item["item_id"]: item["score"] for item in plain}
    assert {item["item_id"]: item["score"] for item in rounded} == pytest.approx(scores, abs=0.1)
    assert [item["score"] for item in rounded] != [item["score"] for item in plain]


def test_engines_compute_with_as_many_threads_as_are_set(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, seen, recommend = torch.get_num_threads(), list[int](), Recommender.recommend

    def watched(recommender: Recommender, queries: Sequence[Query]) -> list[Recommendation]:
        seen.append(torch.get_num_threads())
        return recommend(recommender, queries)

    monkeypatch.setattr(Recommender, "recommend", watched)
    try:
        with real(bundle, tmp_path / "items.db", threads=before + 1) as client:
            client.post("/recommend", json=history_of(1))
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {before + 1}


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
