"""Which backbones pass the self-test, and that those which decode wrongly are refused by name."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from sidera.errors import BackboneError
from sidera.language_model import LanguageModel
from sidera.model.self_test import check_backbone
from sidera.model.vocabulary import Vocabulary
from tests.sidera.worlds import VOCABULARY, Request, World, adapted_model, random_backbone

RIGHT: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "llama": {},
    "gpt2": {"n_positions": 96},
    "phi": {},
    "smollm3": {},
    "granite": {"logits_scaling": 3.0},
    "cohere": {"logit_scale": 0.5},
    "mistral": {"sliding_window": 64},
    "gemma3_text": {"head_dim": 8, "sliding_window": 40},
}


@pytest.mark.parametrize("kind", RIGHT)
def test_a_full_attention_decoder_passes(kind: str) -> None:
    check_backbone(LanguageModel(random_backbone(kind, **RIGHT[kind]), VOCABULARY), max_history_items=8)


def test_a_backbone_with_adapters_passes(tmp_path: Path) -> None:
    check_backbone(adapted_model(tmp_path), max_history_items=8)


@pytest.mark.parametrize("sizes", [(7,), (1, 1), (2, 3), (4, 4, 4, 4)])
def test_any_number_of_levels_passes(sizes: tuple[int, ...]) -> None:
    vocabulary = Vocabulary(sizes, {"films": 0})
    check_backbone(LanguageModel(random_backbone(vocab_size=vocabulary.size), vocabulary), max_history_items=8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions_pass(dtype: torch.dtype) -> None:
    backbone = random_backbone(initializer_range=0.1)
    nn.Module.to(backbone, dtype)
    check_backbone(LanguageModel(backbone, VOCABULARY), max_history_items=8)


def ignores_the_mask(backbone: PreTrainedModel) -> None:
    forward = backbone.base_model.forward
    backbone.base_model.forward = lambda **inputs: forward(**inputs | {"attention_mask": None})


def ignores_positions(backbone: PreTrainedModel) -> None:
    forward = backbone.base_model.forward
    backbone.base_model.forward = lambda **inputs: forward(**inputs | {"position_ids": None})


def looks_ahead(backbone: PreTrainedModel) -> None:
    """A token before its successor is told of it, as bidirectional attention would."""
    forward = backbone.base_model.forward

    def peeking(**inputs: Any) -> Any:
        output = forward(**inputs)
        output.last_hidden_state = output.last_hidden_state + output.last_hidden_state.roll(-1, dims=1)
        return output

    backbone.base_model.forward = peeking


class Scaled(nn.Linear):
    """A head that does more than its weights say."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * 1.5


def scales_its_logits(backbone: Any) -> None:
    backbone.lm_head.__class__ = Scaled


@pytest.mark.parametrize("break_it", [ignores_the_mask, ignores_positions, looks_ahead, scales_its_logits])
def test_a_backbone_that_decodes_wrongly_is_refused_by_name(break_it: Callable[[PreTrainedModel], None]) -> None:
    backbone = random_backbone("smollm3")
    break_it(backbone)
    with pytest.raises(BackboneError, match="SmolLM3ForCausalLM gives other scores"):
        check_backbone(LanguageModel(backbone, VOCABULARY), max_history_items=8)


@pytest.mark.parametrize("break_it", [looks_ahead, scales_its_logits])
def test_a_backbone_that_reads_otherwise_than_its_layers_say_is_refused(
    break_it: Callable[[PreTrainedModel], None],
) -> None:
    backbone = random_backbone()
    break_it(backbone)
    with pytest.raises(BackboneError, match="Qwen2ForCausalLM gives other scores"):
        check_backbone(LanguageModel(backbone, VOCABULARY), max_history_items=8)


@pytest.mark.parametrize(
    ("kind", "changes", "name"),
    [
        (
            "bloom",
            {"attention": "eager", "n_head": 4, "max_position_embeddings": None},
            "Bloom.* has no positions",
        ),
        ("bloom", {"attention": "eager", "n_head": 4}, "BloomForCausalLM cannot decode a tree"),
        ("falcon", {"alibi": True}, "FalconForCausalLM cannot decode a tree"),
        ("qwen3_next", {}, "Qwen3NextForCausalLM has layers of .*linear_attention"),
        ("gemma2", {"attention": "eager", "head_dim": 8, "sliding_window": 64}, "Gemma2ForCausalLM"),
    ],
)
def test_a_backbone_of_another_kind_is_refused_by_name(kind: str, changes: dict[str, Any], name: str) -> None:
    with pytest.raises(BackboneError, match=name):
        check_backbone(LanguageModel(random_backbone(kind, **changes), VOCABULARY), max_history_items=8)


def test_a_backbone_with_weights_that_are_not_numbers_is_refused_by_name() -> None:
    backbone = random_backbone()
    backbone.get_parameter("model.norm.weight").data.fill_(math.nan)
    with pytest.raises(BackboneError, match="Qwen2ForCausalLM"):
        check_backbone(LanguageModel(backbone, VOCABULARY), max_history_items=8)


@pytest.mark.parametrize("kind", ["qwen2", "gpt2"])
def test_a_history_that_the_backbone_cannot_read_is_refused_and_the_longest_it_can_passes(kind: str) -> None:
    model = LanguageModel(random_backbone(kind), VOCABULARY)
    check_backbone(model, max_history_items=96 // 4 - 1)
    message = "reads 96 tokens, a history of 24 items needs 100; set a smaller max_history"
    with pytest.raises(BackboneError, match=message):
        check_backbone(model, max_history_items=96 // 4)


def test_a_backbone_that_can_hold_one_item_is_not_tested_with_more() -> None:
    model = LanguageModel(random_backbone("gpt2", n_positions=8, max_position_embeddings=8), VOCABULARY)
    check_backbone(model, max_history_items=1)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("mistral", {}),
        ("phi3", {}),
        ("starcoder2", {}),
        ("gemma3_text", {"head_dim": 8}),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 0}),
    ],
)
def test_a_window_smaller_than_the_history_is_refused(kind: str, changes: dict[str, Any]) -> None:
    model = LanguageModel(random_backbone(kind, **changes, sliding_window=35), VOCABULARY)
    check_backbone(model, max_history_items=7)
    with pytest.raises(BackboneError, match="a window of 35 tokens, a history of 8 items needs 36"):
        check_backbone(model, max_history_items=8)


def test_a_window_that_no_layer_uses_restricts_nothing() -> None:
    unused = random_backbone("gemma3_text", head_dim=8, sliding_window=8, layer_types=["full_attention"] * 2)
    for backbone in (unused, random_backbone("qwen2", sliding_window=8)):
        check_backbone(LanguageModel(backbone, VOCABULARY), max_history_items=8)


@pytest.mark.parametrize("kind", ["mistral", "gemma3_text"])
def test_many_beams_do_not_push_the_history_out_of_a_window(kind: str) -> None:
    changes = {"head_dim": 8} if kind == "gemma3_text" else {}
    model = LanguageModel(random_backbone(kind, **changes, sliding_window=24), VOCABULARY)
    check_backbone(model, max_history_items=5)
    sids = [(a, b, c) for a in range(5) for b in range(4) for c in range(0, 6, 2)]
    world = World(model, {"films": sids})
    request = Request(history=(("films", (1, 2, 3)),) * 5, num_results=len(sids))
    found = world.search([request], len(sids))[0]
    assert found.scores == pytest.approx([score for score, _ in world.exhaustive(request)], rel=0, abs=1e-4)
