"""Follows what other processes change in the database: asks for its version twice a second."""

import threading
from typing import Protocol

from structlog.typing import FilteringBoundLogger

from service.errors import ConflictError, StoreError

_SLOWEST_SECONDS = 2.0
"""The longest wait between two attempts while the database does not answer."""


class Followed(Protocol):
    """What is kept up to date."""

    def refresh(self) -> bool:
        """Take over what others changed."""


class CatalogFollower:
    """Keeps a live catalog up to date in a thread of its own, from :meth:`start` to :meth:`stop`.

    While the database does not answer, it asks less and less often, and says so once.
    """

    def __init__(
        self, catalog: Followed, log: FilteringBoundLogger, seconds: float = 0.5, what: str = "the catalog"
    ) -> None:
        """``seconds`` lie between two questions; the log calls what follows ``what``."""
        self._catalog = catalog
        self._what = what
        self._log = log
        self._seconds = seconds
        self._stopping = threading.Event()
        self._failures = 0
        self._thread = threading.Thread(target=self._run, name=f"follower of {what}", daemon=True)

    @property
    def is_stopping(self) -> bool:
        """Whether it is to end."""
        return self._stopping.is_set()

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def stop(self, seconds: float = 10.0) -> bool:
        """End the thread; a change that it is taking over is finished first. False if that takes longer than this."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        wait_seconds = 0.0  # what changed before it began to follow is looked for at once
        while not self._stopping.wait(wait_seconds):
            try:
                self._catalog.refresh()
            except (StoreError, ConflictError) as error:
                self._failed(error)
            except Exception as error:
                self._failed(error, exc_info=error)
            else:
                if self._failures:
                    self._log.info(f"{self._what} follows the database again")
                self._failures = 0
            wait_seconds = self._wait_seconds()

    def _wait_seconds(self) -> float:
        return min(self._seconds * 2.0 ** min(self._failures, 10), max(self._seconds, _SLOWEST_SECONDS))

    def _failed(self, error: Exception, **about: object) -> None:
        self._failures += 1
        if self._failures == 1:
            self._log.error(
                f"{self._what} does not follow the database; it is served as it is", reason=str(error), **about
            )
