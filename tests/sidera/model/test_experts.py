"""Universal experts: the fused product against experts one by one, against stock ``peft``, in a tree, and from disk."""

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from sidera.errors import BackboneError
from sidera.language_model import LanguageModel
from sidera.model.adapters import AdapterBank
from sidera.model.experts import (
    GATES_NAME,
    ExpertShape,
    add_experts,
    expert_layers,
    load_experts,
    merge_experts,
    plain_weights,
    save_experts,
    shape_of_experts,
)
from sidera.model.linear_layers import linear_layers, sizes_of, upper_half
from sidera.model.self_test import check_backbone
from tests.sidera.worlds import VOCABULARY, Request, World, random_backbone, write_adapter

KINDS = ("qwen2", "gpt2", "phi")
SHAPE = ExpertShape(count=3, rank=2, alpha=5.0)
TOKENS_BT = torch.tensor([[40, 41, 45, 50], [8, 44, 47, 49], [41, 44, 48, 55]])


def with_experts(kind: str = "qwen2", shape: ExpertShape = SHAPE, seed: int = 1, **changes: Any) -> PreTrainedModel:
    """A tiny backbone whose experts and gates all say something."""
    backbone = random_backbone(kind, **changes)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        add_experts(backbone, shape)
        for layer in expert_layers(backbone).values():
            for weight in layer.universal_experts.parameters():
                nn.init.normal_(weight, std=0.3)
    return backbone


def logits(backbone: Any, tokens_BT: Tensor = TOKENS_BT) -> Tensor:
    with torch.no_grad():
        found: Tensor = backbone(input_ids=tokens_BT, use_cache=False).logits
    return found


def saved(backbone: PreTrainedModel, folder: Path) -> tuple[list[Path], Path | None]:
    """The expert folders and the gates' file of a backbone, as written."""
    save_experts(backbone, folder)
    gates = folder / GATES_NAME
    return sorted(folder.glob("universal-*")), gates if gates.exists() else None


def one_by_one(layer: Any, x_TI: Tensor) -> Tensor:
    """The plain layer and every expert by its own two matrices, summed with the gate's shares."""
    experts = layer.universal_experts
    shape = experts.shape
    weight_OI = layer.weight if isinstance(layer, nn.Linear) else layer.weight.T
    y_TO = x_TI.double() @ weight_OI.double().T + (0 if layer.bias is None else layer.bias.double())
    share_TE = torch.full((*x_TI.shape[:-1], shape.count), 1 / shape.count, dtype=torch.float64)
    if experts.gate_EI is not None:
        share_TE = (x_TI.double() @ experts.gate_EI.double().T).softmax(dim=-1)
    for expert in range(shape.count):
        rows = slice(expert * shape.rank, (expert + 1) * shape.rank)
        down_TE = x_TI.double() @ experts.down_XI[rows].double().T
        update_TO = down_TE @ experts.up_OX[:, rows].double().T * (shape.alpha / shape.rank)
        y_TO = y_TO + share_TE[..., expert, None] * update_TO
    return y_TO


@pytest.mark.parametrize("learned_gate", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_the_fused_product_is_the_sum_of_all_experts_one_by_one(kind: str, learned_gate: bool) -> None:
    backbone = with_experts(kind, ExpertShape(3, 2, 5.0, learned_gate))
    layers = expert_layers(backbone)
    assert set(layers) == set(linear_layers(random_backbone(kind)))
    for layer in layers.values():
        size_in, size_out = sizes_of(layer) or (0, 0)
        x_TI = torch.randn(2, 7, size_in, generator=torch.Generator().manual_seed(3))
        with torch.no_grad():
            found_TO = layer(x_TI)
            expected_TO = one_by_one(layer, x_TI)
        assert found_TO.shape == (2, 7, size_out)
        torch.testing.assert_close(found_TO.double(), expected_TO, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["qwen2", "gpt2"])
def test_the_saved_experts_are_stock_peft_adapters_whose_outputs_the_gate_weighs(tmp_path: Path, kind: str) -> None:
    backbone = with_experts(kind)
    folders, gates = saved(backbone, tmp_path)
    assert [folder.name for folder in folders] == ["universal-0", "universal-1", "universal-2"]
    assert gates is not None
    stock = []
    for folder in folders:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adapted = peft.PeftModel.from_pretrained(copy.deepcopy(random_backbone(kind)), str(folder)).eval()
        stock.append(adapted.get_base_model())
    gate_of = load_file(gates)
    for name, layer in expert_layers(backbone).items():
        x_TI = torch.randn(5, sizes_of(layer)[0], generator=torch.Generator().manual_seed(3))  # type: ignore[index]
        share_TE = (x_TI @ gate_of[name].T).softmax(dim=-1)
        with torch.no_grad():
            weighed_TO = sum(
                share_TE[:, expert, None] * model.get_submodule(name)(x_TI) for expert, model in enumerate(stock)
            )
            torch.testing.assert_close(layer(x_TI), weighed_TO, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_new_experts_change_no_score_and_share_the_weights_of_the_layers_they_replace(kind: str) -> None:
    backbone = random_backbone(kind)
    plain, weights = logits(backbone), dict(backbone.named_parameters())
    add_experts(backbone, SHAPE)
    assert torch.equal(logits(backbone), plain)
    after = dict(backbone.named_parameters())
    assert all(after[name] is weight for name, weight in weights.items())
    assert set(plain_weights(backbone)) == set(random_backbone(kind).state_dict())


def test_gates_and_experts_learn_and_a_gate_reads_its_own_token_only() -> None:
    backbone = with_experts()
    layer = next(iter(expert_layers(backbone).values()))
    x_TI = torch.randn(4, sizes_of(layer)[0])  # type: ignore[index]
    layer(x_TI).square().sum().backward()
    for weight in layer.universal_experts.parameters():
        assert weight.grad is not None
        assert bool(weight.grad.abs().sum() > 0)
    with torch.no_grad():
        torch.testing.assert_close(layer(x_TI)[2:3], layer(x_TI[2:3]), atol=1e-6, rtol=1e-6)


def test_dropout_of_experts_acts_while_training_only() -> None:
    backbone = random_backbone()
    add_experts(backbone, SHAPE, dropout=0.5)
    layer = next(iter(expert_layers(backbone).values()))
    nn.init.normal_(layer.universal_experts.up_OX)
    x_TI = torch.randn(4, sizes_of(layer)[0])  # type: ignore[index]
    with torch.no_grad():
        assert torch.equal(layer(x_TI), layer(x_TI))
        layer.train()
        assert not torch.equal(layer(x_TI), layer(x_TI))


@pytest.mark.parametrize("learned_gate", [True, False])
@pytest.mark.parametrize("kind", ["qwen2", "gpt2"])
def test_what_is_saved_is_what_is_loaded(tmp_path: Path, kind: str, learned_gate: bool) -> None:
    backbone = with_experts(kind, ExpertShape(3, 2, 5.0, learned_gate))
    folders, gates = saved(backbone, tmp_path)
    assert (gates is not None) == learned_gate
    loaded = random_backbone(kind)
    load_experts(loaded, folders, gates)
    assert shape_of_experts(loaded) == shape_of_experts(backbone)
    assert torch.equal(logits(loaded), logits(backbone))
    assert not torch.allclose(logits(loaded), logits(random_backbone(kind)), atol=1e-2)


@pytest.mark.parametrize("kind", ["qwen2", "llama", "gpt2", "phi"])
def test_a_tree_is_decoded_rightly_with_experts_and_adapters_over_them(tmp_path: Path, kind: str) -> None:
    targets = ("c_attn", "c_fc") if kind == "gpt2" else ("q_proj", "v_proj")
    adapters = {
        "films": write_adapter(tmp_path / "films", random_backbone(kind), seed=1, targets=targets),
        "books": write_adapter(tmp_path / "books", random_backbone(kind), seed=2, targets=targets),
    }
    model = LanguageModel(with_experts(kind), VOCABULARY, adapters, {"films": 0.3, "books": 0.8})
    check_backbone(model, max_history_items=8)
    sids = [(a, b, c) for a in range(5) for b in range(4) for c in range(0, 6, 2)]
    world = World(model, {"films": sids})
    request = Request(history=(("films", (1, 2, 3)),) * 5, num_results=len(sids), gamma=0.3)
    found = world.search([request], len(sids))[0]
    assert found.scores == pytest.approx([score for score, _ in world.exhaustive(request)], rel=0, abs=2e-4)


def test_a_gate_that_reads_another_token_is_found_by_the_self_test() -> None:
    backbone = with_experts()
    for layer in expert_layers(backbone).values():
        experts: Any = layer.universal_experts
        forward = experts.forward

        def looks_ahead(x: Tensor, forward: Any = forward) -> Any:
            return forward(x) + forward(x).roll(-1, dims=-2)

        experts.forward = looks_ahead
    with pytest.raises(BackboneError, match="Qwen2ForCausalLM gives other scores"):
        check_backbone(LanguageModel(backbone, VOCABULARY), max_history_items=8)


@pytest.mark.parametrize("kind", ["qwen2", "gpt2"])
def test_stacked_adapters_over_experts_give_what_stock_peft_gives_over_them(tmp_path: Path, kind: str) -> None:
    backbone = with_experts(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = peft.LoraConfig(r=2, lora_alpha=3, target_modules="all-linear", init_lora_weights=False)
        trained = peft.get_peft_model(copy.deepcopy(backbone), settings).eval()
        trained.save_pretrained(str(tmp_path / "domain"), save_embedding_layers=False)
    expected = logits(trained)
    bank = AdapterBank(backbone, [tmp_path / "domain"])
    assert not torch.allclose(logits(backbone), expected, atol=1e-2)
    with bank.rows(torch.zeros(len(TOKENS_BT), dtype=torch.int64)):
        torch.testing.assert_close(logits(backbone), expected, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_an_average_gate_is_merged_into_a_stock_backbone_with_the_same_scores(kind: str) -> None:
    backbone = with_experts(kind, ExpertShape(3, 2, 5.0, learned_gate=False))
    before = logits(backbone)
    merge_experts(backbone)
    assert expert_layers(backbone) == {}
    assert set(backbone.state_dict()) == set(random_backbone(kind).state_dict())
    torch.testing.assert_close(logits(backbone), before, atol=5e-5, rtol=1e-4)
    assert not torch.allclose(before, logits(random_backbone(kind)), atol=1e-2)


def test_a_learned_gate_is_never_merged() -> None:
    with pytest.raises(BackboneError, match=r"mixes its experts by a learned gate.*experts\.gate: average"):
        merge_experts(with_experts())


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_experts_of_different_runs_are_refused(tmp_path: Path) -> None:
    folders, gates = saved(with_experts(), tmp_path)
    change_config(folders[2], lora_alpha=6.0)
    with pytest.raises(BackboneError, match="universal-2 differs from universal-0 in rank, alpha or layers"):
        load_experts(random_backbone(), folders, gates)


@pytest.mark.parametrize("damage", ["missing layer", "other width", "not safetensors"])
def test_gates_that_do_not_fit_are_refused(tmp_path: Path, damage: str) -> None:
    folders, gates = saved(with_experts(), tmp_path)
    assert gates is not None
    weights = load_file(gates)
    name = next(iter(weights))
    if damage == "missing layer":
        save_file({key: weight for key, weight in weights.items() if key != name}, gates)
    elif damage == "other width":
        save_file(weights | {name: weights[name][:2].clone()}, gates)
    else:
        gates.write_bytes(b"{not json")
    message = {
        "missing layer": "gates.safetensors has other layers",
        "other width": "have another width",
        "not safetensors": "gates.safetensors: the gates cannot be read",
    }[damage]
    with pytest.raises(BackboneError, match=message):
        load_experts(random_backbone(), folders, gates)


def test_experts_of_another_backbone_are_refused(tmp_path: Path) -> None:
    folders, gates = saved(with_experts(hidden_size=64), tmp_path / "wide")
    with pytest.raises(BackboneError, match="have another width than the backbone"):
        load_experts(random_backbone(), folders, gates)
    folders, gates = saved(with_experts(num_hidden_layers=3), tmp_path / "deep")
    with pytest.raises(BackboneError, match="is not in this backbone"):
        load_experts(random_backbone(), folders, gates)


def test_a_layer_that_only_looks_linear_gets_no_experts() -> None:
    class Scaled(nn.Linear):
        """A linear layer whose product is scaled."""

    backbone = random_backbone()
    backbone.get_submodule("model.layers.0.mlp.up_proj").__class__ = Scaled
    with pytest.raises(BackboneError, match=r"'model\.layers\.0\.mlp\.up_proj' is a Scaled; experts fit plain linear"):
        add_experts(backbone, SHAPE)


@pytest.mark.parametrize("kind", ["qwen2", "gpt2"])
@pytest.mark.parametrize(("layers", "kept"), [(2, [1]), (3, [1, 2]), (4, [2, 3])])
def test_the_upper_half_is_the_layers_behind_the_middle(kind: str, layers: int, kept: list[int]) -> None:
    backbone = random_backbone(kind, num_hidden_layers=layers)
    stack = "transformer.h" if kind == "gpt2" else "model.layers"
    names = set(linear_layers(backbone))
    assert set(upper_half(backbone)) == {n for n in names if any(n.startswith(f"{stack}.{k}.") for k in kept)}
    assert "lm_head" not in names
