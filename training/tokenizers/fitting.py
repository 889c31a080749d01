"""The loop of every gradient fit of a tokenizer: epochs, stopping on held-out items, checkpoints, resuming exactly.

Knows a module, a loss and a schedule; does not know methods. Subclasses say what a batch costs and what an epoch does.

Shapes: N item, B batch.
"""

import io
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sidera.files import write_atomically
from training.errors import NonFiniteLossError, StageError
from training.progress import track


@dataclass(frozen=True)
class Schedule:
    """How long a fit goes on, and how fast.

    Attributes:
        epochs: at most, the warm-up included.
        batch_size: items of a step.
        learning_rate: of AdamW; falls to a hundredth along a cosine over the epochs.
        evaluate_every: epochs between evaluations on held-out items, and between checkpoints.
        patience: evaluations without a better held-out error after which the fit stops.
        seed: of every draw.
        warm_up: epochs before the first one that counts for evaluations.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    evaluate_every: int
    patience: int
    seed: int
    warm_up: int = 0

    def limited(self, items: int, most_steps: int) -> "Schedule":
        """The same with so few epochs, in the same proportions, that they take at most about ``most_steps`` steps.

        At least one epoch of each kind is left.
        """
        share = most_steps / (self.epochs * math.ceil(items / self.batch_size))
        if share >= 1:
            return self
        warm_up = max(1, round(self.warm_up * share)) if self.warm_up else 0
        return replace(
            self,
            warm_up=warm_up,
            epochs=max(warm_up + 1, round(self.epochs * share)),
            evaluate_every=max(1, round(self.evaluate_every * share)),
        )


class Fit(ABC):
    """The state of one fit between two epochs, and the way from one epoch to the next.

    A resumed fit ends in the same weights, bit for bit on one machine: every epoch draws from its own seed, and a
    checkpoint (read with ``weights_only=True``) holds all that one epoch leaves to the next.

    Attributes:
        module: what is fitted; its best weights are kept and, at the end, loaded.
        optimizer: of the parameters that learn.
        epoch: epochs done.
    """

    def __init__(
        self, name: str, module: nn.Module, optimizer: torch.optim.Optimizer, schedule: Schedule, checkpoint: Path
    ) -> None:
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.module = module
        self.optimizer = optimizer
        self.schedule = schedule
        self.checkpoint = checkpoint
        self.epoch = 0
        self.best: dict[str, Tensor] = self._weights()
        self.best_error = float("inf")
        self.evaluations_without_gain = 0

    @property
    @abstractmethod
    def digest(self) -> str:
        """What a checkpoint belongs to: sha256 (hex) of the items and the settings."""

    @property
    @abstractmethod
    def items(self) -> int:
        """How many items an epoch passes over."""

    @abstractmethod
    def loss(self, rows_B: Tensor, generator: torch.Generator) -> Tensor:
        """The loss of a batch.

        Args:
            rows_B: which items.
            generator: of the epoch's draws.
        """

    @abstractmethod
    def held_out_error(self) -> float:
        """What the fit stops by, and chooses its weights by: the lower the better."""

    def start_epoch(self) -> None:  # noqa: B027  the four below do nothing where a method has nothing to do
        """What an epoch does before its first batch."""

    def after_step(self) -> None:  # noqa: B027
        """What follows a step of the optimizer."""

    def end_epoch(self, generator: torch.Generator) -> None:  # noqa: B027
        """What an epoch does after its last batch, and after the evaluation."""

    def more_state(self) -> dict[str, Any]:
        """What an epoch leaves to the next besides weights and the optimizer's state; goes into the checkpoint."""
        return {}

    def take_more_state(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Go on from :meth:`more_state`."""

    @property
    def finished(self) -> bool:
        return self.epoch >= self.schedule.epochs or self.evaluations_without_gain >= self.schedule.patience

    def run(self, on_epoch: Callable[[int, float], None] | None = None) -> None:
        """Go on from the checkpoint, if there is one, to the end, and load the best weights.

        Args:
            on_epoch: told each epoch's number and mean loss, after its checkpoint is written.

        Raises:
            NonFiniteLossError: a loss is NaN or infinite.
            StageError: the checkpoint cannot be read.
        """
        self._resume()
        with track(f"tokenizer {self.name}", self.schedule.epochs) as advance:
            advance(self.epoch)
            while not self.finished:
                loss = self.run_epoch()
                advance(1, f"loss {loss:.4f}, held-out error {self.best_error:.4f}")
                if on_epoch is not None:
                    on_epoch(self.epoch, loss)
            advance(self.schedule.epochs - self.epoch)
        self.module.load_state_dict(self.best)

    def run_epoch(self) -> float:
        """One pass over the items; evaluation and a checkpoint where due. Returns the mean loss."""
        schedule = self.schedule
        generator = torch.Generator().manual_seed(schedule.seed * 1_000_003 + self.epoch)
        self._set_learning_rate()
        self.start_epoch()
        total = 0.0
        for step, rows_B in enumerate(torch.randperm(self.items, generator=generator).split(schedule.batch_size)):
            loss = self.loss(rows_B, generator)
            if not torch.isfinite(loss):
                raise NonFiniteLossError(
                    f"tokenizer {self.name}: the loss is {loss.item()} in epoch {self.epoch}, step {step}; "
                    "set a lower tokenizer.learning_rate"
                )
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += loss.item() * len(rows_B)
            self.after_step()
        self.epoch += 1
        counted = self.epoch - schedule.warm_up
        due = counted > 0 and (counted % schedule.evaluate_every == 0 or self.epoch == schedule.epochs)
        if due:
            self._evaluate()
        self.end_epoch(generator)
        if due or self.finished:
            self._save()
        return total / self.items

    def _evaluate(self) -> None:
        error = self.held_out_error()
        if error < self.best_error:
            self.best_error, self.evaluations_without_gain, self.best = error, 0, self._weights()
        else:
            self.evaluations_without_gain += 1

    def _weights(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.module.state_dict().items()}

    def _set_learning_rate(self) -> None:
        done = self.epoch / self.schedule.epochs
        share = 0.01 + 0.99 * 0.5 * (1 + float(np.cos(np.pi * done)))
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.learning_rate * share

    def _resume(self) -> None:
        if not self.checkpoint.is_file():
            return
        try:
            state = torch.load(self.checkpoint, weights_only=True)
            if state["digest"] != self.digest:
                return
            self._check_names(state["module"])
            self.module.load_state_dict(state["module"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.best = state["best"]
            self.epoch = state["epoch"]
            self.best_error = state["best_error"]
            self.evaluations_without_gain = state["evaluations_without_gain"]
            self.take_more_state(state["more"])
        except Exception as error:
            raise StageError(f"checkpoint {self.checkpoint} cannot be read ({error}); delete it") from error

    def _check_names(self, tensors: Mapping[str, Tensor]) -> None:
        """Refuse the tensors of another version of the module before any of them is loaded."""
        other = sorted(tensors.keys() ^ self.module.state_dict().keys())
        if other:
            raise ValueError(f"another version of the program wrote it: only one of the two has {other[0]!r}")

    def _save(self) -> None:
        buffer = io.BytesIO()
        torch.save(
            {
                "digest": self.digest,
                "module": self.module.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "best": self.best,
                "epoch": self.epoch,
                "best_error": self.best_error,
                "evaluations_without_gain": self.evaluations_without_gain,
                "more": self.more_state(),
            },
            buffer,
        )
        write_atomically(self.checkpoint, buffer.getvalue())
