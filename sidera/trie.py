"""The prefix tree of all SIDs of a domain, as CSR arrays, level by level.

Nodes of one level stand in SID order, so the children of a node, and the leaves below it, are one contiguous range.
Level 0 holds the roots (one a domain), level L the leaves; leaf i is the i-th SID in order. The tries of several
domains lie side by side, so that requests for different domains are decoded in one batch.

Arrays have the smallest integer types that suffice (10 million items of four levels of 256 codes take 5 bytes an item),
may lie on disk, and are shared between the host's :class:`Trie` and the tables of a CPU. What is looked up in tables
comes as int64, so that only the few numbers that a step gathers are ever wide.

This module knows no items: what a leaf stands for is the catalog's business.

Shapes: N items (leaves), L levels, n_l nodes of level l, R roots, B batch, X any number of leaves or nodes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sidera.errors import CatalogError, DuplicateItemError

IntArray = npt.NDArray[np.int32]
SmallInts = npt.NDArray[np.integer[Any]]
"""uint8, int16 or int32."""


@dataclass(frozen=True)
class Trie:
    """The trie of one domain on the host, or those of several side by side, one root each.

    Attributes:
        codes: for each level 1..L, the code of every node. Shape: uint8, int16 or int32[n_l].
        first_child: for each level 0..L-1, where the children of every node begin in the next level, and where the last
            ones end; counted from its first entry, which is not 0 where the trie is a part of another one. Shape:
            int32[n_l + 1].
    """

    codes: tuple[SmallInts, ...]
    first_child: tuple[SmallInts, ...]

    @property
    def num_levels(self) -> int:
        return len(self.codes)

    @property
    def num_leaves(self) -> int:
        return len(self.codes[-1])

    def below(self, root: int) -> "Trie":
        """The trie of one root; a view, which takes no memory."""
        begin, end = root, root + 1
        codes, first_child = [], []
        for own_codes, own_first in zip(self.codes, self.first_child, strict=True):
            first_child.append(own_first[begin : end + 1])
            begin, end = (int(own_first[node]) - int(own_first[0]) for node in (begin, end))
            codes.append(own_codes[begin:end])
        return Trie(tuple(codes), tuple(first_child))

    def sids(self) -> IntArray:
        """All SIDs in leaf order. Shape: int32[N, L]."""
        levels = []
        for level in range(1, self.num_levels + 1):
            column = self.codes[level - 1]
            for first_child in self.first_child[level:]:
                column = np.repeat(column, np.diff(first_child))
            levels.append(column)
        return np.stack(levels, axis=1, dtype=np.int32)

    def leaf_of(self, sid: Sequence[int]) -> int | None:
        """The leaf of a SID below the first root; None if there is none."""
        node = 0
        for codes, first_child, code in zip(self.codes, self.first_child, sid, strict=True):
            begin, end = (int(first_child[place]) - int(first_child[0]) for place in (node, node + 1))
            node = begin + int(codes[begin:end].searchsorted(code))
            if node == end or codes[node] != code:
                return None
        return node

    def sids_of(self, leaves_X: npt.NDArray[np.integer]) -> IntArray:
        """The SIDs of some leaves. Shape: int32[X, L]."""
        codes = []
        nodes_X = np.asarray(leaves_X, dtype=np.int64)
        for level in range(self.num_levels, 0, -1):
            codes.append(self.codes[level - 1][nodes_X])
            first_child = self.first_child[level - 1]
            # Another type than the array's would make numpy convert all of the array.
            places_X = (nodes_X + int(first_child[0])).astype(first_child.dtype)
            nodes_X = first_child.searchsorted(places_X, side="right") - 1
        return np.stack(codes[::-1], axis=1, dtype=np.int32)

    def arrays(self) -> dict[str, SmallInts]:
        """What a bundle stores of this trie."""
        stored = {f"codes.{level}": array for level, array in enumerate(self.codes, start=1)}
        return stored | {f"first_child.{level}": array for level, array in enumerate(self.first_child)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, SmallInts], codebook_sizes: Sequence[int], num_roots: int = 1) -> "Trie":
        """The trie that :meth:`arrays` stored.

        Raises:
            CatalogError: an array is missing, or they do not form a trie of so many roots and codes.
        """
        levels = len(codebook_sizes)
        try:
            trie = cls(
                codes=tuple(arrays[f"codes.{level}"] for level in range(1, levels + 1)),
                first_child=tuple(arrays[f"first_child.{level}"] for level in range(levels)),
            )
        except KeyError as missing:
            raise CatalogError(f"the stored trie lacks {missing}; export the bundle again") from None
        nodes = num_roots
        for codes, first_child, size in zip(trie.codes, trie.first_child, codebook_sizes, strict=True):
            if codes.dtype.kind not in "iu" or first_child.dtype != np.int32 or codes.ndim + first_child.ndim != 2:
                raise CatalogError("the stored trie's arrays are of other types; export the bundle again")
            whole = len(first_child) == nodes + 1 and first_child[0] == 0 and first_child[-1] == len(codes)
            if not whole or np.any(first_child[1:] <= first_child[:-1]):
                raise CatalogError("the stored trie's levels do not fit together; export the bundle again")
            begins_N = np.zeros(len(codes), dtype=bool)
            begins_N[first_child[:-1]] = True
            if codes.min() < 0 or codes.max() >= size or np.any((codes[1:] <= codes[:-1]) & ~begins_N[1:]):
                raise CatalogError("the stored trie's codes do not increase below a node; export the bundle again")
            nodes = len(codes)
        return trie


def code_type(codebook_size: int) -> type[np.integer[Any]]:
    """The smallest type for the codes of a level that indexing with tensors knows."""
    if codebook_size <= 2**8:
        return np.uint8
    return np.int16 if codebook_size <= 2**15 else np.int32


def build_trie(sids_NL: npt.NDArray[np.integer], codebook_sizes: Sequence[int]) -> tuple[Trie, npt.NDArray[np.int64]]:
    """Sort SIDs into a trie.

    Args:
        sids_NL: one SID an item, in any order. Shape: int[N, L], N at least 1.
        codebook_sizes: how many codes each level has.

    Returns:
        The trie, and the row of ``sids_NL`` that each leaf stands for. Shape: int64[N].

    Raises:
        CatalogError: no items or too many, another number of codes than levels, or a code that its level does not have.
        DuplicateItemError: two rows hold the same SID.
    """
    sids_NL = np.asarray(sids_NL)
    check_sids(sids_NL, codebook_sizes)
    if not 0 < len(sids_NL) < 2**31:
        raise CatalogError(f"a trie of {len(sids_NL)} items; it needs at least one and fewer than 2**31")
    columns = [sids_NL[:, level].astype(code_type(size)) for level, size in enumerate(codebook_sizes)]
    order = np.lexsort(columns[::-1])
    starts_node_N = np.zeros(len(order), dtype=bool)
    starts_node_N[0] = True
    codes, first_child = [], []
    leaf_begin = np.zeros(1, dtype=np.int64)
    for column in columns:
        sorted_N = column[order]
        starts_node_N[1:] |= sorted_N[1:] != sorted_N[:-1]
        next_begin = np.flatnonzero(starts_node_N)
        codes.append(sorted_N[next_begin])
        boundaries = np.searchsorted(next_begin, leaf_begin)
        first_child.append(np.append(boundaries, len(next_begin)).astype(np.int32))
        leaf_begin = next_begin
    if not starts_node_N.all():
        leaf = int(np.flatnonzero(~starts_node_N)[0])
        raise DuplicateItemError(
            f"rows {order[leaf - 1]} and {order[leaf]} share the SID {tuple(sids_NL[order[leaf]].tolist())}; "
            "SIDs are unique within a domain"
        )
    return Trie(tuple(codes), tuple(first_child)), order


def check_sids(sids_NL: npt.NDArray[np.integer], codebook_sizes: Sequence[int]) -> None:
    """Refuse SIDs that do not fit the codebooks.

    Raises:
        CatalogError: another number of codes than levels, or a code that its level does not have; names the first.
    """
    if sids_NL.ndim != 2 or sids_NL.shape[1] != len(codebook_sizes):
        raise CatalogError(
            f"SIDs of shape {sids_NL.shape} do not fit {len(codebook_sizes)} levels; give a code a level"
        )
    outside = (sids_NL < 0) | (sids_NL >= np.asarray(codebook_sizes))
    if outside.any():
        row, level = np.argwhere(outside)[0]
        raise CatalogError(
            f"row {row}: code {sids_NL[row, level]} at level {level + 1} is outside 0..{codebook_sizes[level] - 1}; "
            "encode the item with this catalog's tokenizer"
        )


def side_by_side(tries: Sequence[Trie]) -> Trie:
    """Several tries as one: the root of ``tries[i]`` is node i of level 0; leaves follow each other in that order."""
    if len(tries) == 1 and not any(int(first_child[0]) for first_child in tries[0].first_child):
        return tries[0]
    codes, first_child = [], []
    for level in range(tries[0].num_levels):
        codes.append(np.concatenate([trie.codes[level] for trie in tries]))
        offsets = np.cumsum([0] + [len(trie.codes[level]) for trie in tries])
        parts = [
            trie.first_child[level][:-1] - int(trie.first_child[level][0]) + np.int32(offset)
            for trie, offset in zip(tries, offsets, strict=False)
        ]
        first_child.append(np.concatenate([*parts, offsets[-1:].astype(np.int32)]))
    return Trie(tuple(codes), tuple(first_child))


class NodeArray(Protocol):
    """An array of whole numbers, one a node of a level (and one behind them, where it holds boundaries)."""

    def __len__(self) -> int: ...

    def __getitem__(self, where: Tensor | slice) -> Tensor:
        """Some of them, as int64 of the shape of ``where``."""


@dataclass(frozen=True)
class PackedArray:
    """A node array in memory, of a small type."""

    values: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, where: Tensor | slice) -> Tensor:
        return self.values[where].long()


@dataclass(frozen=True)
class OwnPlaces:
    """0, 1, 2, ...: of every leaf the leaf itself."""

    count: int
    device: torch.device

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, where: Tensor | slice) -> Tensor:
        if isinstance(where, slice):
            return torch.arange(self.count, device=self.device)[where]
        return where


@dataclass(frozen=True)
class TrieTables:
    """The tries of all domains of a catalog side by side, on the device that decodes.

    Attributes:
        codes: for each level 1..L, n_l numbers.
        first_child: for each level 0..L-1, n_l + 1 numbers.
        leaf_begin: for each level 0..L, the first leaf below every node, and the end: n_l + 1 numbers.
    """

    codes: tuple[NodeArray, ...]
    first_child: tuple[NodeArray, ...]
    leaf_begin: tuple[NodeArray, ...]
    device: torch.device

    @property
    def num_levels(self) -> int:
        return len(self.codes)

    @property
    def num_leaves(self) -> int:
        return len(self.codes[-1])

    def ancestors(self, leaves_B: Tensor) -> Tensor:
        """The node of each level 0..L above (and at) each leaf. Shape: int64[B, L + 1]."""
        return torch.stack([_last_up_to(begin, leaves_B) for begin in self.leaf_begin], dim=1)


def _last_up_to(boundaries: NodeArray, leaves_B: Tensor) -> Tensor:
    """The last place of a boundary that is at most each leaf, by bisection. Shape: int64[B]."""
    low_B = torch.zeros_like(leaves_B)
    high_B = torch.full_like(leaves_B, len(boundaries) - 1)
    for _ in range((len(boundaries) - 1).bit_length()):
        middle_B = (low_B + high_B + 1) // 2
        up_to_B = boundaries[middle_B] <= leaves_B
        low_B = torch.where(up_to_B, middle_B, low_B)
        high_B = torch.where(up_to_B, high_B, middle_B - 1)
    return low_B


def tables_of(tries: Sequence[Trie], device: torch.device | str = "cpu") -> TrieTables:
    """Lay tries side by side: the root of ``tries[i]`` is node i of level 0; leaves follow each other in that order.

    The tables of one whole trie on a CPU share its memory.
    """
    whole = side_by_side(tries)
    device = torch.device(device)

    def packed(array: SmallInts) -> PackedArray:
        return PackedArray(torch.from_numpy(array).to(device))

    first_child = tuple(packed(array) for array in whole.first_child)
    leaf_begin: list[NodeArray] = [OwnPlaces(whole.num_leaves + 1, device), first_child[-1]]
    begins = whole.first_child[-1]
    for above in whole.first_child[-2::-1]:
        begins = begins[above]
        leaf_begin.append(packed(begins))
    return TrieTables(tuple(packed(array) for array in whole.codes), first_child, tuple(leaf_begin[::-1]), device)
