"""Checkpoints of the training loop: one file, whole or not there, the same whatever the number of processes.

Under FSDP2 every process holds a shard of each tensor. A checkpoint holds whole tensors, which the first process
writes, so that a run may go on with another number of processes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from sidera.files import replaced_atomically
from training.errors import StageError
from training.processes import is_first

_NAME = "checkpoint.pt"


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        epoch: epochs that are done.
        step: steps of the present epoch that are done.
        total_steps: steps of all epochs that are done.
        loss_sum: the sum of the present epoch's losses.
        losses: mean loss of each epoch.
        scores: validation scores of each epoch, the most important one first.
    """

    epoch: int = 0
    step: int = 0
    total_steps: int = 0
    loss_sum: float = 0.0
    losses: tuple[float, ...] = ()
    scores: tuple[dict[str, float], ...] = ()

    @property
    def best_epoch(self) -> int:
        """The epoch with the best scores, the later one of equals; -1 before the first."""
        epochs = range(len(self.scores))
        return max(epochs, key=lambda epoch: (*self.scores[epoch].values(), epoch), default=-1)


@dataclass(frozen=True)
class Trained:
    """What a checkpoint holds beside the progress.

    Attributes:
        weights: the weights that are trained, by name; whole or sharded.
        optimizer: of these weights.
        best: a copy of the weights after the best epoch.
    """

    weights: Mapping[str, Tensor]
    optimizer: torch.optim.Optimizer
    best: dict[str, Tensor]


def save_checkpoint(folder: Path, trained: Trained, progress: Progress) -> None:
    """Write the checkpoint; every process calls this, the first one writes."""
    content = {
        "weights": {name: whole(weight) for name, weight in trained.weights.items()},
        "optimizer": _mapped(trained.optimizer.state_dict(), whole),
        "best": {name: whole(weight) for name, weight in trained.best.items()},
        "progress": dict(vars(progress)),
    }
    if is_first():
        with replaced_atomically(folder / _NAME) as temporary:
            torch.save(content, temporary)


def restore_checkpoint(folder: Path, trained: Trained) -> Progress:
    """Go on from the checkpoint in ``folder``; a new start where there is none.

    Raises:
        StageError: the checkpoint is damaged, or of another model.
    """
    path = folder / _NAME
    if is_first():
        for unfinished in folder.glob(f".{_NAME}.*.tmp"):
            unfinished.unlink()
    if not path.exists():
        return Progress()
    try:
        checkpoint = torch.load(path, weights_only=True, map_location="cpu")
    except (RuntimeError, EOFError, OSError, UnpicklingError) as error:
        raise StageError(f"{path}: the checkpoint cannot be read ({error}); delete {folder} and train again") from error
    if set(checkpoint["weights"]) != set(trained.weights):
        raise StageError(f"{path}: the checkpoint is of another model; delete {folder} and train again")
    with torch.no_grad():
        for name, weight in trained.weights.items():
            weight.copy_(_like(weight, checkpoint["weights"][name]))
    trained.best.update(
        {name: _like(trained.weights[name], weight).clone() for name, weight in checkpoint["best"].items()}
    )
    ordered = [weight for group in trained.optimizer.param_groups for weight in group["params"]]
    state = checkpoint["optimizer"]["state"]
    checkpoint["optimizer"]["state"] = {
        index: _mapped(own, lambda value, weight=ordered[index]: _like(weight, value)) for index, own in state.items()
    }
    trained.optimizer.load_state_dict(checkpoint["optimizer"])
    return Progress(**checkpoint["progress"])


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be sharded; every process calls this."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _like(weight: Tensor, value: Tensor) -> Tensor:
    """A whole tensor on the weight's device, sharded as the weight is. Counters (Adam's steps) are no shards."""
    if value.shape != weight.shape:
        return value
    value = value.to(weight.device)
    return distribute_tensor(value, weight.device_mesh, weight.placements) if isinstance(weight, DTensor) else value


def _mapped(tree: Any, change: Any) -> Any:
    """The tensors of nested dicts and lists, changed."""
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, dict):
        return {key: _mapped(value, change) for key, value in tree.items()}
    return [_mapped(value, change) for value in tree] if isinstance(tree, list) else tree
