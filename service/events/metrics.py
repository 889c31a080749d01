"""What Prometheus reads of events: no id of a user, an item or an event is ever a label."""

import time
from collections.abc import Iterator
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

OUTCOMES = ("accepted", "duplicate", "rejected")


class Counted(Protocol):
    """What memory says of itself."""

    @property
    def users(self) -> int: ...

    @property
    def entries(self) -> int: ...

    @property
    def bytes(self) -> int: ...


class EventMetrics:
    """Those of one service."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._events = Counter("sidera_events", "Rows of /events, by outcome.", ["outcome"], registry=registry)
        self._unknown = Counter(
            "sidera_events_unknown_item", "Rows of /events that the catalog holds no item of.", registry=registry
        )
        self._deleted = Counter("sidera_deleted_users", "Users that were deleted here.", registry=registry)
        self._memory = _MemoryCollector()
        registry.register(self._memory)
        for outcome in OUTCOMES:
            self._events.labels(outcome)

    def rows(self, outcome: str, count: int) -> None:
        """So many rows were answered: ``accepted``, ``duplicate`` or ``rejected``."""
        self._events.labels(outcome).inc(count)

    def unknown(self, count: int) -> None:
        """So many of them were of items that the catalog does not hold."""
        self._unknown.inc(count)

    def user_deleted(self) -> None:
        """A user was deleted."""
        self._deleted.inc()

    def memory_serves(self, memory: Counted | None) -> None:
        """A bundle serves with this memory; None: it counts no events."""
        self._memory.memory, self._memory.followed_at = memory, None

    def memory_followed(self) -> None:
        """Memory has seen all that was stored a moment ago."""
        self._memory.followed_at = time.monotonic()


class _MemoryCollector(Collector):
    """How far memory is behind the database, and how large it is; nothing where the bundle counts no events."""

    def __init__(self) -> None:
        self.memory: Counted | None = None
        self.followed_at: float | None = None

    def collect(self) -> Iterator[Metric]:
        memory, name = self.memory, "sidera_event_memory"
        lag = None if self.followed_at is None else time.monotonic() - self.followed_at
        yield GaugeMetricFamily(f"{name}_lag_seconds", "Since memory had all stored events.", lag)
        users, entries, size = (None,) * 3 if memory is None else (memory.users, memory.entries, memory.bytes)
        yield GaugeMetricFamily(f"{name}_users", "Users whose events are counted.", users)
        yield GaugeMetricFamily(f"{name}_transitions", "Transitions that events counted.", entries)
        yield GaugeMetricFamily(f"{name}_bytes", "What counts and users take.", size)
