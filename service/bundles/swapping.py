"""Loads one bundle and lets it serve in place of another; see :mod:`service.bundles.lifecycle` for when.

Not thread-safe: one thread swaps. What fails before the swap leaves the old generation where it is.
"""

import threading
from collections.abc import Callable

from structlog.typing import FilteringBoundLogger

from service.bundles.current import Current
from service.bundles.folder import StoredBundle
from service.bundles.generation import Generation, GenerationBuilder
from service.catalog.rows import CatalogStore
from service.errors import NotReadyError, ServiceError
from service.metrics import Metrics
from service.model import Model
from service.settings import Settings

Step = Callable[[str], None]
"""Told what is being done."""


class Swapper:
    """Makes generations, and holds the one that has served until it is free."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        log: FilteringBoundLogger,
        load: Callable[[Settings], Model],
        database: Callable[[], CatalogStore],
        current: Current,
        stopping: threading.Event,
        settle: Callable[[], object],
    ) -> None:
        """``settle`` collects garbage, so that the memory of what was let go is free at once."""
        self._settings = settings
        self._metrics = metrics
        self._log = log
        self._load = load
        self._database = database
        self._current = current
        self._settle = settle
        self._builder = GenerationBuilder(settings, metrics, log, stopping, self._catch_up)
        self._turn = threading.Lock()  # a change goes through the old generation before a swap, or is caught up after
        self._retired: Generation | None = None
        self._has_garbage = False

    def serve(self, stored: StoredBundle, step: Step) -> None:
        """Verify, load and warm a bundle, and let it serve.

        Raises:
            ServiceError, SideraError: it cannot be loaded; the message says why.
        """
        step("verifying and loading")
        model = self._load(self._settings.model_copy(update={"bundle": stored.path}))
        self._has_garbage = True  # of this one, if it fails, or of the one that it takes the place of
        self._builder.refuse_when_stopping()
        generation = self._builder.build(stored.name, model, self._database(), step)
        try:
            step("swapping")
            self._swap_in(generation)
        except BaseException:
            generation.stop()
            raise

    def free(self, step: Step) -> None:
        """Let go of the generation that has served, once the requests that began with it are answered."""
        if self._retired is not None:
            step("draining")
            if not self._retired.holders.wait_until_none(self._settings.drain_seconds):
                self._log.warning("an old bundle is let go with requests open", open=self._retired.holders.count)
            if not self._retired.stop():
                self._log.error("an engine of the old bundle is stuck: its memory is not free until a restart")
            self._retired = None
        if self._has_garbage:
            self._settle()
            self._has_garbage = False

    def stop(self) -> None:
        """End every generation."""
        for generation in (self._current.clear(), self._retired):
            if generation is not None:
                generation.stop()

    def _swap_in(self, generation: Generation) -> None:
        """Let a generation serve, with every item that was changed while it was loaded."""
        old = self._current.look()

        def swap() -> None:
            with self._turn:
                if old is not None:
                    generation.catalog.refresh()
                self._current.replace(generation)
            generation.follower.start()
            generation.folding.start()
            if generation.learning is not None:
                generation.learning.start()
            self._metrics.events.memory_serves(None if generation.learning is None else generation.learning.memory)
            self._metrics.generation_serves(
                generation.description.bundle_version,
                generation.catalog.catalog,
                generation.queues(),
                generation.history_cache,
            )
            self._metrics.filters_serve(generation.filter_bytes)

        if old is None:
            swap()
        else:
            self._between_changes(old, swap)
        self._retired = old

    def _between_changes(self, old: Generation, swap: Callable[[], None]) -> None:
        """Run ``swap`` in the one thread that changes the old generation's catalog, so that no change is lost."""
        try:
            done = old.tokenizer.between_batches(swap)
        except NotReadyError:  # its thread has ended, so nothing changes there any more
            swap()
            return
        try:
            done.result(self._settings.tokenize_deadline_ms / 1000)
        except TimeoutError:
            if done.cancel():  # what runs there is over its deadline, so nobody waits for it
                swap()
            else:
                done.result()
        except NotReadyError:  # its thread ended before it came to this
            if self._current.look() is not old:
                raise
            swap()

    def _catch_up(self, serving: threading.Event) -> None:
        """A change went through a generation that does not serve any more: let the one that does see it too."""
        with self._turn:
            current = self._current.look()
            if current is None or current.serving is serving:
                return
            try:
                current.catalog.refresh()
            except ServiceError as error:
                self._log.error("a change of the catalog is seen later", reason=str(error))
