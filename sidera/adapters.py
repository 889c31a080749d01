"""Domain adapters at inference: every row of a batch through its own LoRA weights, in one product.

``peft`` trains the adapters and writes their folders; here they are stacked, so that requests of all domains, and both
distributions of a mixture, share one forward pass. Row layout: the first rows of a batch use the backbone as it is, the
rows behind them an adapter each.

Shapes: R adapted rows, T tokens, I and O width of a linear layer's input and output, A number of adapters, r rank.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from sidera.errors import BackboneError

_PEFT_PREFIX = "base_model.model."


class StackedLoRA(nn.Module):
    """A linear layer and its low-rank updates, one an adapter; ``y + B_a A_a x`` for a row with adapter a."""

    def __init__(self, linear: nn.Module, down_ArI: Tensor, up_AOr: Tensor) -> None:
        super().__init__()
        self.linear = linear
        self.register_buffer("down_AIr", down_ArI.transpose(1, 2).contiguous())
        self.register_buffer("up_ArO", up_AOr.transpose(1, 2).contiguous())
        self.adapter_of_row: Tensor | None = None

    down_AIr: Tensor
    up_ArO: Tensor

    def forward(self, x_BTI: Tensor) -> Tensor:
        """Rows ``x[-R:]`` go through the adapters named by ``adapter_of_row``; the rows before them do not."""
        y_BTO: Tensor = self.linear(x_BTI)
        rows_R = self.adapter_of_row
        if rows_R is None:
            return y_BTO
        plain = len(x_BTI) - len(rows_R)
        y_BTO[plain:].baddbmm_(torch.bmm(x_BTI[plain:], self.down_AIr[rows_R]), self.up_ArO[rows_R])
        return y_BTO


class AdapterBank:
    """The domain adapters of a backbone, stacked into its linear layers.

    Args:
        backbone: changed in place: every linear layer that an adapter touches becomes a :class:`StackedLoRA`.
        folders: the PEFT folder of each adapter; adapter a is ``folders[a]``.

    Raises:
        BackboneError: a folder is no LoRA adapter of this backbone.
    """

    def __init__(self, backbone: PreTrainedModel, folders: Sequence[Path]) -> None:
        self._layers: list[StackedLoRA] = []
        adapters = [_read_peft_folder(folder) for folder in folders]
        for name in sorted(set().union(*adapters)):
            self._layers.append(_stack(backbone, name, adapters, folders))

    @contextmanager
    def rows(self, adapter_of_row: Tensor | None) -> Iterator[None]:
        """Within: the last ``len(adapter_of_row)`` rows of every batch use these adapters (None: no row does)."""
        for layer in self._layers:
            layer.adapter_of_row = adapter_of_row
        try:
            yield
        finally:
            for layer in self._layers:
                layer.adapter_of_row = None


def _read_peft_folder(folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Per linear layer of the backbone: A (r, I) and B (O, r), the latter with alpha / r multiplied in."""
    try:
        config = json.loads((folder / "adapter_config.json").read_text())
        weights = load_file(folder / "adapter_model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise BackboneError(f"{folder.name}: no adapter can be read ({error}); give a PEFT folder") from error
    unsupported = [key for key in ("use_dora", "alora_invocation_tokens", "modules_to_save") if config.get(key)]
    unsupported += [key for key in ("rank_pattern", "alpha_pattern") if config.get(key)]
    if config.get("peft_type") != "LORA" or unsupported:
        raise BackboneError(f"{folder.name} is not a plain LoRA adapter ({unsupported}); export it with plain LoRA")
    rank = config["r"]
    scale = config["lora_alpha"] / (rank**0.5 if config.get("use_rslora") else rank)
    layers = {}
    for name, down in weights.items():
        if name.endswith(".lora_A.weight"):
            layer = name.removeprefix(_PEFT_PREFIX).removesuffix(".lora_A.weight")
            up = weights.get(name.replace(".lora_A.", ".lora_B."))
            if up is None or down.shape[0] != rank or up.shape[1] != rank:
                raise BackboneError(f"{folder.name}: layer {layer!r} has no matrices of rank {rank}; export it again")
            layers[layer] = (down, up * scale)
    if 2 * len(layers) != len(weights):
        raise BackboneError(f"{folder.name} holds more than LoRA matrices; export it without further trained modules")
    return layers


def _stack(
    backbone: PreTrainedModel, name: str, adapters: Sequence[dict[str, tuple[Tensor, Tensor]]], folders: Sequence[Path]
) -> StackedLoRA:
    try:
        linear = backbone.get_submodule(name)
    except AttributeError:
        raise BackboneError(f"adapter layer {name!r} is not in this backbone; use the adapter's own one") from None
    if linear is backbone.get_output_embeddings():
        raise BackboneError(f"adapter layer {name!r} is the output head; train adapters of the layers before it")
    if isinstance(linear, Conv1D):
        size_in, size_out = linear.weight.shape
    elif isinstance(linear, nn.Linear):
        size_out, size_in = linear.weight.shape
    else:
        raise BackboneError(f"adapter layer {name!r} is a {type(linear).__name__}; only linear layers can be adapted")
    rank = max(adapter[name][0].shape[0] for adapter in adapters if name in adapter)
    dtype, device = linear.weight.dtype, linear.weight.device
    down_ArI = torch.zeros(len(adapters), rank, size_in, dtype=dtype, device=device)
    up_AOr = torch.zeros(len(adapters), size_out, rank, dtype=dtype, device=device)
    for index, (adapter, folder) in enumerate(zip(adapters, folders, strict=True)):
        if name not in adapter:
            continue
        down, up = adapter[name]
        if down.shape[1] != size_in or up.shape[0] != size_out:
            raise BackboneError(f"{folder.name}: layer {name!r} has another width than the backbone; use its own one")
        down_ArI[index, : down.shape[0]] = down
        up_AOr[index, :, : up.shape[1]] = up
    stacked = StackedLoRA(linear, down_ArI, up_AOr)
    parent, _, child = name.rpartition(".")
    setattr(backbone.get_submodule(parent), child, stacked)
    return stacked
