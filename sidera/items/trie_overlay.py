"""Live changes of tries: what was added and removed since they were built, read as if they had been built anew.

The tries of a bundle never change. An overlay says, level by level, which of their nodes are gone and which new ones
stand where, so that node k of the changed tries is found by a binary search in two short sorted lists. Everything that
is looked up in :class:`~sidera.trie.TrieTables` goes through that, and the search sees plain tries: nodes in SID order,
contiguous children and leaves. So a change costs time and memory in proportion to the changes, not to the items, and
every score is that of tries built anew.

"Base" places count the nodes of the tries as they were built, "merged" places those of the changed ones.

Shapes: L levels, n_l base nodes of level l, A added SIDs (or nodes of a level), R removed nodes of a level, X any.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sidera.errors import DuplicateItemError
from sidera.trie import NodeArray, OwnPlaces, SmallInts, Trie, TrieTables

Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LevelChange:
    """The changed nodes of one level.

    Attributes:
        removed_R: base places of the nodes that are gone, sorted.
        before_A: the base place that each added node stands before, sorted; n_l behind all.
        merged_A: the merged place of each added node, sorted.
        parents_A: the merged place of its parent, in the level above; of roots 0.
        codes_A: its code; of roots 0.
        gaps_R: of each removed node, how many base nodes before it stayed.
    """

    removed_R: Places
    before_A: Places
    merged_A: Places
    parents_A: Places
    codes_A: Places
    gaps_R: Places

    def base_of(self, merged_X: Places) -> Places:
        """The base place of merged ones; of an added node and of the end the next base node that stayed (or n_l)."""
        kept_X = merged_X - self.merged_A.searchsorted(merged_X)
        found: Places = kept_X + self.gaps_R.searchsorted(kept_X, side="right")
        return found

    def merged_of(self, base_X: Places) -> Places:
        """The merged place of base nodes that stayed."""
        found: Places = base_X - self.removed_R.searchsorted(base_X) + self.before_A.searchsorted(base_X, side="right")
        return found

    def added(self, merged_X: Places) -> tuple[npt.NDArray[np.bool_], Places]:
        """Which merged places are of added nodes, and which of these each one is."""
        row_X = self.merged_A.searchsorted(merged_X)
        return self.merged_A.searchsorted(merged_X, side="right") > row_X, row_X


@dataclass(frozen=True)
class TrieChanges:
    """The changed nodes of all levels.

    Attributes:
        levels: of each level 0..L.
        paths: of each level 0..L, the merged place of the node that each added SID passes. Shape: int64[A].
    """

    levels: tuple[LevelChange, ...]
    paths: tuple[Places, ...]


def changes_of(base: Trie, removed_leaves_R: Places, added_AL: npt.NDArray[np.integer], roots_A: Places) -> TrieChanges:
    """How the nodes of each level 0..L change.

    Args:
        base: the tries side by side, as they were built.
        removed_leaves_R: sorted, each once. Shape: int64[R].
        added_AL: SIDs that join, sorted by root and SID. Shape: int[A, L].
        roots_A: of each the root: a node of level 0, or one behind all of them, which is new. Shape: int64[A].

    Raises:
        DuplicateItemError: two added SIDs of a root are the same, or a leaf that stays has one of them.
    """
    levels = base.num_levels
    num_roots = len(base.first_child[0]) - 1
    codes_A = [roots_A, *(added_AL[:, level].astype(np.int64) for level in range(levels))]
    first_A = np.ones(len(added_AL), dtype=bool)  # which SIDs are the first of their prefix
    places, known, starts = [], [], []
    place_A = np.minimum(roots_A, num_roots)
    known_A = roots_A < num_roots
    for level in range(levels + 1):
        if level:
            begin_A = base.first_child[level - 1][place_A].astype(np.int64)
            end_A = base.first_child[level - 1][np.minimum(place_A + 1, len(base.first_child[level - 1]) - 1)]
            end_A = np.where(known_A, end_A, begin_A)
            place_A = _lower_bound(base.codes[level - 1], begin_A, end_A, codes_A[level])
            node_A = np.minimum(place_A, len(base.codes[level - 1]) - 1)
            known_A = (place_A < end_A) & (base.codes[level - 1][node_A] == codes_A[level])
        differs_A = np.ones(len(added_AL), dtype=bool)
        differs_A[1:] = codes_A[level][1:] != codes_A[level][:-1]
        first_A = differs_A if level == 0 else first_A | differs_A
        places.append(place_A)
        known.append(known_A)
        starts.append(first_A)
    taken_A = ~first_A | (known_A & ~np.isin(place_A, removed_leaves_R))
    if taken_A.any():
        sid = tuple(added_AL[int(np.flatnonzero(taken_A)[0])].tolist())
        raise DuplicateItemError(f"two items would share the SID {sid}; SIDs are unique within a domain")
    known[levels] = np.zeros_like(known_A)  # an added leaf is a new node even where a removed one had its SID

    removed = [removed_leaves_R]
    for level in range(levels - 1, -1, -1):
        used = places[level][known[level]]
        removed.insert(0, np.setdiff1d(_emptied(base.first_child[level], removed[0]), used))

    changes: list[LevelChange] = []
    paths = [np.zeros(len(added_AL), dtype=np.int64)]
    for level in range(levels + 1):
        is_new_A = starts[level] & ~known[level]
        before = places[level][is_new_A]
        gone = removed[level]
        change = LevelChange(
            removed_R=gone,
            before_A=before,
            merged_A=before - gone.searchsorted(before) + np.arange(len(before)),
            parents_A=paths[-1][is_new_A],
            codes_A=codes_A[level][is_new_A] if level else np.zeros(len(before), dtype=np.int64),
            gaps_R=gone - np.arange(len(gone)),
        )
        new_row_A = np.maximum(np.cumsum(is_new_A) - 1, 0)
        of_new_A = change.merged_A[new_row_A] if len(before) else places[level]
        paths.append(np.where(known[level], change.merged_of(places[level]), of_new_A))
        changes.append(change)
    return TrieChanges(tuple(changes), tuple(paths[1:]))


def _lower_bound(codes: SmallInts, begin_A: Places, end_A: Places, code_A: Places) -> Places:
    """The first place from ``begin`` to ``end`` whose code is not below the one asked for, by bisection."""
    low_A, high_A = begin_A.copy(), end_A.copy()
    while np.any(open_A := low_A < high_A):
        middle_A = (low_A + high_A) // 2
        below_A = open_A & (codes[np.minimum(middle_A, len(codes) - 1)] < code_A)
        low_A = np.where(below_A, middle_A + 1, low_A)
        high_A = np.where(below_A | ~open_A, high_A, middle_A)
    return low_A


def _emptied(first_child: SmallInts, removed_R: Places) -> Places:
    """The nodes all of whose children are removed, sorted."""
    if not len(removed_R):
        return removed_R
    parents_R = first_child.searchsorted(removed_R.astype(first_child.dtype), side="right") - 1
    parents, counts = np.unique(parents_R, return_counts=True)
    whole = counts == first_child[parents + 1] - first_child[parents]
    emptied: Places = parents[whole].astype(np.int64)
    return emptied


@dataclass(frozen=True)
class _MergedPlaces:
    """The lists of a :class:`LevelChange` that lookups need, on a device."""

    merged_A: Tensor
    gaps_R: Tensor

    def base_of(self, merged_X: Tensor) -> Tensor:
        kept_X = merged_X
        if len(self.merged_A):
            kept_X = merged_X - torch.searchsorted(self.merged_A, merged_X)
        if not len(self.gaps_R):
            return kept_X
        return kept_X + torch.searchsorted(self.gaps_R, kept_X, right=True)


@dataclass(frozen=True)
class _ChangedCodes:
    """The codes of a level."""

    base: NodeArray
    places: _MergedPlaces
    codes_A: Tensor
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, where: Tensor | slice) -> Tensor:
        merged_X = _places_in(where, self)
        if not len(self.codes_A):
            return self.base[self.places.base_of(merged_X)]
        merged_A = self.places.merged_A
        row_X = torch.searchsorted(merged_A, merged_X).clamp_max_(len(merged_A) - 1)
        old_X = self.base[self.places.base_of(merged_X).clamp_max_(len(self.base) - 1)]
        return torch.where(merged_A[row_X] == merged_X, self.codes_A[row_X], old_X)


@dataclass(frozen=True)
class _ChangedBegins:
    """Where what lies below the nodes of a level begins, counted in places of a lower level.

    Attributes:
        base: the same of the base.
        places: of the nodes' own level.
        removed_R: base places of the lower level's removed nodes.
        above_A: the merged place, in the nodes' own level, of what stands above each added node of the lower level.
    """

    base: NodeArray
    places: _MergedPlaces
    removed_R: Tensor
    above_A: Tensor
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, where: Tensor | slice) -> Tensor:
        merged_X = _places_in(where, self)
        begin_X = self.base[self.places.base_of(merged_X)]
        if len(self.removed_R):
            begin_X = begin_X - torch.searchsorted(self.removed_R, begin_X)
        if len(self.above_A):
            begin_X = begin_X + torch.searchsorted(self.above_A, merged_X)
        return begin_X


def _places_in(where: Tensor | slice, array: _ChangedCodes | _ChangedBegins) -> Tensor:
    if isinstance(where, slice):
        return torch.arange(len(array), device=array.places.merged_A.device)[where]
    return where.contiguous()


def changed_tables(base: TrieTables, changes: TrieChanges) -> TrieTables:
    """The tables of the changed tries; the base's memory is shared."""

    def on_device(array: Places) -> Tensor:
        return torch.from_numpy(array).to(base.device)

    levels = range(base.num_levels)
    sizes = [len(base.first_child[0]) - 1, *(len(codes) for codes in base.codes)]
    sizes = [size - len(own.removed_R) + len(own.merged_A) for size, own in zip(sizes, changes.levels, strict=True)]
    places = [_MergedPlaces(on_device(own.merged_A), on_device(own.gaps_R)) for own in changes.levels]
    removed = [on_device(own.removed_R) for own in changes.levels]

    def begins(array: NodeArray, level: int, lower: int, above_A: Places) -> NodeArray:
        return _ChangedBegins(array, places[level], removed[lower], on_device(above_A), sizes[level] + 1)

    return TrieTables(
        codes=tuple(
            _ChangedCodes(base.codes[level], places[level + 1], on_device(own.codes_A), sizes[level + 1])
            for level, own in enumerate(changes.levels[1:])
        ),
        first_child=tuple(
            begins(base.first_child[level], level, level + 1, changes.levels[level + 1].parents_A) for level in levels
        ),
        leaf_begin=(
            *(begins(base.leaf_begin[level], level, base.num_levels, changes.paths[level]) for level in levels),
            OwnPlaces(sizes[-1] + 1, base.device),
        ),
        device=base.device,
    )
