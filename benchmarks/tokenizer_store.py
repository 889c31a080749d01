"""What a killed benchmark keeps: measured parts as JSON, and how long fits took that went on later.

Knows folders and digests; does not know tokenizers.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console

from sidera.files import write_atomically
from training.errors import StageError

Made = TypeVar("Made")

_CHECKPOINTS = (".pt", ".safetensors")
_ERRORS = Console(stderr=True, highlight=False, soft_wrap=True)


def say(sentence: str) -> None:
    """Tell what is being done, on standard error."""
    _ERRORS.print(f"{time.strftime('%H:%M:%S')} {sentence}", markup=False)


def digest_of(key: Mapping[str, object]) -> str:
    """sha256 (hex) of a JSON object."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def kept(path: Path, key: Mapping[str, object], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was measured before of the same ``key``, or else what ``measure`` finds now, which is kept.

    Args:
        path: of the JSON file.
        key: all that the result depends on; JSON.
        measure: gives a JSON object.

    Raises:
        StageError: the file is there, and is none of these.
    """
    digest = digest_of(key)
    if path.is_file():
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored["digest"] == digest:
                measured: dict[str, Any] = stored["measured"]
                return measured
        except (ValueError, TypeError, KeyError) as error:
            raise StageError(f"{path} holds no measured part ({error!r}); delete it") from error
    measured = measure()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps({"digest": digest, "measured": measured}, indent=1) + "\n").encode())
    return measured


@dataclass(frozen=True)
class StageTime:
    """How long one stage of a fit took.

    Attributes:
        name: of its checkpoint; ``fit`` where a fit tells no stages.
        seconds: of wall time.
        epochs: done when it stopped; None where it counts none.
        best_epoch_error: the lowest held-out value of what it stops by; None where it evaluates none.
    """

    name: str
    seconds: float
    epochs: int | None = None
    best_epoch_error: float | None = None


@dataclass(frozen=True)
class FitTime:
    """How long a fit took.

    Attributes:
        seconds: of wall time, over all runs of it up to their last checkpoints, and the whole last run.
        runs: how many times it was started; more than 1 after a kill.
        stages: in the order of their ends; only the whole where it ran more than once.
    """

    seconds: float
    runs: int
    stages: tuple[StageTime, ...]


def timed_fit(folder: Path, key: Mapping[str, object], fit: Callable[[Path], Made]) -> tuple[Made, FitTime]:
    """Run a fit that keeps its checkpoints in ``folder``, and add up its time over kills.

    What a killed run did after its last checkpoint is done again, so that a run counts up to the time when its newest
    checkpoint was written. A stage ends when its checkpoint is written for the last time.

    Args:
        folder: of the checkpoints; ``clock.json`` lies beside them.
        key: all that the fit depends on; JSON.
        fit: told the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    clock, digest = folder / "clock.json", digest_of(key)
    seconds, runs = 0.0, 0
    if clock.is_file():
        before = json.loads(clock.read_text(encoding="utf-8"))
        if before["digest"] == digest:
            ends = [end for end, _ in _checkpoints(folder, before["started"])]
            seconds = before["seconds"] + (max(ends) - before["started"] if ends else 0.0)
            runs = before["runs"]
    started = time.time()
    state = {"digest": digest, "seconds": seconds, "runs": runs + 1, "started": started}
    write_atomically(clock, json.dumps(state).encode())
    made = fit(folder)
    ended = time.time()
    return made, FitTime(seconds + ended - started, runs + 1, _stages(folder, seconds, runs, started, ended))


def _stages(folder: Path, before: float, runs: int, started: float, ended: float) -> tuple[StageTime, ...]:
    written = _checkpoints(folder, started)
    if runs or len(written) < 2:
        known = _epochs(written[-1][1]) if len(written) == 1 else (None, None)
        return (StageTime("fit", before + ended - started, *known),)
    starts = [started, *(end for end, _ in written[:-1])]
    ends = [*(end for end, _ in written[:-1]), ended]
    return tuple(
        StageTime(path.stem, end - start, *_epochs(path))
        for start, end, (_, path) in zip(starts, ends, written, strict=True)
    )


def _checkpoints(folder: Path, since: float) -> list[tuple[float, Path]]:
    """When each checkpoint was last written and where it lies, in the order of these times."""
    found = [(path.stat().st_mtime, path) for path in folder.iterdir() if path.suffix in _CHECKPOINTS]
    return sorted((end, path) for end, path in found if end >= since)


def _epochs(path: Path) -> tuple[int | None, float | None]:
    """How many epochs a checkpoint is the end of, and the lowest held-out error until there."""
    if path.suffix != ".pt":
        return None, None
    state = torch.load(path, weights_only=True, map_location="cpu")
    return state.get("epoch"), state.get("best_error")
