"""What Prometheus reads of the engines: queues, batches, and rows that were never computed, by engine."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram
from structlog.typing import FilteringBoundLogger

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
_WORK = (16, 64, 256, 512, 1024, 2048, 4096, 8192, 16_384, 65_536)


class EngineMetrics:
    """Those of all engines of one service."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.queue_seconds = Histogram(
            "sidera_queue_seconds", "Time in a queue, a row.", ["engine"], buckets=SECONDS, registry=registry
        )
        self.compute_seconds = Histogram(
            "sidera_compute_seconds", "Time of a batch in its engine.", ["engine"], buckets=SECONDS, registry=registry
        )
        self.batch_rows = Histogram(
            "sidera_batch_rows", "Rows computed together.", ["engine"], buckets=_ROWS, registry=registry
        )
        self.batch_work = Histogram(
            "sidera_batch_work",
            "Work computed together: tokens of /recommend, padding included, or requests of /tokenize.",
            ["engine"],
            buckets=_WORK,
            registry=registry,
        )
        self.halved = Counter(
            "sidera_halved_batches",
            "Batches that failed and were tried again in halves.",
            ["engine", "reason"],
            registry=registry,
        )
        self.dropped = Counter(
            "sidera_dropped_rows", "Rows never computed, by reason.", ["engine", "reason"], registry=registry
        )
        for engine in ("recommend", "tokenize"):  # a series that begins at its first event hides that from increase()
            for reason in ("failed", "out_of_memory"):
                self.halved.labels(engine, reason)

    def observer(self, engine: str, log: FilteringBoundLogger) -> "MetricsObserver":
        """What an engine reports to."""
        return MetricsObserver(engine, log, self)


class MetricsObserver:
    """Turns what an engine reports into metrics and logs."""

    def __init__(self, engine: str, log: FilteringBoundLogger, metrics: EngineMetrics) -> None:
        self._engine = engine
        self._log = log
        self._batch_rows = metrics.batch_rows.labels(engine)
        self._queue_seconds = metrics.queue_seconds.labels(engine)
        self._compute_seconds = metrics.compute_seconds.labels(engine)
        self._batch_work = metrics.batch_work.labels(engine)
        self._halved = metrics.halved
        self._dropped = metrics.dropped

    def batch_started(self, rows: int, queue_seconds: Sequence[float]) -> None:
        self._batch_rows.observe(rows)
        for seconds in queue_seconds:
            self._queue_seconds.observe(seconds)

    def batch_work(self, work: int) -> None:
        self._batch_work.observe(work)

    def batch_halved(self, reason: str) -> None:
        self._halved.labels(self._engine, reason).inc()

    def batch_ended(self, rows: int, compute_seconds: float) -> None:
        self._compute_seconds.observe(compute_seconds)
        self._log.debug("batch", engine=self._engine, rows=rows, seconds=round(compute_seconds, 6))

    def dropped(self, reason: str) -> None:
        self._dropped.labels(self._engine, reason).inc()

    def died(self, error: BaseException) -> None:
        self._log.critical("an engine died; restart the service", engine=self._engine, exc_info=error)
