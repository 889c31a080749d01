"""``kill -9`` in the middle of catalog writes: whatever was acknowledged is there after the restart."""

import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks.harness import Figure, at_least, at_most
from benchmarks.processes import ServiceProcessError
from benchmarks.service_process import Served, start, wait_until_ready
from benchmarks.service_scope import Scope
from benchmarks.service_subject import DOMAIN, Bundles
from training.progress import track

_LONGEST_SECONDS = 0.6
"""Between the first write after a start and the kill; the moment is drawn at random."""
_LOOKED_AT = 200
_AT_ONCE = 2


@dataclass
class Acknowledged:
    """What the service said that it did.

    Attributes:
        sids: of items that were registered and not deleted since.
        deleted: items whose deletion was acknowledged.
    """

    sids: dict[str, tuple[int, ...]] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)


def measure_kills(bundles: Bundles, scope: Scope) -> dict[str, Figure]:
    """Start, write, kill; start again and look for what was acknowledged; ``scope.kills`` times on one database."""
    settings = {"bundle": bundles.first, "database": scope.fresh_database()}
    done, lost, not_opened, number = Acknowledged(), set[str](), 0, 0
    draw = random.Random(0)
    with track("kill -9 during writes", scope.kills) as advance:
        for _ in range(scope.kills):
            served = start(settings, scope.home / "kills.log")
            try:
                wait_until_ready(served)
            except ServiceProcessError:
                not_opened += 1
                continue
            lost |= _lost(served, done, draw)
            number = _write_until_killed(served, done, number, draw)
            advance()
    served = start(settings, scope.home / "kills.log")
    wait_until_ready(served)
    try:
        lost |= _lost(served, done, draw, most=len(done.sids) + len(done.deleted))
    finally:
        served.kill()
    note = f"{len(done.sids):,} registered, {len(done.deleted):,} deleted, {scope.kills} kills"
    return {
        "kills_lost_changes": at_most(len(lost), 0, "items", note),
        "kills_database_not_opened": at_most(not_opened, 0, "starts", f"of {scope.kills}"),
        "kills_acknowledged_changes": at_least(
            len(done.sids) + 2 * len(done.deleted), scope.kills, "changes", "before the kills"
        ),
    }


def _write_until_killed(served: Served, done: Acknowledged, number: int, draw: random.Random) -> int:
    """Writes one request after another until the process is gone; returns the next free number."""
    killer = threading.Timer(draw.uniform(0.0, _LONGEST_SECONDS), served.kill)
    try:
        while True:
            ids = [f"kept-{number + place}" for place in range(_AT_ONCE)]
            number += _AT_ONCE
            items = [{"item_id": item_id, "title": f"Something called {item_id}"} for item_id in ids]
            body = {"domain": DOMAIN, "items": items, "register": True}
            answer = served.must("POST", "/tokenize", body)
            done.sids |= {row["item_id"]: tuple(row["sid"]) for row in answer["items"] if row["registered"]}
            if killer.ident is None:
                killer.start()  # after the first one, which takes longest
            if number % 6 == 0:
                done.sids.pop(ids[0], None)  # what is asked for and not acknowledged may have happened or not
                served.must("DELETE", f"/items/{DOMAIN}/{ids[0]}")
                done.deleted.add(ids[0])
    except OSError:
        pass  # the process was killed, in the middle of a request or between two
    killer.join()
    time.sleep(0.01)
    return number


def _lost(served: Served, done: Acknowledged, draw: random.Random, most: int = _LOOKED_AT) -> set[str]:
    """Acknowledged items that are not there, have another SID, or are there although they were deleted."""
    kept = draw.sample(sorted(done.sids), min(most, len(done.sids)))
    deleted = draw.sample(sorted(done.deleted), min(most, len(done.deleted)))
    found = _look(served, [*kept, *deleted])
    lost = {item_id for item_id in kept if found[item_id] != done.sids[item_id]}
    return lost | {item_id for item_id in deleted if found[item_id] is not None}


def _look(served: Served, item_ids: list[str]) -> Mapping[str, tuple[int, ...] | None]:
    """The SIDs of items that are in the catalog; None for one that is not."""
    found: dict[str, tuple[int, ...] | None] = {}
    for begin in range(0, len(item_ids), 100):
        asked = item_ids[begin : begin + 100]
        items = [{"item_id": item_id, "title": f"Something called {item_id}"} for item_id in asked]
        answer = served.must("POST", "/tokenize", {"domain": DOMAIN, "items": items})
        found |= {row["item_id"]: tuple(row["sid"]) if row["registered"] else None for row in answer["items"]}
    return found
