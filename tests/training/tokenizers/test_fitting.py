"""The schedule of a fit. What its loop does is shown by the methods' own tests: stopping, resuming, best weights."""

from hypothesis import given
from hypothesis import strategies as st

from training.tokenizers.fitting import Schedule


def schedule(epochs: int, warm_up: int, evaluate_every: int = 5, batch_size: int = 10) -> Schedule:
    return Schedule(epochs, batch_size, 0.001, evaluate_every, 4, 0, warm_up)


def test_a_fit_of_few_items_is_not_shortened() -> None:
    whole = schedule(110, 10)
    assert whole.limited(100, 1100) is whole


def test_a_fit_of_many_items_has_fewer_epochs_of_each_kind_in_the_same_proportion() -> None:
    assert schedule(110, 10, 20).limited(1000, 1100) == schedule(11, 1, 2)


@given(st.integers(1, 200), st.integers(0, 50), st.integers(1, 10**7), st.integers(1, 10**5))
def test_a_shortened_fit_keeps_an_epoch_of_each_kind_and_about_its_steps(
    epochs: int, warm_up: int, items: int, most_steps: int
) -> None:
    limited = schedule(warm_up + epochs, warm_up).limited(items, most_steps)
    assert limited.epochs > limited.warm_up >= min(warm_up, 1)
    assert limited.evaluate_every >= 1
    steps_an_epoch = -(-items // 10)
    assert limited.epochs * steps_an_epoch <= most_steps + 2 * steps_an_epoch
