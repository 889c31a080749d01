"""The retries of a call, driven by hand with a clock of our own."""

from collections.abc import Iterable

import httpx
import pytest

from sidera_client.errors import (
    BusyError,
    ClientError,
    ConnectionFailedError,
    InvalidRequestError,
    TimedOutError,
    UnavailableError,
)
from sidera_client.retries import Pause, Retry, Send, steps_of

DONE = httpx.Response(200)


def busy(retry_after: float | None = None) -> BusyError:
    return BusyError("full", code="queue_full", retryable=True, status=429, retry_after=retry_after)


def run(
    outcomes: Iterable[httpx.Response | ClientError], retry: Retry, timeout: float = 60.0, send_seconds: float = 0.0
) -> tuple[httpx.Response, list[Send | Pause]]:
    """Drive a call; every send takes ``send_seconds`` of a clock that nothing else moves but the pauses."""
    now, steps = 0.0, []
    waiting = iter(outcomes)
    generator = steps_of(retry, timeout, clock=lambda: now, draw=lambda: 1.0)
    outcome: httpx.Response | ClientError | None = None
    try:
        while True:
            step = generator.send(outcome)
            steps.append(step)
            outcome = None
            if isinstance(step, Pause):
                now += step.seconds
            else:
                now += send_seconds
                outcome = next(waiting)
    except StopIteration as stop:
        return stop.value, steps


def test_an_answer_is_returned_at_once() -> None:
    assert run([DONE], Retry()) == (DONE, [Send(60.0)])


def test_what_may_succeed_later_is_sent_again_after_pauses_that_double_up_to_a_limit() -> None:
    failed = ConnectionFailedError("refused")
    answer, steps = run([failed, busy(), failed, DONE], Retry(first_pause=1.0, longest_pause=3.0))
    assert answer is DONE
    assert [step.seconds for step in steps if isinstance(step, Pause)] == [1.0, 2.0, 3.0]
    assert [step.seconds for step in steps if isinstance(step, Send)] == [60.0, 59.0, 57.0, 54.0]


def test_a_pause_is_never_shorter_than_retry_after_and_half_of_it_is_drawn() -> None:
    retry = Retry(first_pause=1.0, longest_pause=8.0)
    assert [retry.pause(attempt, None, lambda: 0.0) for attempt in range(4)] == [0.5, 1.0, 2.0, 4.0]
    assert retry.pause(0, 7.0, lambda: 0.0) == 7.5
    assert retry.pause(0, 7.0, lambda: 1.0) == 8.0


def test_the_last_error_is_raised_when_the_attempts_are_spent() -> None:
    last = UnavailableError("no", code="not_ready", retryable=True, status=503)
    with pytest.raises(UnavailableError) as raised:
        run([busy(), last, DONE], Retry(attempts=2))
    assert raised.value is last


@pytest.mark.parametrize(
    "final",
    [InvalidRequestError("bad", code="invalid_request", retryable=False, status=422), TimedOutError("late")],
    ids=["refused", "timed out"],
)
def test_what_cannot_succeed_later_is_never_sent_again(final: ClientError) -> None:
    with pytest.raises(type(final)):
        run([final, DONE], Retry())


def test_no_pause_is_begun_that_would_outlast_the_call() -> None:
    with pytest.raises(BusyError):
        run([busy(retry_after=10.0), DONE], Retry(), timeout=10.0)
    assert run([busy(retry_after=9.0), DONE], Retry(), timeout=10.0)[0] is DONE


def test_the_time_of_earlier_attempts_is_taken_off() -> None:
    _, steps = run([busy(), DONE], Retry(first_pause=1.0), timeout=10.0, send_seconds=4.0)
    assert steps == [Send(10.0), Pause(1.0), Send(5.0)]


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"first_pause": -1.0}, {"first_pause": 9.0, "longest_pause": 1.0}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="set"):
        Retry(**wrong)  # type: ignore[arg-type]
