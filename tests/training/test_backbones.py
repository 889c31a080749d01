"""Backbones from nothing."""

import pytest
import torch
from transformers import Qwen2ForCausalLM

from sidera.language_model import embedding_rows
from sidera.model.vocabulary import Vocabulary
from training.backbones import PRESETS, new_backbone, shape_of
from training.errors import ConfigError

VOCABULARY = Vocabulary((8, 8, 8), {"books": 0})


@pytest.mark.parametrize(("preset", "millions"), [("tiny", 0.6), ("small", 5.0), ("base", 27.0)])
def test_a_preset_has_about_the_weights_that_its_description_says(preset: str, millions: float) -> None:
    backbone = new_backbone(f"scratch:{preset}", VOCABULARY, 40)
    embedding = embedding_rows(backbone) * PRESETS[preset].width
    weights = sum(weight.numel() for weight in backbone.parameters()) - embedding
    assert weights / 1e6 == pytest.approx(millions, rel=0.15)


def test_a_new_backbone_embeds_the_vocabulary_reads_what_was_asked_and_shares_embedding_and_head() -> None:
    backbone = new_backbone("scratch:tiny", VOCABULARY, 40)
    assert isinstance(backbone, Qwen2ForCausalLM)
    assert embedding_rows(backbone) == VOCABULARY.size
    assert backbone.config.max_position_embeddings == 40
    assert backbone.config.attention_dropout == 0.0
    assert backbone.get_output_embeddings().weight is backbone.get_input_embeddings().weight


def test_the_seed_decides_the_weights() -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        backbone = new_backbone("scratch:tiny", VOCABULARY, 40)
        return torch.cat([weight.detach().flatten() for weight in backbone.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize("name", ["scratch:huge", "tiny", "gpt2", "scratch:", ""])
def test_an_unknown_preset_is_refused_and_the_known_ones_named(name: str) -> None:
    with pytest.raises(ConfigError, match=r"is not known; use one of scratch:tiny, scratch:small, scratch:base"):
        shape_of(name)
