"""Shares that a history moves: within bounds, and by what is known of it."""

import numpy as np
import pytest

from sidera.items.memory_reading import Shares
from sidera.items.memory_router import FEATURES, MemoryRouter, features_of

BASE = Shares(0.4, 0.2, 0.1)


def router(outer_G: list[float], bound: float = 1.0) -> MemoryRouter:
    """Moves the logits by ``outer_G``, whatever it reads."""
    count = len(FEATURES)
    return MemoryRouter(
        np.zeros(count, np.float32),
        np.ones(count, np.float32),
        np.zeros((3, count), np.float32),
        np.zeros(3, np.float32),
        np.zeros((4, 3), np.float32),
        np.array(outer_G, np.float32),
        bound,
    )


def test_a_router_that_moves_nothing_gives_the_fixed_shares() -> None:
    shares = router([0, 0, 0, 0]).shares(BASE, np.ones(len(FEATURES)))
    assert (shares.transitions, shares.similar, shares.popularity) == pytest.approx((0.4, 0.2, 0.1))


def test_no_share_moves_beyond_the_bound() -> None:
    shares = router([100, 0, 0, 0], bound=1.0).shares(BASE, np.ones(len(FEATURES)))
    assert shares.transitions == pytest.approx(0.4 * np.e / (0.4 * np.e + 0.6))
    assert shares.similar / shares.popularity == pytest.approx(2)


def test_features_tell_how_much_is_known_of_a_history() -> None:
    followed_S, alike_S = np.array([0.5, 0.25, 0.0]), np.array([0.0, 0.75, 0.25])
    features = dict(zip(FEATURES, features_of([3.0, 1.0], 4, followed_S, alike_S, 0.01).tolist(), strict=True))
    assert features["count of the newest item's list"] == pytest.approx(np.log(4))
    assert features["count of the list before that"] == 0
    assert features["length of the history"] == pytest.approx(np.log(5))
    assert features["mass of the followers"] == 0.75
    assert features["largest mass of a follower"] == 0.5
    assert features["entropy of the followers"] == pytest.approx(-0.5 * np.log(0.5) - 0.25 * np.log(0.25))
    assert features["mass that followers and items alike agree on"] == 0.25


def test_of_nothing_features_are_finite() -> None:
    assert np.isfinite(features_of([], 0, np.empty(0), np.empty(0), 0.0)).all()
