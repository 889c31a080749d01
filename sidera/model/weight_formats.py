"""How the weights of a language model lie in memory: as they were saved, in float32, in bfloat16, or in int8.

int8 is for CPUs: every linear layer but the output head keeps its weights as integers with one scale an output, and
quantises what comes in with one scale a token. So a token's result depends on that token alone, and a row scores the
same in every batch. What is added to a layer (a domain's adapter) and what is between layers stays float32, and so does
the output head, whose product is float32 in every format.

Shapes: T tokens, I and O width of a layer's input and output.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from sidera.errors import BackboneError
from sidera.model.linear_layers import linear_layers, replace_layer

WeightFormat = Literal["saved", "float32", "bfloat16", "int8"]

_LARGEST = 127


class Int8Linear(nn.Module):
    """A linear layer whose weights are int8; weights and inputs are scaled symmetrically, by their largest number.

    Args:
        weight_OI: of the layer that it stands for.
        bias_O: its bias.
    """

    weight_IO: Tensor
    scale_O: Tensor
    bias_O: Tensor | None

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        super().__init__()
        whole_OI, scale_O1 = _quantised(weight_OI.detach().float())
        # Kept as (O, I) and used as its transpose: the order in which the integer product reads it.
        self.register_buffer("weight_IO", whole_OI.contiguous().t())
        self.register_buffer("scale_O", scale_O1[:, 0].contiguous())
        self.register_buffer("bias_O", None if bias_O is None else bias_O.detach().float())

    def forward(self, x_TI: Tensor) -> Tensor:
        """Shape: float32[T, O], with any leading dimensions."""
        whole_XI, scale_X1 = _quantised(x_TI.reshape(-1, x_TI.shape[-1]))
        y_XO = torch._int_mm(whole_XI, self.weight_IO).float() * scale_X1 * self.scale_O
        if self.bias_O is not None:
            y_XO += self.bias_O
        return y_XO.view(*x_TI.shape[:-1], -1)


def _quantised(x_XI: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest multiples of one scale a row: int8[X, I] and the scales, float32[X, 1]."""
    largest_X1 = x_XI.abs().amax(dim=1, keepdim=True)
    scale_X1 = torch.where(largest_X1 > 0, largest_X1 / _LARGEST, 1.0)
    return (x_XI / scale_X1).round_().to(torch.int8), scale_X1


def check_weight_format(weights: WeightFormat, device: str) -> None:
    """Refuse what a device does not compute.

    Raises:
        BackboneError: int8 on anything but a CPU.
    """
    if weights == "int8" and torch.device(device).type != "cpu":
        raise BackboneError(f"int8 weights run on a CPU, not on {device}; use weights bfloat16 there")


def dtype_of(weights: WeightFormat) -> torch.dtype | Literal["auto"]:
    """What a backbone's weights are loaded as."""
    if weights == "saved":
        return "auto"
    return torch.bfloat16 if weights == "bfloat16" else torch.float32


@torch.no_grad()
def to_int8(backbone: PreTrainedModel) -> None:
    """Put an :class:`Int8Linear` in the place of every linear layer but the output head, below its adapters.

    Args:
        backbone: changed in place, in float32, its adapters in place already.

    Raises:
        BackboneError: it has layers with universal experts, which are not quantised.
    """
    for name, layer in linear_layers(backbone).items():
        if type(layer) not in (nn.Linear, Conv1D):
            raise BackboneError(
                f"layer {name!r} is a {type(layer).__name__}, which int8 does not fit; this bundle has universal "
                "experts, so use weights bfloat16"
            )
        weight: Tensor = layer.get_parameter("weight")
        bias: Tensor | None = getattr(layer, "bias", None)
        replace_layer(backbone, name, Int8Linear(weight.T if isinstance(layer, Conv1D) else weight, bias))


@torch.no_grad()
def transpose_for_cpu(backbone: PreTrainedModel) -> None:
    """Lay the weights of plain linear layers out as their products read them; every result stays the same.

    A pass of 20 tokens is 6 % faster, one of a hundred 15 %. For serving alone: such weights cannot be saved.

    Args:
        backbone: changed in place; layers on other devices or of other precisions, those with experts and the output
            head stay as they are.
    """
    head = backbone.get_output_embeddings()
    for layer in backbone.modules():
        if type(layer) is nn.Linear and layer is not head:
            weight_OI = layer.weight
            if weight_OI.device.type == "cpu" and weight_OI.dtype == torch.float32:
                weight_OI.data = weight_OI.data.t().contiguous().t()


def is_rounded(backbone: nn.Module) -> bool:
    """Whether scores are those of rounded weights, so that two ways to compute one differ by more than float error."""
    half = any(weight.dtype in (torch.bfloat16, torch.float16) for weight in backbone.parameters())
    return half or any(isinstance(part, Int8Linear) for part in backbone.modules())


def top_overlap(expected: Sequence[Sequence[str]], found: Sequence[Sequence[str]], top: int = 10) -> float:
    """The mean share of each query's first ``top`` items that are among the first ``top`` of the other model, 0..1.

    Args:
        expected: the item ids of each query's answer, best first, by float32 weights.
        found: those by other weights.

    Raises:
        ValueError: the numbers of queries differ, or no query has an item.
    """
    shares = [
        len(set(one[:top]) & set(other[:top])) / len(one[:top])
        for one, other in zip(expected, found, strict=True)
        if one
    ]
    if not shares:
        raise ValueError("no query has an answer to compare; give queries of a domain with items")
    return sum(shares) / len(shares)
