"""Items that are hardly known borrow the place of their nearest ones in the lists of followers.

An item with fewer than ``FEW`` train events, or one that joined, seldom stands in such a list. So it gets a part of the
mass of the items that it is most like: of each one, its weight in the borrower's list of alike items, over the sum of
that list's ``NEAREST``. What is borrowed is taken from all followers alike: the mass of a list stays.

Shapes: N items of the bundle, X entries of all lists, S items found for one history, Y what joined items borrow.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sidera.items.memory_reading import Found, summed
from sidera.items.neighbour_lists import GrownLists, NeighbourLists
from sidera.items.transitions import TransitionDelta

FEW = 5
"""An item with so many train events borrows no more; below it, the less the more it has."""

NEAREST = 20
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

    def shared(self, followers: Found, borrowing: float, delta: TransitionDelta) -> Found:
        """A distribution of followers in which hardly known items have their part; its whole mass stays.

        Args:
            borrowing: what is borrowed counts so much.
            delta: what events added: an item with followers of its own there borrows less.
        """
        item_S, mass_S = followers
        last = len(self.base.begin) - 2
        stored_S = item_S <= last
        row_S = np.minimum(item_S, max(last, 0))
        begin_S = np.where(stored_S, self.base.begin[row_S], 0)
        end_S = np.where(stored_S, self.base.begin[row_S + 1], 0) if last >= 0 else begin_S
        lent = [_lent(begin_S, end_S, mass_S, self.base.item, self.base.weight)]
        if len(self.lender_Y):
            begin_S, end_S = self.lender_Y.searchsorted(item_S), self.lender_Y.searchsorted(item_S, side="right")
            lent.append(_lent(begin_S, end_S, mass_S, self.borrower_Y, self.part_Y))
        borrower_X, borrowed_X = summed(*(np.concatenate(parts) for parts in zip(*lent, strict=True)))
        if not len(borrower_X):
            return followers
        borrowed_X = borrowing * borrowed_X
        if delta.entries:
            borrowed_X *= np.maximum(0, 1 - delta.brought(borrower_X) / OWN_FOLLOWERS)
        found_S, shared_S = summed(np.concatenate([item_S, borrower_X]), np.concatenate([mass_S, borrowed_X]))
        return found_S, shared_S * (mass_S.sum() / shared_S.sum())


def _lent(
    begin_S: npt.NDArray[np.int64],
    end_S: npt.NDArray[np.int64],
    mass_S: npt.NDArray[np.float64],
    item_X: npt.NDArray[np.integer],
    part_X: npt.NDArray[np.floating],
) -> Found:
    """The borrowers of some items, an item as often as it borrows, and what each gets of their masses."""
    length_S = end_S - begin_S
    whole = int(length_S.sum())
    place_X = np.arange(whole) - np.repeat(np.cumsum(length_S) - length_S - begin_S, length_S)
    return item_X[place_X].astype(np.int64), part_X[place_X] * np.repeat(mass_S, length_S)
