"""Shares of a mixture, chosen by how they rank."""

from itertools import permutations

import numpy as np
import pytest

from training.mixture_shares import MANY, NEARLY_BEST, STEPS, Candidates, around, best_shares, grid


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


def random_candidates(seed: int, count: int = 40, distributions: int = 3) -> list[Candidates]:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        size = int(rng.integers(1, 40))
        mass_GC = rng.random((distributions, size)) ** 4 * (rng.random((distributions, size)) < 0.6)
        target = None if rng.random() < 0.2 else int(rng.integers(size))
        if target is not None and rng.random() < 0.7:
            mass_GC[1, target] += 0.3  # the second one knows more than the others
        made.append(Candidates(mass_GC, target))
    return made


def values(candidates: list[Candidates], share_G: np.ndarray) -> np.ndarray:
    return np.array([ndcg([own], share_G) for own in candidates])


@pytest.mark.parametrize("seed", range(3))
def test_of_few_targets_the_likeliest_shares_are_taken_of_those_that_rank_as_well_as_can_be_told(seed: int) -> None:
    candidates = random_candidates(seed)
    values_WX = np.array([values(candidates, share_G) for share_G in grid(3)])
    best_X = values_WX[values_WX.mean(axis=1).argmax()]
    behind_WX = best_X - values_WX
    error_W = behind_WX.std(axis=1) / len(candidates) ** 0.5
    as_good_W = (behind_WX.mean(axis=1) <= error_W + 1e-7) | (values_WX.mean(axis=1) >= NEARLY_BEST * best_X.mean())
    likeliest = max(likelihood(candidates, share_G) for share_G in grid(3)[as_good_W])
    assert likelihood(candidates, best_shares(candidates)) == pytest.approx(likeliest)


def test_of_many_targets_only_those_shares_are_left_to_likelihood_that_rank_almost_as_the_best() -> None:
    few = random_candidates(1, 30)
    many = few * -(-MANY // len(few))
    values_W = np.array([ndcg(few, share_G) for share_G in grid(3)])
    nearly = grid(3)[values_W >= NEARLY_BEST * values_W.max()]
    chosen_G = best_shares(many)
    assert chosen_G.tolist() in nearly.tolist()
    assert likelihood(few, chosen_G) == pytest.approx(max(likelihood(few, share_G) for share_G in nearly))
    # Fewer of the same targets are left to likelihood: what ranks behind may be taken.
    fewer = few * ((MANY - 1) // len(few))
    assert likelihood(few, best_shares(fewer)) >= likelihood(few, chosen_G)
    assert ndcg(few, best_shares(few)) < NEARLY_BEST * values_W.max()


def test_noise_decides_among_few_targets_and_not_among_many() -> None:
    """Five targets are found by the first distribution, three by the second, which makes all others likelier."""
    first = Candidates(np.array([[0.5] + 12 * [0.0], [0.0] + 12 * [0.55]]), 0)
    second = Candidates(first.mass_GC[::-1].copy(), 0)
    likelier = Candidates(np.array([[0.1], [0.9]]), 0)
    told = [first] * 5 + [second] * 3
    few = best_shares([*told, *[likelier] * (MANY - 9)])
    many = best_shares([*told, *[likelier] * (MANY - 8)])
    assert few[1] > few[0]
    assert many[0] > many[1]


def ladders(shares: tuple[float, ...]) -> list[Candidates]:
    """Targets of which each comes first where one share is large enough beside another one's, a rung of a ladder later
    the smaller it is. All do so under these shares, and under no other twentieths."""
    rungs_C = np.array([0.95, 0.8, 0.65, 0.5, 0.4, 0.3, 0.2, 0.1])
    made = []
    for known, other in permutations(range(len(shares)), 2):
        mass_GC = np.zeros((len(shares), 1 + len(rungs_C)))
        mass_GC[known, 0], mass_GC[other, 1:] = 0.05, 0.05 * rungs_C * shares[known] / shares[other]
        made.append(Candidates(mass_GC, 0))
    return made


@pytest.mark.parametrize(
    "shares", [(0.3, 0.1, 0.4, 0.1, 0.1), (0.35, 0.15, 0.3, 0.1, 0.1), (0.4, 0.25, 0.1, 0.25), (0.1, 0.65, 0.25)]
)
def test_the_only_mixture_that_puts_every_target_first_is_found(shares: tuple[float, ...]) -> None:
    candidates = ladders(shares) * 100
    assert ndcg(candidates, np.array(shares)) == pytest.approx(len(candidates))
    assert best_shares(candidates) == pytest.approx(shares)


def test_the_shares_of_five_are_twentieths_that_rank_no_worse_than_any_tenths() -> None:
    some = random_candidates(2, 25, distributions=5)
    chosen_G = best_shares(some * (MANY // len(some)))
    best_tenths = max(ndcg(some, share_G) for share_G in grid(5, STEPS // 2))
    assert ndcg(some, chosen_G) >= NEARLY_BEST**2 * best_tenths
    assert np.abs(np.rint(chosen_G * STEPS) - chosen_G * STEPS).max() < 1e-9


def test_the_neighbourhood_of_a_mixture_stays_one_of_mixtures_and_leaves_the_last_one_something() -> None:
    for share_G in (np.array([0.3, 0.2, 0.1, 0.1, 0.3]), np.array([0.9, 0, 0, 0, 0.1]), np.array([0, 0, 0, 0, 1.0])):
        shares_WG = around(share_G)
        np.testing.assert_allclose(shares_WG.sum(axis=1), 1)
        assert shares_WG.min() >= 0
        assert shares_WG[:, -1].min() >= 1 / STEPS
        assert np.abs(shares_WG - share_G).max() == pytest.approx(1 / STEPS)
        twentieths = {tuple(row) for row in np.rint(shares_WG * STEPS).astype(int).tolist()}
        assert len(twentieths) == len(shares_WG)
        assert tuple(np.rint(share_G * STEPS).astype(int).tolist()) in twentieths
    # Of five: none moves, one gives and one takes, or two give and two take.
    assert len(around(np.array([0.3, 0.2, 0.1, 0.1, 0.3]))) == 1 + 5 * 4 + 5 * 6


def test_every_mixture_of_the_grid_is_there_once_and_leaves_the_last_one_something() -> None:
    shares_WG = grid(4)
    assert len({tuple(row) for row in (shares_WG * STEPS).round().astype(int).tolist()}) == len(shares_WG)
    assert len(shares_WG) == (STEPS + 2) * (STEPS + 1) * STEPS // 6
    np.testing.assert_allclose(shares_WG.sum(axis=1), 1)
    assert shares_WG.min() == 0
    assert shares_WG[:, -1].min() == pytest.approx(1 / STEPS)


def test_a_grid_of_fewer_steps_has_the_mixtures_of_those_steps() -> None:
    shares_WG = grid(5, 10)
    assert len(shares_WG) == 715
    np.testing.assert_allclose(shares_WG * 10, np.rint(shares_WG * 10), atol=1e-9)
    np.testing.assert_allclose(shares_WG.sum(axis=1), 1)
    assert shares_WG[:, -1].min() == pytest.approx(0.1)


def test_one_that_alone_puts_the_target_first_gets_the_largest_share() -> None:
    mass_GC = np.zeros((3, 30))
    mass_GC[0] = 1 / 30
    mass_GC[1, 7] = 1.0
    mass_GC[2, 8:30] = 1 / 22
    share_G = best_shares([Candidates(mass_GC, 7)] * 5 + [Candidates(mass_GC, None)])
    assert share_G.argmax() == 1
    assert share_G.sum() == pytest.approx(1)


def test_where_nothing_knows_a_target_or_there_is_none_all_shares_are_equal() -> None:
    for count in (4, 5):
        assert best_shares([Candidates(np.ones((count, 3)), None)]).tolist() == [1 / count] * count
