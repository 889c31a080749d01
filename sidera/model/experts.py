"""Universal experts: several LoRA experts on every linear layer of a backbone, mixed for each token by a gate.

``y = W x + b + alpha / r * sum_e g_e(x) B_e A_e x`` with ``g(x) = softmax(G x)`` (GenCDR, arXiv 2511.08006, and the
design's section on the language model). The gate reads this token's input of this layer and nothing else, so keys and
values of a prefix can be kept. All experts are one low-rank product of rank E r: the A stacked, the gate multiplied
onto the rank dimension, the B stacked. An ``average`` gate is 1 / E for every expert, has no weights, and can be merged
into the layer exactly.

An expert layer is a linear layer itself and shares its weights with the one that it replaces, so a backbone keeps the
names of its weights, and ``peft`` and :class:`sidera.model.adapters.StackedLoRA` put domain adapters on top of it.

Shapes: T tokens (any leading dimensions), I and O width of a layer's input and output, E experts, r rank of one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from sidera.errors import BackboneError
from sidera.model.linear_layers import linear_layers, replace_layer
from sidera.model.peft_folders import LoraAdapter, read_peft_folder, write_peft_folder

GATES_NAME = "gates.safetensors"
_OWN_WEIGHTS = ".universal_experts."


def expert_folder(number: int) -> str:
    """The name of an expert's PEFT folder."""
    return f"universal-{number}"


@dataclass(frozen=True)
class ExpertShape:
    """How many experts there are, and of what size.

    Attributes:
        count: E.
        rank: r of one expert.
        alpha: an expert's product is scaled by alpha / r.
        learned_gate: a gate with weights; without, every expert counts 1 / E.
    """

    count: int
    rank: int
    alpha: float
    learned_gate: bool = True


class Experts(nn.Module):
    """What the experts of one layer add to it.

    Attributes:
        down_XI: the A of all experts. Shape: float[E * r, I].
        up_OX: the B of all experts. Shape: float[O, E * r].
        gate_EI: G; None for an average gate.
    """

    def __init__(self, size_in: int, size_out: int, shape: ExpertShape, dropout: float, weight: Tensor) -> None:
        super().__init__()
        self.shape = shape
        width = shape.count * shape.rank
        bound = 1 / math.sqrt(size_in)  # as peft starts an A
        self.down_XI = nn.Parameter(weight.new_empty(width, size_in).uniform_(-bound, bound))
        self.up_OX = nn.Parameter(weight.new_zeros(size_out, width))
        self.gate_EI = nn.Parameter(weight.new_zeros(shape.count, size_in)) if shape.learned_gate else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_TI: Tensor) -> Tensor:
        """The scaled sum over all experts. Shape: float[T, O]."""
        shape = self.shape
        down_TX = nn.functional.linear(self.dropout(x_TI), self.down_XI)
        scale = shape.alpha / shape.rank
        if self.gate_EI is None:
            down_TX = down_TX * (scale / shape.count)
        else:
            share_TE = nn.functional.linear(x_TI, self.gate_EI).float().softmax(dim=-1).mul(scale).to(down_TX.dtype)
            down_TX = (down_TX.unflatten(-1, (shape.count, shape.rank)) * share_TE[..., None]).flatten(-2)
        return nn.functional.linear(down_TX, self.up_OX)

    def mean_update(self) -> Tensor:
        """alpha / r * mean_e B_e A_e: all that experts with an average gate do. Shape: float64[O, I]."""
        return self.up_OX.double() @ self.down_XI.double() * (self.shape.alpha / self.shape.rank / self.shape.count)


class ExpertLinear(nn.Linear):
    """A linear layer with experts; its weights are those of the layer that it replaces."""

    def __init__(self, layer: nn.Linear, shape: ExpertShape, dropout: float) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias
        self.universal_experts = Experts(layer.in_features, layer.out_features, shape, dropout, layer.weight.detach())

    def forward(self, x_TI: Tensor) -> Tensor:
        """Shape: float[T, O]."""
        added_TO: Tensor = self.universal_experts(x_TI)
        return super().forward(x_TI) + added_TO

    def merged(self) -> nn.Linear:
        """A plain layer that does the same; only for an average gate."""
        plain = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        weight = self.weight.double() + self.universal_experts.mean_update()
        plain.weight, plain.bias = nn.Parameter(weight.to(self.weight.dtype)), self.bias
        return plain


class ExpertConv1D(Conv1D):
    """GPT-2's linear layer with experts; its weights are those of the layer that it replaces."""

    def __init__(self, layer: Conv1D, shape: ExpertShape, dropout: float) -> None:
        nn.Module.__init__(self)
        self.nx, self.nf = layer.nx, layer.nf
        self.weight, self.bias = layer.weight, layer.bias
        self.universal_experts = Experts(layer.nx, layer.nf, shape, dropout, layer.weight.detach())

    def forward(self, x_TI: Tensor) -> Tensor:
        """Shape: float[T, O]."""
        added_TO: Tensor = self.universal_experts(x_TI)
        plain_TO: Tensor = super().forward(x_TI)  # type: ignore[no-untyped-call]
        return plain_TO + added_TO

    def merged(self) -> Conv1D:
        """A plain layer that does the same; only for an average gate."""
        plain = Conv1D(self.nf, self.nx)
        weight = self.weight.double() + self.universal_experts.mean_update().T
        plain.weight, plain.bias = nn.Parameter(weight.to(self.weight.dtype)), self.bias
        return plain


def expert_layers(backbone: nn.Module) -> dict[str, ExpertLinear | ExpertConv1D]:
    """The layers that have experts, by name; none where experts are off."""
    return {name: part for name, part in backbone.named_modules() if isinstance(part, (ExpertLinear, ExpertConv1D))}


def shape_of_experts(backbone: nn.Module) -> ExpertShape | None:
    """The experts of a backbone; None where it has none."""
    return next((layer.universal_experts.shape for layer in expert_layers(backbone).values()), None)


def add_experts(backbone: PreTrainedModel, shape: ExpertShape, dropout: float = 0.0) -> None:
    """Give every linear layer but the output head new experts that change nothing yet: all B and gates are 0.

    Args:
        backbone: changed in place; the names of its weights stay.
        dropout: of what the experts read, while training.

    Raises:
        BackboneError: the backbone has no linear layer, one of a kind that only looks like one, or experts already.
    """
    layers = linear_layers(backbone)
    if not layers:
        raise BackboneError(f"{type(backbone).__name__} has no linear layer that experts fit; use another backbone")
    for name, layer in layers.items():
        _add(backbone, name, layer, shape, dropout)


def plain_weights(backbone: nn.Module) -> dict[str, Tensor]:
    """The backbone's state without its experts: what a Hugging Face folder of it holds."""
    return {name: weight for name, weight in backbone.state_dict().items() if _OWN_WEIGHTS not in name}


def save_experts(backbone: nn.Module, folder: Path) -> None:
    """Write ``universal-0`` .. ``universal-<E-1>``, PEFT folders, and the gates where they are learned."""
    shape = shape_of_experts(backbone)
    if shape is None:
        return
    layers = expert_layers(backbone)
    conv = any(isinstance(layer, Conv1D) for layer in layers.values())
    experts = {name: layer.universal_experts for name, layer in layers.items()}
    for number in range(shape.count):
        rows = slice(number * shape.rank, (number + 1) * shape.rank)
        matrices = {name: (own.down_XI[rows], own.up_OX[:, rows]) for name, own in experts.items()}
        adapter = LoraAdapter(matrices, shape.rank, shape.alpha, shape.alpha / shape.rank)
        write_peft_folder(folder / expert_folder(number), adapter, fan_in_fan_out=conv)
    gates = {name: own.gate_EI.detach().cpu() for name, own in experts.items() if own.gate_EI is not None}
    if gates:
        save_file(gates, folder / GATES_NAME, metadata={"format": "pt"})


def expert_files(folder: Path) -> tuple[list[Path], Path | None]:
    """The expert folders that :func:`save_experts` wrote there, in order, and the gates' file if there is one."""
    experts: list[Path] = []
    while (expert := folder / expert_folder(len(experts))).is_dir():
        experts.append(expert)
    gates = folder / GATES_NAME
    return experts, gates if gates.exists() else None


@torch.no_grad()
def load_experts(backbone: PreTrainedModel, folders: Sequence[Path], gates: Path | None) -> None:
    """Put saved experts into a backbone.

    Args:
        backbone: changed in place.
        folders: the PEFT folder of each expert, in the order of the gates' rows.
        gates: the gates' file; None: every expert counts the same.

    Raises:
        BackboneError: a folder is no plain LoRA adapter, the experts differ in rank, scale or layers, or they or the
            gates do not fit the backbone.
    """
    adapters = [read_peft_folder(folder) for folder in folders]
    first = adapters[0]
    gate_of = _read_gates(gates) if gates is not None else None
    for adapter, folder in zip(adapters, folders, strict=True):
        same = (adapter.rank, adapter.scale) == (first.rank, first.scale) and set(adapter.layers) == set(first.layers)
        if not same:
            raise BackboneError(
                f"{folder.name} differs from {folders[0].name} in rank, alpha or layers; "
                "give experts of one training run"
            )
    if gate_of is not None and set(gate_of) != set(first.layers):
        raise BackboneError(f"{GATES_NAME} has other layers than {folders[0].name}; give files of one training run")
    shape = ExpertShape(len(folders), first.rank, first.scale * first.rank, gate_of is not None)
    layers = linear_layers(backbone)
    for name in sorted(first.layers):
        if name not in layers:
            raise BackboneError(f"expert layer {name!r} is not in this backbone; use the experts' own one")
        experts = _add(backbone, name, layers[name], shape, 0.0)
        _fill(experts.down_XI, torch.cat([adapter.layers[name][0] for adapter in adapters]), name)
        _fill(experts.up_OX, torch.cat([adapter.layers[name][1] for adapter in adapters], dim=1), name)
        if experts.gate_EI is not None and gate_of is not None:
            _fill(experts.gate_EI, gate_of[name], name)


@torch.no_grad()
def merge_experts(backbone: PreTrainedModel) -> None:
    """Put the experts' mean product into the weights: a stock backbone with the same scores, to rounding.

    Raises:
        BackboneError: the gate is learned, so that no single weight can stand for the experts.
    """
    for name, layer in expert_layers(backbone).items():
        if layer.universal_experts.shape.learned_gate:
            raise BackboneError(
                f"{name} mixes its experts by a learned gate, which no single weight can stand for; "
                "train with experts.gate: average, or with experts.count: 0"
            )
        replace_layer(backbone, name, layer.merged().train(layer.training))


def _add(backbone: PreTrainedModel, name: str, layer: nn.Module, shape: ExpertShape, dropout: float) -> Experts:
    added: ExpertLinear | ExpertConv1D
    if type(layer) is nn.Linear:
        added = ExpertLinear(layer, shape, dropout)
    elif type(layer) is Conv1D:
        added = ExpertConv1D(layer, shape, dropout)
    else:
        raise BackboneError(f"{name!r} is a {type(layer).__name__}; experts fit plain linear layers only")
    replace_layer(backbone, name, added.train(layer.training))
    return added.universal_experts


def _fill(weight: Tensor, saved: Tensor, name: str) -> None:
    if weight.shape != saved.shape:
        raise BackboneError(f"the experts of layer {name!r} have another width than the backbone; use its own ones")
    weight.copy_(saved)


def _read_gates(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise BackboneError(f"{path.name}: the gates cannot be read ({error}); copy the bundle again") from error
