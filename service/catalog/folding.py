"""Folds what was changed into plain tries, in a thread of its own beside what serves, once it is much or when asked to.

Nothing waits for a fold: requests are answered from the snapshot in use, changes go on and are carried over, and the
result takes its place between two batches. A fold that fails changes nothing, and is tried again a minute later.
"""

import threading
import time
from dataclasses import dataclass, replace
from typing import Protocol

from structlog.typing import FilteringBoundLogger

from service.errors import ServiceError
from service.metrics import Metrics
from sidera.errors import SideraError

_LOOK_SECONDS = 1.0
_RETRY_SECONDS = 60.0


class Foldable(Protocol):
    """What is folded; see :class:`service.catalog.live.LiveCatalog`."""

    @property
    def overlay(self) -> int:
        """How many leaves were added and removed since the last fold."""

    def fold(self, check: "Check") -> None:
        """Fold them."""


class Check(Protocol):
    """Asked every few milliseconds of a fold."""

    def __call__(self) -> None:
        """Raise to end the fold."""


@dataclass(frozen=True)
class FoldState:
    """What became of the last fold, and whether one runs. Times are seconds since 1970.

    Attributes:
        since: when the fold began that runs; None while none does.
        folded_at: when the last good one was done; None: none was.
        seconds: what it took.
        problem: why the last one failed; None if it did not.
    """

    since: float | None = None
    folded_at: float | None = None
    seconds: float | None = None
    problem: str | None = None


class _StoppedError(Exception):
    """The service or the bundle ends; no failure."""


class CatalogFolding:
    """Folds one live catalog, from :meth:`start` to :meth:`stop`. All methods may be called from any thread."""

    def __init__(self, catalog: Foldable, metrics: Metrics, log: FilteringBoundLogger, most: int) -> None:
        """``most`` is how many leaves may be added and removed before they are folded; 0: any number, until asked."""
        self._catalog = catalog
        self._metrics = metrics
        self._log = log
        self._most = most
        self._wake = threading.Event()
        self._asked = threading.Event()
        self._stopping = threading.Event()
        self._retry_at = 0.0
        self._thread = threading.Thread(target=self._run, name="catalog-folding", daemon=True)
        self.state = FoldState()

    def start(self) -> None:
        """Begin to look after the catalog."""
        self._thread.start()

    def ask(self) -> bool:
        """Fold as soon as possible; False if there is nothing to fold."""
        if not self._catalog.overlay:
            return False
        self._asked.set()
        self._wake.set()
        return True

    def stop(self, seconds: float = 10.0) -> bool:
        """End the thread and the fold that runs; False if that takes longer than this."""
        self._stopping.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.wait(_LOOK_SECONDS)
            self._wake.clear()
            asked = self._asked.is_set()
            self._asked.clear()
            if asked or self._is_due():
                self._fold()

    def _is_due(self) -> bool:
        much = 0 < self._most < self._catalog.overlay
        return much and time.monotonic() >= self._retry_at and not self._stopping.is_set()

    def _fold(self) -> None:
        overlay = self._catalog.overlay
        self.state = replace(self.state, since=time.time())
        begun = time.monotonic()
        try:
            self._catalog.fold(self._check)
        except _StoppedError:
            return
        except (ServiceError, SideraError) as error:
            self._failed(str(error))
        except Exception as error:
            self._failed(f"{type(error).__name__}: {error}", exc_info=error)
        else:
            seconds = time.monotonic() - begun
            self.state = FoldState(folded_at=time.time(), seconds=seconds)
            self._metrics.catalog_folded("folded", seconds)
            self._log.info("the catalog was folded", changes=overlay, seconds=round(seconds, 3))

    def _failed(self, reason: str, **about: object) -> None:
        self._retry_at = time.monotonic() + _RETRY_SECONDS
        self.state = replace(self.state, since=None, problem=reason)
        self._metrics.catalog_folded("failed", None)
        self._log.error("the catalog could not be folded; it is served as it is", reason=reason, **about)

    def _check(self) -> None:
        if self._stopping.is_set():
            raise _StoppedError
        time.sleep(0)  # others go first
