"""What an engine measures of itself, and what follows from it: when to wait for company, when a full queue has room
again, and how much work a batch may be while memory is short.

Knows numbers and times only. Not thread-safe: the engine guards it. Times are seconds of ``time.monotonic()``.
"""

import math

_MEMORY = 0.8
"""How much of an average the next batch leaves as it was."""

_GAP_SHARE = 0.1
"""A pause between two arrivals that is longer than this share of a batch's time ends the wait."""

_WAIT_SHARE = 0.25
"""No wait is longer than this share of a batch's time."""

_MAX_RETRY_SECONDS = 60

_RELIEF_SECONDS = 30.0
"""How long a budget stays halved before it is doubled again."""


class Pace:
    """How fast an engine computes, and whether the next batch will have company.

    Args:
        max_gap: the longest pause between two arrivals that is waited out; 0: an engine never waits.
    """

    def __init__(self, max_gap: float) -> None:
        self._max_gap = max_gap
        self._work = 0.0
        self._seconds = 0.0
        self._weight = 0.0
        self._last_requests = 0
        self._last_end = -math.inf

    def batch_ended(self, requests: int, work: int, seconds: float, now: float) -> None:
        """A batch was computed."""
        self._work = _MEMORY * self._work + work
        self._seconds = _MEMORY * self._seconds + seconds
        self._weight = _MEMORY * self._weight + 1
        self._last_requests, self._last_end = requests, now

    def seconds_for(self, work: int) -> float:
        """How long so much work takes; 0 before anything was measured."""
        return work * self._seconds / self._work if self._work else 0.0

    def work_within(self, seconds: float) -> float:
        """How much work is done in so much time; infinite before anything was measured."""
        return seconds * self._work / self._seconds if self._seconds and seconds < math.inf else math.inf

    def retry_after(self, waiting_work: int) -> int:
        """Whole seconds, at least 1, until what waits is computed."""
        return min(max(1, math.ceil(self.seconds_for(waiting_work))), _MAX_RETRY_SECONDS)

    def wait_until(self, waiting_requests: int, now: float, last_arrival: float, began: float) -> float:
        """Until when a free engine should wait for company; not later than ``now``: not at all.

        The requests of the last batch got their answers together, so when it has just ended their clients may be about
        to ask again. As long as fewer wait than were in it, and they come in quick succession, waiting pays: a batch
        of n takes far less than n batches of one. A lone client is never kept waiting, nor one that comes to an engine
        that was idle.

        Args:
            last_arrival: of a request.
            began: when the engine was free and something waited.
        """
        batch_seconds = self._seconds / self._weight if self._weight else 0.0
        gap = min(self._max_gap, _GAP_SHARE * batch_seconds)
        if waiting_requests >= self._last_requests or began - self._last_end > gap:
            return now
        return min(max(last_arrival, began) + gap, began + _WAIT_SHARE * batch_seconds)


class Budget:
    """How much work a batch may be: the whole, or less for a while after memory was short."""

    def __init__(self, whole: int) -> None:
        self._whole = whole
        self._now = whole
        self._until = -math.inf

    def current(self, now: float) -> int:
        """What the next batch may be."""
        if self._now < self._whole and now >= self._until:
            self._now = min(self._whole, 2 * self._now)
            self._until = now + _RELIEF_SECONDS
        return self._now

    def halve(self, work: int, now: float) -> None:
        """A batch of so much work was too much."""
        self._now = max(1, min(self._now, work) // 2)
        self._until = now + _RELIEF_SECONDS
