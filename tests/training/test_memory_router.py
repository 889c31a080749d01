"""A router is fitted where a history tells which part of the mixture knows the target, and only kept where it helps."""

import numpy as np
import pytest

from sidera.items.memory_reading import Shares
from sidera.items.memory_router import FEATURES
from training.memory_router import BOUND, FEWEST, Asked, fit_memory_router, ndcg_of
from training.mixture_shares import Candidates

BASE = Shares(0.4, 0.4, 0.0)
FOLLOWERS, ALIKE, OURS = 0, 1, 3


def asked(count: int, seed: int) -> Asked:
    """Followers know every other target, items alike the others; the first feature tells which.

    What does not know a target gives its mass to another item.
    """
    rng = np.random.default_rng(seed)
    features_XF = rng.normal(size=(count, len(FEATURES)))
    candidates = []
    for row in range(count):
        knows, misled = (FOLLOWERS, ALIKE) if row % 2 else (ALIKE, FOLLOWERS)
        mass_GC = np.full((4, 30), 0.001)
        mass_GC[knows, 3], mass_GC[misled, 7:20] = 0.5, 0.55
        mass_GC[OURS, 4] = 0.2
        candidates.append(Candidates(mass_GC, 3))
        features_XF[row, 0] = row % 2
    return Asked(candidates, features_XF)


def test_a_history_that_tells_who_knows_the_target_is_routed_there() -> None:
    learned, validation = asked(300, 0), asked(200, 1)
    router = fit_memory_router(learned, validation, BASE, 0, "films")
    assert router is not None
    assert ndcg_of(validation, BASE, router).mean() > ndcg_of(validation, BASE, None).mean() + 0.1
    followed = router.shares(BASE, validation.features_XF[1])
    alike = router.shares(BASE, validation.features_XF[0])
    assert followed.transitions > followed.similar
    assert alike.similar > alike.transitions
    assert followed.transitions / followed.similar < np.exp(2 * BOUND)


def test_the_fixed_shares_stay_where_validation_targets_rank_no_better() -> None:
    misleading = asked(200, 1)
    misleading.features_XF[:, 0] = 1 - misleading.features_XF[:, 0]
    assert fit_memory_router(asked(300, 0), misleading, BASE, 0, "films") is None


def test_of_few_targets_or_none_to_judge_by_nothing_is_learned() -> None:
    assert fit_memory_router(asked(FEWEST - 1, 0), asked(200, 1), BASE, 0, "films") is None
    nobody = Asked([Candidates(np.ones((4, 2)), None)], np.zeros((1, len(FEATURES))))
    assert fit_memory_router(asked(300, 0), nobody, BASE, 0, "films") is None


def test_the_same_seed_gives_the_same_router() -> None:
    one, two = (fit_memory_router(asked(300, 0), asked(200, 1), BASE, 5, "films") for _ in range(2))
    assert one is not None
    assert two is not None
    assert one.outer_GH.tolist() == two.outer_GH.tolist()


def test_targets_that_nothing_knows_are_misses() -> None:
    mass_GC = np.zeros((4, 2))
    mass_GC[FOLLOWERS] = 0.5, 0.1
    some = Asked([Candidates(mass_GC, 1), Candidates(mass_GC, None)], np.zeros((2, len(FEATURES))))
    assert ndcg_of(some, BASE, None).tolist() == pytest.approx([1 / np.log2(3), 0])
