"""The life of one service: loads a bundle in the background, serves it, and stops.

Two engines, each with a thread of its own: one owns the model and recommends, the other encodes, places and registers
items. Knows nothing of HTTP.
"""

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydantic import ValidationError
from structlog.typing import FilteringBoundLogger

from service.engine import Engine
from service.errors import NotReadyError, RequestError, ServiceError, StartError
from service.live_catalog import LiveCatalog, NewItem, Placement, Vectors
from service.metrics import Metrics
from service.model import Description, Model
from service.schemas import RecommendRequest, first_problem
from service.settings import Settings
from service.store import CatalogStore, SqliteStore
from sidera.catalog import Catalog
from sidera.errors import SideraError
from sidera.recommender import Query, Recommendation

_LOADER_SECONDS = 10.0
"""How long a stop waits for a bundle that is being loaded; its thread does not keep the process alive."""


@dataclass(frozen=True)
class Recommended:
    """A recommendation, and the version of the catalog that it was made from."""

    recommendation: Recommendation
    catalog_version: int


@dataclass(frozen=True)
class TokenizeTask:
    """Items of one domain to place, or to register."""

    domain: str
    items: tuple[NewItem, ...]
    register: bool


@dataclass(frozen=True)
class Tokenized:
    """One placement an item, and the version of the catalog after it."""

    placements: tuple[Placement, ...]
    catalog_version: int


@dataclass(frozen=True)
class Running:
    """A bundle that serves."""

    description: Description
    catalog: LiveCatalog
    recommender: Engine[Query, Recommended]
    tokenizer: Engine[TokenizeTask, Tokenized]


class Runtime:
    """Loading, ready, failed or stopped."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        log: FilteringBoundLogger,
        load: Callable[[Settings], Model],
        open_store: Callable[[Settings], CatalogStore],
        on_outcome: Callable[[str | None], None],
    ) -> None:
        """``on_outcome`` is told None once the service is ready, or else why it cannot start."""
        self._settings = settings
        self._metrics = metrics
        self._log = log
        self._load = load
        self._open_store = open_store
        self._on_outcome = on_outcome
        self._running: Running | None = None
        self._engines: list[Engine[Query, Recommended] | Engine[TokenizeTask, Tokenized]] = []
        self._store: CatalogStore | None = None
        self._failure: str | None = None
        self._stopping = threading.Event()
        self._loader = threading.Thread(target=self._start, name="loader", daemon=True)

    @property
    def alive(self) -> bool:
        """False once an engine has died: only a restart helps then."""
        running = self._running
        return self._stopping.is_set() or running is None or (running.recommender.alive and running.tokenizer.alive)

    def running(self) -> Running:
        """What serves.

        Raises:
            NotReadyError: nothing does, and why.
        """
        if self._failure is not None:
            raise NotReadyError("the bundle could not be loaded; the log of the service says why", retry_after=30)
        if self._running is None:
            raise NotReadyError("the bundle is being loaded; retry in a moment", retry_after=2)
        if not self.alive:
            raise NotReadyError("an engine of the service has died; it needs a restart", retry_after=30)
        return self._running

    def start(self) -> None:
        """Begin to load, in the background."""
        self._loader.start()

    def stop(self) -> None:
        """Stop the engines and close the database."""
        self._stopping.set()
        self._loader.join(_LOADER_SECONDS)
        for engine in reversed(self._engines):
            engine.stop()
        if self._store is not None:
            self._store.close()

    def _start(self) -> None:
        begun = time.monotonic()
        try:
            self._running = self._bring_up()
        except (ServiceError, SideraError) as error:
            self._fail(str(error))
        except Exception as error:
            self._log.critical("the service cannot start", exc_info=error)
            self._fail(f"the service cannot start: {type(error).__name__}: {error}")
        else:
            self._log.info("ready", seconds=round(time.monotonic() - begun, 3))
            self._on_outcome(None)

    def _fail(self, reason: str) -> None:
        self._failure = reason
        self._log.critical("the service cannot start", reason=reason)
        self._on_outcome(reason)

    def _bring_up(self) -> Running:
        model = self._load(self._settings)
        self._refuse_when_stopping()
        self._store = self._open_store(self._settings)
        recommender = self._recommend_engine(model)
        catalog = self._live_catalog(model, self._store, recommender)
        tokenizer = self._tokenize_engine(catalog)
        self._refuse_when_stopping()
        catalog.restore()
        self._warm_up(model, catalog, recommender)
        self._metrics.bundle_loaded(model.description.bundle_version)
        if model.history_cache is not None:
            self._metrics.watch_history_cache(model.history_cache)
        self._metrics.catalog_swapped(catalog.catalog)
        return Running(model.description, catalog, recommender, tokenizer)

    def _recommend_engine(self, model: Model) -> Engine[Query, Recommended]:
        def answer(queries: Sequence[Query]) -> list[Recommended]:
            version = model.catalog.version
            return [Recommended(recommendation, version) for recommendation in model.recommend(queries)]

        engine = Engine(
            "recommend",
            answer,
            max_queue=self._settings.max_queue,
            max_batch=self._settings.max_batch,
            observer=self._metrics.observer("recommend", self._log),
        )
        self._run(engine)
        return engine

    def _tokenize_engine(self, catalog: LiveCatalog) -> Engine[TokenizeTask, Tokenized]:
        def answer(tasks: Sequence[TokenizeTask]) -> list[Tokenized]:
            answers = []
            for task in tasks:
                method = catalog.register if task.register else catalog.place
                placements = tuple(method(task.domain, task.items))
                answers.append(Tokenized(placements, catalog.catalog.version))
            return answers

        engine = Engine(
            "tokenize",
            answer,
            max_queue=self._settings.max_tokenize_queue,
            max_batch=1,
            observer=self._metrics.observer("tokenize", self._log),
        )
        self._run(engine)
        return engine

    def _run(self, engine: Engine[Query, Recommended] | Engine[TokenizeTask, Tokenized]) -> None:
        self._metrics.watch_queue(engine.name, lambda: engine.waiting)
        self._engines.append(engine)
        engine.start()

    def _live_catalog(self, model: Model, store: CatalogStore, recommender: Engine[Query, Recommended]) -> LiveCatalog:
        def prepare_swap(catalog: Catalog, vectors: Vectors, anew: bool) -> Callable[[], None]:
            swap = model.stage(catalog, vectors, anew=anew)

            def wait_for_swap() -> None:
                recommender.between_batches(swap).result()
                self._metrics.catalog_swapped(catalog)

            return wait_for_swap

        return LiveCatalog(model, store, prepare_swap, max_domains=self._settings.max_domains, log=self._log)

    def _refuse_when_stopping(self) -> None:
        if self._stopping.is_set():
            raise StartError("the service was stopped while it loaded its bundle")

    def _warm_up(self, model: Model, catalog: LiveCatalog, engine: Engine[Query, Recommended]) -> None:
        """Answer the bundle's sample requests, or one per domain, so that the first client does not wait longer."""
        queries = [_sample_query(row, body) for row, body in enumerate(model.samples)]
        queries = queries or [Query(domain=domain) for domain in catalog.catalog.domains]
        for query in queries:
            self._refuse_when_stopping()
            try:
                engine.submit([query], math.inf)[0].result()
            except (SideraError, RequestError) as error:
                raise StartError(f"the bundle's warm-up requests fail: {error}") from error


def open_store(settings: Settings) -> CatalogStore:
    """The database of the settings."""
    return SqliteStore(settings.database)


def query_of(request: RecommendRequest) -> Query:
    """A request in the recommender's terms."""
    return Query(
        domain=request.domain,
        history=tuple((entry.domain or request.domain, entry.item_id) for entry in request.history),
        num_results=request.num_results,
        exclude=frozenset(request.exclude),
        exclude_history=request.exclude_history,
        beam_width=request.beam_width,
    )


def _sample_query(row: int, body: object) -> Query:
    try:
        return query_of(RecommendRequest.model_validate(body))
    except ValidationError as error:
        field, message = first_problem(error)
        raise StartError(f"samples/requests.json of the bundle, row {row}: {field}: {message}") from error
