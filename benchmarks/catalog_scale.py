"""``python -m benchmarks.catalog_scale --out FILE.json [--items N] [--quick]``: the catalog of millions of items.

A made-up catalog is built in one process, opened and used in a fresh one, and changed in others: how long that takes,
and how much memory tries and item dictionary hold. The catalog lies in a temporary folder, which is removed.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.child_process import ChildError, run_child
from benchmarks.harness import Figure, at_most, report, shown

MOST_BUILD_SECONDS = 60.0
MOST_OPEN_SECONDS = 2.0
MOST_BYTES = 24.0
"""Per item: everything that serving keeps of tries, ids, titles and fields."""

TASKS = ("build", "open", "change", "search", "fold")
_QUICK_ITEMS = 20_000


def main(
    out: Annotated[Path, typer.Option(help="Where the figures go, as JSON.")],
    items: Annotated[int, typer.Option(min=2_000, help="How many items the catalog has.")] = 10_000_000,
    work: Annotated[Path | None, typer.Option(help="Where the catalog is written; default: beside OUT.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The same on 20,000 items.")] = False,
) -> None:
    """Measure time and memory of building, opening, changing and searching a catalog."""
    items = min(items, _QUICK_ITEMS) if quick else items
    work = work or out.parent
    work.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=work, prefix="catalog-") as folder:
            found = {
                task: run_child("benchmarks.catalog_scale_child", task, Path(folder).resolve(), items=items)
                for task in TASKS
            }
    except ChildError as error:
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", style="bold red", markup=False)
        raise typer.Exit(1) from None
    report(f"The catalog at {items:,} items", scale_figures(items, found), out, {"items": items, "quick": quick})


def scale_figures(items: int, found: Mapping[str, Mapping[str, Any]]) -> dict[str, Figure]:
    """What the processes found, as figures."""
    build, opened, change, search, fold = (found[task] for task in TASKS)
    ids_bytes = build["file_bytes"]["item_ids.marisa"]
    parts = {"tries": build["trie_bytes"], "item numbers": build["number_bytes"], "ids": ids_bytes}
    nodes = ", ".join(f"{count:,}" for count in build["nodes"])

    def told(state: str) -> str:
        own, file = opened[f"{state}_anonymous"] / items, opened[f"{state}_file"] / items
        return f"{own:.2f} of its own (RssAnon), {file:.2f} of files (RssFile), per item"

    def held(state: str) -> float:
        return float(opened[f"{state}_anonymous"] + opened[f"{state}_file"]) / items

    figures = {
        "build_seconds": at_most(
            build["seconds"],
            MOST_BUILD_SECONDS,
            "s",
            f"tries and dictionary in memory; {build['cpu_seconds']:.1f} s of a processor; nodes: {nodes}",
        ),
        "save_seconds": shown(build["save_seconds"], "s", "written to a folder"),
        "open_seconds": at_most(
            opened["seconds"], MOST_OPEN_SECONDS, "s", f"checks included; {opened['cpu_seconds']:.2f} s of a processor"
        ),
        "opened_bytes_per_item": shown(held("opened"), "bytes", told("opened")),
        "used_bytes_per_item": at_most(
            held("used"), MOST_BYTES, "bytes", f"after 10,000 items were looked up; {told('used')}"
        ),
        "whole_bytes_per_item": at_most(
            sum(parts.values()) / items,
            MOST_BYTES,
            "bytes",
            "every byte of "
            + ", ".join(f"{name} ({size / items:.2f})" for name, size in parts.items())
            + "; titles and fields are read from disk by row",
        ),
        "table_bytes_per_item": shown(build["file_bytes"]["items.arrow"] / items, "bytes", "titles and fields on disk"),
        "lookup_us": shown(opened["lookup_seconds"] * 1e6, "us", "leaf to id and title, and id to leaf"),
    }
    for state, before in (("one", "nothing"), ("later", "10,000 items")):
        for name in ("add", "remove", "hide"):
            figures[f"{name}_{state}_ms"] = shown(
                change[f"{state}_{name}"] * 1e3, "ms", f"a snapshot with one more change, {before} had joined before"
            )
    figures["search_changed_ratio"] = shown(
        search["ratio"],
        "ratio",
        f"{search['added']:,} items joined, {search['removed']:,} left, over the same tries built anew; one thread, "
        f"scratch:tiny, processor time: {search['note']}",
    )
    changes = f"{fold['added']:,} items joined and {fold['removed']:,} left"
    figures["fold_seconds"] = shown(
        fold["seconds"],
        "s",
        f"{changes}; beside a thread that searches without a pause; {fold['cpu_seconds']:.2f} s of a processor",
    )
    figures["fold_longest_pause_ms"] = shown(
        fold["longest"] * 1e3,
        "ms",
        f"between the ends of two of {fold['searches']} searches during the fold, median {fold['median'] * 1e3:.1f}; "
        f"before it the longest was {fold['quiet_longest'] * 1e3:.1f}, the median {fold['quiet_median'] * 1e3:.1f}",
    )
    figures["fold_move_ms"] = shown(
        fold["moved_seconds"] * 1e3, "ms", "a snapshot with a later change, counted from the folded tries"
    )
    figures["fold_bytes_per_item"] = shown(
        fold["bytes"] / items, "bytes", "memory of its own that the folded tries and item numbers take"
    )
    figures["fold_search_ratio"] = shown(
        fold["ratio"],
        "ratio",
        f"a search before the fold over one after it; one thread, processor time: {fold['note']}",
    )
    return figures


if __name__ == "__main__":
    typer.run(main)
