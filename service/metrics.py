"""What Prometheus reads from ``/metrics``: one registry a service, and only labels of few values.

Routes appear by their template, unknown ones as ``unmatched``; no item, user or request id is ever a label.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from structlog.typing import FilteringBoundLogger

from service.batch_runner import EngineObserver
from service.engine_metrics import SECONDS, EngineMetrics
from service.events.metrics import EventMetrics
from sidera.catalog import Catalog
from sidera.model.history_cache import HistoryCache

_COUNTS = (0, 1, 2, 5, 10, 20, 50, 100)
_BEAMS = (1, 5, 10, 20, 50, 100, 200, 500)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Metrics:
    """All metrics of one service."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "sidera_requests", "Requests by route and status.", ["method", "route", "status"], registry=self.registry
        )
        self._latency = Histogram(
            "sidera_request_seconds", "From first byte to answer.", ["route"], buckets=SECONDS, registry=self.registry
        )
        self._engines = EngineMetrics(self.registry)
        self._errors = Counter("sidera_errors", "Errors by code, rows included.", ["code"], registry=self.registry)
        self._items = Histogram(
            "sidera_items_returned", "Items of an answer to /recommend.", buckets=_COUNTS, registry=self.registry
        )
        self._beams = Histogram("sidera_beams", "Beams of a /recommend row.", buckets=_BEAMS, registry=self.registry)
        self._fallbacks = Counter(
            "sidera_fallbacks", "Answers without a usable history.", ["kind"], registry=self.registry
        )
        self._short_results = Counter(
            "sidera_short_results", "Answers of fewer items than asked for.", registry=self.registry
        )
        self._tokenized = Counter(
            "sidera_tokenized_items", "Items of /tokenize, by outcome.", ["outcome"], registry=self.registry
        )
        self._catalog_items = Gauge(
            "sidera_catalog_items", "Items of the catalog in use.", ["domain"], registry=self.registry
        )
        self._counted_domains: set[str] = set()
        self._served_version: int | None = None
        self._catalog_version = Gauge(
            "sidera_catalog_version", "Version of the catalog in use.", registry=self.registry
        )
        self._bundle = Gauge("sidera_bundle", "The bundle in use.", ["bundle_version"], registry=self.registry)
        self._stage_seconds = Histogram(
            "sidera_stage_seconds",
            "Time of a stage of a batch.",
            ["stage"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._invalid_items = Counter(
            "sidera_invalid_items", "Items of answers that the catalog does not hold: always 0.", registry=self.registry
        )
        self._catalog_changed = Gauge(
            "sidera_catalog_changed_timestamp_seconds",
            "When the catalog in use came.",
            registry=self.registry,
        )
        self._filter_bytes = Gauge(
            "sidera_filter_bytes", "Memory of the fields that requests filtered by.", registry=self.registry
        )
        self._overlay = Gauge(
            "sidera_catalog_overlay_items", "Items that joined or left since the last fold.", registry=self.registry
        )
        self._folds = Counter(
            "sidera_catalog_folds",
            "Folds of the catalog, by outcome: folded or failed.",
            ["outcome"],
            registry=self.registry,
        )
        self._fold_seconds = Gauge(
            "sidera_catalog_fold_seconds", "What the last fold of the catalog took.", registry=self.registry
        )
        self._replica_lag = _ReplicaLag()
        self.registry.register(self._replica_lag)
        self._keys_usable = Gauge(
            "sidera_api_keys_file_usable",
            "1: the keys of the file, or no file, are in use; 0: the file changed and is wrong.",
            registry=self.registry,
        )
        self._keys_usable.set(1)
        self._rate_limited = Counter(
            "sidera_rate_limited", "Requests over the rate of their key.", ["key", "what"], registry=self.registry
        )
        self._bundle_loaded = Gauge(
            "sidera_bundle_loaded_timestamp_seconds", "When the bundle in use began to serve.", registry=self.registry
        )
        self._swaps = Counter(
            "sidera_bundle_swaps", "Bundles loaded, by outcome: served or failed.", ["outcome"], registry=self.registry
        )
        self.events = EventMetrics(self.registry)
        self._history_cache = _HistoryCacheCollector()
        self.registry.register(self._history_cache)
        self._queue_length = Gauge("sidera_queue_length", "Rows that wait.", ["engine"], registry=self.registry)

        # A series that begins at its first event hides that event from increase().
        for outcome in ("served", "failed"):
            self._swaps.labels(outcome)
        for outcome in ("folded", "failed"):
            self._folds.labels(outcome)

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)

    def request(self, method: str, route: str | None, status: int, seconds: float) -> None:
        """A request was answered."""
        route = route or "unmatched"
        self._requests.labels(method if method in _METHODS else "other", route, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def error(self, code: str) -> None:
        """An error was sent, for a request or for a row."""
        self._errors.labels(code).inc()

    def keys_read(self, *, usable: bool) -> None:
        """The file of keys was read, and replaced the keys before it if it is usable."""
        self._keys_usable.set(usable)

    def rate_limited(self, key: str, what: str) -> None:
        """A key, given by its name in the operator's file, sent too many ``requests`` or ``rows``."""
        self._rate_limited.labels(key, what).inc()

    def stage(self, stage: str, seconds: float) -> None:
        """A batch, or an answer, passed a stage: ``tokenisation``, ``prefill``, ``decode`` or ``serialisation``."""
        self._stage_seconds.labels(stage).observe(seconds)

    def serialisation(self) -> AbstractContextManager[object]:
        """Inside, an answer is turned into bytes."""
        return self._stage_seconds.labels("serialisation").time()

    def invalid_items(self, count: int) -> None:
        """Items were recommended that are not in the catalog."""
        self._invalid_items.inc(count)

    def catalog_followed(self) -> None:
        """This replica has seen all that was committed to the database a moment ago."""
        self._replica_lag.followed_at = time.monotonic()

    def recommended(self, items: int, beams: int, fallback: str | None) -> None:
        """A row of /recommend was answered."""
        self._items.observe(items)
        self._beams.observe(beams)
        if fallback is not None:
            self._fallbacks.labels(fallback).inc()

    def short_result(self) -> None:
        """Fewer items were returned than asked for."""
        self._short_results.inc()

    def tokenized(self, outcome: str) -> None:
        """An item of /tokenize was answered: ``known``, ``placed``, ``registered`` or ``failed``."""
        self._tokenized.labels(outcome).inc()

    def generation_serves(
        self,
        bundle_version: str,
        catalog: Catalog,
        queues: Mapping[str, Callable[[], int]],
        cache: HistoryCache | None,
    ) -> None:
        """A bundle serves, in place of the one that did; ``queues`` are the lengths of its engines' queues."""
        self._bundle.clear()
        self._bundle.labels(bundle_version).set(1)
        self._bundle_loaded.set_to_current_time()
        self._served_version = None
        self.catalog_swapped(catalog)
        for engine, length in queues.items():
            self._queue_length.labels(engine).set_function(length)
        self._history_cache.cache = cache

    def filters_serve(self, num_bytes: Callable[[], int]) -> None:
        """The fields that requests filter by are those of another bundle; they take so much memory."""
        self._filter_bytes.set_function(num_bytes)

    def bundle_swapped(self, outcome: str) -> None:
        """A bundle was loaded: ``served`` or ``failed``."""
        self._swaps.labels(outcome).inc()

    def catalog_folded(self, outcome: str, seconds: float | None) -> None:
        """The catalog was folded, which took so long, or could not be: ``folded`` or ``failed``."""
        self._folds.labels(outcome).inc()
        if seconds is not None:
            self._fold_seconds.set(seconds)

    def catalog_swapped(self, catalog: Catalog) -> None:
        """A snapshot serves; one of the version that served is the same over other tries."""
        self._overlay.set(catalog.overlay)
        if catalog.version == self._served_version:
            return
        self._served_version = catalog.version
        self._catalog_version.set(catalog.version)
        self._catalog_changed.set_to_current_time()
        for domain in catalog.domains:
            self._catalog_items.labels(domain).set(catalog.size(domain))
        for domain in self._counted_domains.difference(catalog.domains):  # its last item was deleted
            self._catalog_items.remove(domain)
        self._counted_domains = set(catalog.domains)

    def observer(self, engine: str, log: FilteringBoundLogger) -> EngineObserver:
        """What an engine reports to."""
        return self._engines.observer(engine, log)


class _ReplicaLag(Collector):
    """How long ago this replica was last known to be in step with the database; nothing where it follows none."""

    def __init__(self) -> None:
        self.followed_at: float | None = None

    def collect(self) -> Iterator[Metric]:
        lag = None if self.followed_at is None else time.monotonic() - self.followed_at
        yield GaugeMetricFamily("sidera_replica_lag_seconds", "Since the database was last followed.", lag)


class _HistoryCacheCollector(Collector):
    """What the history cache in use counted so far; another bundle begins at 0."""

    def __init__(self) -> None:
        self.cache: HistoryCache | None = None

    def collect(self) -> Iterator[Metric]:
        cache, name = self.cache, "sidera_history_cache"
        counted = None if cache is None else (cache.hits, cache.misses, cache.reused_items, cache.evictions)
        hits, misses, reused, evictions = counted or (None, None, None, None)
        yield CounterMetricFamily(f"{name}_hits", "Histories of which something was kept.", hits)
        yield CounterMetricFamily(f"{name}_misses", "Histories of which nothing was kept.", misses)
        yield CounterMetricFamily(f"{name}_reused_items", "Items that were not read again.", reused)
        yield CounterMetricFamily(f"{name}_evictions", "Items that had to go, once a part.", evictions)
        yield GaugeMetricFamily(f"{name}_bytes", "Bytes that are kept.", None if cache is None else cache.num_bytes)
