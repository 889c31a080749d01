"""One call with its retries, without input or output: both clients drive the same generator.

It yields what to do next (send, or pause) and is told what came of a send: an answer or a ``ClientError``. All times
are in seconds.

- Only what may succeed later is sent again: answers that say ``retryable``, and connections that failed. Every route
  may be sent twice: recommending changes nothing, and a change that is made twice is made once.
- A pause doubles, is drawn at random below its limit (so that clients do not come back together), and is never
  shorter than the service's ``Retry-After``.
- ``timeout`` bounds the call with all its retries and pauses: nothing is sent that could not be answered in time.
"""

import itertools
import random
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass

import httpx

from sidera_client.errors import ClientError, TimedOutError


@dataclass(frozen=True)
class Retry:
    """How often and how soon a call is sent again.

    Attributes:
        attempts: sends in all; 1 never retries.
        first_pause: the longest pause after the first attempt, in seconds; it doubles from then on.
        longest_pause: what it stops doubling at.
    """

    attempts: int = 4
    first_pause: float = 0.1
    longest_pause: float = 5.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts is {self.attempts}; set it to 1 or more")
        if not 0 <= self.first_pause <= self.longest_pause:
            raise ValueError(
                f"first_pause is {self.first_pause:g} and longest_pause {self.longest_pause:g}; "
                "set 0 <= first_pause <= longest_pause"
            )

    def pause(self, attempt: int, retry_after: float | None, draw: Callable[[], float]) -> float:
        """Seconds to wait after an attempt, counted from 0; ``draw`` gives a number from 0 to 1."""
        limit = min(self.longest_pause, self.first_pause * 2.0**attempt)
        # Half of it is certain: a service that is overloaded is not asked again at once.
        drawn = limit * (0.5 + 0.5 * draw())
        return drawn if retry_after is None else retry_after + drawn


@dataclass(frozen=True)
class Send:
    """Send the request; give up after ``seconds``."""

    seconds: float


@dataclass(frozen=True)
class Pause:
    """Do nothing for so long."""

    seconds: float


Steps = Generator[Send | Pause, httpx.Response | ClientError | None, httpx.Response]


def steps_of(
    retry: Retry,
    timeout: float,
    clock: Callable[[], float] = time.monotonic,
    draw: Callable[[], float] = random.random,
) -> Steps:
    """Yield what to do until there is an answer, which is returned.

    Raises:
        ClientError: the last attempt's error, or ``TimedOutError`` when the time passed during an attempt.
    """
    ends = clock() + timeout
    for attempt in itertools.count():
        outcome = yield Send(ends - clock())
        if isinstance(outcome, httpx.Response):
            return outcome
        if not isinstance(outcome, ClientError):
            raise TypeError(f"a send ends in an answer or a ClientError, not in {outcome!r}")
        if not outcome.retryable or attempt + 1 == retry.attempts:
            raise outcome
        pause = retry.pause(attempt, outcome.retry_after, draw)
        if clock() + pause >= ends:
            raise outcome
        yield Pause(pause)
    raise AssertionError("the attempts never end by themselves")


def timed_out(timeout: float) -> TimedOutError:
    """The error of a call that took longer than it may."""
    return TimedOutError(f"no answer within {timeout:g} s; raise the client's timeout, or ask for less at once")
