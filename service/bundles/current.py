"""The one reference to what serves."""

import threading

from service.bundles.generation import Generation
from service.bundles.holding import HOLD


class Current:
    """Which generation new requests get. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._generation: Generation | None = None

    def look(self) -> Generation | None:
        """What serves now, without keeping it."""
        return self._generation

    def take(self) -> Generation | None:
        """What serves the request that asks: the same generation to its end, whatever is swapped in meanwhile."""
        hold = HOLD.get()
        if hold is None:
            return self._generation
        if hold.generation is None:
            with self._lock:  # nothing is swapped out between the look and the count
                if self._generation is not None:
                    hold.take(self._generation)
        return hold.generation

    def replace(self, generation: Generation) -> Generation | None:
        """Let a generation serve; returns the one that did."""
        with self._lock:
            old, self._generation = self._generation, generation
            generation.serving.set()
            if old is not None:
                old.serving.clear()
        return old

    def clear(self) -> Generation | None:
        """Let nothing serve; returns what did."""
        with self._lock:
            old, self._generation = self._generation, None
        return old
