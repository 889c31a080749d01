"""A reader of whole histories beside the formula, computed here in float64, item by item."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sidera.errors import CatalogError
from sidera.items.history_reader import LISTED, NORM_EPSILON, HistoryReader


def reader_of(items: int = 4, width: int = 3, ages: int = 2, spread: int = 10, hidden: int = 5) -> HistoryReader:
    rng = np.random.default_rng(0)

    def drawn(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    return HistoryReader(
        np.arange(items, dtype=np.int64) * spread,
        input_ID=drawn(items, width),
        output_ID=drawn(items, width),
        bias_I=drawn(items),
        age_A=np.linspace(0.7, 0.3, ages).astype(np.float32),
        inner_HD=drawn(hidden, width),
        inner_H=drawn(hidden),
        outer_DH=drawn(width, hidden),
        outer_D=drawn(width),
    )


def as_dict(found: tuple[np.ndarray, np.ndarray]) -> dict[int, float]:
    return dict(zip(found[0].tolist(), found[1].tolist(), strict=True))


def norm(x_D: np.ndarray) -> np.ndarray:
    centred_D = x_D - x_D.mean()
    found_D: np.ndarray = centred_D / math.sqrt(float(centred_D @ centred_D) / len(x_D) + NORM_EPSILON)
    return found_D


def gelu(x: float) -> float:
    return x / 2 * (1 + math.tanh((2 / math.pi) ** 0.5 * (x + 0.044715 * x**3)))


def scores_after(reader: HistoryReader, sum_D: np.ndarray) -> np.ndarray:
    """What speaks for every item after a history of this weighted sum, by the formula."""
    sum_D = sum_D.astype(np.float64)
    hidden_H = np.array([gelu(x) for x in reader.inner_HD.astype(np.float64) @ norm(sum_D) + reader.inner_H])
    history_D = norm(sum_D + reader.outer_DH.astype(np.float64) @ hidden_H + reader.outer_D)
    scores_I: np.ndarray = reader.output_ID.astype(np.float64) @ history_D + reader.bias_I
    return scores_I


def masses_after(reader: HistoryReader, sum_D: np.ndarray) -> np.ndarray:
    """The softmax of these."""
    scores_I = scores_after(reader, sum_D)
    masses_I: np.ndarray = np.exp(scores_I - scores_I.max())
    masses_I /= masses_I.sum()
    return masses_I


def by_number(masses_I: np.ndarray) -> dict[int, float]:
    return dict(zip([0, 10, 20, 30], masses_I.tolist(), strict=True))


def test_a_history_is_the_weighted_sum_of_its_newest_items_behind_one_layer() -> None:
    reader = reader_of()
    expected_I = masses_after(reader, reader.age_A[0] * reader.input_ID[3] + reader.age_A[1] * reader.input_ID[1])
    # The oldest item is beyond the ages.
    assert as_dict(reader.read([0, 10, 30])) == pytest.approx(by_number(expected_I), rel=1e-4)
    assert expected_I.sum() == pytest.approx(1)
    assert as_dict(reader.read([30, 10])) != pytest.approx(by_number(expected_I), rel=1e-2), "the order counts"


def test_scores_of_a_batch_are_those_of_its_histories_one_by_one() -> None:
    reader = reader_of(items=50, width=8)
    sum_BD = np.random.default_rng(1).normal(size=(6, 8)).astype(np.float32)
    score_BI = reader.scores(sum_BD)
    assert score_BI.dtype == np.float32
    for sum_D, score_I in zip(sum_BD, score_BI, strict=True):
        np.testing.assert_allclose(score_I, scores_after(reader, sum_D), rtol=1e-4, atol=1e-4)


def test_what_is_read_of_one_history_is_the_softmax_of_its_scores_in_a_batch() -> None:
    reader = reader_of(items=50, width=8, spread=1)
    histories = [[3, 4], [7, 1], [49, 48]]
    sum_BD = np.stack([reader.age_A @ reader.input_ID[history[::-1]] for history in histories])
    for history, score_I in zip(histories, reader.scores(sum_BD).astype(np.float64), strict=True):
        found_S, mass_S = reader.read(history)
        assert sorted(found_S.tolist()) == list(range(50))
        assert mass_S == pytest.approx((np.exp(score_I) / np.exp(score_I).sum())[found_S], rel=1e-4)


def test_an_item_without_a_vector_is_skipped_and_the_others_keep_their_age() -> None:
    reader = reader_of()
    expected_I = masses_after(reader, reader.age_A[1] * reader.input_ID[1])
    as_newest = masses_after(reader, reader.age_A[0] * reader.input_ID[1])
    assert as_newest != pytest.approx(expected_I, rel=1e-3), "its age is seen"
    for unknown in (5, 31, 1000):
        assert as_dict(reader.read([10, unknown])) == pytest.approx(by_number(expected_I), rel=1e-4)


def test_nothing_is_found_for_a_history_that_holds_no_item_with_a_vector() -> None:
    for numbers in ([], [5], [1000], [0, 5, 7]):
        assert as_dict(reader_of().read(numbers)) == {}


def test_of_many_items_the_likeliest_are_listed_with_the_mass_that_they_have_among_all() -> None:
    reader = reader_of(items=3 * LISTED, spread=1)
    expected_I = masses_after(reader, reader.age_A[0] * reader.input_ID[7])
    found_S, mass_S = reader.read([7])
    assert sorted(found_S.tolist()) == sorted(np.argsort(-expected_I)[:LISTED].tolist())
    assert mass_S == pytest.approx(expected_I[found_S], rel=1e-4)
    assert mass_S.sum() < 1


def test_reading_changes_no_vector() -> None:
    reader = reader_of()
    before = as_dict(reader.read([0, 30]))
    for array in (reader.input_ID, reader.output_ID, reader.bias_I, reader.age_A):
        array.flags.writeable = False
    assert as_dict(reader.read([0, 30])) == before


def test_under_new_numbers_it_says_the_same_and_items_without_a_number_are_gone() -> None:
    reader = replace(reader_of(), share=0.25)
    new_M = np.full(31, -1)
    new_M[[0, 10, 20, 30]] = [9, 2, 5, 1]
    assert as_dict(reader.renumbered(new_M).read([9, 1])) == pytest.approx(
        {int(new_M[number]): mass for number, mass in as_dict(reader.read([0, 30])).items()}
    )
    assert reader.renumbered(new_M).share == 0.25
    new_M[20] = -1
    kept = as_dict(reader.renumbered(new_M).read([9, 1]))
    assert set(kept) == {9, 2, 1}
    assert sum(kept.values()) == pytest.approx(1)


def test_a_reader_whose_items_are_all_gone_knows_nothing() -> None:
    gone = reader_of().renumbered(np.full(31, -1))
    assert as_dict(gone.read([0, 10])) == {}


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("input_ID", (3, 3)),
        ("output_ID", (4, 2)),
        ("bias_I", (4, 1)),
        ("age_A", (0,)),
        ("inner_HD", (5, 2)),
        ("outer_DH", (3, 4)),
        ("outer_D", (2,)),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_name_and_shape(name: str, shape: tuple[int, ...]) -> None:
    changed: dict[str, Any] = {name: np.zeros(shape, dtype=np.float32)}
    with pytest.raises(CatalogError) as refused:
        replace(reader_of(), **changed)
    assert str(refused.value).startswith(f"{name} of a reader of 4 items is of shape {shape}, and must be ")


def test_of_many_items_the_likeliest_have_the_masses_that_looking_at_all_gives_them() -> None:
    rng = np.random.default_rng(1)
    reader = reader_of(items=6000, width=64, spread=1)
    reader = replace(reader, output_ID=(reader.output_ID * np.exp(-np.arange(64) / 12)).astype(np.float32))
    for _ in range(10):
        history = rng.integers(0, 6000, 2).tolist()
        found = as_dict(reader.read(history))
        expected_I = masses_after(
            reader, reader.age_A[0] * reader.input_ID[history[1]] + reader.age_A[1] * reader.input_ID[history[0]]
        )
        assert len(found) == LISTED
        assert set(np.argsort(-expected_I)[:50].tolist()) <= set(found)
        assert found == pytest.approx({item: expected_I[item] for item in found}, rel=0.02)
