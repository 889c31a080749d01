"""What HTTP adds to a recommendation, and how much of the engine's own throughput the service passes on.

Engine and service alternate in one run, so that a machine that slows down slows both. Queries are distinct, and the
history cache is off on both sides: what is measured is the way to the engine and its batching, not what it remembers.
"""

import asyncio
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from benchmarks.harness import Figure, at_least, at_most, shown
from benchmarks.processes import Client
from benchmarks.service_process import Served, serving
from benchmarks.service_scope import Scope
from benchmarks.service_subject import body_of, queries
from sidera.loading import load_bundle
from sidera.recommender import Query, Recommender
from sidera_client.load import Load, Loader, Shot
from sidera_client.load_report import percentile, report_of
from training.progress import track

CLIENTS = 32
_MOST_MS = 3.0
_LEAST_SHARE = 0.8
_MOST_TAIL = 3.0
_OPEN_SHARE = 0.7
_WARM_UP = 20


@dataclass(frozen=True)
class Capacity:
    """What a service answers a second at 32 clients, and what was left of the machine for it."""

    per_second: float
    client_cores: float


def measure_http_overhead(bundle: Path, scope: Scope) -> dict[str, Figure]:
    """The p50 of one client over HTTP minus the p50 in the engine, on the same queries, one after the other."""
    recommender = load_bundle(bundle, "cpu").recommender
    differences, inside, outside = [], [], []
    with serving(_settings(bundle, scope)) as served, track("one client", scope.repeats) as advance:
        client = Client(served.port)
        for repeat in range(scope.repeats):
            asked = queries(scope.size, scope.calls + _WARM_UP, seed=repeat)
            engine_S, http_S = _alternately(recommender, client, asked)
            inside.append(statistics.median(engine_S) * 1e3)
            outside.append(statistics.median(http_S) * 1e3)
            differences.append(outside[-1] - inside[-1])
            advance()
        client.close()
    outer, inner = statistics.median(outside), statistics.median(inside)
    note = f"{outer:.2f} ms against {inner:.2f} ms in the engine; {scope.calls} calls"
    return {"http_minus_engine_p50_ms": at_most(statistics.median(differences), _MOST_MS, "ms", note)}


def measure_throughput(bundle: Path, scope: Scope) -> tuple[dict[str, Figure], Capacity]:
    """Throughput at 32 clients against batches of 32 in this process, and the tail under random arrivals at 70 % of it.

    The client takes processor time that the service then does not have; what it took is taken off the engine's side:
    reached is measured / (offline * (cores - client) / cores) where both sides may use all cores.
    """
    recommender = load_bundle(bundle, "cpu").recommender
    shares, tails, served_PS, offline_PS, clients_C = [], [], [], [], []
    with serving(_settings(bundle, scope)) as served, track(f"{CLIENTS} clients", scope.repeats) as advance:
        _closed(served, scope, 3.0, seed=99)
        for repeat in range(scope.repeats):
            offline = _offline_per_second(recommender, scope, repeat)
            load = _closed(served, scope, scope.seconds, seed=repeat)
            report = report_of(load)
            left = 1.0 - min(0.9, load.client_cores / scope.cores)
            shares.append(report.succeeded_per_second / (offline * left))
            served_PS.append(report.succeeded_per_second)
            offline_PS.append(offline)
            clients_C.append(load.client_cores)
            tails.append(_tail(served, scope, report.succeeded_per_second * _OPEN_SHARE, repeat))
            advance()
    capacity = Capacity(statistics.median(served_PS), statistics.median(clients_C))
    note = (
        f"{capacity.per_second:.1f} a second, {statistics.median(offline_PS):.1f} offline in batches of {CLIENTS}; "
        f"the client took {capacity.client_cores:.2f} of {scope.cores} cores"
    )
    p50, p99 = (statistics.median(times) for times in zip(*tails, strict=True))
    ratios = [high / low for low, high in tails]
    return {
        "throughput_share": at_least(statistics.median(shares), _LEAST_SHARE, "ratio", note),
        "throughput_per_second": shown(capacity.per_second, "1/s", f"{CLIENTS} clients"),
        "p99_over_p50_at_70_percent": at_most(
            statistics.median(ratios), _MOST_TAIL, "ratio", f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, Poisson arrivals"
        ),
    }, capacity


def _settings(bundle: Path, scope: Scope) -> dict[str, object]:
    return {"bundle": bundle, "database": scope.fresh_database(), "history_cache_bytes": 0, "threads": 1}


def _alternately(recommender: Recommender, client: Client, asked: Sequence[Query]) -> tuple[list[float], list[float]]:
    """Seconds of each query in the engine and over HTTP, the warm-up left out."""
    engine_S, http_S = [], []
    for query in asked:
        body = body_of(query)
        begun = time.perf_counter()
        recommender.recommend([query])
        middle = time.perf_counter()
        client.post("/recommend", body)
        engine_S.append(middle - begun)
        http_S.append(time.perf_counter() - middle)
    return engine_S[_WARM_UP:], http_S[_WARM_UP:]


def _offline_per_second(recommender: Recommender, scope: Scope, seed: int) -> float:
    """Queries a second in batches of 32, with nothing around them."""
    asked = iter(queries(scope.size, scope.offline_batches * CLIENTS + CLIENTS, seed=1000 + seed))
    recommender.recommend(list(islice(asked, CLIENTS)))
    begun = time.perf_counter()
    for _ in range(scope.offline_batches):
        recommender.recommend(list(islice(asked, CLIENTS)))
    return scope.offline_batches * CLIENTS / (time.perf_counter() - begun)


def _closed(served: Served, scope: Scope, seconds: float, seed: int) -> Load:
    loader = Loader(served.target)
    return asyncio.run(_then_close(loader, shots(served, scope, seed), seconds))


async def _then_close(loader: Loader, asked: Iterator[Shot], seconds: float) -> Load:
    load = await loader.closed(asked, CLIENTS, seconds)
    loader.close()
    return load


def _tail(served: Served, scope: Scope, rate: float, seed: int) -> tuple[float, float]:
    """The p50 and p99 in milliseconds of random arrivals at a rate; what fails counts as late."""

    async def run() -> Load:
        loader = Loader(served.target)
        load = await loader.open(shots(served, scope, 500 + seed), rate, scope.seconds, seed=seed)
        loader.close()
        return load

    ordered = sorted(outcome.seconds * 1e3 for outcome in asyncio.run(run()).outcomes)
    return percentile(ordered, 50), percentile(ordered, 99)


def shots(served: Served, scope: Scope, seed: int) -> Iterator[Shot]:
    """Requests without end; every one of the first few thousand is another one."""
    number = seed * 1000
    while True:
        for query in queries(scope.size, 200, seed=number):
            yield Shot(served.target.request("POST", "/recommend", body_of(query)))
        number += 1
