"""The life of one service: loads a bundle in the background, serves it, swaps others in, and stops.

Knows nothing of HTTP. What serves is a :class:`~service.bundles.generation.Generation`; which one is the business of
:class:`~service.bundles.lifecycle.Lifecycle`.
"""

import gc
import threading
import time
from collections.abc import Callable

from structlog.typing import FilteringBoundLogger

from service.bundles.current import Current
from service.bundles.generation import Generation
from service.bundles.lifecycle import Lifecycle
from service.catalog.rows import CatalogStore
from service.catalog.store import SqlStore
from service.errors import NotReadyError, RequestError
from service.events.desk import EventDesk
from service.events.patience import Patience
from service.events.store import EventStore
from service.metrics import Metrics
from service.model import Model
from service.settings import Settings

_LOADER_SECONDS = 10.0
"""How long a stop waits for a bundle that is being loaded; its thread does not keep the process alive."""

_YOUNG_OBJECTS = 50_000
"""So many new objects are looked through for garbage at once. With Python's 700, batches of events begin that ten times
a second and more, for nothing: nearly all that requests make is let go without it, and meanwhile no batch is computed.
"""


class Runtime:
    """Loading, ready, failed, stopping or stopped."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        log: FilteringBoundLogger,
        load: Callable[[Settings], Model],
        open_store: Callable[[Settings], CatalogStore],
        on_outcome: Callable[[str | None], None],
        settle: Callable[[], object] = gc.collect,
    ) -> None:
        """``on_outcome`` is told None once the service is ready, or else why it cannot start.

        ``settle`` collects garbage once a bundle was let go.
        """
        self._settings = settings
        self._stopping = threading.Event()
        self._current = Current()
        self._thresholds = gc.get_threshold()
        self._desk: EventDesk | None = None
        self.patience = Patience(self._wait_for_rest)

        def open_all(settings: Settings) -> CatalogStore:
            store = open_store(settings)
            events = EventStore(store.database, settings.max_user_events)
            desk = EventDesk(events, settings, metrics, log, Patience(self._wait_for_rest).wait)
            desk.start()
            self._desk = desk
            return store

        self.lifecycle = Lifecycle(settings, metrics, log, load, open_all, self._current, on_outcome, settle)

    @property
    def stopping(self) -> bool:
        """Whether the service is about to stop: it answers, but should get no new work."""
        return self._stopping.is_set()

    @property
    def alive(self) -> bool:
        """False once an engine has died or hangs: only a restart helps then. A full queue is no reason."""
        generation, desk = self._current.look(), self._desk
        return (generation is None or generation.alive) and (desk is None or desk.alive)

    @property
    def events(self) -> EventDesk:
        """Where events are stored and read.

        Raises:
            NotReadyError: the database is not open yet.
        """
        if self._desk is None:
            raise NotReadyError("the database is being opened; retry in a moment", retry_after=2)
        return self._desk

    def _wait_for_rest(self, seconds: float) -> bool:
        generation = self._current.look()
        return generation is None or generation.recommender.wait_until_it_rests(seconds)

    def running(self) -> Generation:
        """What serves; the same one for all of a request.

        Raises:
            NotReadyError: nothing does, and why.
        """
        generation = self._current.take()
        if generation is None:
            if self.lifecycle.start_failure is not None:
                raise NotReadyError("the bundle could not be loaded; the log of the service says why", retry_after=30)
            raise NotReadyError("the bundle is being loaded; retry in a moment", retry_after=2)
        if not generation.alive:
            raise NotReadyError("an engine of the service has died; it needs a restart", retry_after=30)
        return generation

    def serving_now(self) -> list[Generation]:
        """What serves this request, and what has taken its place meanwhile, if anything has.

        Raises:
            NotReadyError: nothing serves, and why.
        """
        held, current = self.running(), self._current.look()
        return [held] if current is None or current is held else [held, current]

    def refusal(self) -> RequestError | None:
        """Why no row of /recommend would be let in now; None where one would, or nothing serves yet."""
        generation = self._current.look()
        if generation is None:
            return None
        return generation.recommender.refusal(time.monotonic() + self._settings.deadline_ms / 1000)

    def check_ready(self) -> None:
        """Whether new requests should come here: a bundle serves, is warm, and its queue has room.

        A database that cannot be reached is no reason: every registered item is in memory.

        Raises:
            NotReadyError: they should not, and why.
        """
        if self.stopping:
            raise NotReadyError("the service is about to stop; ask another replica", retry_after=5)
        self.running()
        if self.refusal() is not None:
            raise NotReadyError("as many rows wait as can be let in; ask another replica", retry_after=1)

    def start(self) -> None:
        """Begin to load, in the background; until the stop, the process looks for garbage less often."""
        gc.set_threshold(_YOUNG_OBJECTS, *self._thresholds[1:])
        self.lifecycle.start()

    def prepare_to_stop(self) -> None:
        """Say that the service is not ready any more; it goes on answering."""
        self._stopping.set()

    def stop(self) -> None:
        """Stop the engines and close the database."""
        self._stopping.set()
        if self._desk is not None:
            self._desk.stop()
        self.lifecycle.stop(_LOADER_SECONDS)
        gc.set_threshold(*self._thresholds)


def open_store(settings: Settings) -> CatalogStore:
    """The database of the settings."""
    return SqlStore(settings.database)
