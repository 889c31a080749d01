"""``python -m benchmarks.end_to_end [--data DIR] [--quick] --out FILE.json``: the whole way, measured on the demo.

How long training takes, what the bundle's own evaluation says beside the floors, how long a recommendation takes, what
beam search costs beside its bare forward passes and beside ``generate``, and whether anything invalid ever comes back.
"""

import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.generate import measure_generate
from benchmarks.harness import Figure, at_most, report, shown, timed
from benchmarks.latency import measure_engine, measure_http
from benchmarks.processes import SIDERA, ServiceProcessError
from benchmarks.samples import Bench, load_bench
from benchmarks.search import measure_search
from benchmarks.validity import measure_validity
from sidera.errors import SideraError
from training.errors import TrainingError

MOST_SECONDS = 300.0
CONFIG = Path("configs/demo.yaml")
_FLOORS = {"popularity": "popularity", "bigram": "bigram", "content-kNN": "content_knn"}


def main(
    out: Annotated[Path, typer.Option(help="Where the figures go, as JSON.")],
    data: Annotated[Path, typer.Option(help="Holds one folder a domain.")] = Path(".cache/demo/data"),
    bundle: Annotated[Path, typer.Option(help="The bundle to measure.")] = Path("runs/demo/bundle"),
    quick: Annotated[bool, typer.Option("--quick", help="The same on less, within two minutes; no training.")] = False,
) -> None:
    """Measure the demo: training, quality, latency, beam search, validity."""
    try:
        bench = load_bench(bundle, data)
        figures = _measured(bench, data, quick)
    except (SideraError, TrainingError, ServiceProcessError, subprocess.CalledProcessError) as error:
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", style="bold red", markup=False)
        raise typer.Exit(1) from None
    version = bench.loaded.manifest.bundle_version
    report(f"End to end, bundle {version[:12]}", figures, out, {"bundle_version": version})


def _measured(bench: Bench, data: Path, quick: bool) -> dict[str, Figure]:
    figures = {"demo_seconds": at_most(None if quick else _training_seconds(data), MOST_SECONDS, "s")}
    figures |= quality_figures(bench.loaded.manifest.metrics)
    figures |= measure_http(bench, calls=200 if quick else 1000)
    figures |= measure_engine(bench, calls=200 if quick else 1000)
    figures |= measure_search(bench, rounds=12 if quick else 100)
    figures |= measure_generate(bench, rounds=3 if quick else 30, warm_up=1 if quick else 3)
    figures |= measure_validity(bench, requests=1_000 if quick else 10_000)
    return figures


def quality_figures(metrics: Mapping[str, Any]) -> dict[str, Figure]:
    """NDCG@10 beside the floors, pooled and per domain, as the bundle's own evaluation found it."""
    figures = {}
    for name, part in {"pooled": metrics["pooled"], **metrics["domains"]}.items():
        figures[f"ndcg_{name}"] = shown(part["rankers"]["sidera"]["ndcg@10"], "NDCG@10", f"{part['targets']} targets")
        for floor, label in _FLOORS.items():
            difference = part["differences"][floor]
            above = difference["low"] > 0
            judged = name == "pooled" and floor == "popularity"
            figures[f"ndcg_above_{label}_{name}"] = Figure(
                value=difference["mean"],
                unit="NDCG@10",
                to_reach="95 % interval > 0" if judged else None,
                holds=above if judged else None,
                note=f"95 % {difference['low']:+.4f} .. {difference['high']:+.4f}, p {difference['p_value']:.4f}",
            )
    return figures


def _training_seconds(data: Path) -> float:
    """Seconds of ``sidera train`` into an empty folder: vectors, tokenizer, language model, evaluation, bundle."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*SIDERA, "train", str(CONFIG), "--data", str(data), "--out", f"{folder}/demo/bundle"]
        return timed(_run, command)


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True)  # noqa: S603 (our own words and the user's paths, no shell)


if __name__ == "__main__":
    typer.run(main)
