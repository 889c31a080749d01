"""Linear layers that read the same input, as one product; their adapters, as one low-rank product.

Queries, keys and values of a layer are one product then, and so are the two sides of its MLP. The layers themselves
stay in place and work as before: their weights become views of the joined one, so nothing lies in memory twice.

Shapes: A number of adapters, r rank, I width of the input, O width of the outputs together.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sidera.model.adapters import StackedLoRA


@torch.no_grad()
def joined(layers: Sequence[nn.Module]) -> nn.Module | None:
    """One layer whose output is theirs side by side; None where one of them is no plain linear layer.

    For serving alone: weights that share their memory cannot be saved.

    Args:
        layers: linear layers, with or without adapters; their weights are changed in place to views of the joined one.
    """
    plain = [layer.linear if isinstance(layer, StackedLoRA) else layer for layer in layers]
    if any(type(layer) is not nn.Linear for layer in plain):
        return None
    linears = [layer for layer in plain if isinstance(layer, nn.Linear)]
    if len({(layer.weight.dtype, layer.weight.device) for layer in linears}) > 1:
        return None
    whole = nn.Linear(1, 1, bias=False)
    whole.weight = nn.Parameter(_joined_weights([layer.weight for layer in linears]), requires_grad=False)
    if any(layer.bias is not None for layer in linears):
        biases: list[Tensor] = [
            layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias for layer in linears
        ]
        whole.bias = nn.Parameter(torch.cat(biases), requires_grad=False)
    adapted = [layer for layer in layers if isinstance(layer, StackedLoRA)]
    if not adapted:
        return whole
    return StackedLoRA(whole, *_joined_updates(layers, [len(layer.weight) for layer in linears]), adapted[0].rows)


def _joined_weights(weights: Sequence[Tensor]) -> Tensor:
    """The weights below each other, float[O, I], laid out as the first one is."""
    sizes = [len(weight) for weight in weights]
    transposed = weights[0].stride(0) == 1
    if transposed:
        whole_OI = torch.cat([weight.data.t() for weight in weights], dim=1).contiguous().t()
    else:
        whole_OI = torch.cat([weight.data for weight in weights]).contiguous()
    for weight, part in zip(weights, whole_OI.split(sizes), strict=True):
        weight.data = part
    return whole_OI


def _joined_updates(layers: Sequence[nn.Module], sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The A of all layers below each other, float[A, r, I], and their B as blocks of a diagonal, float[A, O, r]."""
    adapted = {place: layer for place, layer in enumerate(layers) if isinstance(layer, StackedLoRA)}
    down_ArI = torch.cat([layer.down_AIr.transpose(1, 2) for layer in adapted.values()], dim=1)
    up_AOr = down_ArI.new_zeros(len(down_ArI), sum(sizes), down_ArI.shape[1])
    rank = 0
    for place, layer in adapted.items():
        up_ArO = layer.up_ArO
        begin = sum(sizes[:place])
        up_AOr[:, begin : begin + sizes[place], rank : rank + up_ArO.shape[1]] = up_ArO.transpose(1, 2)
        rank += up_ArO.shape[1]
    return down_ArI, up_AOr
