"""The lean decoder gives what the backbone's own modules give, and steps back where it does not."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sidera.language_model import LanguageModel
from sidera.model import adapters, lean_decoder
from sidera.model.adapters import StackedLoRA
from sidera.model.self_test import check_backbone
from sidera.model.weight_formats import to_int8, transpose_for_cpu
from tests.sidera.worlds import VOCABULARY, adapted_model, random_backbone, write_adapter

KINDS: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "llama": {},
    "mistral": {"sliding_window": 64},
}
LENGTHS = (13, 1, 6)


def prompts() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    lengths_B = torch.tensor(LENGTHS)
    tokens_BP = torch.randint(VOCABULARY.size, (len(LENGTHS), max(LENGTHS)), generator=generator)
    return tokens_BP, lengths_B


def answers(model: LanguageModel, adapters_B: Tensor | None, num: int) -> list[Tensor]:
    """Of a prefill, and of two runs behind it whose tokens see half of each other."""
    tokens_BP, lengths_B = prompts()
    found, history = model.prefill(tokens_BP, lengths_B, adapters_B, num)
    hidden = [found]
    for run in range(2):
        tokens_BT = tokens_BP[:, run : run + 4]
        visible_BTS = torch.ones(len(tokens_BP), 4, 4 * (run + 1), dtype=torch.bool).tril(diagonal=4 * run)
        visible_BTS[:, :, 1::3] &= torch.eye(4, dtype=torch.bool).repeat(1, run + 1)[:, 1::3]
        hidden.append(model.extend(history, tokens_BT, torch.arange(4).expand_as(tokens_BT) + run, visible_BTS))
    return hidden


def assert_as_stock(model: LanguageModel, adapters_B: Tensor | None, num: int) -> None:
    assert model.lean
    lean = answers(model, adapters_B, num)
    model.use_stock_decoder()
    assert not model.lean
    for found, right in zip(lean, answers(model, adapters_B, num), strict=True):
        torch.testing.assert_close(found, right, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama"])
def test_it_gives_what_the_backbones_own_modules_give(kind: str) -> None:
    assert_as_stock(LanguageModel(random_backbone(kind, **KINDS[kind]), VOCABULARY), None, 1)


@pytest.mark.parametrize("heads", [1, 4])
def test_keys_and_values_may_have_fewer_heads_than_queries_or_as_many(heads: int) -> None:
    backbone = random_backbone("llama", num_attention_heads=4, num_key_value_heads=heads)
    assert_as_stock(LanguageModel(backbone, VOCABULARY), None, 1)


def test_other_rotations_are_the_backbones_own() -> None:
    scaled = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
    assert_as_stock(LanguageModel(random_backbone("llama", rope_parameters=scaled), VOCABULARY), None, 1)


@pytest.mark.parametrize("num", [1, 2])
def test_adapters_change_it_as_they_change_the_backbone(tmp_path: Path, num: int) -> None:
    model = adapted_model(tmp_path)
    assert_as_stock(model, torch.tensor([0, 1, 0]), num)


def test_it_rounds_as_the_backbone_rounds() -> None:
    backbone = random_backbone(initializer_range=0.1)
    nn.Module.to(backbone, torch.bfloat16)
    model = LanguageModel(backbone, VOCABULARY)
    lean = answers(model, None, 1)
    model.use_stock_decoder()
    for found, right in zip(lean, answers(model, None, 1), strict=True):
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found, right, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize("transposed", [True, False])
def test_joined_products_give_what_single_ones_give(kind: str, transposed: bool) -> None:
    backbone = random_backbone(kind, **KINDS[kind])
    if transposed:
        transpose_for_cpu(backbone)
    model = LanguageModel(backbone, VOCABULARY)
    single = answers(model, None, 1)
    model.join_layers()
    for found, right in zip(answers(model, None, 1), single, strict=True):
        torch.testing.assert_close(found, right, atol=1e-5, rtol=1e-5)
    assert_as_stock(model, None, 1)


@pytest.mark.parametrize("adapters", [[0, 1, 0], [1, 1, 1]])
@pytest.mark.parametrize("num", [1, 2])
def test_adapters_of_joined_layers_are_joined(tmp_path: Path, num: int, adapters: list[int]) -> None:
    model = adapted_model(tmp_path)
    single = answers(model, torch.tensor(adapters), num)
    model.join_layers()
    for found, right in zip(answers(model, torch.tensor(adapters), num), single, strict=True):
        torch.testing.assert_close(found, right, atol=1e-5, rtol=1e-5)
    assert_as_stock(model, torch.tensor(adapters), num)


@pytest.mark.parametrize("tokens", [1, 13, 30])
@pytest.mark.parametrize("own", [None, [0, 1, 0], [1, 1, 1]])
def test_rows_that_are_read_in_groups_give_what_they_give_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: list[int] | None, tokens: int
) -> None:
    model = adapted_model(tmp_path)
    adapters_B = None if own is None else torch.tensor(own)
    for num in (1, 2):
        together = answers(model, adapters_B, num if own else 1)
        monkeypatch.setattr(lean_decoder, "_GROUP_TOKENS", tokens)
        for found, right in zip(answers(model, adapters_B, num if own else 1), together, strict=True):
            torch.testing.assert_close(found, right, atol=1e-5, rtol=1e-5)
        monkeypatch.undo()


def merged_products(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens go through weights with an adapter added from now on, of each product."""
    tokens = list[int]()
    by_merged = StackedLoRA._by_merged

    def counted(layer: StackedLoRA, x_BTI: Tensor, plain: int, merged_IO: Tensor) -> Tensor:
        tokens.append(x_BTI[plain:].shape[:2].numel())
        return by_merged(layer, x_BTI, plain, merged_IO)

    monkeypatch.setattr(StackedLoRA, "_by_merged", counted)
    return tokens


@pytest.mark.parametrize("num", [1, 2])
@pytest.mark.parametrize("biased", [True, False])
def test_many_tokens_of_one_adapter_go_through_weights_that_hold_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num: int, biased: bool
) -> None:
    backbone = random_backbone("qwen2" if biased else "llama")
    folder = write_adapter(tmp_path / "films", backbone, targets=("q_proj", "v_proj", "o_proj", "up_proj", "down_proj"))
    model = LanguageModel(backbone, VOCABULARY, {"films": folder})
    adapters_B = torch.zeros(len(LENGTHS), dtype=torch.int64)
    beside = answers(model, adapters_B, num)
    model.join_layers()
    tokens = merged_products(model, monkeypatch)
    answers(model, adapters_B, num)
    assert not tokens, "few tokens are cheaper beside the weights"
    monkeypatch.setattr(adapters, "_MERGED_TOKENS", 13)
    for found, right in zip(answers(model, adapters_B, num), beside, strict=True):
        torch.testing.assert_close(found, right, atol=1e-4, rtol=1e-4)
    assert set(tokens) == {39}


def test_requests_of_several_adapters_go_through_each_ones_own_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = adapted_model(tmp_path)
    single = answers(model, torch.tensor([0, 1, 0]), 2)
    model.join_layers()
    tokens = merged_products(model, monkeypatch)
    monkeypatch.setattr(adapters, "_MERGED_TOKENS", 1)
    monkeypatch.setattr(lean_decoder, "_GROUP_TOKENS", 1)
    for found, right in zip(answers(model, torch.tensor([0, 1, 0]), 2), single, strict=True):
        torch.testing.assert_close(found, right, atol=1e-4, rtol=1e-4)
    assert tokens


@pytest.mark.parametrize("how", ["int8", "bfloat16", "memory"])
def test_adapters_stay_beside_weights_that_are_rounded_or_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    model = adapted_model(tmp_path, dtype=torch.bfloat16 if how == "bfloat16" else torch.float32)
    if how == "int8":
        to_int8(model.backbone)
    if how == "memory":
        monkeypatch.setattr(lean_decoder, "_MERGED_BYTES", 1000)
    model.join_layers()
    monkeypatch.setattr(adapters, "_MERGED_TOKENS", 1)
    tokens = merged_products(model, monkeypatch)
    answers(model, torch.tensor([0, 0, 0]), 2)
    assert not tokens


def test_joined_weights_lie_in_memory_once() -> None:
    backbone: Any = random_backbone()
    before = {name: weight.clone() for name, weight in backbone.named_parameters()}
    LanguageModel(backbone, VOCABULARY).join_layers()
    for name, weight in backbone.named_parameters():
        assert torch.equal(weight, before[name])
    attention, mlp = backbone.base_model.layers[0].self_attn, backbone.base_model.layers[0].mlp
    parts = [[attention.q_proj, attention.k_proj, attention.v_proj], [mlp.gate_proj, mlp.up_proj]]
    for layers in parts:
        assert len({layer.weight.untyped_storage().data_ptr() for layer in layers}) == 1


def test_layers_with_integers_are_not_joined() -> None:
    backbone = random_backbone(hidden_size=64, intermediate_size=64)
    model = LanguageModel(backbone, VOCABULARY)
    to_int8(backbone)
    single = answers(model, None, 1)
    model.join_layers()
    for found, right in zip(answers(model, None, 1), single, strict=True):
        assert torch.equal(found, right)


@pytest.mark.parametrize("tokens", [1, 6, 13])
def test_an_mlp_may_read_some_of_the_tokens_at_a_time(
    tmp_path: Path, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = adapted_model(tmp_path)
    adapters_B = torch.tensor([1, 0, 1])
    at_once = answers(model, adapters_B, 2)
    monkeypatch.setattr(lean_decoder, "_CPU_TOKENS", tokens)
    for found, right in zip(answers(model, adapters_B, 2), at_once, strict=True):
        torch.testing.assert_close(found, right, atol=1e-5, rtol=1e-5)


def test_backbones_of_other_kinds_run_their_own_modules() -> None:
    assert not LanguageModel(random_backbone("phi"), VOCABULARY).lean
    assert not LanguageModel(random_backbone("mistral", **KINDS["mistral"]), VOCABULARY).lean


def test_a_backbone_whose_layers_do_something_else_runs_its_own_modules() -> None:
    backbone: Any = random_backbone()
    backbone.base_model.layers[0].register_forward_hook(lambda module, inputs, output: output * 1.5)
    model = LanguageModel(backbone, VOCABULARY)
    assert model.lean
    check_backbone(model, max_history_items=8)
    assert not model.lean


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama"])
def test_a_backbone_that_passes_keeps_it(kind: str) -> None:
    model = LanguageModel(random_backbone(kind, **KINDS[kind]), VOCABULARY)
    check_backbone(model, max_history_items=8)
    assert model.lean
