"""``python -m benchmarks.service [--quick] --out FILE.json``: the service under load, faults and change.

Real services on this machine, one part after the other; each part is a module ``benchmarks/service_*.py``. The bundles
are made in the work folder and kept there.
"""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.harness import Figure, report
from benchmarks.processes import ServiceProcessError
from benchmarks.service_changes import measure_changes
from benchmarks.service_events import measure_events
from benchmarks.service_kills import measure_kills
from benchmarks.service_latency import measure_http_overhead, measure_throughput
from benchmarks.service_mixed import measure_mixed
from benchmarks.service_overload import measure_overload
from benchmarks.service_replicas import measure_replicas
from benchmarks.service_scope import Scope
from benchmarks.service_subject import Bundles, make_bundles, version_of
from sidera.errors import SideraError
from training.errors import TrainingError

PARTS = ("latency", "throughput", "overload", "changes", "mixed", "kills", "replicas", "events")


def main(
    out: Annotated[Path, typer.Option(help="Where the figures go, as JSON.")],
    work: Annotated[Path, typer.Option(help="Keeps data, bundles and databases.")] = Path(".cache/service-benchmark"),
    quick: Annotated[bool, typer.Option("--quick", help="Every part with tiny counts, within two minutes.")] = False,
    part: Annotated[
        list[str] | None, typer.Option(help=f"Only this part, of {', '.join(PARTS)}; may be given again.")
    ] = None,
    mixed_seconds: Annotated[float | None, typer.Option(help="How long the mixed load lasts [1800].")] = None,
) -> None:
    """Measure the service."""
    console = Console(stderr=True, soft_wrap=True)
    parts = part or list(PARTS)
    if unknown := sorted(set(parts) - set(PARTS)):
        raise typer.BadParameter(
            f"there is no part {unknown[0]!r}; choose from {', '.join(PARTS)}", param_hint="--part"
        )
    home = work / ("quick" if quick else "full")
    scope = Scope.of(home, quick)
    if mixed_seconds is not None:
        scope = scope.lasting(mixed_seconds)
    home.mkdir(parents=True, exist_ok=True)
    try:
        bundles = make_bundles(home, scope.size, console.print)
        figures = _measured(bundles, scope, parts)
    except (SideraError, TrainingError, ServiceProcessError, subprocess.CalledProcessError) as error:
        console.print(f"error: {error}", style="bold red", markup=False)
        raise typer.Exit(1) from None
    report("The service", figures, out, {"bundle_version": version_of(bundles.first), "parts": parts})


def _measured(bundles: Bundles, scope: Scope, parts: list[str]) -> dict[str, Figure]:
    figures: dict[str, Figure] = {}
    if "latency" in parts:
        figures |= measure_http_overhead(bundles.first, scope)
    if {"throughput", "overload"} & set(parts):
        throughput, capacity = measure_throughput(bundles.first, scope)
        figures |= throughput
        if "overload" in parts:
            figures |= measure_overload(bundles.first, scope, capacity.per_second)
    rest: dict[str, Callable[[Bundles, Scope], dict[str, Figure]]] = {
        "changes": measure_changes,
        "mixed": measure_mixed,
        "kills": measure_kills,
        "replicas": measure_replicas,
        "events": measure_events,
    }
    for name, measure in rest.items():
        if name in parts:
            figures |= measure(bundles, scope)
    return figures


if __name__ == "__main__":
    typer.run(main)
