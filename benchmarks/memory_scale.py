"""``python -m benchmarks.memory_scale --out FILE.json [--quick]``: the memory of millions of items and transitions.

Made-up lists of followers are written in one process and opened and read in a fresh one, which measures itself: how
long opening takes, how much memory the lists hold once recommendations have read them, and how long reading takes,
before and after events have filled the delta. The file lies in a temporary folder, which is removed.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.harness import Figure, at_most, report, shown
from benchmarks.tokenizer_store import say

MOST_MEBIBYTES = 2048.0
MOST_LOAD_SECONDS = 2.0

TASKS = ("build", "read")
_ROOT = Path(__file__).resolve().parents[1]
_QUICK_ITEMS, _QUICK_TRANSITIONS = 20_000, 400_000


class ChildError(Exception):
    """A measured process failed; what it said is in the message."""


def main(
    out: Annotated[Path, typer.Option(help="Where the figures go, as JSON.")],
    items: Annotated[int, typer.Option(min=1_000, help="How many items there are.")] = 10_000_000,
    transitions: Annotated[int, typer.Option(min=1_000, help="How many followers all lists have.")] = 200_000_000,
    work: Annotated[Path | None, typer.Option(help="Where the lists are written; default: beside OUT.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The same on 20,000 items.")] = False,
) -> None:
    """Measure time and memory of opening and reading a large memory of transitions."""
    if quick:
        items, transitions = min(items, _QUICK_ITEMS), min(transitions, _QUICK_TRANSITIONS)
    work = work or out.parent
    work.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=work, prefix="memory-") as folder:
            sizes = {"items": items, "transitions": transitions}
            found = {task: run_child(task, Path(folder).resolve(), sizes) for task in TASKS}
    except ChildError as error:
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", style="bold red", markup=False)
        raise typer.Exit(1) from None
    title = f"The memory at {items:,} items and {transitions:,} transitions"
    report(title, scale_figures(found), out, sizes | {"quick": quick})


def run_child(task: str, folder: Path, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Do one task in a process of its own; see :mod:`benchmarks.memory_scale_child`.

    Raises:
        ChildError: the process failed.
    """
    say(f"{task} {sizes['items']:,} items and {sizes['transitions']:,} transitions")
    told = json.dumps({"task": task, "folder": str(folder), **sizes})
    done = subprocess.run(  # noqa: S603 (our own words)
        [sys.executable, "-m", "benchmarks.memory_scale_child", told],
        cwd=_ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ChildError(f"the process that does {task!r} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def scale_figures(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Figure]:
    """What the processes found, as figures."""
    build, read = found["build"], found["read"]
    figures = {
        "load_seconds": at_most(
            read["load_seconds"], MOST_LOAD_SECONDS, "s", f"{read['load_cpu_seconds']:.3f} s of a processor"
        )
    }
    for state, told in (
        ("loaded", "opened, nothing read yet"),
        ("read", f"after {read['reads']:,} recommendations' histories were looked up"),
        ("grown", f"beside a full delta of {read['delta_entries']:,} entries, and as many looked up again"),
        ("whole", "every page of the file touched, beside the full delta"),
    ):
        own, file = read[f"{state}_anonymous"], read[f"{state}_file"]
        note = f"{told}: {own / 2**20:,.0f} MiB of its own (RssAnon), {file / 2**20:,.0f} MiB of files (RssFile)"
        figures[f"{state}_mebibytes"] = at_most((own + file) / 2**20, MOST_MEBIBYTES, "MiB", note)
    for state, told in (("read", "without a delta, pages read as they are touched"), ("grown", "beside a full delta")):
        figures[f"{state}_lookup_p50_us"] = shown(read[f"{state}_p50"] * 1e6, "us", f"a history's followers, {told}")
        figures[f"{state}_lookup_p99_us"] = shown(read[f"{state}_p99"] * 1e6, "us", f"{read['reads']:,} histories")
    return figures | {
        "swap_us": shown(read["swap_seconds"] * 1e6, "us", "another delta beside the lists, with one event more"),
        "file_mebibytes": shown(
            build["file_bytes"] / 2**20, "MiB", f"written in {build['seconds']:.0f} s, lists made included"
        ),
    }


if __name__ == "__main__":
    typer.run(main)
