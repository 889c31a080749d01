"""Domain adapters at inference: every row of a batch through its own LoRA weights, in one product.

``peft`` trains the adapters and writes their folders; here they are stacked, so that requests of all domains, and both
distributions of a mixture, share one forward pass. Row layout: the first rows of a batch use the backbone as it is, the
rows behind them an adapter each.

For many tokens a layer's weights with the adapter added are cheaper than the adapter beside them, for few they are
dearer, as they must be fetched from memory as well. So both are kept, where memory allows.

Shapes: R adapted rows, T tokens, I and O width of a linear layer's input and output, A number of adapters, r rank, X
any number of tokens.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

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

    @contextmanager
    def only(self, begin: int, end: int, size: int) -> Iterator[None]:
        """Within: a batch holds the rows from ``begin`` to before ``end`` of the ``size`` rows that it had."""
        whole_R, same = self.adapter_of_row, self.same
        if whole_R is not None:
            plain = size - len(whole_R)
            part_R = whole_R[max(begin - plain, 0) : max(end - plain, 0)]
            self.adapter_of_row = part_R if len(part_R) else None
            self.same = same if same is not None else _same(part_R)
        try:
            yield
        finally:
            self.adapter_of_row, self.same = whole_R, same


_MERGED_TOKENS = 256
"""From so many adapted tokens on, weights with an adapter added are cheaper."""


class StackedLoRA(nn.Module):
    """A linear layer and its low-rank updates, one an adapter; ``y + B_a A_a x`` for a row with adapter a."""

    def __init__(self, linear: nn.Module, down_ArI: Tensor, up_AOr: Tensor, rows: AdaptedRows) -> None:
        super().__init__()
        self.linear = linear
        self.register_buffer("down_AIr", down_ArI.transpose(1, 2).contiguous())
        self.register_buffer("up_ArO", up_AOr.transpose(1, 2).contiguous())
        self.rows = rows
        self._merged_AIO: Tensor | None = None

    down_AIr: Tensor
    up_ArO: Tensor

    @property
    def mergeable(self) -> bool:
        """Whether weights with an adapter added are of use: in full precision, on a CPU."""
        linear = self.linear
        return type(linear) is nn.Linear and linear.weight.dtype == torch.float32 and linear.weight.device.type == "cpu"

    @property
    def merged_bytes(self) -> int:
        """What the layer's weights take with every adapter added to a copy of them."""
        return len(self.down_AIr) * self.down_AIr.shape[1] * self.up_ArO.shape[2] * self.down_AIr.element_size()

    @torch.no_grad()
    def merge(self) -> None:
        """Keep a copy of the weights with each adapter added, for serving alone: later changes are not seen.

        Raises:
            TypeError: the layer is not :attr:`mergeable`.
        """
        if not self.mergeable or not isinstance(self.linear, nn.Linear):
            raise TypeError(f"a {type(self.linear).__name__} of another format than float32 on a CPU cannot be merged")
        self._merged_AIO = self.linear.weight.t() + torch.bmm(self.down_AIr, self.up_ArO)

    def forward(self, x_BTI: Tensor) -> Tensor:
        """The last rows of ``x`` go through the adapters that ``rows`` names; the rows before them do not."""
        rows_R, same = self.rows.adapter_of_row, self.rows.same
        if rows_R is None:
            unadapted_BTO: Tensor = self.linear(x_BTI)
            return unadapted_BTO
        plain = x_BTI.shape[0] - rows_R.shape[0]
        if same is not None and self._merged_AIO is not None and rows_R.shape[0] * x_BTI.shape[1] >= _MERGED_TOKENS:
            return self._by_merged(x_BTI, plain, self._merged_AIO[same])
        y_BTO: Tensor = self.linear(x_BTI)
        if same is None:
            y_BTO[plain:].baddbmm_(torch.bmm(x_BTI[plain:], self.down_AIr[rows_R]), self.up_ArO[rows_R])
        else:
            # One product of two matrices: the stacked one costs as much as the layer itself.
            down_XI = x_BTI[plain:].flatten(0, 1) @ self.down_AIr[same]
            y_BTO[plain:].view(-1, y_BTO.shape[-1]).addmm_(down_XI, self.up_ArO[same])
        return y_BTO

    def _by_merged(self, x_BTI: Tensor, plain: int, merged_IO: Tensor) -> Tensor:
        """The rows from ``plain`` on by weights that hold their adapter, those before by the layer's own."""
        linear = cast(nn.Linear, self.linear)
        y_BTO = x_BTI.new_empty(*x_BTI.shape[:-1], merged_IO.shape[1])
        for rows, weight_IO in ((slice(plain), linear.weight.t()), (slice(plain, None), merged_IO)):
            x_XI, y_XO = x_BTI[rows].flatten(0, 1), y_BTO[rows].view(-1, merged_IO.shape[1])
            if linear.bias is None:
                torch.mm(x_XI, weight_IO, out=y_XO)
            else:
                torch.addmm(linear.bias, x_XI, weight_IO, out=y_XO)
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
        of_batch: which rows of the present batch are adapted.
    """

    def __init__(self, backbone: PreTrainedModel, folders: Sequence[Path]) -> None:
        self.of_batch = AdaptedRows()
        adapters = [read_peft_folder(folder) for folder in folders]
        self.layer_names = sorted(set().union(*(adapter.layers for adapter in adapters)))
        for name in self.layer_names:
            replace_layer(backbone, name, _stacked(backbone, name, adapters, folders, self.of_batch))

    @contextmanager
    def rows(self, adapter_of_row: Tensor | None) -> Iterator[None]:
        """Within: the last ``len(adapter_of_row)`` rows of every batch use these adapters (None: no row does)."""
        rows = self.of_batch
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
