"""Accelerate as the training loop needs it: precision, trackers, and DDP or FSDP2 under ``torchrun``."""

import os
from collections.abc import Iterator
from typing import Any

from accelerate import Accelerator, DistributedDataParallelKwargs, DistributedType, FullyShardedDataParallelPlugin
from accelerate.state import AcceleratorState
from torch import nn

from training.model_config import OptimizerConfig
from training.trackers import Tracking

_PRECISIONS = {"float32": "no", "bfloat16": "bf16"}


def new_accelerator(
    model: nn.Module, device: str, config: OptimizerConfig, sharded: bool, tracking: Tracking
) -> Accelerator:
    """An accelerator for one phase; ``sharded``: FSDP2 among the processes, which have joined."""
    AcceleratorState._reset_state()  # it is one for the whole program, and phases may differ in precision
    plugin = _sharding(model) if sharded else None
    accelerator = Accelerator(
        cpu=device == "cpu",
        mixed_precision=_PRECISIONS[config.precision],
        fsdp_plugin=plugin,
        log_with=list(tracking.trackers) or None,
        project_dir=tracking.folder,
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
    )
    if plugin is not None:
        del os.environ["ACCELERATE_USE_FSDP"]  # the plugin sets it, and it would shard the next phase too
        # Accelerate leaves its plugin out where processes have no GPU, though PyTorch shards there too.
        accelerator.state.distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = plugin
    return accelerator


def _sharding(model: nn.Module) -> FullyShardedDataParallelPlugin:
    """FSDP2, one group of weights for each layer of the decoder."""
    layers = {name for backbone in backbones_of(model) for name in backbone._no_split_modules or ()}
    present = {type(module).__name__ for module in model.modules()}
    return FullyShardedDataParallelPlugin(
        fsdp_version=2,
        reshard_after_forward=True,
        auto_wrap_policy="transformer_based_wrap" if layers & present else "no_wrap",
        transformer_cls_names_to_wrap=sorted(layers & present) or None,
        cpu_ram_efficient_loading=False,
    )


def backbones_of(model: nn.Module) -> Iterator[Any]:
    """The causal language models within a model."""
    return (module for module in model.modules() if hasattr(module, "prepare_inputs_for_generation"))
