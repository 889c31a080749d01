"""How much the service benchmark measures: all of it, or every part with tiny counts."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.service_subject import Size


@dataclass(frozen=True)
class Scope:
    """Counts and times, in seconds where nothing else is said.

    Attributes:
        home: the work folder.
        repeats: runs of which the median counts.
        calls: of one client.
        seconds: of each load.
        overload_seconds: of ten times the capacity.
        swaps: of bundles under load, of which every fifth is a rollback.
        changes: of the catalog under load.
        mixed_seconds: with clients that disconnect, are slow, or send nonsense.
        kills: ``kill -9`` during writes.
        replica_seconds: of the load under which a replica is killed.
    """

    home: Path
    size: Size
    repeats: int = 3
    calls: int = 300
    seconds: float = 20.0
    offline_batches: int = 8
    overload_seconds: float = 60.0
    swaps: int = 50
    changes: int = 1000
    mixed_seconds: float = 1800.0
    kills: int = 200
    replica_seconds: float = 30.0
    cores: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))

    @classmethod
    def of(cls, home: Path, quick: bool) -> "Scope":
        """All of it, or tiny counts."""
        size = Size.of(quick)
        return cls(home, size, **_QUICK) if quick else cls(home, size)

    def lasting(self, mixed_seconds: float) -> "Scope":
        """The same with another length of the mixed load."""
        return replace(self, mixed_seconds=mixed_seconds)

    def fresh_database(self) -> Path:
        """A file of SQLite that is not there."""
        path = self.home / "items.db"
        for left in self.home.glob("items.db*"):
            left.unlink()
        return path


_QUICK: Mapping[str, Any] = {
    "repeats": 1,
    "calls": 30,
    "seconds": 2.0,
    "offline_batches": 2,
    "overload_seconds": 3.0,
    "swaps": 3,
    "changes": 20,
    "mixed_seconds": 5.0,
    "kills": 2,
    "replica_seconds": 5.0,
}
