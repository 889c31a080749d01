"""One generation: one loaded bundle with its live catalog and its engines, warm, and apart from every other one.

Two engines, each with a thread of its own: one owns the model and recommends, the other encodes, places and registers
items. A generation is built whole or not at all, never changes the bundle that it was built from, and is freed whole.
"""

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from structlog.typing import FilteringBoundLogger

from service.answering import Recommended, answer_batch
from service.bundles.holding import Holders
from service.catalog.folding import CatalogFolding
from service.catalog.follower import CatalogFollower
from service.catalog.live import LiveCatalog, Vectors
from service.catalog.rows import CatalogStore
from service.catalog.state import Numbered
from service.catalog.tasks import CatalogTask, Tokenized
from service.engine import Engine
from service.errors import RequestError, StartError
from service.events.learning import EventLearner, Learning
from service.item_model import Description
from service.limits import recommend_limits, tokenize_limits
from service.metrics import Metrics
from service.model import Model, is_out_of_memory
from service.queries import sample_query
from service.settings import Settings
from sidera.errors import SideraError
from sidera.items.code_map import CodeVectors
from sidera.model.history_cache import HistoryCache
from sidera.recommender import Query


@dataclass(frozen=True, eq=False)
class Generation:
    """A bundle that can serve.

    Attributes:
        name: of its folder in the bundle store; of the folder itself where there is no store.
        description: what does not change while it serves.
        catalog: its catalog, with everything that is registered.
        recommender: answers queries.
        tokenizer: places and changes items.
        history_cache: what its model keeps of histories; None where nothing is.
        filter_bytes: the memory that the fields take which requests filtered by.
        check: refuses a query that cannot be answered, and builds what its filters need.
        code_vectors: what the codes of SIDs stand for, see :meth:`service.model.Model.code_vectors`.
        follower: keeps the catalog up to date with what other processes change, while it serves.
        folding: folds what was changed in its catalog, while it serves.
        learning: learns from events, while it serves; None where its bundle counts none.
        serving: set while it is the one that new requests get.
        loaded_at: when it was ready, in seconds since 1970.
        holders: the requests that began with it and are not answered yet.
    """

    name: str
    description: Description
    catalog: LiveCatalog
    recommender: Engine[Query, Recommended]
    tokenizer: Engine[CatalogTask, Tokenized]
    history_cache: HistoryCache | None
    filter_bytes: Callable[[], int]
    check: Callable[[Query], None]
    code_vectors: CodeVectors
    follower: CatalogFollower
    folding: CatalogFolding
    learning: Learning | None
    serving: threading.Event
    loaded_at: float = field(default_factory=time.time)
    holders: Holders = field(default_factory=Holders)

    @property
    def alive(self) -> bool:
        """False once an engine has died."""
        return self.recommender.alive and self.tokenizer.alive

    def queues(self) -> dict[str, Callable[[], int]]:
        """By engine: how many rows wait."""
        return {
            self.recommender.name: lambda: self.recommender.waiting,
            self.tokenizer.name: lambda: self.tokenizer.waiting,
        }

    def holds(self, name: str, bundle_version: str | None) -> bool:
        """Whether it was loaded from this folder, as the folder is now."""
        return self.name == name and self.description.bundle_version == bundle_version

    def stop(self) -> bool:
        """End its threads; an engine finishes the batch that runs. False if one takes too long for that."""
        self.folding.stop()
        if self.learning is not None:
            self.learning.stop()
        self.follower.stop()
        ended = [self.tokenizer.stop(), self.recommender.stop()]
        return all(ended)


class _Numbering:
    """Which numbering the items of the model in use have; changed with them, in the thread of its engine."""

    in_use = 0


class _Followed:
    """A live catalog that tells the metrics when it was in step with the database."""

    def __init__(self, catalog: LiveCatalog, metrics: Metrics) -> None:
        self._catalog = catalog
        self._metrics = metrics

    def refresh(self) -> bool:
        changed = self._catalog.refresh()
        self._metrics.catalog_followed()
        return changed


class GenerationBuilder:
    """Makes generations for one service."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        log: FilteringBoundLogger,
        stopping: threading.Event,
        changed: Callable[[threading.Event], None],
    ) -> None:
        """``stopping`` ends a build early.

        ``changed`` is told, in the engine's thread and before the change is answered, that a request changed the
        catalog of the generation whose ``serving`` it is given.
        """
        self._settings = settings
        self._metrics = metrics
        self._log = log
        self._stopping = stopping
        self._changed = changed

    def build(self, name: str, model: Model, store: CatalogStore, progress: Callable[[str], None]) -> Generation:
        """Restore the live items under this bundle, and warm it up.

        Args:
            progress: told what is being done: ``restoring``, ``warming up``.

        Raises:
            StartError: the bundle's warm-up requests fail, or the service is being stopped.
        """
        serving = threading.Event()
        recommender = self._recommend_engine(model)
        numbering = _Numbering()
        catalog = self._live_catalog(model, store, recommender, serving, numbering)
        tokenizer = self._tokenize_engine(catalog, serving)
        learner = EventLearner(store.database, self._settings, self._metrics, self._log)
        learning = learner.of(model, recommender, lambda: catalog.numbered, lambda: numbering.in_use)
        recommender.start()
        tokenizer.start()
        generation = Generation(
            name=name,
            description=model.description,
            catalog=catalog,
            recommender=recommender,
            tokenizer=tokenizer,
            history_cache=model.history_cache,
            filter_bytes=lambda: model.filter_bytes,
            check=model.check,
            code_vectors=model.code_vectors,
            follower=CatalogFollower(_Followed(catalog, self._metrics), self._log),
            folding=CatalogFolding(catalog, self._metrics, self._log, self._settings.fold_items),
            learning=learning,
            serving=serving,
        )
        try:
            progress("restoring")
            self.refuse_when_stopping()
            catalog.restore()
            if learning is not None:
                progress("learning from events")
                learning.memory.rebuild(self.refuse_when_stopping)
            progress("warming up")
            self._warm_up(model, catalog, recommender)
        except BaseException:
            generation.stop()
            raise
        return generation

    def refuse_when_stopping(self) -> None:
        """End what is being loaded once the service is to stop.

        Raises:
            StartError: it is.
        """
        if self._stopping.is_set():
            raise StartError("the service was stopped while it loaded its bundle")

    def _recommend_engine(self, model: Model) -> Engine[Query, Recommended]:
        def answer(queries: Sequence[Query]) -> list[Recommended]:
            return answer_batch(model, queries, self._metrics, self._log)

        return Engine(
            "recommend",
            answer,
            limits=recommend_limits(self._settings),
            observer=self._metrics.observer("recommend", self._log),
            cost=model.cost,
            is_out_of_memory=is_out_of_memory,
        )

    def _tokenize_engine(self, catalog: LiveCatalog, serving: threading.Event) -> Engine[CatalogTask, Tokenized]:
        def answer(tasks: Sequence[CatalogTask]) -> list[Tokenized]:
            answers = []
            for task in tasks:
                before = catalog.catalog
                answers.append(task.run(catalog))
                if catalog.catalog is not before:
                    self._changed(serving)
            return answers

        return Engine(
            "tokenize",
            answer,
            limits=tokenize_limits(self._settings),
            observer=self._metrics.observer("tokenize", self._log),
        )

    def _live_catalog(
        self,
        model: Model,
        store: CatalogStore,
        recommender: Engine[Query, Recommended],
        serving: threading.Event,
        numbering: "_Numbering",
    ) -> LiveCatalog:
        def prepare_swap(snapshot: Numbered, vectors: Vectors, anew: bool) -> Callable[[], None]:
            stage = model.stage(snapshot.catalog, vectors, anew=anew)

            def swap() -> None:
                stage()
                numbering.in_use = snapshot.numbering

            def wait_for_swap() -> None:
                recommender.between_batches(swap).result()
                if serving.is_set():
                    self._metrics.catalog_swapped(snapshot.catalog)

            return wait_for_swap

        return LiveCatalog(model, store, prepare_swap, max_domains=self._settings.max_domains, log=self._log)

    def _warm_up(self, model: Model, catalog: LiveCatalog, engine: Engine[Query, Recommended]) -> None:
        """Answer the bundle's sample requests, or one per domain, so that the first client does not wait longer."""
        queries = [sample_query(row, body) for row, body in enumerate(model.samples)]
        queries = queries or [Query(domain=domain) for domain in catalog.catalog.domains]
        for query in queries:
            self.refuse_when_stopping()
            try:
                engine.submit([query], math.inf)[0].result()
            except (SideraError, RequestError) as error:
                raise StartError(f"the bundle's warm-up requests fail: {error}") from error
