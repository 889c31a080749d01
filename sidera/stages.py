"""How long the stages of an answer took: who wants to know asks with :func:`timed`; otherwise nothing is measured.

Times are seconds of ``time.monotonic()``. On a GPU the end of a stage waits for the device, so it is asked for only
where the computation waits anyway.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal

import torch

Stage = Literal["tokenisation", "prefill", "decode"]


@dataclass(frozen=True)
class Interval:
    """One stage: ``tokenisation`` makes tokens and masks of histories, ``prefill`` reads them, ``decode`` searches."""

    stage: Stage
    begun: float
    ended: float

    @property
    def seconds(self) -> float:
        return self.ended - self.begun


@dataclass
class StageTimes:
    """The stages of what is computed inside :func:`timed`, one after the other.

    Attributes:
        begun: when it began.
        ended: when it ended; equal to ``begun`` until then.
        intervals: in order; a stage may come several times.
    """

    begun: float
    ended: float
    intervals: list[Interval] = field(default_factory=list)

    def seconds(self) -> dict[Stage, float]:
        """The sum of each stage that there was."""
        sums: dict[Stage, float] = {}
        for interval in self.intervals:
            sums[interval.stage] = sums.get(interval.stage, 0.0) + interval.seconds
        return sums


_times: ContextVar[StageTimes | None] = ContextVar("sidera_stage_times", default=None)


@contextmanager
def timed() -> Iterator[StageTimes]:
    """Measure the stages of everything that this thread computes inside."""
    now = time.monotonic()
    times = StageTimes(now, now)
    token = _times.set(times)
    try:
        yield times
    finally:
        _times.reset(token)
        times.ended = time.monotonic()


def stage_ended(stage: Stage, device: torch.device | None = None) -> None:
    """A stage ended here; it began where the one before it did end, or at the beginning."""
    times = _times.get()
    if times is None:
        return
    if device is not None and device.type == "cuda" and not torch.cuda.is_current_stream_capturing():
        torch.cuda.synchronize(device)
    begun = times.intervals[-1].ended if times.intervals else times.begun
    times.intervals.append(Interval(stage, begun, time.monotonic()))
