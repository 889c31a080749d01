"""Progress of training, shown as that of everything else, by the first of several processes."""

from collections.abc import Iterator
from contextlib import contextmanager

import sidera.progress
from sidera.progress import Advance
from training.processes import is_first

__all__ = ["Advance", "track"]


@contextmanager
def track(description: str, total: int, begin: int = 0) -> Iterator[Advance]:
    """``sidera.progress.track`` in the first process; silence in the others."""
    if not is_first():
        yield lambda n=1, note="": None
        return
    with sidera.progress.track(description, total, begin) as advance:
        yield advance
