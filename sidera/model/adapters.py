"""Domain adapters at inference: every row of a batch through its own LoRA weights, in one product.

``peft`` trains the adapters and writes their folders; here they are stacked, so that requests of all domains, and both
distributions of a mixture, share one forward pass. Row layout: the first rows of a batch use the backbone as it is, the
rows behind them an adapter each.

Shapes: R adapted rows, T tokens, I and O width of a linear layer's input and output, A number of adapters, r rank.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sidera.errors import BackboneError
from sidera.model.linear_layers import replace_layer, sizes_of
from sidera.model.peft_folders import LoraAdapter, read_peft_folder


@dataclass
class AdaptedRows:
    """Which rows of the present batch are adapted; all layers of a backbone share one.

    Attributes:
        adapter_of_row: the adapters of the last R rows; None: no row has one. Shape: int64[R].
        same: the adapter that all of them have, where that is known.
    """

    adapter_of_row: Tensor | None = None
    same: int | None = None


class StackedLoRA(nn.Module):
    """A linear layer and its low-rank updates, one an adapter; ``y + B_a A_a x`` for a row with adapter a."""

    def __init__(self, linear: nn.Module, down_ArI: Tensor, up_AOr: Tensor, rows: AdaptedRows) -> None:
        super().__init__()
        self.linear = linear
        self.register_buffer("down_AIr", down_ArI.transpose(1, 2).contiguous())
        self.register_buffer("up_ArO", up_AOr.transpose(1, 2).contiguous())
        self.rows = rows

    down_AIr: Tensor
    up_ArO: Tensor

    def forward(self, x_BTI: Tensor) -> Tensor:
        """The last rows of ``x`` go through the adapters that ``rows`` names; the rows before them do not."""
        y_BTO: Tensor = self.linear(x_BTI)
        rows_R, same = self.rows.adapter_of_row, self.rows.same
        if rows_R is None:
            return y_BTO
        plain = len(x_BTI) - len(rows_R)
        if same is None:
            y_BTO[plain:].baddbmm_(torch.bmm(x_BTI[plain:], self.down_AIr[rows_R]), self.up_ArO[rows_R])
        else:
            # One product of two matrices: the stacked one costs as much as the layer itself.
            down_XI = x_BTI[plain:].flatten(0, 1) @ self.down_AIr[same]
            y_BTO[plain:].view(-1, y_BTO.shape[-1]).addmm_(down_XI, self.up_ArO[same])
        return y_BTO


class AdapterBank:
    """The domain adapters of a backbone, stacked into its linear layers.

    Args:
        backbone: changed in place: every linear layer that an adapter touches becomes a :class:`StackedLoRA`.
        folders: the PEFT folder of each adapter; adapter a is ``folders[a]``.

    Raises:
        BackboneError: a folder is no LoRA adapter of this backbone.

    Attributes:
        layer_names: the layers that any adapter touches.
    """

    def __init__(self, backbone: PreTrainedModel, folders: Sequence[Path]) -> None:
        self._rows = AdaptedRows()
        adapters = [read_peft_folder(folder) for folder in folders]
        self.layer_names = sorted(set().union(*(adapter.layers for adapter in adapters)))
        for name in self.layer_names:
            replace_layer(backbone, name, _stacked(backbone, name, adapters, folders, self._rows))

    @contextmanager
    def rows(self, adapter_of_row: Tensor | None) -> Iterator[None]:
        """Within: the last ``len(adapter_of_row)`` rows of every batch use these adapters (None: no row does)."""
        rows = self._rows
        rows.adapter_of_row, rows.same = adapter_of_row, None if adapter_of_row is None else _same(adapter_of_row)
        try:
            yield
        finally:
            rows.adapter_of_row, rows.same = None, None


def _same(adapter_of_row: Tensor) -> int | None:
    """The adapter of all rows; None where they differ, or where asking would wait for a device."""
    if adapter_of_row.device.type != "cpu" or not len(adapter_of_row):
        return None
    first = int(adapter_of_row[0])
    return first if bool((adapter_of_row == first).all()) else None


def _stacked(
    backbone: PreTrainedModel, name: str, adapters: Sequence[LoraAdapter], folders: Sequence[Path], rows: AdaptedRows
) -> StackedLoRA:
    """The layer of a name with its updates, not yet in the backbone."""
    try:
        linear = backbone.get_submodule(name)
    except AttributeError:
        raise BackboneError(f"adapter layer {name!r} is not in this backbone; use the adapter's own one") from None
    if linear is backbone.get_output_embeddings():
        raise BackboneError(f"adapter layer {name!r} is the output head; train adapters of the layers before it")
    sizes = sizes_of(linear)
    if sizes is None:
        raise BackboneError(f"adapter layer {name!r} is a {type(linear).__name__}; only linear layers can be adapted")
    size_in, size_out = sizes
    rank = max(adapter.rank for adapter in adapters if name in adapter.layers)
    weight: Tensor = linear.get_parameter("weight")
    down_ArI = weight.new_zeros(len(adapters), rank, size_in, requires_grad=False)
    up_AOr = weight.new_zeros(len(adapters), size_out, rank, requires_grad=False)
    for index, (adapter, folder) in enumerate(zip(adapters, folders, strict=True)):
        if name not in adapter.layers:
            continue
        down_rI, up_Or = adapter.layers[name]
        if down_rI.shape[1] != size_in or up_Or.shape[0] != size_out:
            raise BackboneError(f"{folder.name}: layer {name!r} has another width than the backbone; use its own one")
        down_ArI[index, : adapter.rank] = down_rI
        up_AOr[index, :, : adapter.rank] = up_Or * adapter.scale
    return StackedLoRA(linear, down_ArI, up_AOr, rows)
