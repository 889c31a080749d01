"""How often a key may call: one token bucket for its requests, one for its rows.

A row is one recommendation or one item of /tokenize. A bucket holds what ``rate_burst_seconds`` bring, so that a caller
may be silent and then send that much at once. State is this process's own: with R replicas a key gets up to R times it.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from service.errors import RateLimitedError
from service.metrics import Metrics
from service.security.scopes import Caller
from service.settings import Settings


@dataclass
class _Bucket:
    """Tokens that come at a steady rate, up to a limit."""

    rate: float
    capacity: float
    tokens: float
    at: float

    def take(self, count: int, now: float) -> float:
        """Take tokens and return 0, or take none and return the seconds after which they would be there."""
        self.tokens = min(self.capacity, self.tokens + (now - self.at) * self.rate)
        self.at = now
        if count <= self.tokens:
            self.tokens -= count
            return 0.0
        return (count - self.tokens) / self.rate


class RateLimiter:
    """The buckets of all callers. Used by one event loop."""

    def __init__(self, settings: Settings, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._rates = {
            "requests": settings.rate_requests_per_second,
            "rows": settings.rate_rows_per_second,
        }
        self._burst = settings.rate_burst_seconds
        self._metrics = metrics
        self._clock = clock
        self._buckets: dict[tuple[str, str], _Bucket] = {}

    def request(self, caller: Caller) -> None:
        """Charge a request.

        Raises:
            RateLimitedError: the caller has none left.
        """
        self._charge(caller, "requests", 1)

    def rows(self, caller: Caller, count: int) -> None:
        """Charge the rows of a request.

        Raises:
            RateLimitedError: the caller has not as many left.
        """
        self._charge(caller, "rows", count)

    def _charge(self, caller: Caller, what: str, count: int) -> None:
        rate = self._rates[what]
        if rate == 0:
            return
        wait = self._bucket(caller.name, what, rate).take(count, self._clock())
        if wait > 0:
            self._metrics.rate_limited(caller.name, what)
            raise RateLimitedError(
                f"this key may send {rate:g} {what} a second; retry after the seconds in Retry-After",
                retry_after=math.ceil(wait),
            )

    def _bucket(self, name: str, what: str, rate: float) -> _Bucket:
        bucket = self._buckets.get((name, what))
        if bucket is None:
            capacity = max(1.0, rate * self._burst)
            bucket = self._buckets[name, what] = _Bucket(rate, capacity, capacity, self._clock())
        return bucket
