"""int8 layers against float32 ones, and whole models in every format."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sidera.catalog import Catalog, CatalogItem, create_catalog
from sidera.errors import BackboneError
from sidera.language_model import LanguageModel
from sidera.model.experts import ExpertShape, add_experts
from sidera.model.self_test import check_backbone
from sidera.model.weight_formats import (
    Int8Linear,
    check_weight_format,
    dtype_of,
    is_rounded,
    to_int8,
    top_overlap,
    transpose_for_cpu,
)
from sidera.recommender import Query, Recommender
from tests.sidera.worlds import SIZES, VOCABULARY, adapted_model, random_backbone, random_sids


def test_an_int8_layer_does_what_its_rounded_weights_and_inputs_say() -> None:
    generator = torch.Generator().manual_seed(0)
    weight_OI = torch.randn(6, 16, generator=generator) * torch.tensor([0.01, 1, 1, 5, 1, 0])[:, None]
    bias_O, x_BTI = torch.randn(6, generator=generator), torch.randn(2, 3, 16, generator=generator)
    x_BTI[0, 0] = 0
    layer = Int8Linear(weight_OI, bias_O)
    scale_O = weight_OI.abs().amax(1).clamp_min(1e-30) / 127
    scale_BT = x_BTI.abs().amax(2).clamp_min(1e-30) / 127
    whole_OI, whole_BTI = (weight_OI / scale_O[:, None]).round(), (x_BTI / scale_BT[..., None]).round()
    expected = (whole_BTI @ whole_OI.T) * scale_BT[..., None] * scale_O + bias_O
    torch.testing.assert_close(layer(x_BTI), expected)
    torch.testing.assert_close(layer(x_BTI), nn.functional.linear(x_BTI, weight_OI, bias_O), atol=0.6, rtol=0)
    assert layer.weight_IO.dtype == torch.int8


def test_a_token_gives_the_same_in_int8_whatever_stands_beside_it() -> None:
    generator = torch.Generator().manual_seed(1)
    layer = Int8Linear(torch.randn(8, 16, generator=generator), None)
    x_TI = torch.randn(5, 16, generator=generator)
    beside_TI = torch.cat([x_TI[2:3], torch.full((3, 16), 1000.0)])
    assert torch.equal(layer(beside_TI)[0], layer(x_TI)[2])


@pytest.mark.parametrize("kind", ["qwen2", "gpt2"])
def test_in_int8_every_linear_layer_but_the_head_is_quantised_and_the_logits_stay_near(kind: str) -> None:
    plain = random_backbone(kind, initializer_range=0.1)
    quantised = copy.deepcopy(plain)
    to_int8(quantised)
    left = [name for name, part in quantised.named_modules() if type(part) is nn.Linear or "Conv1D" in str(type(part))]
    assert left == ["lm_head"]
    tokens = torch.arange(40, 56).view(2, 8)
    with torch.no_grad():
        expected, found = plain(input_ids=tokens).logits, quantised(input_ids=tokens).logits
    error = float((found - expected).abs().max() / expected.std())
    assert 0 < error < 0.1


def test_a_backbone_with_experts_is_not_put_into_int8() -> None:
    backbone = random_backbone()
    add_experts(backbone, ExpertShape(count=2, rank=2, alpha=2))
    with pytest.raises(BackboneError, match=r"'model\.layers\.0\.\S+' is a ExpertLinear.*use weights bfloat16"):
        to_int8(backbone)


def test_int8_is_refused_where_there_is_no_cpu() -> None:
    with pytest.raises(BackboneError, match="int8 weights run on a CPU, not on cuda"):
        check_weight_format("int8", "cuda:0")
    for weights in ("saved", "float32", "bfloat16"):
        check_weight_format(weights, "cuda:0")
    check_weight_format("int8", "cpu")


def test_transposed_weights_lie_otherwise_and_give_the_same_logits() -> None:
    backbone = random_backbone("qwen2")
    tokens_BT = torch.tensor([[40, 41, 45, 50, 8]])
    with torch.no_grad():
        before = backbone(input_ids=tokens_BT).logits
        transpose_for_cpu(backbone)
        after = backbone(input_ids=tokens_BT).logits
    torch.testing.assert_close(after, before, atol=1e-6, rtol=1e-6)
    head = backbone.get_output_embeddings()
    turned = [layer for layer in backbone.modules() if type(layer) is torch.nn.Linear and layer is not head]
    assert turned
    assert not any(layer.weight.is_contiguous() for layer in turned if min(layer.weight.shape) > 1)
    assert head.weight.is_contiguous()


def test_a_format_says_what_weights_are_loaded_as() -> None:
    assert [dtype_of(weights) for weights in ("saved", "float32", "bfloat16", "int8")] == [
        "auto", torch.float32, torch.bfloat16, torch.float32
    ]  # fmt: skip


def test_only_rounded_weights_count_as_rounded() -> None:
    backbone = random_backbone()
    assert not is_rounded(backbone)
    assert is_rounded(copy.deepcopy(backbone).bfloat16())
    to_int8(backbone)
    assert is_rounded(backbone)


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    sids = random_sids(np.random.default_rng(3), 60)
    return create_catalog([CatalogItem("films", f"f{place}", sid) for place, sid in enumerate(sids)], SIZES)


def answers(model: LanguageModel, catalog: Catalog) -> list[list[str]]:
    queries = [Query("films", tuple(("films", f"f{place}") for place in range(begin, 60, 17))) for begin in range(12)]
    found = Recommender(model, catalog, max_history=4, beam_width=60).recommend(queries)
    assert all(np.isfinite([item.score for item in answer.items]).all() for answer in found)
    return [[item.item_id for item in answer.items] for answer in found]


@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
def test_rounded_weights_with_adapters_pass_the_self_test_and_give_nearly_the_same_ten_items(
    tmp_path: Path, catalog: Catalog, weights: str
) -> None:
    expected = answers(adapted_model(tmp_path / "plain"), catalog)
    model = adapted_model(tmp_path / weights, dtype=torch.bfloat16 if weights == "bfloat16" else torch.float32)
    if weights == "int8":
        to_int8(model.backbone)
    assert model.code_logits(model.read(torch.tensor([[40, 41]]), None), 0).dtype == torch.float32
    check_backbone(model, max_history_items=4)
    assert top_overlap(expected, answers(model, catalog)) > 0.85


def test_the_overlap_is_the_mean_share_of_the_first_items_that_both_have() -> None:
    expected = [["a", "b", "c"], ["x", "y"], []]
    assert top_overlap(expected, [["b", "a", "z"], ["x", "q"], ["m"]], top=2) == 0.75
    assert top_overlap(expected, expected) == 1
    with pytest.raises(ValueError, match="no query has an answer"):
        top_overlap([[]], [["a"]])
    with pytest.raises(ValueError, match="zip"):
        top_overlap([["a"]], [])


def test_the_head_is_multiplied_in_float32_whatever_the_weights_are() -> None:
    backbone = random_backbone("phi")
    model = LanguageModel(copy.deepcopy(backbone).bfloat16(), VOCABULARY)
    hidden_XD = torch.randn(3, 32).bfloat16()
    head = model.backbone.get_output_embeddings()
    rows = slice(VOCABULARY.first_code(1), VOCABULARY.first_code(2))
    expected = nn.functional.linear(hidden_XD.float(), head.weight[rows].float(), head.bias[rows].float())
    assert torch.equal(model.code_logits(hidden_XD, 1), expected)
