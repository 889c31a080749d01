"""Bundle swaps, rollbacks and catalog changes under load: nothing fails, nothing stale comes back, nothing leaks."""

import asyncio
import shutil
from collections import Counter
from pathlib import Path

from benchmarks.harness import Figure, at_most, shown
from benchmarks.processes import Client
from benchmarks.service_catalog import Changer, Watch, timed
from benchmarks.service_latency import shots
from benchmarks.service_process import Served, serving
from benchmarks.service_scope import Scope
from benchmarks.service_subject import Bundles, bodies, item_ids
from sidera_client.load import Load, Loader
from training.progress import track

_CLIENTS = 4
_MOST_GROWTH = 1.05
_ROLLBACK_EVERY = 5


def measure_changes(bundles: Bundles, scope: Scope) -> dict[str, Figure]:
    """``scope.swaps`` swaps, every fifth a rollback, with ``scope.changes`` changes between them, under load.

    Memory counts from when every bundle has served once, since a process keeps some of what a first load took. Before
    and after, it is read in the same state: see :func:`_resident_bytes`.
    """
    names = fill_store(bundles, scope.home / "store")
    settings = {"bundle_store": scope.home / "store", "database": scope.fresh_database()}
    watch = Watch(set(item_ids(scope.size)))
    with serving(settings) as served:
        for name in names:
            _activate(served, name)
        _answer(served, scope)
        before = _resident_bytes(served, scope, names)
        load, changer = asyncio.run(_run(served, scope, watch, names))
        after = _resident_bytes(served, scope, names)
    failed = Counter(outcome.kind for outcome in load.outcomes if outcome.kind != "200")
    note = f"{scope.swaps} swaps and {sum(changer.made.values())} changes; {len(load.outcomes):,} requests"
    wrong = {kind: count for kind, count in watch.wrong.items() if count}
    return {
        "changes_failed_requests": at_most(failed.total(), 0, "requests", f"{note}; {dict(failed) or 'none failed'}"),
        "changes_wrong_items": at_most(
            sum(wrong.values()), 0, "items", f"{watch.answers:,} answers looked at; {wrong or 'none stale or invalid'}"
        ),
        "changes_memory_growth": at_most(
            after / before, _MOST_GROWTH, "ratio", f"{before / 2**20:.0f} MiB, then {after / 2**20:.0f} MiB"
        ),
        "changes_requests_per_second": shown(len(load.outcomes) / load.seconds, "1/s", f"{_CLIENTS} clients meanwhile"),
    }


def fill_store(bundles: Bundles, store: Path) -> list[str]:
    """Copy the bundles into a new bundle store; returns the names of their folders."""
    shutil.rmtree(store, ignore_errors=True)
    for bundle in bundles:
        shutil.copytree(bundle, store / bundle.parent.name)
    return [bundle.parent.name for bundle in bundles]


def _resident_bytes(served: Served, scope: Scope, names: list[str]) -> int:
    """What the process takes once the first bundle was swapped in and has answered ``scope.calls`` requests.

    They are the same ones each time: what is kept of histories, and what a swap gives back to the system, would
    otherwise count as growth, or hide it.
    """
    _activate(served, names[1])
    _activate(served, names[0])
    _answer(served, scope)
    return served.resident_bytes()


def _answer(served: Served, scope: Scope) -> None:
    """Send ``scope.calls`` requests one after another, the same ones at each call."""
    client = Client(served.port)
    for body in bodies(scope.size, scope.calls, seed=901):
        client.post("/recommend", body)
    client.close()


async def _run(served: Served, scope: Scope, watch: Watch, names: list[str]) -> tuple[Load, Changer]:
    stopped = asyncio.Event()
    loader = Loader(served.target, on_reply=watch.check)

    async def load() -> Load:
        """Loads until the changes are made, in slices."""
        asked, slices = timed(shots(served, scope, seed=900)), []
        while not stopped.is_set():
            slices.append(await loader.closed(asked, _CLIENTS, 1.0))
        loader.close()
        return Load(
            [outcome for part in slices for outcome in part.outcomes],
            sum(part.seconds for part in slices),
            sum(part.cpu_seconds for part in slices),
        )

    loading = asyncio.create_task(load())
    changer = Changer(served, watch)
    try:
        await asyncio.to_thread(_change_all, served, scope, changer, names)
    finally:
        stopped.set()
        done = await loading
    return done, changer


def _change_all(served: Served, scope: Scope, changer: Changer, names: list[str]) -> None:
    made = 0
    with track("swaps under load", scope.swaps) as advance:
        for number in range(1, scope.swaps + 1):
            if number % _ROLLBACK_EVERY == 0:
                served.swap("/admin/bundles/rollback")
            else:
                _activate(served, names[number % len(names)])
            due = scope.changes * number // scope.swaps
            while made < due:
                changer.change()
                made += 1
            advance()


def _activate(served: Served, name: str) -> None:
    served.swap("/admin/bundles/activate", {"version": name})
