"""Which item each leaf of a catalog snapshot stands for: the leaves of its base, and what was added and removed since.

The base is the bundle's tries, or those that an earlier snapshot was folded into. Leaves count through the tries of all
domains of the snapshot, in the order of the tries' roots; see :mod:`sidera.items.trie_overlay` for what "base" and
"merged" mean.

Shapes: A added leaves, R removed ones, L levels, X any number of leaves or items.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from sidera.items.base_tries import BaseTries
from sidera.items.stored_catalog import StoredCatalog
from sidera.items.trie_overlay import Places, TrieChanges, changed_tables, changes_of
from sidera.trie import IntArray, Trie, TrieTables, build_trie

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Leaves:
    """The leaves of one snapshot.

    Attributes:
        bundle: what the bundle holds.
        base: what the changes are counted from.
        roots: of each domain that was in the catalog since the base was made; those behind the base's are later ones.
        removed_R: the base's leaves that are gone, sorted. Shape: int64[R].
        roots_A: of the leaves that were added, in leaf order. Shape: int64[A].
        sids_AL: their SIDs. Shape: int32[A, L].
        numbers_A: their items' numbers. Shape: int64[A].
        left_X: numbers of the bundle's items that left the leaf that it gave them, sorted. Shape: int64[X].
    """

    bundle: StoredCatalog
    base: BaseTries
    roots: Mapping[str, int]
    removed_R: Places
    roots_A: Places
    sids_AL: IntArray
    numbers_A: Numbers
    left_X: Numbers

    @classmethod
    def of(cls, bundle: StoredCatalog) -> "Leaves":
        """The leaves of a bundle as it is."""
        return cls.unchanged(bundle, bundle.tries, np.empty(0, dtype=np.int64))

    @classmethod
    def unchanged(cls, bundle: StoredCatalog, base: BaseTries, left_X: Numbers) -> "Leaves":
        """The leaves of a base as it is."""
        none = np.empty(0, dtype=np.int64)
        sids_AL = np.empty((0, len(bundle.codebook_sizes)), dtype=np.int32)
        roots = {domain: root for root, domain in enumerate(base.domains)}
        return cls(bundle, base, roots, none, none, sids_AL, none, left_X)

    def without(self, numbers_X: Numbers) -> "Leaves":
        """The leaves once some items are gone; all of them have leaves."""
        added_X = np.isin(numbers_X, self.numbers_A)
        removed = self.base.leaf_of_number[numbers_X[~added_X]].astype(np.int64)
        kept_A = ~np.isin(self.numbers_A, numbers_X)
        return replace(
            self,
            removed_R=np.union1d(self.removed_R, removed),
            roots_A=self.roots_A[kept_A],
            sids_AL=self.sids_AL[kept_A],
            numbers_A=self.numbers_A[kept_A],
            left_X=np.union1d(self.left_X, numbers_X[numbers_X < len(self.bundle.store)]),
        )

    def joined(self, roots: Mapping[str, int], roots_X: Places, sids_XL: IntArray, numbers_X: Numbers) -> "Leaves":
        """The leaves once some items have joined, which have none yet.

        Args:
            roots: of all domains, those that are new behind the others.

        Raises:
            DuplicateItemError: a SID is taken, or given twice in a domain.
        """
        roots_A = np.concatenate([self.roots_A, roots_X])
        sids_AL = np.concatenate([self.sids_AL, sids_XL])
        order = np.lexsort([*sids_AL.T[::-1], roots_A])
        numbers_A = np.concatenate([self.numbers_A, numbers_X])[order]
        grown = replace(
            self,
            roots=roots,
            roots_A=roots_A[order],
            sids_AL=sids_AL[order],
            numbers_A=numbers_A,
            left_X=np.setdiff1d(self.left_X, self._with_own_sid(numbers_X, sids_XL), assume_unique=True),
        )
        _ = grown.changes  # here a SID that is taken is found
        return grown

    def _with_own_sid(self, numbers_X: Numbers, sids_XL: IntArray) -> Numbers:
        """Those items that have the SID that the bundle gave them."""
        tries = self.bundle.tries
        of_bundle = np.flatnonzero(numbers_X < len(self.bundle.store))
        own_XL = tries.trie.sids_of(tries.leaf_of_number[numbers_X[of_bundle]])
        same: Numbers = numbers_X[of_bundle[(own_XL == sids_XL[of_bundle]).all(axis=1)]]
        return same

    @cached_property
    def changes(self) -> TrieChanges | None:
        """What is another in the tries than in the base; None: nothing."""
        if not len(self.removed_R) and not len(self.numbers_A):
            return None
        return changes_of(self.base.trie, self.removed_R, self.sids_AL, self.roots_A)

    @cached_property
    def ranges(self) -> dict[str, tuple[int, int]]:
        """The leaves of each domain that has any, from the first to before the last; in the order of their roots."""
        added = np.bincount(self.roots_A, minlength=len(self.roots)).tolist()
        ranges, end = dict[str, tuple[int, int]](), 0
        for domain, root in sorted(self.roots.items(), key=lambda pair: pair[1]):
            first, behind = self.base.ranges.get(domain, (0, 0))
            removed = int(np.diff(self.removed_R.searchsorted([first, behind]))[0])
            begin, end = end, end + behind - first - removed + added[root]
            if end > begin:
                ranges[domain] = begin, end
        return ranges

    @cached_property
    def count(self) -> int:
        """How many there are."""
        return len(self.base.number_of_leaf) - len(self.removed_R) + len(self.numbers_A)

    def tables(self, device: torch.device | str) -> TrieTables:
        """The tries of the snapshot on a device, where those of the base are laid out once."""
        tables = self.base.tables(device)
        return tables if self.changes is None else changed_tables(tables, self.changes)

    def numbers_of(self, leaves_X: npt.NDArray[np.integer]) -> Numbers:
        """The item numbers of some leaves. Shape: int64[X]."""
        if self.changes is None:
            found: Numbers = self.base.number_of_leaf[leaves_X].astype(np.int64)
            return found
        added_X, row_X, base_X = self._apart(leaves_X)
        numbers_X = self.base.number_of_leaf[base_X].astype(np.int64)
        numbers_X[added_X] = self.numbers_A[row_X[added_X]]
        return numbers_X

    def sids_of(self, leaves_X: npt.NDArray[np.integer]) -> IntArray:
        """The SIDs of some leaves. Shape: int32[X, L]."""
        if self.changes is None:
            return self.base.trie.sids_of(leaves_X)
        added_X, row_X, base_X = self._apart(leaves_X)
        sids_XL = self.base.trie.sids_of(base_X)
        sids_XL[added_X] = self.sids_AL[row_X[added_X]]
        return sids_XL

    def _apart(self, leaves_X: npt.NDArray[np.integer]) -> tuple[npt.NDArray[np.bool_], Places, Places]:
        """Which leaves were added, the row of each of these, and the base's leaves of the others."""
        assert self.changes is not None
        change = self.changes.levels[-1]
        merged_X = np.asarray(leaves_X, dtype=np.int64)
        added_X, row_X = change.added(merged_X)
        return added_X, row_X, np.minimum(change.base_of(merged_X), len(self.base.number_of_leaf) - 1)

    def leaves_of(self, numbers_X: npt.NDArray[np.integer]) -> Places:
        """The leaves of some items, -1 of those that are gone. Shape: int64[X]."""
        numbers_X = np.asarray(numbers_X, dtype=np.int64)
        base_N = self.base.leaf_of_number
        known_X = numbers_X < len(base_N)
        leaves_X = np.where(known_X, base_N[np.where(known_X, numbers_X, 0)], -1).astype(np.int64)
        if self.changes is None:
            return leaves_X
        change = self.changes.levels[-1]
        stayed_X = (leaves_X >= 0) & ~np.isin(leaves_X, self.removed_R)
        leaves_X[~stayed_X] = -1
        leaves_X[stayed_X] = change.merged_of(leaves_X[stayed_X])
        numbers, rows = self._sorted_numbers
        if len(numbers):
            place_X = np.minimum(numbers.searchsorted(numbers_X), len(numbers) - 1)
            leaves_X = np.where(numbers[place_X] == numbers_X, change.merged_A[rows[place_X]], leaves_X)
        return leaves_X

    def from_bundle(self, numbers_X: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
        """Whether items have the leaves that the bundle gave them. Shape: bool[X]."""
        kept_X: npt.NDArray[np.bool_] = (numbers_X < len(self.bundle.store)) & ~np.isin(numbers_X, self.left_X)
        return kept_X

    @cached_property
    def _sorted_numbers(self) -> tuple[Numbers, Places]:
        """The numbers of added leaves, sorted, and the row of each."""
        rows = np.argsort(self.numbers_A)
        return self.numbers_A[rows], rows


@dataclass(frozen=True)
class DomainIndex:
    """The leaves of one domain, counted from its first one, and the item number of each."""

    domain: str
    leaves: Leaves
    first_leaf: int
    num_leaves: int

    def numbers_of(self, leaves_X: npt.NDArray[np.integer]) -> Numbers:
        """The item numbers of some leaves. Shape: int64[X]."""
        return self.leaves.numbers_of(np.asarray(leaves_X, dtype=np.int64) + self.first_leaf)

    def sids_of(self, leaves_X: npt.NDArray[np.integer]) -> IntArray:
        """The SIDs of some leaves. Shape: int32[X, L]."""
        return self.leaves.sids_of(np.asarray(leaves_X, dtype=np.int64) + self.first_leaf)

    @property
    def number_of_leaf(self) -> npt.NDArray[np.integer]:
        """The item number of every leaf; of a changed catalog it is made for the asker. Shape: int[N]."""
        if self.leaves.changes is None:
            return self.leaves.base.number_of_leaf[self.first_leaf : self.first_leaf + self.num_leaves]
        return self.numbers_of(np.arange(self.num_leaves))

    def sids(self) -> IntArray:
        """All SIDs in leaf order: made for the asker. Shape: int32[N, L]."""
        leaves, changes = self.leaves, self.leaves.changes
        if changes is None:
            return self.trie.sids()
        own_A = leaves.roots_A == leaves.roots[self.domain]
        sids_NL = np.empty((self.num_leaves, leaves.sids_AL.shape[1]), dtype=np.int32)
        added_N = np.zeros(self.num_leaves, dtype=bool)
        added_N[changes.levels[-1].merged_A[own_A] - self.first_leaf] = True
        sids_NL[added_N] = leaves.sids_AL[own_A]
        if not added_N.all():
            sids_NL[~added_N] = leaves.base.kept_sids(self.domain, leaves.removed_R)
        return sids_NL

    @cached_property
    def trie(self) -> Trie:
        """The trie of the domain alone; of a changed catalog it is built when it is first asked for."""
        base = self.leaves.base
        if self.leaves.changes is None:
            return base.trie.below(base.domains.index(self.domain))
        return build_trie(self.sids(), self.leaves.bundle.codebook_sizes)[0]
