"""``python -m benchmarks.memory_scale --out FILE.json [--quick]``: the memory of millions of items and transitions.

Made-up lists of followers are written in one process and opened and read in a fresh one, which measures itself: how
long opening takes, how much memory the lists hold once recommendations have read them, and how long reading takes,
before and after events have filled the delta. The file lies in a temporary folder, which is removed.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.child_process import ChildError, run_child
from benchmarks.harness import Figure, at_most, report, shown

MOST_MEBIBYTES = 2048.0
MOST_LOAD_SECONDS = 2.0

TASKS = ("build", "read")
_QUICK_ITEMS, _QUICK_TRANSITIONS = 20_000, 400_000


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
            found = {
                task: run_child("benchmarks.memory_scale_child", task, Path(folder).resolve(), **sizes)
                for task in TASKS
            }
    except ChildError as error:
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", style="bold red", markup=False)
        raise typer.Exit(1) from None
    title = f"The memory at {items:,} items and {transitions:,} transitions"
    report(title, scale_figures(found), out, sizes | {"quick": quick})


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
