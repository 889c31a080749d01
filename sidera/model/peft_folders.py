"""LoRA adapters as ``peft`` keeps them in a folder: read with checks, written without ``peft``.

Shapes: I and O width of a linear layer's input and output, r rank.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sidera.errors import BackboneError

_PREFIX = "base_model.model."
_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class LoraAdapter:
    """One adapter: ``y + scale B A x`` for every layer that it touches.

    Attributes:
        layers: A (r, I) and B (O, r) by the layer's name in the backbone.
        scale: alpha / r, or alpha / sqrt(r) where the folder says ``use_rslora``.
    """

    layers: Mapping[str, tuple[Tensor, Tensor]]
    rank: int
    alpha: float
    scale: float


def read_peft_folder(folder: Path) -> LoraAdapter:
    """Read a plain LoRA adapter.

    Raises:
        BackboneError: the folder cannot be read, or holds anything but the matrices of a plain LoRA adapter.
    """
    try:
        config = json.loads((folder / _CONFIG).read_text())
        weights = load_file(folder / _WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise BackboneError(f"{folder.name}: no adapter can be read ({error}); give a PEFT folder") from error
    unsupported = [key for key in ("use_dora", "alora_invocation_tokens", "modules_to_save") if config.get(key)]
    unsupported += [key for key in ("rank_pattern", "alpha_pattern") if config.get(key)]
    if config.get("peft_type") != "LORA" or unsupported:
        raise BackboneError(f"{folder.name} is not a plain LoRA adapter ({unsupported}); export it with plain LoRA")
    rank, alpha = config["r"], config["lora_alpha"]
    layers = {}
    for name, down in weights.items():
        if name.endswith(".lora_A.weight"):
            layer = name.removeprefix(_PREFIX).removesuffix(".lora_A.weight")
            up = weights.get(name.replace(".lora_A.", ".lora_B."))
            if up is None or down.shape[0] != rank or up.shape[1] != rank:
                raise BackboneError(f"{folder.name}: layer {layer!r} has no matrices of rank {rank}; export it again")
            layers[layer] = (down, up)
    if 2 * len(layers) != len(weights):
        raise BackboneError(f"{folder.name} holds more than LoRA matrices; export it without further trained modules")
    return LoraAdapter(layers, rank, alpha, alpha / (rank**0.5 if config.get("use_rslora") else rank))


def write_peft_folder(folder: Path, adapter: LoraAdapter, fan_in_fan_out: bool) -> None:
    """Write an adapter of scale alpha / r as stock ``peft`` reads it.

    Args:
        fan_in_fan_out: whether the backbone keeps its weights as (I, O), as GPT-2 does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {}
    for name, (down_rI, up_Or) in adapter.layers.items():
        weights[f"{_PREFIX}{name}.lora_A.weight"] = down_rI.detach().cpu().contiguous()
        weights[f"{_PREFIX}{name}.lora_B.weight"] = up_Or.detach().cpu().contiguous()
    settings = {
        "base_model_name_or_path": None,
        "bias": "none",
        "fan_in_fan_out": fan_in_fan_out,
        "inference_mode": True,
        "lora_alpha": adapter.alpha,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": adapter.rank,
        "target_modules": sorted(adapter.layers),
        "task_type": "CAUSAL_LM",
    }
    save_file(weights, folder / _WEIGHTS, metadata={"format": "pt"})
    (folder / _CONFIG).write_text(json.dumps(settings, indent=2, sort_keys=True))
