"""What Prometheus reads from ``/metrics``: one registry a service, and only labels of few values.

Routes appear by their template, unknown ones as ``unmatched``; no item, user or request id is ever a label.
"""

from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from structlog.typing import FilteringBoundLogger

from sidera.catalog import Catalog
from sidera.model.history_cache import HistoryCache

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_COUNTS = (0, 1, 2, 5, 10, 20, 50, 100)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
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
            "sidera_request_seconds", "From first byte to answer.", ["route"], buckets=_SECONDS, registry=self.registry
        )
        self._queue_seconds = Histogram(
            "sidera_queue_seconds", "Time in a queue, a row.", ["engine"], buckets=_SECONDS, registry=self.registry
        )
        self._compute_seconds = Histogram(
            "sidera_compute_seconds",
            "Time of a batch in its engine.",
            ["engine"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._batch_rows = Histogram(
            "sidera_batch_rows", "Rows computed together.", ["engine"], buckets=_ROWS, registry=self.registry
        )
        self._dropped = Counter(
            "sidera_dropped_rows", "Rows never computed, by reason.", ["engine", "reason"], registry=self.registry
        )
        self._errors = Counter("sidera_errors", "Errors by code, rows included.", ["code"], registry=self.registry)
        self._items = Histogram(
            "sidera_items_returned", "Items of an answer to /recommend.", buckets=_COUNTS, registry=self.registry
        )
        self._beams = Histogram("sidera_beams", "Beams of a /recommend row.", buckets=_BEAMS, registry=self.registry)
        self._fallbacks = Counter(
            "sidera_fallbacks", "Answers without a usable history.", ["kind"], registry=self.registry
        )
        self._tokenized = Counter(
            "sidera_tokenized_items", "Items of /tokenize, by outcome.", ["outcome"], registry=self.registry
        )
        self._catalog_items = Gauge(
            "sidera_catalog_items", "Items of the catalog in use.", ["domain"], registry=self.registry
        )
        self._catalog_version = Gauge(
            "sidera_catalog_version", "Version of the catalog in use.", registry=self.registry
        )
        self._bundle = Gauge("sidera_bundle", "The bundle in use.", ["bundle_version"], registry=self.registry)
        self._queue_length = Gauge("sidera_queue_length", "Rows that wait.", ["engine"], registry=self.registry)

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

    def recommended(self, items: int, beams: int, fallback: str | None) -> None:
        """A row of /recommend was answered."""
        self._items.observe(items)
        self._beams.observe(beams)
        if fallback is not None:
            self._fallbacks.labels(fallback).inc()

    def tokenized(self, outcome: str) -> None:
        """An item of /tokenize was answered: ``known``, ``placed``, ``registered`` or ``failed``."""
        self._tokenized.labels(outcome).inc()

    def bundle_loaded(self, bundle_version: str) -> None:
        """A bundle serves."""
        self._bundle.labels(bundle_version).set(1)

    def catalog_swapped(self, catalog: Catalog) -> None:
        """A snapshot serves."""
        self._catalog_version.set(catalog.version)
        for domain in catalog.domains:
            self._catalog_items.labels(domain).set(catalog.size(domain))

    def watch_queue(self, engine: str, length: Callable[[], int]) -> None:
        """Read the length of a queue whenever metrics are read."""
        self._queue_length.labels(engine).set_function(length)

    def watch_history_cache(self, cache: HistoryCache) -> None:
        """Read what a history cache counts whenever metrics are read."""
        self.registry.register(_HistoryCacheCollector(cache))

    def observer(self, engine: str, log: FilteringBoundLogger) -> "MetricsObserver":
        """What an engine reports to."""
        return MetricsObserver(
            engine,
            log,
            self._batch_rows.labels(engine),
            self._queue_seconds.labels(engine),
            self._compute_seconds.labels(engine),
            self._dropped,
        )


class _HistoryCacheCollector(Collector):
    """What a history cache counted so far; it goes on counting in its own thread."""

    def __init__(self, cache: HistoryCache) -> None:
        self._cache = cache

    def collect(self) -> Iterator[Metric]:
        cache, name = self._cache, "sidera_history_cache"
        yield CounterMetricFamily(f"{name}_hits", "Histories of which something was kept.", cache.hits)
        yield CounterMetricFamily(f"{name}_misses", "Histories of which nothing was kept.", cache.misses)
        yield CounterMetricFamily(f"{name}_reused_items", "Items that were not read again.", cache.reused_items)
        yield CounterMetricFamily(f"{name}_evictions", "Items that had to go, once a part.", cache.evictions)
        yield GaugeMetricFamily(f"{name}_bytes", "Bytes that are kept.", cache.num_bytes)


class MetricsObserver:
    """Turns what an engine reports into metrics and logs."""

    def __init__(
        self,
        engine: str,
        log: FilteringBoundLogger,
        batch_rows: Histogram,
        queue_seconds: Histogram,
        compute_seconds: Histogram,
        dropped: Counter,
    ) -> None:
        self._engine = engine
        self._log = log
        self._batch_rows = batch_rows
        self._queue_seconds = queue_seconds
        self._compute_seconds = compute_seconds
        self._dropped = dropped

    def batch_started(self, rows: int, queue_seconds: Sequence[float]) -> None:
        self._batch_rows.observe(rows)
        for seconds in queue_seconds:
            self._queue_seconds.observe(seconds)

    def batch_ended(self, rows: int, compute_seconds: float) -> None:
        self._compute_seconds.observe(compute_seconds)
        self._log.debug("batch", engine=self._engine, rows=rows, seconds=round(compute_seconds, 6))

    def dropped(self, reason: str) -> None:
        self._dropped.labels(self._engine, reason).inc()

    def died(self, error: BaseException) -> None:
        self._log.critical("an engine died; restart the service", engine=self._engine, exc_info=error)
