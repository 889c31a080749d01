"""Trains SASRec until validation gets no better: windows of the users' items, batches, epochs and checkpoints.

Shapes: B sequences, T positions, D width, N targets.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmarks.sasrec_model import FullCrossEntropy, SasRec, SasRecConfig, padded
from training.errors import NonFiniteLossError
from training.progress import track


@dataclass(frozen=True)
class Fit:
    """What became of one training.

    Attributes:
        config: its settings.
        losses, scores: mean loss and validation NDCG@10 of every epoch.
        best_epoch: the one whose weights are kept.
        seconds: spent on training and validation, over all starts.
        converged: whether it ended because nothing got better, and not because its time or its epochs were over.
    """

    config: SasRecConfig
    losses: tuple[float, ...]
    scores: tuple[float, ...]
    best_epoch: int
    seconds: float
    converged: bool

    @property
    def score(self) -> float:
        """The best validation NDCG@10."""
        return self.scores[self.best_epoch]

    def as_dict(self) -> dict[str, Any]:
        """The fit as JSON."""
        return asdict(self) | {"losses": list(self.losses), "scores": list(self.scores)}

    @property
    def over(self) -> bool:
        """Whether more time would change nothing."""
        return self.converged or len(self.scores) >= self.config.epochs

    @classmethod
    def from_dict(cls, told: dict[str, Any]) -> "Fit":
        """What ``as_dict`` gave, or its JSON."""
        lists = {"losses": tuple(told["losses"]), "scores": tuple(told["scores"])}
        return cls(**(told | lists | {"config": SasRecConfig(**told["config"])}))


def fit(
    model: SasRec,
    config: SasRecConfig,
    sequences: Sequence[npt.NDArray[np.int32]],
    validate: Callable[[], float],
    folder: Path,
    seconds: float,
    seed: int = 0,
) -> Fit:
    """Train until validation gets no better, or the time is over; the best epoch's weights are left in the model.

    Args:
        sequences: a user's train items, oldest first.
        validate: a score of the present weights, higher is better.
        folder: holds a checkpoint of every epoch; one that is there is gone on from.
        seconds: no epoch begins after so many; at least one is trained.

    Raises:
        NonFiniteLossError: a loss is NaN or infinite.
    """
    windows = windows_of(sequences, config.max_length)
    optimizer = torch.optim.AdamW(_groups(model, config.weight_decay), lr=config.learning_rate)
    path = folder / "checkpoint.pt"
    losses: list[float] = []
    scores: list[float] = []
    best: dict[str, Tensor] = {}
    spent = 0.0
    if path.exists():
        kept = torch.load(path, weights_only=True, map_location=model.device)
        model.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
        losses, scores, best, spent = kept["losses"], kept["scores"], kept["best"], kept["seconds"]

    def waited() -> int:
        return len(scores) - 1 - scores.index(max(scores)) if scores else 0

    while len(scores) < config.epochs and waited() < config.patience and (spent < seconds or not scores):
        begun = time.monotonic()
        losses.append(_epoch(model, optimizer, windows, config, seed, len(scores)))
        scores.append(validate())
        if not waited():
            best = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
        spent += time.monotonic() - begun
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "best": best}
        partial = path.with_name("checkpoint.partial")
        torch.save(state | {"losses": losses, "scores": scores, "seconds": spent}, partial)
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(path)
        with (folder / "epochs.jsonl").open("a") as log:
            told = {"epoch": len(scores), "loss": losses[-1], "validation_ndcg@10": scores[-1], "seconds": spent}
            log.write(json.dumps(told) + "\n")
    model.load_state_dict(best)
    converged = waited() >= config.patience
    return Fit(config, tuple(losses), tuple(scores), scores.index(max(scores)), spent, converged)


def windows_of(sequences: Sequence[npt.NDArray[np.int32]], max_length: int) -> list[npt.NDArray[np.int32]]:
    """Pieces of at most ``max_length`` inputs and the item behind the last; all but the first are targets once."""
    return [
        sequence[begin : begin + max_length + 1]
        for sequence in sequences
        for begin in range(0, len(sequence) - 1, max_length)
    ]


def batches_of(
    windows: Sequence[npt.NDArray[np.int32]], batch_tokens: int, random: np.random.Generator
) -> Iterator[list[npt.NDArray[np.int32]]]:
    """Windows of like length together, as many as fit; the batches, and who is in one, change every epoch."""
    lengths = np.array([len(window) - 1 for window in windows])
    order = np.lexsort((random.random(len(windows)), lengths))
    batches: list[list[int]] = [[]]
    for row in order.tolist():
        if batches[-1] and (len(batches[-1]) + 1) * lengths[row] > batch_tokens:
            batches.append([])
        batches[-1].append(row)
    for number in random.permutation(len(batches)).tolist():
        yield [windows[row] for row in batches[number]]


def _epoch(
    model: SasRec,
    optimizer: torch.optim.Optimizer,
    windows: Sequence[npt.NDArray[np.int32]],
    config: SasRecConfig,
    seed: int,
    epoch: int,
) -> float:
    """Train for an epoch; the mean loss of its targets."""
    torch.manual_seed(int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0]))
    model.train()
    batches = list(batches_of(windows, config.batch_tokens, np.random.default_rng([seed, epoch])))
    total, count = 0.0, 0
    with track(f"SASRec: epoch {epoch + 1}", len(batches)) as advance:
        for batch in batches:
            items_BX = padded([window.tolist() for window in batch], model.num_items).to(model.device)
            target_BT = items_BX[:, 1:]
            real_BT = target_BT != model.num_items
            hidden_ND = model(items_BX[:, :-1])[real_BT]
            loss: Tensor = FullCrossEntropy.apply(hidden_ND, model.table_ID, target_BT[real_BT])  # type: ignore[no-untyped-call]
            value = float(loss.detach())
            if not math.isfinite(value):
                raise NonFiniteLossError(f"SASRec: the loss is {value} in epoch {epoch}; lower the learning rate")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total, count = total + value * len(hidden_ND), count + len(hidden_ND)
            advance(1, f"loss {total / count:.4f}")
    return total / count


def _groups(model: SasRec, weight_decay: float) -> list[dict[str, Any]]:
    """The blocks' matrices decay; embeddings, biases and norms do not."""
    weights = dict(model.named_parameters())
    matrices = [name for name, weight in weights.items() if name.startswith("blocks.") and weight.ndim >= 2]
    decayed = [weights.pop(name) for name in matrices]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": list(weights.values()), "weight_decay": 0.0}]
