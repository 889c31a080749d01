"""One training loop for every phase: Accelerate, cosine schedule, early stopping, the best weights kept, exact resume.

All randomness of a step comes from (seed, epoch, step), so a run that was killed and resumed gives the same losses as
one that was not. The loop knows no items and no domains: batches, a loss and a validation are handed in.

Under ``torchrun`` every process takes a share of each batch's rows. A share counts as much as it has targets, so the
gradient is that of the whole batch, whatever the number of processes. The first process validates and writes.
"""

import copy
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from sidera.files import write_atomically
from training.acceleration import backbones_of, new_accelerator
from training.checkpoints import Progress, Trained, restore_checkpoint, save_checkpoint, whole
from training.errors import NonFiniteLossError, StageError
from training.model_config import OptimizerConfig
from training.processes import agreed, is_first, join, several, wait
from training.progress import track
from training.trackers import Tracking

Scores = Mapping[str, float]
"""What validation found, higher is better; the first figure decides, the next ones break ties."""

_LOOK_STEPS = 10
"""Steps between two looks at the losses: to look at one, the device must have caught up."""


class Batch(Protocol):
    """What the loop asks of a batch; the loss function knows the rest."""

    @property
    def name(self) -> str:
        """Which batch this is, for messages."""

    @property
    def num_tokens(self) -> int:
        """Tokens that are read."""

    @property
    def weight(self) -> int:
        """Targets: what the loss of a batch is the mean over."""

    def part(self, index: int, parts: int) -> Self | None:
        """The rows of one of several parts; None where there are fewer rows than parts and this one has none."""


AnyBatch = TypeVar("AnyBatch", bound=Batch)


@dataclass(frozen=True)
class LoopReport:
    """What happened: the mean loss and the validation scores of every epoch, and which epoch was kept."""

    losses: tuple[float, ...]
    scores: tuple[Scores, ...]
    best_epoch: int


def train_loop(
    label: str,
    model: nn.Module,
    batches_of: Callable[[int], Sequence[AnyBatch]],
    validate: Callable[[], Scores],
    config: OptimizerConfig,
    seed: int,
    folder: Path,
    tracking: Tracking | None = None,
) -> LoopReport:
    """Train ``model(batch) -> loss`` and leave the best weights in it.

    Args:
        label: what the progress bar, the curves and messages call this phase.
        model: returns the mean loss of a batch's targets; only parameters that require a gradient are trained and kept.
        batches_of: the batches of an epoch, the same ones every time it is asked; a sequence may make each of them when
            it is taken.
        validate: scores of the present weights; asked in the first process alone.
        config: the optimizer's settings.
        seed: the same seed gives the same run.
        folder: where checkpoints lie; one that is there is resumed. All processes must see it.
        tracking: which trackers are written; None for none.

    Raises:
        NonFiniteLossError: a loss is NaN or infinite; names the step and the batch.
        StageError: nothing is there to train on, or the checkpoint is of no use.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = _Run(label, model, config, seed, tracking or Tracking())
    progress = restore_checkpoint(folder, run.trained)
    run.begin(progress)
    while progress.epoch < config.epochs and progress.epoch - 1 - progress.best_epoch < config.patience:
        batches = batches_of(progress.epoch)
        if not len(batches):
            raise StageError(f"{label}: there is no event to train on; give users with at least 3 events in a domain")
        title = f"{label}: epoch {progress.epoch + 1} of {config.epochs}"
        run.model.train()
        with track(title, len(batches), progress.step) as advance:
            for step in range(progress.step, len(batches)):
                run.step(batches[step], progress, len(batches))
                last = step + 1 == len(batches)
                save = progress.step % config.checkpoint_steps == 0
                if last or save or progress.step % _LOOK_STEPS == 0:
                    advance(*run.look(progress))
                if save and not last:
                    save_checkpoint(folder, run.trained, progress)
        run.end_epoch(progress, len(batches), validate)
        save_checkpoint(folder, run.trained, progress)
    run.finish()
    report = LoopReport(progress.losses, progress.scores, progress.best_epoch)
    if is_first():
        write_atomically(folder / "progress.json", json.dumps(vars(report), indent=1).encode())
    wait()
    return report


@dataclass
class _Pending:
    """Steps whose losses nobody has looked at."""

    losses: list[Tensor] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    tokens: int = 0
    since: float = field(default_factory=time.monotonic)


class _Run:
    """The model as Accelerate trains it, and what a step does."""

    def __init__(self, label: str, given: nn.Module, config: OptimizerConfig, seed: int, tracking: Tracking) -> None:
        self.label, self.given, self.config, self.seed, self.tracking = label, given, config, seed, tracking
        device = next(given.parameters()).device.type
        join(device)
        self.sharded = config.sharded and several()
        self.accelerator = new_accelerator(given, device, config, self.sharded, tracking)
        # FSDP2 changes a module for good: a copy is sharded, and the given one gets the weights back.
        raw = copy.deepcopy(given) if self.sharded else given
        if config.gradient_checkpointing:
            for backbone in backbones_of(raw):
                backbone.gradient_checkpointing_enable({"use_reentrant": False})
        named = {name: weight for name, weight in raw.named_parameters() if weight.requires_grad}
        fused = device in ("cpu", "cuda")
        optimizer = torch.optim.AdamW(_groups(named, config), lr=config.learning_rate, fused=fused)
        self.raw = raw
        self.model, self.optimizer = self.accelerator.prepare(raw, optimizer)
        weights = {name: weight for name, weight in raw.named_parameters() if weight.requires_grad}
        self.trained = Trained(weights, self.optimizer, {})
        self.pending = _Pending()

    def begin(self, progress: Progress) -> None:
        """Open the trackers where the run begins or goes on."""
        self.tracking.open(self.accelerator, self.label, progress.total_steps)

    def step(self, batch: AnyBatch, progress: Progress, steps: int) -> None:
        """One batch: its gradient, and one step of the optimizer."""
        accelerator, config = self.accelerator, self.config
        torch.manual_seed(_step_seed(self.seed, progress.epoch, progress.step, accelerator.process_index))
        _set_rate(self.optimizer, config, (progress.epoch + progress.step / steps) / config.epochs)
        losses = []
        for index in range(config.batch_parts):
            part, share = self._part(batch, index)
            last = index + 1 == config.batch_parts
            with nullcontext() if last else accelerator.no_sync(self.model):
                loss = self.model(part) * share
                accelerator.backward(loss * accelerator.num_processes)  # the processes' gradients are averaged
            losses.append(loss.detach())
        accelerator.clip_grad_norm_(self.trained.weights.values(), config.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        progress.step += 1
        progress.total_steps += 1
        self.pending.losses.append(torch.stack(losses).sum())
        self.pending.names.append(batch.name)
        self.pending.tokens += batch.num_tokens

    def _part(self, batch: AnyBatch, index: int) -> tuple[AnyBatch, float]:
        """This process's part of a batch, and how much of the batch's loss it makes."""
        parts = self.accelerator.num_processes * self.config.batch_parts
        if parts == 1:
            return batch, 1.0
        part = batch.part(self.accelerator.process_index * self.config.batch_parts + index, parts)
        if part is not None:
            return part, part.weight / batch.weight
        # Every process must take part in every exchange of gradients: rows that count nothing.
        stand_in = batch.part(0, parts)
        assert stand_in is not None, "a batch has rows"
        return stand_in, 0.0

    def look(self, progress: Progress) -> tuple[int, str]:
        """Add up the losses of the last steps; returns their number, and what the progress bar says of them."""
        pending, self.pending = self.pending, _Pending()
        losses = self.accelerator.reduce(torch.stack(pending.losses), "sum").tolist()
        first = progress.step - len(losses)
        for step, (loss, name) in enumerate(zip(losses, pending.names, strict=True), first):
            if not math.isfinite(loss):
                raise NonFiniteLossError(
                    f"{self.label}: the loss is {loss} at step {step} of epoch {progress.epoch} ({name}); "
                    "lower the learning rate or look at these events"
                )
            progress.loss_sum += loss
        speed = pending.tokens / max(time.monotonic() - pending.since, 1e-9)
        rate = self.optimizer.param_groups[0]["lr"]
        figures = {"loss": sum(losses) / len(losses), "learning_rate": rate, "tokens_per_second": speed}
        self.accelerator.log(figures, step=progress.total_steps)
        return len(losses), f"loss {progress.loss_sum / progress.step:.4f}, {speed:,.0f} tokens/s"

    def end_epoch(self, progress: Progress, steps: int, validate: Callable[[], Scores]) -> None:
        """Validate; keep the weights if they are the best so far."""
        self._hand_back(self.trained.weights)
        progress.losses += (progress.loss_sum / steps,)
        progress.scores += (agreed(dict(validate()) if is_first() else {}),)
        shown = {f"validation/{name}": value for name, value in progress.scores[-1].items()}
        self.accelerator.log({"epoch_loss": progress.losses[-1], **shown}, step=progress.total_steps)
        if progress.best_epoch == progress.epoch:
            self.trained.best.update({name: w.detach().clone() for name, w in self.trained.weights.items()})
        progress.epoch, progress.step, progress.loss_sum = progress.epoch + 1, 0, 0.0

    def _hand_back(self, weights: Mapping[str, Tensor]) -> None:
        """Give the model that was handed in its weights, where it is not the one that trains."""
        if self.sharded:
            _copy(weights, self.given)

    def finish(self) -> None:
        """Leave the best weights in the model that was handed in, and the model as it was otherwise."""
        _copy(self.trained.best, self.given)
        if self.config.gradient_checkpointing:
            for backbone in backbones_of(self.raw):
                backbone.gradient_checkpointing_disable()
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        for tracker in self.accelerator.trackers:
            tracker.finish()


def _copy(weights: Mapping[str, Tensor], model: nn.Module) -> None:
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, weight in weights.items():
            own[name].copy_(whole(weight))


def _step_seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


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
