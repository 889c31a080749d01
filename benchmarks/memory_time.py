"""``python -m benchmarks.memory_time --bundle DIR --data DIR --out FILE.json``: what the memory costs a recommendation.

One recommendation at a time, of the same bundle with its memory and without it, side by side on the same histories: in
each domain the median of the ratios. Memory here is all that needs no forward pass: followers, items alike, the reader
of whole histories, popularity and the router.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from benchmarks.harness import Figure, ratio_figures, report, time_ratio
from benchmarks.samples import Bench, load_bench
from sidera.errors import SideraError
from sidera.recommender import Recommender
from training.errors import DataError, TrainingError

MOST_RATIO = 1.10
"""Time of a recommendation with memory, over that without."""


def main(
    bundle: Annotated[Path, typer.Option(help="A trained bundle with neighbours.")],
    data: Annotated[Path, typer.Option(help="The data that it was trained on.")],
    out: Annotated[Path, typer.Option(help="Where the figures go, as JSON.")],
    calls: Annotated[int, typer.Option(min=1, help="Recommendations of each domain, with and without.")] = 300,
    threads: Annotated[int, typer.Option(min=0, help="Processor threads, 0 for all cores.")] = 1,
) -> None:
    """Time recommendations with memory and without."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        if threads:
            torch.set_num_threads(threads)
        bench = load_bench(bundle, data)
        context = {"bundle": bench.loaded.manifest.bundle_version, "threads": torch.get_num_threads()}
        report("A recommendation with memory / without", memory_figures(bench, calls), out, context)
    except (SideraError, TrainingError) as error:
        console.print(f"error: {error}", style="bold red", markup=False)
        raise typer.Exit(1) from None


def memory_figures(bench: Bench, calls: int) -> dict[str, Figure]:
    """The ratio of each domain, their median and the worst.

    Raises:
        DataError: the bundle has no memory, or no history of the data knows an item.
    """
    served = bench.loaded.recommender
    if served.neighbours is None:
        raise DataError(f"{bench.path} has no neighbours; give a bundle that was trained with them")
    served.model.keep_histories(0)  # else the second to be asked would find the first one's prefill
    alone = Recommender(served.model, served.catalog, served.max_history, served.beam_width)
    by_domain = {
        name: [query for query in bench.queries if query.domain == name and query.history][:calls]
        for name in served.catalog.domains
    }
    ratios = {
        name: time_ratio(lambda query: served.recommend([query]), lambda query: alone.recommend([query]), queries)
        for name, queries in by_domain.items()
        if queries
    }
    if not ratios:
        raise DataError(f"no history of the data is of a domain of {bench.path}; give the data that it was trained on")
    return ratio_figures("with_memory_over_without", ratios, most=MOST_RATIO)


if __name__ == "__main__":
    typer.run(main)
