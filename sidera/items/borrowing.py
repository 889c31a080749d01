"""Items that are hardly known borrow the place of their nearest ones in the lists of followers.

An item with fewer than ``FEW`` train events, or one that joined, seldom stands in such a list. So it gets a part of the
mass of the items that it is most like: of each one, its weight in the borrower's list of alike items, over the sum of
that list's ``NEAREST``. What is borrowed is taken from all followers alike: the mass of a list stays.

Shapes: N items of the bundle, X entries of followers, L all that may be lent, Y what is lent, or what joined items
borrow.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sidera.items.memory_reading import Entries, joined
from sidera.items.neighbour_lists import GrownLists, NeighbourLists
from sidera.items.transitions import TransitionDelta

FEW = 5
"""An item with so many train events borrows no more; below it, the less the more it has."""

NEAREST = 3
"""Items that one borrows from."""

OWN_FOLLOWERS = 20
"""An item to which events brought so many followers of its own borrows no more."""


@dataclass(frozen=True)
class Borrowers:
    """Who borrows from whom.

    Attributes:
        base: of each item of the bundle those that borrow from it, and what part of its mass they get.
        lender_Y: of the items that joined: whom they borrow from, sorted. Shape: int64[Y].
        borrower_Y: who borrows. Shape: int64[Y].
        part_Y: what part of the lender's mass. Shape: float64[Y].
    """

    base: NeighbourLists
    lender_Y: npt.NDArray[np.int64]
    borrower_Y: npt.NDArray[np.int64]
    part_Y: npt.NDArray[np.float64]

    @classmethod
    def of(cls, base: NeighbourLists, similar: GrownLists) -> "Borrowers":
        """Those of a bundle, and all items that joined it since."""
        first = len(base.begin) - 1
        owners, lenders, parts = [], [], []
        for number, (item_K, weight_K) in similar.changed.items():
            if number >= first and len(item_K):
                nearest = np.argsort(-weight_K, kind="stable")[:NEAREST]
                owners.append(np.full(len(nearest), number))
                lenders.append(item_K[nearest].astype(np.int64))
                parts.append(weight_K[nearest] / weight_K[nearest].sum(dtype=np.float64))
        if not owners:
            return cls(base, np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float64))
        lender_Y = np.concatenate(lenders)
        order = np.argsort(lender_Y, kind="stable")
        return cls(base, lender_Y[order], np.concatenate(owners)[order], np.concatenate(parts)[order])

    def shared(self, followers: Entries, borrowing: float, delta: TransitionDelta) -> Entries:
        """A distribution of followers in which hardly known items have their part; its whole mass stays.

        Args:
            borrowing: what is borrowed counts so much.
            delta: what events added: an item with followers of its own there borrows less.
        """
        item_X, mass_X = followers
        row_X = np.minimum(item_X, len(self.base.begin) - 1)  # what joined later lends the empty list behind the last
        end_X = self.base.begin[np.minimum(row_X + 1, len(self.base.begin) - 1)]
        lent = [_lent(self.base.begin[row_X], end_X, mass_X, self.base.item, self.base.weight)]
        if len(self.lender_Y):
            begin_X, end_X = self.lender_Y.searchsorted(item_X), self.lender_Y.searchsorted(item_X, side="right")
            lent.append(_lent(begin_X, end_X, mass_X, self.borrower_Y, self.part_Y))
        borrower_Y, borrowed_Y = joined(lent)
        if not len(borrower_Y):
            return followers
        borrowed_Y = borrowing * borrowed_Y
        if delta.entries:
            borrowed_Y *= np.maximum(0, 1 - delta.brought(borrower_Y) / OWN_FOLLOWERS)
        whole = mass_X.sum()
        found_X, shared_X = joined([followers, (borrower_Y, borrowed_Y)])
        return found_X, shared_X * (whole / (whole + borrowed_Y.sum()))


def _lent(
    begin_X: npt.NDArray[np.int64],
    end_X: npt.NDArray[np.int64],
    mass_X: npt.NDArray[np.float64],
    borrower_L: npt.NDArray[np.integer],
    part_L: npt.NDArray[np.floating],
) -> Entries:
    """The borrowers of some entries, and what each gets of their masses; a range of L are one entry's."""
    length_X = end_X - begin_X
    lending = np.flatnonzero(length_X)
    length_X, begin_X, mass_X = length_X[lending], begin_X[lending], mass_X[lending]
    place_Y = np.arange(int(length_X.sum())) - np.repeat(np.cumsum(length_X) - length_X - begin_X, length_X)
    return borrower_L[place_Y].astype(np.int64), part_L[place_Y] * np.repeat(mass_X, length_X)
