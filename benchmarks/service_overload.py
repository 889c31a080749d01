"""Ten times the capacity for a minute: who is let in keeps its deadline, the rest are told at once, nothing grows."""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import Figure, at_most, shown
from benchmarks.service_latency import shots
from benchmarks.service_process import Served, serving
from benchmarks.service_scope import Scope
from sidera_client.load import TIMED_OUT, Load, Loader
from sidera_client.load_report import percentile
from training.progress import track

DEADLINE_MS = 2000
_TIMES = 10
_MOST_REFUSAL_MS = 50.0
_MOST_GROWTH = 1.05
_SLACK_MS = 100.0
"""Between the service's deadline and the client's clock: the connection, and the loop of a client that is busy too."""


@dataclass(frozen=True)
class Overload:
    """What came of it; times in milliseconds, of answers in time and of refusals."""

    accepted_MS: list[float]
    refused_MS: list[float]
    late: int
    lost: int
    other: int


def measure_overload(bundle: Path, scope: Scope, per_second: float) -> dict[str, Figure]:
    """Offer ten times ``per_second`` for ``scope.overload_seconds``.

    A client of one core cannot send without end: what it did send is in the note.
    """
    settings = {
        "bundle": bundle,
        "database": scope.fresh_database(),
        "history_cache_bytes": 0,
        "deadline_ms": DEADLINE_MS,
        "max_queue": max(64, int(per_second * DEADLINE_MS / 1000 * 0.5)),
    }
    with serving(settings) as served, track("10 times the capacity", 2) as advance:
        _offer(served, scope, per_second * _TIMES, min(5.0, scope.overload_seconds), seed=1)
        before = served.resident_bytes()
        advance()
        load = _offer(served, scope, per_second * _TIMES, scope.overload_seconds, seed=2)
        after = served.resident_bytes()
        advance()
        hung = _seconds_until_answered(served)
    found = sort_out(load)
    told = f"{len(load.outcomes) / load.seconds:.0f} requests a second for {load.seconds:.0f} s"
    told += f"; the client took {load.client_cores:.2f} cores"
    refused = percentile(found.refused_MS, 99) if found.refused_MS else None
    return {
        "overload_offered": shown(len(load.outcomes) / load.seconds / per_second, "times the capacity", told),
        "overload_accepted_late": at_most(
            found.late, 0, "requests", f"of {len(found.accepted_MS) + found.late:,} accepted, after {DEADLINE_MS} ms"
        ),
        "overload_refusal_p99_ms": at_most(
            refused, _MOST_REFUSAL_MS, "ms", f"{len(found.refused_MS):,} answers of 429"
        ),
        "overload_other": at_most(found.other, 0, "requests", "neither 200, 429 nor 504"),
        "overload_hung": at_most(found.lost, 0, "requests", "no answer within 30 s"),
        "overload_memory_growth": at_most(after / before, _MOST_GROWTH, "ratio", f"{after / 2**20:.0f} MiB at the end"),
        "overload_answers_again_seconds": shown(hung, "s", "one request right after it"),
    }


def sort_out(load: Load) -> Overload:
    """Tell answers in time from late, lost and other ones. A 504 is an accepted request that missed its deadline."""
    accepted, refused, late, lost, other = [], [], 0, 0, 0
    for outcome in load.outcomes:
        milliseconds = outcome.seconds * 1e3
        if outcome.kind == "429":
            refused.append(milliseconds)
        elif outcome.kind == "200" and milliseconds <= DEADLINE_MS + _SLACK_MS:
            accepted.append(milliseconds)
        elif outcome.kind in ("200", "504"):
            late += 1
        elif outcome.kind == TIMED_OUT:
            lost += 1
        else:
            other += 1
    return Overload(sorted(accepted), sorted(refused), late, lost, other)


def _offer(served: Served, scope: Scope, rate: float, seconds: float, seed: int) -> Load:
    async def run() -> Load:
        loader = Loader(served.target, most_connections=4096)
        load = await loader.open(shots(served, scope, 700 + seed), rate, seconds, seed=seed)
        loader.close()
        return load

    return asyncio.run(run())


def _seconds_until_answered(served: Served) -> float:
    begun = time.perf_counter()
    served.must("POST", "/recommend", {"domain": "shop"})
    return time.perf_counter() - begun
