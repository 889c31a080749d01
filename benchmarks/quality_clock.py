"""How long each step of a training takes, kept over kills: the pipeline says a sentence when a step ends."""

import json
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from sidera.files import write_atomically

_BEAT_SECONDS = 10.0
_KEPT = "everything kept"


class StageClock:
    """Adds up seconds by what the sentences begin with, such as ``universal`` of ``universal: trained, ...``.

    What has passed since the last sentence is written every few seconds, so that a kill loses no more than that. The
    next start gives it to the first step that had not ended.

    Args:
        path: where the seconds lie.
        key: what is timed; seconds of something else are forgotten.
    """

    def __init__(self, path: Path, key: str, beat_seconds: float = _BEAT_SECONDS) -> None:
        known = json.loads(path.read_text()) if path.exists() else {}
        if known.get("key") != key:
            known = {"seconds": {}, "ended": [], "since": 0.0}
        self._path, self._key, self._beat_seconds = path, key, beat_seconds
        self._seconds: dict[str, float] = known["seconds"]
        self._ended: set[str] = set(known["ended"])
        self._carried: float = known["since"]
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    @property
    def seconds(self) -> dict[str, float]:
        """So far, by step."""
        with self._lock:
            return dict(self._seconds)

    def told(self, sentence: str) -> None:
        """A sentence of the pipeline: its step took the time since the last one."""
        if sentence.startswith(_KEPT):
            return
        step, _, rest = sentence.partition(":")
        with self._lock:
            now = time.monotonic()
            taken, self._began = now - self._began, now
            if step not in self._ended:
                taken, self._carried = taken + self._carried, 0.0
            self._seconds[step] = self._seconds.get(step, 0.0) + taken
            if not rest.startswith(" validation"):  # the score of an epoch: the step goes on
                self._ended.add(step)
            self._write()

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        with self._lock:
            self._write()

    def _beat(self) -> None:
        while not self._over.wait(self._beat_seconds):
            with self._lock:
                self._write()

    def _write(self) -> None:
        since = self._carried + time.monotonic() - self._began
        told = {"key": self._key, "seconds": self._seconds, "ended": sorted(self._ended), "since": since}
        write_atomically(self._path, json.dumps(told).encode())
