import numpy as np
import pytest

from sidera.errors import CatalogError
from sidera.items.history_reader import LISTED, REST, HistoryReader


def reader_of(items: int = 4, width: int = 3, ages: int = 2, spread: int = 10) -> HistoryReader:
    rng = np.random.default_rng(0)
    return HistoryReader(
        np.arange(items, dtype=np.int64) * spread,
        rng.normal(size=(items, width)).astype(np.float32),
        rng.normal(size=(items, width)).astype(np.float32),
        rng.normal(size=items).astype(np.float32),
        np.linspace(0.7, 0.3, ages).astype(np.float32),
    )


def as_dict(found: tuple[np.ndarray, np.ndarray]) -> dict[int, float]:
    return dict(zip(found[0].tolist(), found[1].tolist(), strict=True))


def softmax(scores: np.ndarray) -> np.ndarray:
    masses: np.ndarray = np.exp(scores - scores.max())
    masses /= masses.sum()
    return masses


def test_a_history_is_the_weighted_sum_of_its_newest_items_and_masses_are_the_softmax_over_all_items() -> None:
    reader = reader_of()
    first, second = reader.input_ID[3].astype(np.float64), reader.input_ID[1].astype(np.float64)
    history_D = (reader.age_A[0] * first + reader.age_A[1] * second) / (reader.age_A.sum() + REST)
    expected_I = softmax(reader.output_ID @ history_D + reader.bias_I)
    # The oldest item is beyond the ages.
    assert as_dict(reader.read([0, 10, 30])) == pytest.approx(dict(zip([0, 10, 20, 30], expected_I, strict=True)))


def test_an_item_without_a_vector_is_skipped_and_the_others_keep_their_age() -> None:
    reader = reader_of()
    weight = reader.age_A[1]
    history_D = weight * reader.input_ID[1].astype(np.float64) / (weight + REST)
    expected_I = softmax(reader.output_ID @ history_D + reader.bias_I)
    for unknown in (5, 31, 1000):
        found = as_dict(reader.read([10, unknown]))
        assert found == pytest.approx(dict(zip([0, 10, 20, 30], expected_I, strict=True)))


def test_nothing_is_found_for_a_history_that_holds_no_item_with_a_vector() -> None:
    for numbers in ([], [5], [1000], [0, 5, 7]):
        assert as_dict(reader_of().read(numbers)) == {}


def test_of_many_items_the_likeliest_are_listed_sorted_with_the_mass_that_they_have_among_all() -> None:
    reader = reader_of(items=3 * LISTED, spread=1)
    history_D = reader.age_A[0] * reader.input_ID[7] / (reader.age_A[0] + REST)
    expected_I = softmax((reader.output_ID @ history_D + reader.bias_I).astype(np.float64))
    found_S, mass_S = reader.read([7])
    assert found_S.tolist() == sorted(np.argsort(-expected_I)[:LISTED].tolist())
    assert mass_S == pytest.approx(expected_I[found_S], rel=1e-4)
    assert mass_S.sum() < 1


def test_under_new_numbers_it_says_the_same_and_items_without_a_number_are_gone() -> None:
    reader = reader_of()
    new_M = np.full(31, -1)
    new_M[[0, 10, 20, 30]] = [9, 2, 5, 1]
    assert as_dict(reader.renumbered(new_M).read([9, 1])) == pytest.approx(
        {int(new_M[number]): mass for number, mass in as_dict(reader.read([0, 30])).items()}
    )
    new_M[20] = -1
    kept = as_dict(reader.renumbered(new_M).read([9, 1]))
    assert set(kept) == {9, 2, 1}
    assert sum(kept.values()) == pytest.approx(1)


def test_arrays_that_do_not_fit_are_refused() -> None:
    reader = reader_of()
    with pytest.raises(CatalogError, match="they must fit"):
        HistoryReader(reader.number_I[:2], reader.input_ID, reader.output_ID, reader.bias_I, reader.age_A)
