"""How the lists of a history's items become one distribution over items, and what share it has in the mixture.

The newer an item, the more its list counts: P(i | S) = sum_j decay^j w(h_j, i) / sum_j decay^j over the items h_j that
have a list, h_0 the newest. The weights of a list of counts c_i are w_i = max(c_i - discount, 0) / (sum_i c_i +
smoothing): absolute discounting (Ney, Essen and Kneser, 1994), as what came near once only is mostly chance. What they
leave of 1 the language model gets.

Shapes: X entries of some lists, S items found for one history. Items go by number.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sidera.errors import CatalogError
from sidera.items.neighbour_lists import Listed

Found = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]
"""Item numbers, each once and sorted, and their masses."""

NOTHING: Found = (np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float64))


@dataclass(frozen=True)
class Shares:
    """The share of the mixture that each of the three has in a domain; the language model has what is left of 1."""

    transitions: float = 0.0
    similar: float = 0.0
    popularity: float = 0.0

    def __post_init__(self) -> None:
        every = (self.transitions, self.similar, self.popularity)
        if not (min(every) >= 0 and sum(every) <= 1 + 1e-6):
            raise CatalogError(
                f"shares of {every} are no shares of one mixture; set values from 0 that sum to at most 1"
            )


@dataclass(frozen=True)
class Reading:
    """How a history is read: its ``recent`` newest items of the target's domain, each ``decay`` times the newer one.

    ``smoothing`` is what the counts of followers are compared with, and ``discount`` what each of them is less. And how
    an item that joins is compared: a list of alike items has the ``nearest`` ones, with the weights
    exp((cosine - 1) / ``temperature``). ``borrowing``: what an item without events gets of the mean mass of its nearest
    ones, see :mod:`sidera.items.borrowing`; 0: nothing.
    """

    recent: int = 5
    decay: float = 0.6
    nearest: int = 60
    temperature: float = 0.1
    smoothing: float = 0.0
    discount: float = 0.0
    borrowing: float = 0.0


def read_lists(
    of: Callable[[int], Listed],
    numbers: Sequence[int],
    reading: Reading,
    smoothing: float = 0.0,
    discount: float = 0.0,
) -> Found:
    """The distribution that the lists of a history's newest items make.

    Args:
        of: the list of an item.
        numbers: the history, oldest first.
        smoothing: what the sum of a list's weights is compared with.
        discount: what every weight is less; one that leaves nothing is not listed.
    """
    items, masses, whole = [], [], 0.0
    for age, number in enumerate(reversed(numbers[-reading.recent :])):
        item_X, weight_X = of(number)
        if len(item_X):
            share = reading.decay**age / (weight_X.sum(dtype=np.float64) + smoothing)
            if discount:
                kept_X = weight_X > discount
                item_X, weight_X = item_X[kept_X], weight_X[kept_X] - np.float32(discount)
            items.append(item_X.astype(np.int64))
            masses.append(weight_X * share)
            whole += reading.decay**age
    if not items:
        return NOTHING
    found_S, mass_S = summed(np.concatenate(items), np.concatenate(masses))
    return found_S, mass_S / whole


def summed(item_X: npt.NDArray[np.int64], mass_X: npt.NDArray[np.float64]) -> Found:
    """Each item once, with the sum of its masses."""
    found_S, place_X = np.unique(item_X, return_inverse=True)
    return found_S, np.bincount(place_X, weights=mass_X, minlength=len(found_S)).astype(np.float64)
