"""One training loop for every phase: Accelerate, cosine schedule, early stopping, the best weights kept, exact resume.

All randomness of a step comes from (seed, epoch, step), so a run that was killed and resumed gives the same losses as
one that was not. The loop knows no items and no domains: batches, a loss and a validation score are handed in.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from sidera.files import write_atomically
from training.config import OptimizerConfig
from training.errors import NonFiniteLossError, StageError
from training.progress import track


class Batch(Protocol):
    """Anything with a name; the loss function knows the rest."""

    @property
    def name(self) -> str: ...


AnyBatch = TypeVar("AnyBatch", bound=Batch)


@dataclass(frozen=True)
class LoopReport:
    """What happened: the mean loss and the validation score of every epoch, and which epoch was kept."""

    losses: tuple[float, ...]
    scores: tuple[float, ...]
    best_epoch: int


@dataclass
class _State:
    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    losses: tuple[float, ...] = ()
    scores: tuple[float, ...] = ()

    @property
    def best_epoch(self) -> int:
        return self.scores.index(max(self.scores)) if self.scores else -1


def train_loop(
    label: str,
    model: nn.Module,
    batches_of: Callable[[int], Iterable[AnyBatch]],
    validate: Callable[[], float],
    config: OptimizerConfig,
    seed: int,
    folder: Path,
) -> LoopReport:
    """Train ``model(batch) -> loss`` and leave the best weights in it.

    Args:
        label: what the progress bar and messages call this phase.
        model: returns the loss of a batch; only parameters that require a gradient are trained and kept.
        batches_of: the batches of an epoch, the same ones every time it is asked.
        validate: a score of the present weights, higher is better.
        config: the optimizer's settings.
        seed: the same seed gives the same run.
        folder: where checkpoints lie; one that is there is resumed.

    Raises:
        NonFiniteLossError: a loss is NaN or infinite; names the step and the batch.
        StageError: nothing is there to train on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    accelerator = Accelerator(cpu=next(model.parameters()).device.type == "cpu")
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    optimizer = torch.optim.AdamW(_groups(weights, config), lr=config.learning_rate)
    best: dict[str, Tensor] = {}
    state = _restore(folder, weights, optimizer, best)
    model, optimizer = accelerator.prepare(model, optimizer)

    while state.epoch < config.epochs and state.epoch - 1 - state.best_epoch < config.patience:
        batches = list(batches_of(state.epoch))
        if not batches:
            raise StageError(f"{label}: there is no event to train on; give users with at least 3 events in a domain")
        model.train()
        with track(f"{label}: epoch {state.epoch + 1} of {config.epochs}", len(batches)) as advance:
            advance(state.step)
            for batch in batches[state.step :]:
                torch.manual_seed(_step_seed(seed, state.epoch, state.step))
                _set_rate(optimizer, config, (state.epoch + state.step / len(batches)) / config.epochs)
                loss = model(batch)
                value = float(loss.detach())
                if not math.isfinite(value):
                    raise NonFiniteLossError(
                        f"{label}: the loss is {value} at step {state.step} of epoch {state.epoch} ({batch.name}); "
                        "lower the learning rate or look at these events"
                    )
                accelerator.backward(loss)
                accelerator.clip_grad_norm_(weights.values(), config.clip_norm)
                optimizer.step()
                optimizer.zero_grad()
                state.step += 1
                state.loss_sum += value
                advance(1, f"loss {state.loss_sum / state.step:.4f}")
                if state.step % config.checkpoint_steps == 0:
                    _save(folder, weights, optimizer, best, state)
        state.losses += (state.loss_sum / len(batches),)
        state.scores += (validate(),)
        if state.best_epoch == state.epoch:
            best = {name: weight.detach().clone() for name, weight in weights.items()}
        state.epoch, state.step, state.loss_sum = state.epoch + 1, 0, 0.0
        _save(folder, weights, optimizer, best, state)

    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(best[name])
    report = LoopReport(state.losses, state.scores, state.best_epoch)
    write_atomically(folder / "progress.json", json.dumps(vars(report), indent=1).encode())
    return report


def _step_seed(seed: int, epoch: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, epoch, step]).generate_state(1, np.uint64)[0])


def _groups(weights: Mapping[str, nn.Parameter], config: OptimizerConfig) -> list[dict[str, Any]]:
    """Matrices decay; biases, norms and embeddings do not."""
    matrices = [weight for name, weight in weights.items() if weight.ndim >= 2 and "embed" not in name]
    rest = [weight for name, weight in weights.items() if weight.ndim < 2 or "embed" in name]
    return [{"params": matrices, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}]


def _set_rate(optimizer: torch.optim.Optimizer, config: OptimizerConfig, done: float) -> None:
    """Linear warm-up, then a cosine to 0; ``done`` is the share of all epochs that lies behind."""
    if done < config.warmup_share:
        factor = done / config.warmup_share
    else:
        factor = 0.5 * (1 + math.cos(math.pi * (done - config.warmup_share) / (1 - config.warmup_share)))
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate * max(factor, 1e-3)


def _save(
    folder: Path,
    weights: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    best: Mapping[str, Tensor],
    state: _State,
) -> None:
    partial = folder / "checkpoint.partial"
    torch.save(
        {
            "weights": {name: weight.detach() for name, weight in weights.items()},
            "optimizer": optimizer.state_dict(),
            "best": dict(best),
            "state": dict(state.__dict__),
        },
        partial,
    )
    with partial.open("rb") as written:
        os.fsync(written.fileno())
    partial.replace(folder / "checkpoint.pt")


def _restore(
    folder: Path, weights: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, best: dict[str, Tensor]
) -> _State:
    """Go on from the checkpoint in ``folder``; a new start where there is none."""
    path = folder / "checkpoint.pt"
    if not path.exists():
        return _State()
    try:
        checkpoint = torch.load(path, weights_only=True, map_location=next(iter(weights.values())).device)
    except (RuntimeError, EOFError, OSError, UnpicklingError) as error:
        raise StageError(f"{path}: the checkpoint cannot be read ({error}); delete {folder} and train again") from error
    if set(checkpoint["weights"]) != set(weights):
        raise StageError(f"{path}: the checkpoint is of another model; delete {folder} and train again")
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(checkpoint["weights"][name])
    optimizer.load_state_dict(checkpoint["optimizer"])
    best.update(checkpoint["best"])
    return _State(**checkpoint["state"])
