"""How far a history moves the shares of the mixture: by what is known of it before any forward pass.

A small network per domain reads how much the memory knows of a history and moves the logarithms of the domain's fixed
shares by at most ``bound``; so a history that memory knows well hears it, another one the language model. It is fitted
in training, on validation targets, which nothing else has learned or counted (``training/memory_router.py``).

Shapes: F features, H hidden width, G parts of the mixture: followers, alike, popularity, language model. S items found
for one history.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from sidera.items.memory_reading import Shares

Floats = npt.NDArray[np.float32]
Number = TypeVar("Number", np.float32, np.float64)

FEATURES = (
    "count of the newest item's list",
    "count of the list before",
    "count of the list before that",
    "length of the history",
    "mass of the followers",
    "largest mass of a follower",
    "entropy of the followers",
    "largest mass of an item alike",
    "entropy of the items alike",
    "mass that followers and items alike agree on",
    "popularity of the newest item",
)
"""What the router reads; counts and lengths as log(1 + x)."""

_LISTS = 3
_LEAST = 1e-7
LEAST_SHARE = 0.01
"""A share that is smaller begins here: of none nothing could be made."""


def features_of(
    counts: Sequence[float],
    length: int,
    followed_S: npt.NDArray[np.float64],
    alike_S: npt.NDArray[np.float64],
    popularity: float,
) -> npt.NDArray[np.float64]:
    """What is known of one history: float64[F].

    Args:
        counts: of the lists of followers of the history's newest items, the newest first.
        length: items of the history in the target's domain.
        followed_S, alike_S: masses of the same items, as followers and as items alike.
        popularity: of the newest item, as a share of its domain's train events.
    """
    known = [*counts[:_LISTS], *[0.0] * (_LISTS - len(counts[:_LISTS]))]
    return np.array(
        [
            *(math.log1p(count) for count in known),
            math.log1p(length),
            float(followed_S.sum()),
            float(followed_S.max(initial=0.0)),
            _entropy(followed_S),
            float(alike_S.max(initial=0.0)),
            _entropy(alike_S),
            float(np.minimum(followed_S, alike_S).sum()),
            math.log(popularity + _LEAST),
        ]
    )


def _entropy(mass_S: npt.NDArray[np.float64]) -> float:
    return -float(mass_S @ np.log(mass_S + 1e-12))


@dataclass(frozen=True)
class MemoryRouter:
    """The network of one domain: its logits are ``bound`` tanh(y / ``bound``), y of one hidden layer of GELUs.

    Attributes:
        mean_F: of the features it was fitted on. Shape: float32[F].
        scale_F: their deviation. Shape: float32[F].
        inner_HF, inner_H, outer_GH, outer_G: its layers.
        bound: what a logarithm of a share moves at the most.
    """

    mean_F: Floats
    scale_F: Floats
    inner_HF: Floats
    inner_H: Floats
    outer_GH: Floats
    outer_G: Floats
    bound: float

    def shares(self, base: Shares, features_F: npt.NDArray[np.floating]) -> Shares:
        """The shares for one history, of the fixed ones of its domain."""
        hidden_H = self.inner_HF @ ((features_F - self.mean_F) / self.scale_F) + self.inner_H
        moved_G = self.outer_GH @ gelu(hidden_H) + self.outer_G
        rest = 1 - base.transitions - base.similar - base.popularity
        base_G = np.maximum([base.transitions, base.similar, base.popularity, rest], LEAST_SHARE)
        logits_G = np.log(base_G) + self.bound * np.tanh(moved_G / self.bound)
        share_G = np.exp(logits_G - logits_G.max())
        followed, alike, popular, _ = (share_G / share_G.sum()).tolist()
        return Shares(followed, alike, popular)


def gelu(x: npt.NDArray[Number]) -> npt.NDArray[Number]:
    """By tanh (Hendrycks and Gimpel, arXiv 1606.08415), which NumPy has; of any shape."""
    made = x * x
    made *= 0.044715
    made += 1
    made *= math.sqrt(2 / math.pi)
    made *= x
    np.tanh(made, out=made)
    made += 1
    made *= x
    made *= 0.5
    return made
