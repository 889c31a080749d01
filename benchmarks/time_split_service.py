"""The beginning of the same stream through a real service: ``POST /events``, and ``/recommend`` of a ``user_id``.

The service starts with the bundle and an empty database. What the users of the replay did before comes first, as its
past: events that the bundle counts are history alone. Then the stream goes on: an item that is new is registered, the
events come in their order, and before a target the service recommends once its memory has followed.
"""

import re
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.service_process import Served, serving
from benchmarks.time_split_data import Stream
from training.evaluation import PLACES
from training.progress import track

_ROWS = 500
_LOOK_SECONDS = 0.05
_LAG = re.compile(r"^sidera_event_memory_lag_seconds (\S+)$", re.MULTILINE)


class ServiceReplayError(Exception):
    """The service did not take an event, or its memory does not follow."""


def service_answers(
    bundle: Path, stream: Stream, counted: int, begin: int, asked: Sequence[int], home: Path
) -> list[list[str]]:
    """What the service recommends right before each target: item ids, best first.

    Args:
        counted: the place of the first event that the bundle does not count.
        begin: where the stream goes on; the bundle holds the items that had an event before.
        asked: the places of the targets, ascending, from ``begin`` on.
        home: a folder for the database.

    Raises:
        ServiceReplayError: an event is refused, or memory does not follow within a minute.
        ServiceProcessError: the service does not start, or fails.
    """
    end = asked[-1] if asked else begin
    name = stream.domain.name
    settings = {
        "bundle": bundle,
        "database": f"sqlite:///{home / 'service.db'}",
        "device": "cpu",
        "event_memory_seconds": _LOOK_SECONDS,
        "max_events": _ROWS,
    }
    # A user without an event from there on adds no transition and is asked for nothing.
    present = np.unique(stream.user_E[counted : end + 1])
    told: list[list[str]] = []
    with serving(settings) as served:
        before = np.flatnonzero(np.isin(stream.user_E[:begin], present))
        _post(served, stream, before.tolist(), "past")
        place = begin
        with track(f"{name}: through the service", len(asked)) as advance:
            for target in asked:
                new = np.flatnonzero((stream.first_I >= place) & (stream.first_I <= target)).tolist()
                if new:
                    rows = [{**stream.domain.fields[item], "item_id": stream.domain.item_ids[item]} for item in new]
                    served.must("POST", "/tokenize", {"domain": name, "items": rows, "register": True})
                _post(served, stream, range(place, target), None)
                _followed(served)
                place = target
                user = stream.users[stream.user_E[target]]
                answer = served.must("POST", "/recommend", {"domain": name, "user_id": user, "num_results": PLACES})
                told.append([item["item_id"] for item in answer["items"]])
                advance(1)
    return told


def _post(served: Served, stream: Stream, places: Sequence[int], label: str | None) -> None:
    """Send the events at these places, in this order.

    Raises:
        ServiceReplayError: one of them is refused.
    """
    for first in range(0, len(places), _ROWS):
        rows = [
            {
                "event_id": f"event-{place}",
                "user_id": stream.users[stream.user_E[place]],
                "domain": stream.domain.name,
                "item_id": stream.domain.item_ids[stream.item_E[place]],
                "timestamp": int(stream.time_E[place]),
            }
            for place in places[first : first + _ROWS]
        ]
        for result in served.must("POST", "/events", {"events": rows})["results"]:
            if result["outcome"] != "accepted":
                raise ServiceReplayError(f"the event {result['event_id']} of the {label or 'stream'}: {result}")


def _followed(served: Served) -> None:
    """Wait until memory has looked for new events twice: the second look began after all that was sent.

    Raises:
        ServiceReplayError: it does not within a minute.
    """
    begun = time.monotonic()
    seen: list[float] = []
    while len(seen) < 2:
        page = served.must("GET", "/metrics")
        found = _LAG.search(str(page))
        if found is None or time.monotonic() - begun > 60:
            raise ServiceReplayError("the memory of the service does not follow the events; look at its log")
        at = time.monotonic() - float(found.group(1))
        if at > begun and (not seen or at - seen[-1] > _LOOK_SECONDS / 2):
            seen.append(at)
        time.sleep(_LOOK_SECONDS / 5)
