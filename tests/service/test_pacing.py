"""What an engine measures of itself, and what follows from it."""

import pytest

from service.pacing import Budget, Pace


def pace(max_gap: float = 1.0, requests: int = 3) -> Pace:
    """A batch of 100 units of work took 2 s and ended at 10."""
    measured = Pace(max_gap)
    measured.batch_ended(requests, 100, 2.0, 10.0)
    return measured


def test_how_long_work_takes_is_measured_and_the_newest_batches_count_most() -> None:
    measured = pace()
    assert measured.seconds_for(50) == pytest.approx(1.0)
    for _ in range(50):
        measured.batch_ended(1, 100, 4.0, 20.0)
    assert measured.seconds_for(50) == pytest.approx(2.0, rel=1e-3)


def test_before_anything_was_measured_work_takes_no_time() -> None:
    assert Pace(1.0).seconds_for(50) == 0
    assert Pace(1.0).retry_after(50) == 1


@pytest.mark.parametrize(("work", "seconds"), [(0, 1), (50, 1), (51, 2), (1000, 20), (10**9, 60)])
def test_a_client_of_a_full_queue_retries_when_what_waits_is_computed(work: int, seconds: int) -> None:
    assert pace().retry_after(work) == seconds


def test_fewer_requests_than_were_in_the_last_batch_are_worth_a_pause() -> None:
    assert pace().wait_until(waiting_requests=2, now=10.1, last_arrival=10.1, began=10.1) == pytest.approx(10.3)


def test_every_arrival_renews_the_pause_until_a_quarter_of_a_batch_is_over() -> None:
    assert pace().wait_until(2, now=10.3, last_arrival=10.3, began=10.1) == pytest.approx(10.5)
    assert pace().wait_until(2, now=10.5, last_arrival=10.5, began=10.1) == pytest.approx(10.6)


def test_the_pause_is_no_longer_than_the_setting() -> None:
    assert pace(max_gap=0.05).wait_until(2, now=10.0, last_arrival=10.0, began=10.0) == pytest.approx(10.05)


@pytest.mark.parametrize(
    ("waiting", "began", "max_gap", "last"),
    [
        (3, 10.1, 1.0, 3),  # all are back
        (1, 10.1, 1.0, 1),  # a lone client
        (1, 10.3, 1.0, 3),  # the last batch ended longer ago than a pause is: the engine was idle
        (1, 10.0, 0.0, 3),  # the setting says never
    ],
)
def test_nothing_is_waited_for(waiting: int, began: float, max_gap: float, last: int) -> None:
    assert pace(max_gap, last).wait_until(waiting, now=began, last_arrival=began, began=began) <= began


def test_the_first_request_of_all_is_not_kept_waiting() -> None:
    assert Pace(1.0).wait_until(1, now=5.0, last_arrival=5.0, began=5.0) <= 5.0


def test_a_halved_budget_comes_back_step_by_step() -> None:
    budget = Budget(100)
    budget.halve(100, now=0.0)
    assert [budget.current(now) for now in (1.0, 29.0, 31.0, 32.0, 100.0)] == [50, 50, 100, 100, 100]
    budget.halve(40, now=0.0)
    assert [budget.current(now) for now in (1.0, 31.0, 61.0, 91.0)] == [20, 40, 80, 100]


def test_a_budget_is_never_less_than_a_unit() -> None:
    budget = Budget(2)
    for _ in range(5):
        budget.halve(1, now=0.0)
    assert budget.current(1.0) == 1
