"""Runs that are really killed with SIGKILL, for the tests of resuming.

:func:`killed_loop` and :func:`killed_train` fork a child for every run, so they are to be called in a process of their
own that has no other thread, as those of :mod:`tests.processes` are.
"""

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import training.loop
from sidera.cli import main
from training.loop import train_loop
from training.model_config import OptimizerConfig

LOOP_CONFIG = OptimizerConfig(epochs=4, learning_rate=0.05, checkpoint_steps=3, warmup_share=0.2)
STEPS = 7
MOMENTS = [("step", 2), ("step", 5), ("save", 2), ("validate", 1), ("step", 1), ("save", 4), ("step", 9)]
"""In each run the event of this kind, counted from 1, at which it is killed: early, mid-epoch, half through a save."""


@dataclass(frozen=True)
class Numbers:
    """A batch."""

    values_BD: Tensor
    name: str

    @property
    def num_tokens(self) -> int:
        return self.values_BD.numel()

    @property
    def weight(self) -> int:
        return len(self.values_BD)

    def part(self, index: int, parts: int) -> "Numbers | None":
        rows_BD = self.values_BD[index::parts]
        return Numbers(rows_BD, self.name) if len(rows_BD) else None


class Toy(nn.Module):
    """A model with dropout, so that a wrong state of the random numbers would show."""

    def __init__(self, on_step: Callable[[], None]) -> None:
        super().__init__()
        self.on_step = on_step
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, batch: Numbers) -> Tensor:
        self.on_step()
        return self.loss(batch)

    def loss(self, batch: Numbers) -> Tensor:
        loss: Tensor = (self.layers(batch.values_BD)[:, 0] - batch.values_BD.prod(dim=1)).square().mean()
        return loss


def batches_of(epoch: int) -> list[Numbers]:
    generator = torch.Generator().manual_seed(epoch)
    return [Numbers(torch.randn(6, 4, generator=generator), f"batch {step}") for step in range(STEPS)]


def run_loop(folder: Path, kill: tuple[str, int] | None = None) -> tuple[Toy, training.loop.LoopReport]:
    """One run of the loop on the toy model, killed at a moment if one is given."""
    seen = {"step": 0, "save": 0, "validate": 0}

    def happens(kind: str) -> None:
        seen[kind] += 1
        if kill is not None and kill == (kind, seen[kind]):
            os.kill(os.getpid(), signal.SIGKILL)

    torch.manual_seed(0)
    toy = Toy(lambda: happens("step"))

    def validate() -> dict[str, float]:
        happens("validate")
        toy.eval()
        with torch.no_grad():
            return {"recall@10": -sum(float(toy.loss(batch)) for batch in batches_of(99))}

    with half_saved(lambda: happens("save")):
        report = train_loop("toy", toy, batches_of, validate, LOOP_CONFIG, seed=3, folder=folder)
    return toy, report


@contextmanager
def half_saved(on_save: Callable[[], None]) -> Iterator[None]:
    """Within: every checkpoint is first written by half, which is when ``on_save`` is told."""
    whole = torch.save

    def save(content: object, path: Path) -> None:
        whole(content, path)
        complete = path.read_bytes()
        path.write_bytes(complete[: len(complete) // 2])
        on_save()
        path.write_bytes(complete)

    torch.save = save  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.save = whole


def forked(work: Callable[[], None]) -> int:
    """Start a child that does some work and ends."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except SystemExit as end:
            os._exit(int(end.code or 0))
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    return child


def ended(child: int) -> int:
    """The exit code of a child, negative for the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_loop(folder: Path) -> None:
    """Kill a run at every moment in turn, then let it end and save its weights."""
    torch.set_num_threads(1)
    for moment in MOMENTS:
        code = ended(forked(lambda: void(run_loop(folder, moment))))  # noqa: B023
        if code != -signal.SIGKILL:
            raise SystemExit(f"the run that was to be killed at {moment} ended with {code}")

    def last() -> None:
        toy, _ = run_loop(folder)
        torch.save(toy.state_dict(), folder / "weights.pt")

    if code := ended(forked(last)):
        raise SystemExit(f"the last run ended with {code}")


def void(_: object) -> None:
    """Nothing."""


def killed_train(config: Path, moments: list[Path]) -> None:
    """Kill ``sidera train`` a moment after each of these files appears, then let it end."""
    torch.set_num_threads(1)
    chance = random.Random(0)
    for moment in moments:
        child = forked(lambda: main(["train", str(config)]))
        while not moment.exists():
            if os.waitpid(child, os.WNOHANG) != (0, 0):
                raise SystemExit(f"the run ended before {moment} was there")
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.05))
        os.kill(child, signal.SIGKILL)
        if (code := ended(child)) != -signal.SIGKILL:
            raise SystemExit(f"the run that was to be killed at {moment} ended with {code}")
    if code := ended(forked(lambda: main(["train", str(config)]))):
        raise SystemExit(f"the last run ended with {code}")
