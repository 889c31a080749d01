"""Shares of a mixture, chosen by how they rank."""

import numpy as np
import pytest

from training.mixture_shares import NEARLY_BEST, STEPS, Candidates, best_shares, grid


def ndcg(candidates: list[Candidates], share_G: np.ndarray) -> float:
    """The obvious way: sort, and look where the target stands."""
    total = 0.0
    for own in candidates:
        if own.target is None:
            continue
        scores = share_G @ own.mass_GC
        rank = int((scores > scores[own.target]).sum())
        if scores[own.target] > 0 and rank < 10:
            total += 1 / np.log2(rank + 2)
    return total


def likelihood(candidates: list[Candidates], share_G: np.ndarray) -> float:
    known = [own for own in candidates if own.target is not None]
    return sum(float(np.log(max(float(share_G @ own.mass_GC[:, own.target]), 1e-12))) for own in known)


def random_candidates(seed: int, count: int = 40) -> list[Candidates]:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        size = int(rng.integers(1, 40))
        mass_GC = rng.random((3, size)) ** 4 * (rng.random((3, size)) < 0.6)
        target = None if rng.random() < 0.2 else int(rng.integers(size))
        if target is not None and rng.random() < 0.7:
            mass_GC[1, target] += 0.3  # the second one knows more than the others
        made.append(Candidates(mass_GC, target))
    return made


def values(candidates: list[Candidates], share_G: np.ndarray) -> np.ndarray:
    return np.array([ndcg([own], share_G) for own in candidates])


@pytest.mark.parametrize("seed", range(3))
def test_the_likeliest_shares_are_taken_of_those_that_rank_the_targets_as_well_as_can_be_told(seed: int) -> None:
    candidates = random_candidates(seed)
    values_WX = np.array([values(candidates, share_G) for share_G in grid(3)])
    best_X = values_WX[values_WX.mean(axis=1).argmax()]
    behind_WX = best_X - values_WX
    error_W = behind_WX.std(axis=1) / len(candidates) ** 0.5
    as_good_W = (behind_WX.mean(axis=1) <= error_W + 1e-7) | (values_WX.mean(axis=1) >= NEARLY_BEST * best_X.mean())
    likeliest = max(likelihood(candidates, share_G) for share_G in grid(3)[as_good_W])
    assert likelihood(candidates, best_shares(candidates)) == pytest.approx(likeliest)


def test_more_targets_leave_less_to_likelihood() -> None:
    few = random_candidates(1, 30)
    assert ndcg(few, best_shares(few * 40)) > ndcg(few, best_shares(few))


def test_every_mixture_of_the_grid_is_there_once_and_leaves_the_last_one_something() -> None:
    shares_WG = grid(4)
    assert len({tuple(row) for row in (shares_WG * STEPS).round().astype(int).tolist()}) == len(shares_WG)
    assert len(shares_WG) == (STEPS + 2) * (STEPS + 1) * STEPS // 6
    np.testing.assert_allclose(shares_WG.sum(axis=1), 1)
    assert shares_WG.min() == 0
    assert shares_WG[:, -1].min() == pytest.approx(1 / STEPS)


def test_one_that_alone_puts_the_target_first_gets_the_largest_share() -> None:
    mass_GC = np.zeros((3, 30))
    mass_GC[0] = 1 / 30
    mass_GC[1, 7] = 1.0
    mass_GC[2, 8:30] = 1 / 22
    share_G = best_shares([Candidates(mass_GC, 7)] * 5 + [Candidates(mass_GC, None)])
    assert share_G.argmax() == 1
    assert share_G.sum() == pytest.approx(1)


def test_where_nothing_knows_a_target_or_there_is_none_all_shares_are_equal() -> None:
    assert best_shares([Candidates(np.ones((4, 3)), None)]).tolist() == [0.25] * 4
