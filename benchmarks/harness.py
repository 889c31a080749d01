"""What all benchmarks share: figures and how they are told, and two things timed side by side.

A figure is a number, what it is to reach and whether it does. Ratios are measured in one run, both sides alternately,
so that a machine that slows down slows both; what counts is the median of the rounds' own ratios.
"""

import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.hardware import describe_hardware
from sidera.files import write_atomically

Input = TypeVar("Input")

_LOG_COLUMNS = 160
"""How wide the table is where no terminal says it."""


@dataclass(frozen=True)
class Figure:
    """One measured number.

    Attributes:
        value: None when it was not measured.
        unit: ``"s"``, ``"ms"``, ``"ratio"``, ...
        to_reach: in words, such as ``"<= 300"``; None for a number that is only shown.
        holds: whether it is reached; None when nothing is to reach, or nothing was measured.
        note: what a reader has to know beside it.
    """

    value: float | None
    unit: str
    to_reach: str | None = None
    holds: bool | None = None
    note: str = ""

    def as_dict(self) -> dict[str, object]:
        """The figure as JSON; a note only where there is one."""
        told: dict[str, object] = {
            "value": self.value,
            "to_reach": self.to_reach,
            "holds": self.holds,
            "unit": self.unit,
        }
        return told | ({"note": self.note} if self.note else {})


def at_most(value: float | None, limit: float, unit: str, note: str = "") -> Figure:
    """A figure that is to be ``limit`` or less."""
    return Figure(value, unit, f"<= {limit:g}", None if value is None else value <= limit, note)


def at_least(value: float | None, limit: float, unit: str, note: str = "") -> Figure:
    """A figure that is to be ``limit`` or more."""
    return Figure(value, unit, f">= {limit:g}", None if value is None else value >= limit, note)


def shown(value: float | None, unit: str, note: str = "") -> Figure:
    """A figure that has nothing to reach."""
    return Figure(value, unit, note=note)


@dataclass(frozen=True)
class Ratio:
    """How long A takes compared with B.

    Attributes:
        median: the median of the rounds' ratios, time of A / time of B.
        seconds_a: the median time of A.
        seconds_b: the median time of B.
        rounds: how many rounds there were.
    """

    median: float
    seconds_a: float
    seconds_b: float
    rounds: int

    @property
    def note(self) -> str:
        """Both times, as a reader wants them beside the ratio."""
        return f"{self.seconds_a * 1e3:.2f} ms against {self.seconds_b * 1e3:.2f} ms, {self.rounds} rounds"


def time_ratio(
    a: Callable[[Input], object],
    b: Callable[[Input], object],
    inputs: Sequence[Input],
    clock: Callable[[], float] = time.perf_counter,
    warm_up: int = 3,
) -> Ratio:
    """Time two functions on the same inputs, one round an input; who goes first alternates.

    Args:
        inputs: what each round hands to both; at least one.
        warm_up: inputs that both see once before anything is timed.
    """
    for value in inputs[:warm_up]:
        a(value)
        b(value)
    times_a: list[float] = []
    times_b: list[float] = []
    sides = [(a, times_a), (b, times_b)]
    for value in inputs:
        for call, times in sides:
            times.append(timed(call, value, clock))
        sides.reverse()
    ratios = [one / other for one, other in zip(times_a, times_b, strict=True)]
    return Ratio(statistics.median(ratios), statistics.median(times_a), statistics.median(times_b), len(ratios))


def timed(call: Callable[[Input], object], value: Input, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds that one call takes."""
    begun = clock()
    call(value)
    return clock() - begun


def ratio_figures(
    name: str, ratios: Mapping[str, Ratio], most: float | None = None, least: float | None = None
) -> dict[str, Figure]:
    """The median over all configurations, the worst one, and each of them; the first two have something to reach.

    Args:
        ratios: by configuration.
        most: what the ratio may be at most; give this or ``least``.
        least: what it is to be at least.
    """
    if (most is None) == (least is None):
        raise ValueError("give either most or least")
    medians = {configuration: ratio.median for configuration, ratio in ratios.items()}
    worst = (max if least is None else min)(medians, key=lambda configuration: medians[configuration])

    def judged(value: float, note: str) -> Figure:
        return at_most(value, most, "ratio", note) if most is not None else at_least(value, least or 0.0, "ratio", note)

    return {
        name: judged(statistics.median(medians.values()), f"median of {len(ratios)} configurations"),
        f"{name}_worst": judged(medians[worst], worst),
        **{
            f"{name}_{configuration}": shown(ratio.median, "ratio", ratio.note)
            for configuration, ratio in ratios.items()
        },
    }


def latency_figures(name: str, seconds: Sequence[float]) -> dict[str, Figure]:
    """The p50 and p99 of some calls, in milliseconds."""
    p50, p99 = np.percentile(np.array(seconds) * 1e3, [50, 99]).tolist()
    note = f"{len(seconds)} calls"
    return {f"{name}_p50_ms": shown(p50, "ms", note), f"{name}_p99_ms": shown(p99, "ms", note)}


def report(title: str, figures: Mapping[str, Figure], out: Path, context: Mapping[str, object] | None = None) -> None:
    """Print the figures as a table and write them as JSON.

    Args:
        context: what else a reader needs to judge the figures, such as the bundle's version; JSON.

    Raises:
        ValueError: a figure is NaN or infinite.
    """
    document = {
        "figures": {name: figure.as_dict() for name, figure in figures.items()},
        "hardware": describe_hardware(),
        "command": command(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **(context or {}),
    }
    content = json.dumps(document, indent=1, allow_nan=False) + "\n"
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, content.encode())
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _LOG_COLUMNS
    console.print(_table(title, figures))
    console.print(f"Written to {out}.", markup=False, soft_wrap=True)


def print_summary(title: str, figures: Mapping[str, Figure]) -> None:
    """Print what has something to reach: a line each, with the median and the worst of its configurations."""
    table = Table(title=title)
    table.add_column("figure", no_wrap=True)
    for column in ("to reach", "measured", "worst", "holds"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, figure in figures.items():
        if figure.to_reach is None or name.endswith("_worst"):
            continue
        worst = figures.get(f"{name}_worst")
        judged = [one for one in (figure, worst) if one is not None]
        values = ["not measured" if one.value is None else f"{one.value:,.4g}" for one in judged]
        holds = "yes" if all(one.holds for one in judged) else "[bold red]NO[/]"
        table.add_row(name, figure.to_reach, values[0], values[1] if worst else "", holds)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _LOG_COLUMNS
    console.print(table)


def command() -> str:
    """How this program was called, as a reader repeats it."""
    module = sys.modules["__main__"].__spec__
    return shlex.join(["python", *(["-m", module.name] if module else sys.argv[:1]), *sys.argv[1:]])


def _table(title: str, figures: Mapping[str, Figure]) -> Table:
    table = Table(title=title)
    table.add_column("figure", no_wrap=True)
    for column in ("value", "unit", "to reach", "holds"):
        table.add_column(column, justify="right" if column == "value" else "left", no_wrap=True)
    table.add_column("note", overflow="fold")
    for name, figure in figures.items():
        value = "not measured" if figure.value is None else f"{figure.value:,.4g}"
        holds = {None: "", True: "yes", False: "[bold red]NO[/]"}[figure.holds]
        table.add_row(name, value, figure.unit, figure.to_reach or "", holds, figure.note)
    return table
