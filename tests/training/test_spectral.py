"""Spectral coordinates of small graphs that are known."""

import numpy as np
import numpy.typing as npt
import pytest

from training import spectral
from training.spectral import spectral_coordinates

Numbers = npt.NDArray[np.int64]


def two_blocks(seed: int = 0, users: int = 60, items: int = 20) -> tuple[Numbers, Numbers]:
    """Even users take even items, odd users odd ones, six each; one user in ten takes one item of the other block."""
    random = np.random.default_rng(seed)
    pairs = []
    for user in range(users):
        pairs += [(user, 2 * item + user % 2) for item in random.permutation(items // 2)[:6].tolist()]
        if user % 10 == 0:
            pairs.append((user, 2 * int(random.integers(items // 2)) + 1 - user % 2))
    user_E, item_E = np.array(pairs).T
    return user_E, item_E


def many_blocks(users: int = 600, items: int = 400, blocks: int = 8) -> tuple[Numbers, Numbers]:
    """Users take ten items of their own block."""
    random = np.random.default_rng(1)
    user_E = np.repeat(np.arange(users), 10)
    item_E = random.integers(items // blocks, size=len(user_E)) * blocks + user_E % blocks
    return user_E, item_E


def dense(user_E: Numbers, item_E: Numbers, items: int, most: int) -> npt.NDArray[np.float64]:
    """The coordinates by their definition: the whole matrix and its whole singular value decomposition."""
    taken_UN = np.zeros((user_E.max() + 1, items))
    taken_UN[user_E, item_E] = 1
    taken_UN[taken_UN.sum(axis=1) < 2] = 0
    degree_U, degree_N = taken_UN.sum(axis=1), taken_UN.sum(axis=0)
    degree_U += degree_U[degree_U > 0].mean()
    degree_N += degree_N[degree_N > 0].mean()
    _, values, rows = np.linalg.svd(taken_UN / np.sqrt(np.outer(degree_U, degree_N)), full_matrices=False)
    kept = values[:most] > 1e-5
    vectors_NK = rows[:most][kept].T * values[:most][kept]
    first_K = (np.abs(vectors_NK) > 0.999 * np.abs(vectors_NK).max(axis=0)).argmax(axis=0)
    vectors_NK *= np.sign(vectors_NK[first_K, np.arange(kept.sum())])
    found_NK = np.zeros((items, min(most, items)))
    found_NK[:, : kept.sum()] = vectors_NK / np.maximum(np.linalg.norm(vectors_NK, axis=1, keepdims=True), 1e-12)
    return found_NK


def test_coordinates_separate_two_blocks() -> None:
    coordinates_NK = spectral_coordinates(*two_blocks(), 20, 2)
    cosine_NN = coordinates_NK @ coordinates_NK.T
    same_NN = (np.arange(20)[:, None] - np.arange(20)) % 2 == 0
    assert cosine_NN[same_NN].min() > 0.8
    assert cosine_NN[~same_NN].max() < 0.2


def test_sparse_coordinates_are_those_of_the_dense_definition() -> None:
    user_E, item_E = two_blocks()
    found_NK = spectral_coordinates(user_E, item_E, 20)
    assert found_NK.shape == (20, 20)
    assert found_NK.dtype == np.float32
    np.testing.assert_allclose(found_NK, dense(user_E, item_E, 20, 20), atol=1e-3)


def test_the_first_coordinates_of_a_larger_graph_are_found_without_computing_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    user_E, item_E = many_blocks()
    # Between blocks without bridges values are equal up to chance: what is unique is the space, so cosines of rows.
    exact_NK = dense(user_E, item_E, 400, 8)
    for block in (10_000_000, 700):
        monkeypatch.setattr(spectral, "_BLOCK_FLOATS", block)
        found_NK = spectral_coordinates(user_E, item_E, 400, 8)
        np.testing.assert_allclose(found_NK @ found_NK.T, exact_NK @ exact_NK.T, atol=1e-3)


def test_the_same_events_give_the_same_bits() -> None:
    first, second = (spectral_coordinates(*two_blocks(), 20, 6) for _ in range(2))
    assert np.array_equal(first, second)


def test_neither_the_numbers_of_users_nor_the_order_or_repetition_of_events_matter() -> None:
    user_E, item_E = two_blocks()
    random = np.random.default_rng(3)
    renumbered = random.permutation(1000)[:60]
    order = random.permutation(np.concatenate([np.arange(len(user_E))] * 2))
    before = spectral_coordinates(user_E, item_E, 20, 6)
    after = spectral_coordinates(renumbered[user_E][order].astype(np.int32), item_E[order].astype(np.int32), 20, 6)
    np.testing.assert_allclose(after, before, atol=1e-3)


def test_the_first_of_equally_large_values_of_a_coordinate_is_positive() -> None:
    coordinates_NK = spectral_coordinates(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 2]), 3)
    half = 0.5**0.5
    np.testing.assert_allclose(coordinates_NK, [[half, half, 0], [1, 0, 0], [half, -half, 0]], atol=1e-5)


def test_items_that_share_no_user_with_another_are_zeros_and_all_others_have_length_1() -> None:
    user_E, item_E = two_blocks()
    coordinates_NK = spectral_coordinates(np.append(user_E, [98, 99]), np.append(item_E, [20, 20]), 22, 6)
    assert not coordinates_NK[20:].any()
    np.testing.assert_allclose(np.linalg.norm(coordinates_NK[:20], axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(coordinates_NK[:20], spectral_coordinates(user_E, item_E, 20, 6), atol=1e-3)


def test_the_rank_of_the_graph_bounds_the_coordinates() -> None:
    coordinates_NK = spectral_coordinates(np.array([0, 0, 0]), np.array([0, 1, 2]), 5, 4)
    assert coordinates_NK.shape == (5, 4)
    np.testing.assert_allclose(coordinates_NK[:3], [[1, 0, 0, 0]] * 3, atol=1e-5)


@pytest.mark.parametrize("events", [[], [(0, 0)], [(0, 0), (0, 0), (1, 0)]])
def test_a_graph_without_edges_gives_zeros(events: list[tuple[int, int]]) -> None:
    user_E, item_E = np.array(events, dtype=np.int32).reshape(-1, 2).T
    assert spectral_coordinates(user_E, item_E, 1).tolist() == [[0.0]]


def test_a_large_catalog_gets_the_first_of_the_coordinates_of_a_small_one(monkeypatch: pytest.MonkeyPatch) -> None:
    user_E, item_E = many_blocks()
    expected_NK = spectral_coordinates(user_E, item_E, 400, 5)
    monkeypatch.setattr(spectral, "MOST_NUMBERS", 2399)
    assert np.array_equal(spectral_coordinates(user_E, item_E, 400), expected_NK)
    monkeypatch.setattr(spectral, "MOST_NUMBERS", 1)
    assert spectral_coordinates(user_E, item_E, 400).shape == (400, 1)
