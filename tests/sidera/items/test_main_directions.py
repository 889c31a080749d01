"""Rows found by main directions are those that the whole product ranks first."""

import math

import numpy as np
import pytest

from sidera.items.main_directions import COMPARED, DIRECTIONS, MainDirections

ROWS, WIDTH = 3000, 96


def drawn(lengths_D: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows that deviate so much along directions that are nobody's axes, and a bias."""
    rng = np.random.default_rng(seed)
    turn_DD, _ = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))
    rows_ID = (rng.normal(size=(ROWS, WIDTH)) * lengths_D + 0.3) @ turn_DD
    return rows_ID.astype(np.float32), rng.normal(size=ROWS).astype(np.float32)


def vectors(count: int = 20) -> np.ndarray:
    made: np.ndarray = np.random.default_rng(1).normal(size=(count, WIDTH), scale=0.4).astype(np.float32)
    return made


def whole(rows_ID: np.ndarray, bias_I: np.ndarray, vector_D: np.ndarray) -> np.ndarray:
    scores_I: np.ndarray = rows_ID.astype(np.float64) @ vector_D + bias_I
    return scores_I


def test_rows_that_lie_along_the_main_directions_are_split_without_any_error() -> None:
    rows_ID, bias_I = drawn(np.arange(WIDTH) < DIRECTIONS - 1)
    found = MainDirections.of(rows_ID)
    for vector_D in vectors():
        place_K, log_rest = found.promising(vector_D, bias_I)
        scores_I = whole(rows_ID, bias_I, vector_D)
        others_I = np.delete(scores_I, place_K)
        assert COMPARED / 2 < len(set(place_K.tolist())) < 2 * COMPARED
        assert scores_I[place_K].min() >= others_I.max() - 1e-3
        assert log_rest == pytest.approx(np.log(np.exp(others_I - others_I.max()).sum()) + others_I.max(), abs=1e-3)


def test_rows_that_also_deviate_otherwise_are_found_and_the_sum_of_the_others_is_near() -> None:
    rows_ID, bias_I = drawn(np.exp(-np.arange(WIDTH) / 16))
    found = MainDirections.of(rows_ID)
    for vector_D in vectors():
        place_K, log_rest = found.promising(vector_D, bias_I)
        scores_I = whole(rows_ID, bias_I, vector_D)
        assert set(np.argsort(-scores_I)[:50].tolist()) <= set(place_K.tolist())
        others_I = np.delete(scores_I, place_K)
        assert log_rest == pytest.approx(np.log(np.exp(others_I).sum()), abs=0.02)


def test_what_others_have_is_nothing_where_one_row_has_it_all() -> None:
    rows_ID, bias_I = drawn(np.exp(-np.arange(WIDTH) / 16))
    bias_I[7] = 1000
    place_K, log_rest = MainDirections.of(rows_ID).promising(vectors(1)[0], bias_I)
    assert 7 in place_K
    assert log_rest == -math.inf
