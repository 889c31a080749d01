"""Loads the first bundle, and swaps others in while requests are answered: one at a time, in a thread of its own.

A bundle is verified, loaded, given the live items and warmed beside the one that serves, then takes its place by one
reference. The old one is freed once the last request that began with it is answered. Whatever fails before the swap
leaves the old one where it is.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from structlog.typing import FilteringBoundLogger

from service.bundles.current import Current
from service.bundles.folder import StoredBundle
from service.bundles.generation import Generation
from service.bundles.swapping import Swapper
from service.bundles.versions import Failure, Versions
from service.catalog.rows import CatalogStore
from service.errors import NotReadyError, ServiceError, SwapInProgressError, VersionNotFoundError
from service.metrics import Metrics
from service.model import Model
from service.settings import Settings
from sidera.errors import SideraError

_FOLLOW_SECONDS = 2.0
"""How often a replica looks which version the others were told to serve."""

Reason = Literal["start", "admin", "rollback", "watch", "follow"]


@dataclass(frozen=True)
class Progress:
    """A swap that runs; ``since`` is when it began, in seconds since 1970."""

    version: str
    reason: Reason
    step: str = "waiting"
    since: float = field(default_factory=time.time)


@dataclass(frozen=True)
class Overview:
    """What an operator sees. ``previous`` is what a rollback goes to."""

    serving: Generation | None
    swap: Progress | None
    previous: str | None
    versions: tuple[StoredBundle, ...]
    failures: dict[str, Failure]


class Lifecycle:
    """Which bundle serves, from the first one to the last. All public methods may be called from any thread."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        log: FilteringBoundLogger,
        load: Callable[[Settings], Model],
        open_store: Callable[[Settings], CatalogStore],
        current: Current,
        on_outcome: Callable[[str | None], None],
        settle: Callable[[], object],
    ) -> None:
        """``settle`` collects garbage once a generation was let go."""
        self._settings = settings
        self._metrics = metrics
        self._log = log
        self._open_store = open_store
        self._current = current
        self._on_outcome = on_outcome
        self._stopping = threading.Event()
        self._store: CatalogStore | None = None
        self._versions = Versions(settings, log, self._database)
        self._swapper = Swapper(settings, metrics, log, load, self._database, current, self._stopping, settle)
        self._asked = threading.Condition()
        self._wanted: StoredBundle | None = None
        self._watched_at = 0.0
        self._progress: Progress | None = Progress("", "start", "looking for a bundle")
        self._thread = threading.Thread(target=self._run, name="bundles", daemon=True)
        self.start_failure: str | None = None

    def start(self) -> None:
        """Begin to load the first bundle."""
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """End the thread, what it loads, and every generation; close the database."""
        self._stopping.set()
        with self._asked:
            self._asked.notify_all()
        if self._thread.ident is not None:
            self._thread.join(seconds)
        self._swapper.stop()
        if self._store is not None:
            self._store.close()

    def overview(self) -> Overview:
        """Every version that the store holds, and what became of it.

        Raises:
            StartError: the store cannot be read.
        """
        return Overview(
            serving=self._current.look(),
            swap=self._progress,
            previous=self._versions.previous,
            versions=self._versions.listed(),
            failures=dict(self._versions.failures),
        )

    def activate(self, version: str) -> bool:
        """Begin to swap a version in; False if it serves already.

        Raises:
            VersionNotFoundError: the store holds no folder of this name, and none of this bundle version.
            BundleRefusedError: the folder cannot be loaded, or there is no store.
            SwapInProgressError: another swap runs.
            NotReadyError: the service is being stopped.
            StartError: the store cannot be read.
        """
        return self._ask(self._versions.find(version), "admin")

    def rollback(self) -> str:
        """Begin to swap in the version that served before; its name.

        Raises:
            VersionNotFoundError: none served before, or the store does not hold it any more.
            BundleRefusedError, SwapInProgressError, NotReadyError, StartError: as in :meth:`activate`.
        """
        previous = self._versions.previous
        if previous is None:
            raise VersionNotFoundError("no other version served before; activate one by its name")
        stored = self._versions.find(previous)
        self._ask(stored, "rollback")
        return stored.name

    def _ask(self, stored: StoredBundle, reason: Reason) -> bool:
        with self._asked:
            if self._stopping.is_set():
                raise NotReadyError("the service is being stopped", retry_after=5)
            if self._progress is not None:
                raise SwapInProgressError(
                    f"version {self._progress.version!r} is being swapped in ({self._progress.step}); "
                    "retry once GET /admin/bundles shows no swap",
                    retry_after=5,
                )
            serving = self._current.look()
            if serving is not None and serving.holds(stored.name, stored.bundle_version):
                return False
            self._wanted = stored
            self._progress = Progress(stored.name, reason)
            self._asked.notify_all()
        return True

    # The thread

    def _run(self) -> None:
        begun = time.monotonic()
        failure = self._first()
        self._done()
        if failure is not None:
            self.start_failure = failure
            self._log.critical("the service cannot start", reason=failure)
            self._on_outcome(failure)
            return
        self._log.info("ready", seconds=round(time.monotonic() - begun, 3))
        self._on_outcome(None)
        while not self._stopping.is_set():
            stored = self._next()
            if stored is not None:
                self._attempt(stored)
                self._done()

    def _first(self) -> str | None:
        """Bring up the first bundle that can be loaded; why none can, otherwise."""
        try:
            candidates = self._versions.candidates()
        except (ServiceError, SideraError) as error:
            return str(error)
        reasons = []
        for stored in candidates:
            self._progress = Progress(stored.name, "start")
            reason = self._attempt(stored)
            if reason is None or self._stopping.is_set():
                return reason
            reasons.append(reason)
        return reasons[0]

    def _next(self) -> StoredBundle | None:
        """What to swap in: what was asked for, or what watching found; None once in a while."""
        with self._asked:
            if self._wanted is None and not self._stopping.is_set():
                self._asked.wait(min(_FOLLOW_SECONDS, self._settings.watch_bundles or _FOLLOW_SECONDS))
            stored, self._wanted = self._wanted, None
        if stored is not None or self._stopping.is_set():
            return stored
        found, reason = self._seen()
        with self._asked:
            if found is None or self._wanted is not None:  # what was asked for meanwhile comes first
                return None
            self._progress = Progress(found.name, reason)
        return found

    def _seen(self) -> tuple[StoredBundle | None, Reason]:
        """What another replica was told to serve, or else a newer bundle, where those are watched for."""
        generation = self._current.look()
        serving = None if generation is None else generation.description.bundle_version
        try:
            chosen = self._versions.chosen_elsewhere(serving)
        except (ServiceError, SideraError) as error:
            self._log.warning("the choice of the other replicas cannot be read", reason=str(error))
            return None, "follow"
        if chosen is not None:
            return chosen, "follow"
        watched_for = time.monotonic() - self._watched_at
        if not self._settings.watch_bundles or watched_for < self._settings.watch_bundles:
            return None, "watch"
        self._watched_at = time.monotonic()
        return self._versions.newer(serving), "watch"

    def _attempt(self, stored: StoredBundle) -> str | None:
        """Load a bundle and let it serve; why it does not, otherwise."""
        begun = time.monotonic()
        reason = self._try(stored)
        if reason is None:
            self._metrics.bundle_swapped("served")
            self._log.info("a bundle serves", version=stored.name, seconds=round(time.monotonic() - begun, 3))
            reason_of_it = None if self._progress is None else self._progress.reason
            if reason_of_it == "follow":
                self._versions.follows(stored)
            else:
                asked = reason_of_it in ("admin", "rollback")
                self._versions.serves(stored, asked=asked, rollback=reason_of_it == "rollback")
        elif not self._stopping.is_set():
            self._versions.failed(stored, reason)
            self._metrics.bundle_swapped("failed")
            self._log.error("a bundle was refused; what served goes on", version=stored.name, reason=reason)
        self._swapper.free(self._step)
        return reason

    def _try(self, stored: StoredBundle) -> str | None:
        try:
            self._swapper.serve(stored, self._step)
        except (ServiceError, SideraError) as error:
            return str(error)
        except Exception as error:
            self._log.critical("a bundle failed to load in a way that nobody thought of", exc_info=error)
            return f"the bundle cannot be served: {type(error).__name__}: {error}"
        return None

    def _step(self, step: str) -> None:
        progress = self._progress
        if progress is not None:
            self._progress = replace(progress, step=step)
            self._log.info("swap", version=progress.version, reason=progress.reason, step=step)

    def _done(self) -> None:
        with self._asked:
            self._progress = None

    def _database(self) -> CatalogStore:
        if self._store is None:
            self._store = self._open_store(self._settings)
        return self._store
