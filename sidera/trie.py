"""The prefix tree of all SIDs of a domain, as CSR arrays, level by level.

Nodes of one level stand in SID order, so the children of a node, and the leaves below it, are one contiguous range.
Level 0 holds the roots (one a domain), level L the leaves; leaf i is the i-th SID in order. The tries of several
domains lie side by side in one ``TrieTables``, so that requests for different domains are decoded in one batch.
This module knows no items: what a leaf stands for is the catalog's business.

Shapes: N items (leaves), L levels, n_l nodes of level l, B batch, X any number of leaves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sidera.errors import CatalogError, DuplicateItemError

IntArray = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Trie:
    """The trie of one domain on the host.

    Attributes:
        codes: for each level 1..L, the code of every node. Shape: int32[n_l].
        first_child: for each level 0..L-1, where the children of every node begin in the next level, and where the last
            ones end. Shape: int32[n_l + 1].
    """

    codes: tuple[IntArray, ...]
    first_child: tuple[IntArray, ...]

    @property
    def num_levels(self) -> int:
        return len(self.codes)

    @property
    def num_leaves(self) -> int:
        return len(self.codes[-1])

    def sids(self) -> IntArray:
        """All SIDs in leaf order. Shape: int32[N, L]."""
        levels = []
        for level in range(1, self.num_levels + 1):
            column = self.codes[level - 1]
            for first_child in self.first_child[level:]:
                column = np.repeat(column, np.diff(first_child))
            levels.append(column)
        return np.stack(levels, axis=1)

    def sids_of(self, leaves_X: npt.NDArray[np.integer]) -> IntArray:
        """The SIDs of some leaves. Shape: int32[X, L]."""
        codes = []
        nodes_X = np.asarray(leaves_X)
        for level in range(self.num_levels, 0, -1):
            codes.append(self.codes[level - 1][nodes_X])
            nodes_X = np.searchsorted(self.first_child[level - 1], nodes_X, side="right") - 1
        return np.stack(codes[::-1], axis=1)

    def arrays(self) -> dict[str, IntArray]:
        """What a bundle stores of this trie."""
        stored = {f"codes.{level}": array for level, array in enumerate(self.codes, start=1)}
        return stored | {f"first_child.{level}": array for level, array in enumerate(self.first_child)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, IntArray], num_levels: int) -> "Trie":
        """The trie that :meth:`arrays` stored.

        Raises:
            CatalogError: an array is missing, or they do not form a trie of ``num_levels`` levels.
        """
        try:
            trie = cls(
                codes=tuple(arrays[f"codes.{level}"] for level in range(1, num_levels + 1)),
                first_child=tuple(arrays[f"first_child.{level}"] for level in range(num_levels)),
            )
        except KeyError as missing:
            raise CatalogError(f"the stored trie lacks {missing}; export the bundle again") from None
        nodes = 1
        for codes, first_child in zip(trie.codes, trie.first_child, strict=True):
            whole = len(first_child) == nodes + 1 and first_child[0] == 0 and first_child[-1] == len(codes)
            if not whole or np.any(np.diff(first_child) < 1):
                raise CatalogError("the stored trie's levels do not fit together; export the bundle again")
            begins_N = np.zeros(len(codes), dtype=bool)
            begins_N[first_child[:-1]] = True
            if np.any(codes < 0) or np.any((np.diff(codes) < 1) & ~begins_N[1:]):
                raise CatalogError("the stored trie's codes do not increase below a node; export the bundle again")
            nodes = len(codes)
        return trie


def build_trie(sids_NL: npt.NDArray[np.integer], codebook_sizes: Sequence[int]) -> tuple[Trie, npt.NDArray[np.int64]]:
    """Sort SIDs into a trie.

    Args:
        sids_NL: one SID an item, in any order. Shape: int[N, L], N at least 1.
        codebook_sizes: how many codes each level has.

    Returns:
        The trie, and the row of ``sids_NL`` that each leaf stands for. Shape: int64[N].

    Raises:
        CatalogError: no items, another number of codes than levels, or a code that its level does not have.
        DuplicateItemError: two rows hold the same SID.
    """
    sids_NL = np.asarray(sids_NL)
    num_levels = len(codebook_sizes)
    if sids_NL.ndim != 2 or sids_NL.shape[1] != num_levels:
        raise CatalogError(f"SIDs of shape {sids_NL.shape} do not fit {num_levels} levels; give one code a level")
    if len(sids_NL) == 0:
        raise CatalogError("a trie needs at least one item; leave an empty domain out")
    outside = (sids_NL < 0) | (sids_NL >= np.asarray(codebook_sizes))
    if outside.any():
        row, level = np.argwhere(outside)[0]
        raise CatalogError(
            f"row {row}: code {sids_NL[row, level]} at level {level + 1} is outside 0..{codebook_sizes[level] - 1}; "
            "encode the item with this catalog's tokenizer"
        )
    order = np.lexsort(sids_NL.T[::-1])
    sorted_NL: IntArray = sids_NL[order].astype(np.int32)
    differs_NL = np.ones_like(sorted_NL, dtype=bool)
    differs_NL[1:] = sorted_NL[1:] != sorted_NL[:-1]
    starts_node_NL = np.logical_or.accumulate(differs_NL, axis=1)
    if not starts_node_NL[:, -1].all():
        leaf = int(np.flatnonzero(~starts_node_NL[:, -1])[0])
        raise DuplicateItemError(
            f"rows {order[leaf - 1]} and {order[leaf]} share the SID {tuple(sorted_NL[leaf].tolist())}; "
            "SIDs are unique within a domain"
        )
    codes, first_child = [], []
    leaf_begin = np.zeros(1, dtype=np.int64)
    for level in range(num_levels):
        next_begin = np.flatnonzero(starts_node_NL[:, level])
        codes.append(sorted_NL[next_begin, level])
        boundaries = np.searchsorted(next_begin, leaf_begin)
        first_child.append(np.append(boundaries, len(next_begin)).astype(np.int32))
        leaf_begin = next_begin
    return Trie(tuple(codes), tuple(first_child)), order


@dataclass(frozen=True)
class TrieTables:
    """The tries of all domains of a catalog side by side, on the device that decodes.

    Attributes:
        codes: for each level 1..L. Shape: int64[n_l].
        first_child: for each level 0..L-1. Shape: int64[n_l + 1].
        leaf_begin: for each level 0..L, the first leaf below every node, and the end. Shape: int64[n_l + 1].
    """

    codes: tuple[Tensor, ...]
    first_child: tuple[Tensor, ...]
    leaf_begin: tuple[Tensor, ...]

    @property
    def num_levels(self) -> int:
        return len(self.codes)

    @property
    def num_leaves(self) -> int:
        return len(self.codes[-1])

    @property
    def device(self) -> torch.device:
        return self.codes[0].device

    def ancestors(self, leaves_B: Tensor) -> Tensor:
        """The node of each level 0..L above (and at) each leaf. Shape: int64[B, L + 1]."""
        nodes = [torch.searchsorted(begin, leaves_B, right=True) - 1 for begin in self.leaf_begin]
        return torch.stack(nodes, dim=1)


def tables_of(tries: Sequence[Trie], device: torch.device | str = "cpu") -> TrieTables:
    """Lay tries side by side: the root of ``tries[i]`` is node i of level 0; leaves follow each other in that order."""
    num_levels = tries[0].num_levels
    codes, first_child = [], []
    for level in range(num_levels):
        codes.append(np.concatenate([trie.codes[level] for trie in tries]))
        offsets = np.cumsum([0] + [len(trie.codes[level]) for trie in tries])
        parts = [trie.first_child[level][:-1] + offset for trie, offset in zip(tries, offsets, strict=False)]
        first_child.append(np.concatenate([*parts, offsets[-1:]]))
    leaf_begin = [np.arange(len(codes[-1]) + 1)]
    for boundaries in reversed(first_child):
        leaf_begin.insert(0, leaf_begin[0][boundaries])

    def on_device(arrays: Sequence[npt.NDArray[np.integer]]) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(array.astype(np.int64)).to(device) for array in arrays)

    return TrieTables(on_device(codes), on_device(first_child), on_device(leaf_begin))
