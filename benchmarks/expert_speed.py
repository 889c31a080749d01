"""Fused experts against the same experts as ``peft`` adapters, on the linear layers of one decoder layer.

One by one: every expert is a LoRA adapter of ``peft`` on its own copy of the layer, all of them are run, and the gate
weighs their outputs. All at once: one layer with all adapters active, which ``peft`` adds up one after the other
without a gate: less than the experts compute, and shown for what remains of the gain.

Shapes: T tokens, I and O width of a layer's input and output, E experts.
"""

import copy
import warnings
from collections.abc import Mapping
from functools import partial

import peft
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from benchmarks.harness import Figure, Ratio, at_least, at_most, shown, time_ratio
from sidera.model.experts import ExpertLinear, ExpertShape
from sidera.model.linear_layers import linear_layers

LEAST = 2.0
SAME = 1e-5


def one_layer(backbone: PreTrainedModel) -> dict[str, nn.Linear]:
    """The linear layers of the first decoder layer, by their own short names."""
    found = {name: layer for name, layer in linear_layers(backbone).items() if ".0." in name}
    return {name.rpartition(".")[2]: layer for name, layer in found.items() if isinstance(layer, nn.Linear)}


class ExpertsBothWays:
    """The same random experts, fused and as ``peft`` adapters.

    Args:
        layers: plain linear layers.
        shape: the experts.
    """

    def __init__(self, layers: Mapping[str, nn.Linear], shape: ExpertShape) -> None:
        self.shape = shape
        self.fused = {name: ExpertLinear(layer, shape, 0.0) for name, layer in layers.items()}
        for layer in self.fused.values():
            for weight in layer.universal_experts.parameters():
                nn.init.normal_(weight, std=0.02)
        self.single = [self._adapted(layers, [expert]) for expert in range(shape.count)]
        self.together = self._adapted(layers, list(range(shape.count)))

    def run_fused(self, inputs: Mapping[str, Tensor], train: bool = False) -> dict[str, Tensor]:
        """Every layer's output; with ``train`` also the gradients of the experts."""
        return _run({name: layer(inputs[name]) for name, layer in self.fused.items()}, train)

    def run_one_by_one(self, inputs: Mapping[str, Tensor], train: bool = False) -> dict[str, Tensor]:
        """The same from ``peft``'s adapters and the gate."""
        outputs = {}
        for name, layer in self.fused.items():
            x_TI = inputs[name]
            gate_EI = layer.universal_experts.gate_EI
            assert gate_EI is not None, "the experts have a learned gate"
            share_TE = nn.functional.linear(x_TI, gate_EI).softmax(dim=-1)
            weighed = [share_TE[..., e, None] * single[name](x_TI) for e, single in enumerate(self.single)]
            outputs[name] = torch.stack(weighed).sum(dim=0)
        return _run(outputs, train)

    def run_together(self, inputs: Mapping[str, Tensor], train: bool = False) -> dict[str, Tensor]:
        """All adapters of a layer active at once, without a gate."""
        return _run({name: self.together[name](inputs[name]) for name in self.fused}, train)

    def _adapted(self, layers: Mapping[str, nn.Linear], experts: list[int]) -> nn.ModuleDict:
        shape = self.shape
        adapted = nn.ModuleDict({name: copy.deepcopy(layer) for name, layer in layers.items()})
        settings = peft.LoraConfig(r=shape.rank, lora_alpha=int(shape.alpha), target_modules=list(layers))
        names = [f"expert-{expert}" for expert in experts]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name in names:
                peft.inject_adapter_in_model(settings, adapted, adapter_name=name)
        with torch.no_grad():
            for layer_name, layer in adapted.items():
                own = self.fused[layer_name].universal_experts
                for expert, name in zip(experts, names, strict=True):
                    rows = slice(expert * shape.rank, (expert + 1) * shape.rank)
                    layer.get_submodule("lora_A").get_submodule(name).get_parameter("weight").copy_(own.down_XI[rows])
                    layer.get_submodule("lora_B").get_submodule(name).get_parameter("weight").copy_(own.up_OX[:, rows])
                layer.set_adapter(names)  # type: ignore[operator]
        return adapted


def _run(outputs: dict[str, Tensor], train: bool) -> dict[str, Tensor]:
    if train:
        torch.stack([output.square().mean() for output in outputs.values()]).sum().backward()
    return outputs


def measure_experts(backbone: PreTrainedModel, shape: ExpertShape, tokens: int, rounds: int) -> dict[str, Figure]:
    """The ratios, forward and with gradients, and how much the outputs differ at most."""
    layers = one_layer(backbone)
    torch.manual_seed(0)
    both = ExpertsBothWays(layers, shape)
    draws = [{name: torch.randn(tokens, layer.in_features) for name, layer in layers.items()} for _ in range(rounds)]
    with torch.no_grad():
        fused, single = both.run_fused(draws[0]), both.run_one_by_one(draws[0])
    differs = max(float((fused[name] - single[name]).abs().max() / single[name].std()) for name in fused)
    ratios: dict[str, Ratio] = {}
    for train in (False, True):
        kind = "training" if train else "forward"
        with torch.set_grad_enabled(train):
            fast = partial(both.run_fused, train=train)
            ratios[kind] = time_ratio(partial(both.run_one_by_one, train=train), fast, draws, warm_up=1)
            ratios[f"{kind}_all_at_once"] = time_ratio(partial(both.run_together, train=train), fast, draws, warm_up=1)
    note = f"{shape.count} experts of rank {shape.rank}, {tokens} tokens, one decoder layer; "
    return {
        "experts_largest_difference": at_most(differs, SAME, "share", note + "of an output's deviation"),
        "experts_one_by_one_vs_fused": at_least(
            ratios["forward"].median, LEAST, "ratio", note + ratios["forward"].note
        ),
        "experts_one_by_one_vs_fused_training": shown(ratios["training"].median, "ratio", ratios["training"].note),
        "experts_all_at_once_vs_fused": shown(
            ratios["forward_all_at_once"].median,
            "ratio",
            "peft's sum without a gate; " + ratios["forward_all_at_once"].note,
        ),
        "experts_all_at_once_vs_fused_training": shown(
            ratios["training_all_at_once"].median, "ratio", ratios["training_all_at_once"].note
        ),
    }
