"""``python -m benchmarks.tokenizer_scale --out FILE.json [--items N] [--quick]``: a catalogue of millions of items.

Made-up vectors are written to disk; for each method a child process fits on a sample of them and gives every item a
SID, reading the vectors from there, while this process watches its memory. Vectors and results are kept in ``--work``
until the figures are written, so that a killed run goes on; then the vectors are removed.
"""

import dataclasses
import functools
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.harness import Figure, at_most, report, shown
from benchmarks.tokenizer_store import kept, say
from benchmarks.tokenizer_synthetic import SyntheticVectors, write_vectors
from training.errors import StageError, TrainingError
from training.tokenizers import read_config

MOST_GIB = 4.0
FIT_ITEMS = 500_000
SAMPLE_SECONDS = 0.2

METHODS: dict[str, dict[str, Any]] = {
    "rqkmeans": {},
    "rqvae": {"preset": "cpu", "warm_up_epochs": 1, "epochs": 3, "evaluate_every": 1, "batch_size": 2048},
}
"""Settings of each method that is measured: few epochs, as memory and time of the rest do not depend on them."""

_ROOT = Path(__file__).resolve().parents[1]
_GIB = 2**30


@dataclass(frozen=True)
class Memory:
    """What a process held at most, in bytes.

    Attributes:
        anonymous: memory that is no page of a file (RssAnon), the most of all samples.
        samples: how often it was looked at.
    """

    anonymous: int
    samples: int


def main(
    out: Annotated[Path, typer.Option(help="Where the figures go, as JSON.")],
    items: Annotated[int, typer.Option(min=1_000, help="How many items the catalogue has.")] = 5_000_000,
    dim: Annotated[int, typer.Option(min=8, help="Width of the vectors.")] = 384,
    work: Annotated[Path | None, typer.Option(help="Keeps vectors and results; default: OUT.work.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The same on 20,000 items.")] = False,
) -> None:
    """Measure time and memory of fitting, and of giving every item its SID."""
    work = work or out.with_name(out.name + ".work")
    vectors = SyntheticVectors(min(items, 20_000) if quick else items, dim)
    try:
        figures = measure_scale(vectors, work, 5_000 if quick else FIT_ITEMS)
    except TrainingError as error:
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", style="bold red", markup=False)
        raise typer.Exit(1) from None
    report(
        f"Tokenizers at {vectors.items:,} items", figures, out, {"vectors": dataclasses.asdict(vectors), "quick": quick}
    )
    vectors.path(work).unlink(missing_ok=True)


def measure_scale(vectors: SyntheticVectors, work: Path, fit_items: int) -> dict[str, Figure]:
    """The figures of all methods.

    Raises:
        StageError: the disk is too small, or a child process fails.
    """
    figures: dict[str, Figure] = {}
    for method, more in METHODS.items():
        settings = {"method": method, "fit_items": fit_items, **more}
        _, config = read_config(settings)
        key = {"vectors": dataclasses.asdict(vectors), "settings": dataclasses.asdict(config), "method": method}
        measured = kept(work / f"{method}.json", key, functools.partial(run_child, vectors, settings, work))
        figures |= scale_figures(method, measured, f"fitted on {fit_items:,} items, {_told(more)}")
    return figures


def run_child(vectors: SyntheticVectors, settings: Mapping[str, Any], work: Path) -> dict[str, Any]:
    """Write the vectors, unless they lie there; fit and assign in a process of its own.

    Returns:
        What ``benchmarks.tokenizer_scale_child`` says, and ``anonymous_bytes`` and ``memory_samples``.

    Raises:
        StageError: the disk is too small, or the child fails.
    """
    path = write_vectors(vectors, work).resolve()
    work = work.resolve()
    answer = work / f"{settings['method']}-child.json"
    answer.unlink(missing_ok=True)
    folder = work / f"{settings['method']}-checkpoints"
    task = {"vectors": str(path), "settings": dict(settings), "folder": str(folder), "out": str(answer)}
    say(f"{settings['method']}: fit and SIDs in a process of its own")
    command = [sys.executable, "-m", "benchmarks.tokenizer_scale_child", json.dumps(task)]
    process = subprocess.Popen(command, cwd=_ROOT)  # noqa: S603 (our own words, no shell)
    memory = watch(process)
    if process.returncode or not answer.is_file():
        raise StageError(
            f"{settings['method']}: the process that was measured ended with {process.returncode}; see above"
        )
    found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    return {**found, "anonymous_bytes": memory.anonymous, "memory_samples": memory.samples}


def watch(process: "subprocess.Popen[Any]", every: float = SAMPLE_SECONDS) -> Memory:
    """Look at a process's memory until it ends.

    Args:
        every: seconds between two looks.
    """
    most = samples = 0
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        found = status_bytes(status, "RssAnon")
        if found is not None:
            most, samples = max(most, found), samples + 1
        time.sleep(every)
    return Memory(most, samples)


def status_bytes(status: Path, field: str) -> int | None:
    """A field of a process's ``/proc/<pid>/status`` in bytes; None once the process has given its memory back."""
    try:
        lines = status.read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return None
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")]
    return found[0] if found else None


def scale_figures(method: str, measured: Mapping[str, Any], note: str) -> dict[str, Figure]:
    """Times, SIDs left shared, collisions and peaks of memory of one method."""
    items = measured["items"]
    rate = items / measured["assign_seconds"]
    return {
        f"shared_sids_{method}": at_most(measured["shared_sids"], 0, "items", f"{items:,} items"),
        f"peak_anonymous_{method}": at_most(
            measured["anonymous_bytes"] / _GIB,
            MOST_GIB,
            "GiB",
            f"RssAnon, the most of {measured['memory_samples']:,} looks, one each {SAMPLE_SECONDS:g} s; {note}",
        ),
        f"peak_rss_{method}": at_most(
            measured["peak_rss_bytes"] / _GIB,
            MOST_GIB,
            "GiB",
            "VmHWM: with the pages of files that the process had at one time, those of the vectors' file among them",
        ),
        f"fit_seconds_{method}": shown(measured["fit_seconds"], "s", note),
        f"assign_seconds_{method}": shown(measured["assign_seconds"], "s", f"encoding included, {rate:,.0f} items/s"),
        f"collisions_{method}": shown(measured["collision_rate"], "share", "before the assignment; made-up vectors"),
    }


def _told(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items()) or "default settings"


if __name__ == "__main__":
    typer.run(main)
