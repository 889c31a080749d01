"""Changes a running service's catalog, and checks answers against what it acknowledged.

An item that is deleted or hidden may come back only in answers to requests that were sent before the change was
acknowledged. An item that is in no answer proves nothing, so the items to take away are those that came back last.
"""

import json
import random
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from benchmarks.service_process import Served
from benchmarks.service_subject import DOMAIN
from sidera_client.load import Shot
from sidera_client.wire import Reply


@dataclass(frozen=True, slots=True)
class TimedShot(Shot):
    """A request, and when it was made: right before it is sent."""

    made_at: float


@dataclass
class Watch:
    """What clients may see, kept by whoever changes the catalog. All methods may be called from any thread.

    Attributes:
        known: ids that the catalog holds or held.
        gone: ids that are deleted or hidden, and when that was acknowledged.
        wrong: what was in answers that must not be, by kind.
        recent: ids that came back last.
    """

    known: set[str]
    gone: dict[str, float] = field(default_factory=dict)
    wrong: Counter[str] = field(default_factory=Counter)
    recent: deque[str] = field(default_factory=lambda: deque(maxlen=200))
    answers: int = 0
    _lock: Lock = field(default_factory=Lock)

    def check(self, shot: Shot, reply: Reply) -> None:
        """Look at one answer of ``POST /recommend``."""
        assert isinstance(shot, TimedShot)
        if reply.status != 200:
            return
        answer = json.loads(reply.body)
        ids = [item["item_id"] for item in answer["items"]]
        scores = [item["score"] for item in answer["items"]]
        with self._lock:
            self.answers += 1
            self.recent.extend(ids)
            self.wrong["unknown item"] += sum(item_id not in self.known for item_id in ids)
            self.wrong["stale item"] += sum(self.gone.get(item_id, shot.made_at) < shot.made_at for item_id in ids)
            self.wrong["item twice"] += len(ids) - len(set(ids))
            self.wrong["wrong order"] += int(scores != sorted(scores, reverse=True))

    def takes_in(self, item_id: str) -> None:
        """Called before an item is registered or shown."""
        with self._lock:
            self.known.add(item_id)
            self.gone.pop(item_id, None)

    def took_away(self, item_id: str) -> None:
        """Called after an item's deletion or hiding was acknowledged."""
        with self._lock:
            self.gone[item_id] = time.perf_counter()

    def pick_recent(self, draw: random.Random) -> str | None:
        """An item that came back lately and is still there."""
        with self._lock:
            there = [item_id for item_id in self.recent if item_id not in self.gone]
        return draw.choice(there) if there else None


@dataclass
class Changer:
    """Makes one change after another; each has to be acknowledged."""

    served: Served
    watch: Watch
    seed: int = 0
    made: Counter[str] = field(default_factory=Counter)
    _hidden: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._draw = random.Random(self.seed)

    def change(self) -> None:
        """One change: a third new items, the rest shared by new text, hiding, showing and deleting.

        Raises:
            ServiceProcessError: the service refuses it.
        """
        kind = self._draw.choice(("register", "register", "text", "hide", "show", "delete"))
        item_id = self.watch.pick_recent(self._draw)
        if kind == "show" and self._hidden:
            self.show(self._hidden.pop())
        elif item_id is None or kind in ("register", "show"):
            self.register([f"new-{self.seed}-{self.made['register']}"])
        elif kind == "text":
            self._ask("text", "PATCH", item_id, {"fields": {"title": f"Another title {self._draw.random():.6f}"}})
        elif kind == "hide":
            self._ask("hide", "PATCH", item_id, {"hidden": True})
            self.watch.took_away(item_id)
            self._hidden.append(item_id)
        else:
            self._ask("delete", "DELETE", item_id, None)
            self.watch.took_away(item_id)

    def register(self, item_ids: Sequence[str]) -> Any:
        """New items; returns the answer's entries."""
        for item_id in item_ids:
            self.watch.takes_in(item_id)
        items = [{"item_id": item_id, "title": f"Something new called {item_id}"} for item_id in item_ids]
        body = {"domain": DOMAIN, "items": items, "register": True}
        answer = self.served.must("POST", "/tokenize", body)
        self.made["register"] += len(item_ids)
        return answer["items"]

    def show(self, item_id: str) -> None:
        """Bring a hidden item back."""
        self.watch.takes_in(item_id)
        self._ask("show", "PATCH", item_id, {"hidden": False})

    def _ask(self, kind: str, method: str, item_id: str, body: object) -> None:
        self.served.must(method, f"/items/{DOMAIN}/{item_id}", body)
        self.made[kind] += 1


def timed(shots: Iterator[Shot]) -> Iterator[Shot]:
    """The same requests, each with the time at which it is asked for."""
    for shot in shots:
        yield TimedShot(shot.request, time.perf_counter())
