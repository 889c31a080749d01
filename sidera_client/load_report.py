"""A load in numbers: throughput, latencies by how requests ended, and the client's own share of the machine."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from sidera_client.load import Load

PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class Latencies:
    """Milliseconds of some requests; a percentile is the least time that so many of them kept (nearest rank)."""

    count: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Latencies":
        """Of at least one request."""
        ordered = sorted(seconds)
        p50, p90, p99 = (percentile(ordered, share) * 1e3 for share in PERCENTILES)
        return cls(len(ordered), p50, p90, p99, ordered[-1] * 1e3)


@dataclass(frozen=True)
class Report:
    """A load in numbers.

    Attributes:
        seconds: how long requests were sent.
        succeeded_per_second: answers of 200 a second.
        by_kind: of every way in which requests ended, ``"200"`` or ``"timed out"``.
        client_cores: processor cores that the load program itself took.
    """

    seconds: float
    requests: int
    succeeded_per_second: float
    by_kind: dict[str, Latencies]
    client_cores: float

    @property
    def succeeded(self) -> Latencies | None:
        """Of the answers of 200; None where there was none."""
        return self.by_kind.get("200")

    def as_json(self) -> dict[str, Any]:
        """The report as JSON."""
        return asdict(self)


def report_of(load: Load) -> Report:
    """Sum a load up."""
    times: dict[str, list[float]] = {}
    for outcome in load.outcomes:
        times.setdefault(outcome.kind, []).append(outcome.seconds)
    succeeded = len(times.get("200", []))
    return Report(
        load.seconds,
        len(load.outcomes),
        succeeded / load.seconds if load.seconds else 0.0,
        {kind: Latencies.of(seconds) for kind, seconds in sorted(times.items())},
        load.client_cores,
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    """The nearest-rank percentile of sorted numbers."""
    if not ordered:
        raise ValueError("there is no percentile of nothing")
    return ordered[min(len(ordered) - 1, max(0, math.ceil(len(ordered) * share / 100) - 1))]


def print_report(report: Report, console: Console, title: str) -> None:
    """The report as a table, with what a reader has to know below it."""
    table = Table(title=title, title_justify="left")
    for column in ("answer", "requests", "p50 ms", "p90 ms", "p99 ms", "max ms"):
        table.add_column(column, justify="left" if column == "answer" else "right")
    for kind, times in report.by_kind.items():
        figures = (times.p50_ms, times.p90_ms, times.p99_ms, times.max_ms)
        table.add_row(kind, f"{times.count:,}", *(f"{figure:,.1f}" for figure in figures))
    console.print(table)
    console.print(
        f"{report.succeeded_per_second:,.1f} answers of 200 a second; {report.requests:,} requests in "
        f"{report.seconds:.1f} s; this program took {report.client_cores:.2f} cores",
        markup=False,
        soft_wrap=True,
    )
