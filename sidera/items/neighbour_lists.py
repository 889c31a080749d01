"""Lists of other items that each item of a bundle has, and what became of them as items joined and events came.

Shapes: N items of the bundle, X entries of all lists. Items go by number, which never changes within a bundle.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from sidera.items.transitions import TransitionDelta

Listed = tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]
"""Item numbers and weights."""

_LEAST = 1e-6
"""A count below it is rounding: the base has it as float32."""

_READ_AT_MOST = 20_000
_ENTRIES_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class NeighbourLists:
    """For each item a short list of others, with weights; what counts is their ratio within a list.

    Attributes:
        begin: where each item's list begins, and where the last one ends. Shape: int64[N + 1].
        item: the listed item numbers. Shape: int32[X].
        weight: above 0. Shape: float32[X].
    """

    begin: npt.NDArray[np.int64]
    item: npt.NDArray[np.int32]
    weight: npt.NDArray[np.float32]

    def of(self, number: int) -> Listed:
        """The list of one item; empty for items that came later."""
        if number + 1 >= len(self.begin):
            return self.item[:0], self.weight[:0]
        rows = slice(self.begin[number], self.begin[number + 1])
        return self.item[rows], self.weight[rows]

    @cached_property
    def least(self) -> npt.NDArray[np.float32]:
        """The smallest weight of each list, 0 of an empty one. Shape: float32[N]."""
        least_N = np.zeros(len(self.begin) - 1, dtype=np.float32)
        filled = np.flatnonzero(np.diff(self.begin))
        if len(filled):
            least_N[filled] = np.minimum.reduceat(self.weight, self.begin[filled])
        return least_N


@dataclass(frozen=True)
class GrownLists:
    """The lists of a bundle, and what became of them as items joined.

    Attributes:
        changed: the present list of each item whose list is another one than in ``base``, by number.
    """

    base: NeighbourLists
    changed: Mapping[int, Listed] = field(default_factory=dict)

    def of(self, number: int) -> Listed:
        """The present list of one item."""
        return self.changed.get(number) or self.base.of(number)

    def holding(self, numbers_X: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """Whose lists hold any of these items, sorted. Shape: int64[any]."""
        places = [np.empty(0, dtype=np.int64)]
        for begin in range(0, len(self.base.item), _ENTRIES_AT_ONCE):
            part = self.base.item[begin : begin + _ENTRIES_AT_ONCE]
            places.append(begin + np.flatnonzero(np.isin(part, numbers_X)))
        owner_X = np.unique(self.base.begin.searchsorted(np.concatenate(places), side="right") - 1)
        changed = np.fromiter(self.changed, np.int64, len(self.changed))
        lengths = [len(item_K) for item_K, _ in self.changed.values()]
        entries = np.concatenate([np.empty(0, dtype=np.int32), *(item_K for item_K, _ in self.changed.values())])
        later_X = np.repeat(changed, lengths)[np.isin(entries, numbers_X)]
        return np.union1d(np.setdiff1d(owner_X, changed), later_X)

    def threshold(self, numbers_X: npt.NDArray[np.integer], nearest: int) -> npt.NDArray[np.float32]:
        """What an item's weight must be above to enter these lists of at most ``nearest``. Shape: float32[X]."""
        last = len(self.base.begin) - 1
        known_X = numbers_X < last
        row_X = np.where(known_X, numbers_X, 0)
        if last:
            full_X = known_X & (self.base.begin[row_X + 1] - self.base.begin[row_X] >= nearest)
            threshold_X = np.where(full_X, self.base.least[row_X], 0).astype(np.float32)
        else:
            threshold_X = np.zeros(len(numbers_X), dtype=np.float32)
        for place in np.flatnonzero(np.isin(numbers_X, np.fromiter(self.changed, np.int64, len(self.changed)))):
            _, weight_K = self.changed[int(numbers_X[place])]
            threshold_X[place] = weight_K.min() if len(weight_K) >= nearest else 0
        return threshold_X


@dataclass(frozen=True)
class GrownTransitions:
    """The followers of a bundle's items, and what events added to their counts.

    A list has the ``longest`` largest counts above 0, of equal ones those of the lower number. Those of a bundle that
    are shorter for being cut off count from 0.

    Attributes:
        base: the bundle's counts.
        delta: what was added since.
    """

    base: NeighbourLists
    delta: TransitionDelta
    longest: int
    _read: dict[int, Listed] = field(default_factory=dict, repr=False, compare=False)

    def of(self, number: int) -> Listed:
        """The present list of one item. Made once, and kept as long as this snapshot serves."""
        if not self.delta.runs:
            return self.base.of(number)
        known = self._read.get(number)
        if known is not None:
            return known
        item_K, count_K = self.delta.of(number)
        was_item, was_count = self.base.of(number)
        if not len(item_K):
            return was_item, was_count
        item_X, place_X = np.unique(np.concatenate([was_item.astype(np.int64), item_K]), return_inverse=True)
        count_X = np.bincount(place_X, weights=np.concatenate([was_count, count_K]), minlength=len(item_X))
        kept = np.flatnonzero(count_X > _LEAST)
        kept = kept[np.argsort(-count_X[kept], kind="stable")[: self.longest]]
        made = item_X[kept].astype(np.int32), count_X[kept].astype(np.float32)
        if len(self._read) >= _READ_AT_MOST:
            self._read.clear()
        self._read[number] = made
        return made
