"""Events and recommendations together: how many events a second are committed, and what they cost the tail.

One process on SQLite, then one on PostgreSQL. Each run of recommendations at half the capacity is followed by the same
one with events beside it, which come in batches at random times. The ratio of the two is that of a pair, so a machine
that slows down slows both; a whole run with events goes before the first pair, as new tables and users cost more.
Users and items of events are drawn at random, and all of them are newer than the bundle: every event is learnt from
meanwhile.
"""

import asyncio
import itertools
import json
import random
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

from benchmarks.harness import Figure, at_least, at_most, shown
from benchmarks.service_latency import CLIENTS, shots
from benchmarks.service_process import Served, serving
from benchmarks.service_replicas import postgres
from benchmarks.service_scope import Scope
from benchmarks.service_subject import DOMAIN, Bundles, item_ids
from sidera_client.load import Load, Loader, Shot
from sidera_client.load_report import percentile, report_of
from sidera_client.wire import Reply
from training.progress import track

ROWS = 100
_LEAST_PER_SECOND = 2000.0
_OFFERED_PER_SECOND = 2400.0
_MOST_TAIL = 1.2
_HALF = 0.5
_USERS = 5000


@dataclass
class Sent:
    """What became of events, by outcome, and of requests that were not answered."""

    outcomes: Counter[str] = field(default_factory=Counter)
    unanswered: int = 0

    def read(self, shot: Shot, reply: Reply) -> None:
        """Take an answer in."""
        if reply.status != 200:
            self.unanswered += 1
            return
        self.outcomes.update(result["outcome"] for result in json.loads(reply.body)["results"])


def measure_events(bundles: Bundles, scope: Scope) -> dict[str, Figure]:
    """Both databases."""
    figures: dict[str, Figure] = {}
    for name in ("sqlite", "postgresql"):
        with ExitStack() as stack:
            database = scope.fresh_database() if name == "sqlite" else stack.enter_context(postgres())
            settings = {"bundle": bundles.first, "database": database, "history_cache_bytes": 0, "threads": 1}
            figures |= _measured(stack.enter_context(serving(settings)), scope, name)
    return figures


def _measured(served: Served, scope: Scope, name: str) -> dict[str, Figure]:
    alone, beside, per_second = [], [], []
    sent = Sent()
    pairs = 2 * scope.repeats - 1  # a p99 varies more than a median
    with track(f"events into {name}", pairs) as advance:
        capacity = report_of(asyncio.run(_closed(served, scope))).succeeded_per_second
        asyncio.run(_both(served, scope, capacity * _HALF, sent, seed=99, seconds=scope.seconds))
        for repeat in range(pairs):
            before = sent.outcomes["accepted"]
            alone.append(_p99(asyncio.run(_recommended(served, scope, capacity * _HALF, repeat, scope.seconds))))
            load = asyncio.run(_both(served, scope, capacity * _HALF, sent, seed=repeat, seconds=scope.seconds))
            beside.append(_p99(load))
            per_second.append((sent.outcomes["accepted"] - before) / scope.seconds)
            advance()
    ratios = [high / low for low, high in zip(alone, beside, strict=True)]
    told = f"offered {_OFFERED_PER_SECOND:.0f} in batches of {ROWS}, beside {capacity * _HALF:.1f} answers a second"
    tail = f"p99 {statistics.median(beside):.0f} ms with events, {statistics.median(alone):.0f} ms without"
    return {
        f"events_per_second_{name}": at_least(statistics.median(per_second), _LEAST_PER_SECOND, "1/s", told),
        f"events_p99_ratio_{name}": at_most(statistics.median(ratios), _MOST_TAIL, "ratio", tail),
        f"events_not_accepted_{name}": at_most(
            sent.outcomes.total() - sent.outcomes["accepted"] + sent.unanswered, 0, "events", str(dict(sent.outcomes))
        ),
        f"events_learnt_{name}": shown(_learnt(served), "transitions", f"{_lag(served):.1f} s behind at the end"),
    }


async def _closed(served: Served, scope: Scope) -> Load:
    loader = Loader(served.target)
    await loader.closed(shots(served, scope, seed=98), CLIENTS, min(3.0, scope.seconds))
    load = await loader.closed(shots(served, scope, seed=97), CLIENTS, min(10.0, scope.seconds))
    loader.close()
    return load


async def _recommended(served: Served, scope: Scope, rate: float, seed: int, seconds: float) -> Load:
    loader = Loader(served.target)
    load = await loader.open(shots(served, scope, 300 + seed), rate, seconds, seed=seed)
    loader.close()
    return load


async def _both(served: Served, scope: Scope, rate: float, sent: Sent, *, seed: int, seconds: float) -> Load:
    """Recommendations while events come; returns what came of the former."""
    sender = Loader(served.target, on_reply=sent.read)
    batches = _batches(served, scope, seed)
    load, _ = await asyncio.gather(
        _recommended(served, scope, rate, seed, seconds),
        sender.open(batches, _OFFERED_PER_SECOND / ROWS, seconds, seed=seed),
    )
    sender.close()
    return load


def _batches(served: Served, scope: Scope, seed: int) -> Iterator[Shot]:
    ids, draw = item_ids(scope.size), random.Random(seed)
    for batch in itertools.count():
        now = time.time()
        events = [
            {
                "event_id": f"{seed}-{batch}-{row}",
                "user_id": f"visitor-{draw.randrange(_USERS)}",
                "domain": DOMAIN,
                "item_id": draw.choice(ids),
                "timestamp": now,
            }
            for row in range(ROWS)
        ]
        yield Shot(served.target.request("POST", "/events", json.dumps({"events": events}).encode()))


def _p99(load: Load) -> float:
    return percentile(sorted(outcome.seconds * 1e3 for outcome in load.outcomes), 99)


def _learnt(served: Served) -> float:
    return _metric(served, "sidera_event_memory_transitions")


def _lag(served: Served) -> float:
    return _metric(served, "sidera_event_memory_lag_seconds")


def _metric(served: Served, name: str) -> float:
    lines = str(served.must("GET", "/metrics")).splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} "))
