"""Keeps the memory of one bundle in step with the events that are stored, while that bundle serves."""

from collections.abc import Callable

from structlog.typing import FilteringBoundLogger

from service.answering import Recommended
from service.catalog.database import Database
from service.catalog.follower import CatalogFollower
from service.catalog.state import Numbered
from service.engine import Engine
from service.events.kinds import read_kinds
from service.events.memory import Bounds, EventMemory
from service.events.patience import LEARNING, Patience
from service.events.store import EventStore
from service.metrics import Metrics
from service.model import Model
from service.settings import Settings
from sidera.items.transitions import TransitionDelta
from sidera.recommender import Query


class Learning:
    """A memory, and the thread that follows the database for it."""

    def __init__(self, memory: EventMemory, seconds: float, metrics: Metrics, log: FilteringBoundLogger) -> None:
        """``seconds`` lie between two looks for new events."""
        self.memory = memory
        self._metrics = metrics
        self._follower = CatalogFollower(self, log, seconds, "the memory of events")

    def start(self) -> None:
        """Begin to follow."""
        self._follower.start()

    def stop(self) -> bool:
        """End the thread; False if that takes long."""
        return self._follower.stop()

    def refresh(self) -> bool:
        """Take over what was stored; says whether there was anything."""
        changed = self.memory.refresh()
        while self.memory.is_behind and not self._follower.is_stopping:
            self.memory.refresh()
        if not self.memory.is_behind:
            self._metrics.events.memory_followed()
        return changed


class EventLearner:
    """Makes the learning of one bundle after another."""

    def __init__(self, database: Database, settings: Settings, metrics: Metrics, log: FilteringBoundLogger) -> None:
        self._store = EventStore(database, settings.max_user_events)
        self._settings = settings
        self._metrics = metrics
        self._log = log

    def of(
        self,
        model: Model,
        recommender: Engine[Query, Recommended],
        catalog: Callable[[], Numbered],
        numbering: Callable[[], int],
    ) -> Learning | None:
        """That of a bundle; None where it counts no events. What is learnt is swapped in between batches.

        Args:
            catalog: gives the snapshot in use.
            numbering: which one the model's items have; asked between two batches.
        """
        counting = model.counting
        if counting is None:
            return None

        def use(delta: TransitionDelta, now: float, counted: int) -> None:
            def learn() -> None:
                if numbering() == counted:  # else it stands for other items, and is counted anew at the next look
                    model.learn(delta, now)

            recommender.between_batches(learn).result()

        memory = EventMemory(
            self._store,
            counting,
            read_kinds(self._settings.event_weights),
            Bounds(self._settings.max_user_events, self._settings.event_memory_bytes),
            catalog,
            use,
            Patience(recommender.wait_until_it_rests, LEARNING).wait,
        )
        return Learning(memory, self._settings.event_memory_seconds, self._metrics, self._log)
