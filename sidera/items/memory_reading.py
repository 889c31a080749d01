"""How the lists of a history's items become one distribution over items, and what share it has in the mixture.

The newer an item, the more its list counts: P(i | S) = sum_j decay^j w(h_j, i) / sum_j decay^j over the items h_j that
have a list, h_0 the newest. The weights of a list of counts c_i are w_i = max(c_i - discount, 0) / (sum_i c_i +
smoothing): absolute discounting (Ney, Essen and Kneser, 1994), as what came near once only is mostly chance. What they
leave of 1 the language model gets.

Shapes: R lists of one history, K entries of one list, X entries of some lists, S items found for one history. Items
go by number.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sidera.errors import CatalogError
from sidera.items.neighbour_lists import Listed

Found = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]
"""Item numbers, each once and sorted, and their masses."""

Entries = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]
"""Item numbers in any order, one perhaps several times, and masses, which add up: what :func:`summed` makes one of."""

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
) -> Entries:
    """The distribution that the lists of a history's newest items make, list by list.

    Args:
        of: the list of an item.
        numbers: the history, oldest first.
        smoothing: what the sum of a list's weights is compared with.
        discount: what every weight is less; one that leaves nothing is not listed.
    """
    aged = [(of(number), reading.decay**age) for age, number in enumerate(reversed(numbers[-reading.recent :]))]
    lists = [(item_K, weight_K, part) for (item_K, weight_K), part in aged if len(item_K)]
    if not lists:
        return NOTHING
    item_X = np.concatenate([item_K for item_K, _, _ in lists]).astype(np.int64)
    weight_X = np.concatenate([weight_K for _, weight_K, _ in lists]).astype(np.float64)
    part_R = np.array([part for _, _, part in lists])
    length_R = np.array([len(item_K) for item_K, _, _ in lists])
    sum_R = np.add.reduceat(weight_X, length_R.cumsum() - length_R)
    share_X = (part_R / part_R.sum() / (sum_R + smoothing)).repeat(length_R)
    if not discount:
        return item_X, weight_X * share_X
    kept = np.flatnonzero(weight_X > discount)
    return item_X[kept], (weight_X[kept] - discount) * share_X[kept]


def joined(parts: Sequence[Entries]) -> Entries:
    """Several of them, one behind the other."""
    return np.concatenate([item_X for item_X, _ in parts]), np.concatenate([mass_X for _, mass_X in parts])


def summed(entries: Entries) -> Found:
    """Each item once, with the sum of its masses."""
    item_X, mass_X = entries
    if not len(item_X):
        return NOTHING
    item_S, order, first_S = _grouped(item_X)
    return item_S, np.add.reduceat(mass_X[order], first_S)


def side_by_side(
    one: Entries, other: Entries
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """All items of two, each once and sorted, and what it has in the one and in the other."""
    count = len(one[0])
    item_X, mass_X = joined([one, other])
    if not len(item_X):
        return item_X, mass_X, mass_X
    item_S, order, first_S = _grouped(item_X)
    mass_X, of_one_X = mass_X[order], order < count
    return item_S, np.add.reduceat(mass_X * of_one_X, first_S), np.add.reduceat(mass_X * ~of_one_X, first_S)


def _grouped(
    item_X: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Items each once and sorted, the order that sorts entries by item, and where in it each item's begin.

    An item and its place are one number meanwhile: such are sorted in half the time of an order. Items are below 2^31,
    and so are entries.
    """
    bits = len(item_X).bit_length()
    packed_X = item_X << bits
    packed_X |= np.arange(len(item_X))
    packed_X.sort()
    order = packed_X & ((1 << bits) - 1)
    packed_X >>= bits
    begins_X = np.empty(len(item_X), dtype=np.bool_)
    begins_X[0] = True
    np.not_equal(packed_X[1:], packed_X[:-1], out=begins_X[1:])
    first_S = begins_X.nonzero()[0]
    return packed_X[first_S], order, first_S
