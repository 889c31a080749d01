"""Folds the changes of a snapshot into its tries, beside whoever reads them, and moves later snapshots onto the result.

The tries of a changed snapshot read as if they had been built anew (:mod:`sidera.items.trie_overlay`), so folding them
is reading them from end to end into plain arrays, in small pieces. Beside the arrays that it makes (13 bytes an item at
four levels of 256 codes) it holds one piece. Nothing that a request sees changes: leaves, item numbers, SIDs and scores
are the same; what later changes cost is counted from the folded tries.

Shapes: N leaves of all domains, A added leaves, R removed ones, L levels.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from sidera.errors import CatalogError
from sidera.items.base_tries import BaseTries
from sidera.items.leaves import Leaves
from sidera.items.trie_overlay import Places
from sidera.trie import IntArray, NodeArray, SmallInts, Trie

Pause = Callable[[], None]

PIECE = 65_536
"""How many nodes are read at once: about a millisecond, and a megabyte."""


def breathe() -> None:
    """Let other threads go first."""
    time.sleep(0)


def folded(leaves: Leaves, pause: Pause = breathe) -> Leaves:
    """The same leaves over tries of their own, without changes; a snapshot without items stays as it is.

    Args:
        pause: called between two pieces; what it raises ends the fold.
    """
    if leaves.changes is None or not leaves.count:
        return leaves
    tables = leaves.tables("cpu")
    before = leaves.base.trie
    trie = Trie(
        codes=tuple(_whole(new, old.dtype, pause) for new, old in zip(tables.codes, before.codes, strict=True)),
        first_child=tuple(_whole(new, np.dtype(np.int32), pause) for new in tables.first_child),
    )
    number_of_leaf = np.empty(leaves.count, dtype=np.int32)
    known = max(len(leaves.base.leaf_of_number), int(leaves.numbers_A.max(initial=-1)) + 1)
    leaf_of_number = np.full(known, -1, dtype=np.int32)
    for begin, end in _pieces(leaves.count):
        piece = np.arange(begin, end, dtype=np.int32)
        number_of_leaf[begin:end] = leaves.numbers_of(piece)
        leaf_of_number[number_of_leaf[begin:end]] = piece
        pause()
    base = BaseTries(tuple(leaves.ranges), trie, number_of_leaf, leaf_of_number)
    return Leaves.unchanged(leaves.bundle, base, leaves.left_X)


def _whole(array: NodeArray, kind: np.dtype[np.integer], pause: Pause) -> SmallInts:
    whole = np.empty(len(array), dtype=kind)
    for begin, end in _pieces(len(array)):
        whole[begin:end] = array[torch.arange(begin, end)].numpy()
        pause()
    return whole


def _pieces(count: int) -> list[tuple[int, int]]:
    return [(begin, min(begin + PIECE, count)) for begin in range(0, count, PIECE)]


def moved(leaves: Leaves, before: Leaves, plain: Leaves) -> Leaves:
    """Leaves of another snapshot, counted from what ``before`` was folded into: takes time with what lies between them.

    Args:
        leaves: of a snapshot with the same base as ``before``.
        plain: what :func:`folded` made of ``before``.

    Raises:
        CatalogError: it has another base.
    """
    if leaves.base is not before.base:
        raise CatalogError("the catalog was read anew while it was folded; fold it again")
    if plain is before:  # there was nothing to fold
        return leaves
    if leaves is before:
        return plain
    later = (domain for domain in leaves.roots if domain not in plain.roots)
    roots = {**plain.roots, **{domain: len(plain.roots) + place for place, domain in enumerate(later)}}
    old_roots_A, new_roots_A = _roots(before, roots), _roots(leaves, roots)
    _, old, new = np.intersect1d(before.numbers_A, leaves.numbers_A, assume_unique=True, return_indices=True)
    same = (old_roots_A[old] == new_roots_A[new]) & (before.sids_AL[old] == leaves.sids_AL[new]).all(axis=1)
    gone_A, joined_A = np.ones(len(before.numbers_A), dtype=bool), np.ones(len(leaves.numbers_A), dtype=bool)
    gone_A[old[same]] = joined_A[new[same]] = False
    returned = np.setdiff1d(before.removed_R, leaves.removed_R, assume_unique=True)
    removed = np.setdiff1d(leaves.removed_R, before.removed_R, assume_unique=True)
    gone = np.concatenate([before.numbers_A[gone_A], leaves.base.number_of_leaf[removed].astype(np.int64)])
    roots_A = np.concatenate([new_roots_A[joined_A], _base_roots(before.base, returned, roots)])
    sids_AL: IntArray = np.concatenate([leaves.sids_AL[joined_A], before.base.trie.sids_of(returned)])
    numbers_A = np.concatenate([leaves.numbers_A[joined_A], before.base.number_of_leaf[returned].astype(np.int64)])
    less = Leaves.unchanged(leaves.bundle, plain.base, leaves.left_X)
    less = less.without(gone) if len(gone) else less
    grown = less.joined(roots, roots_A, sids_AL, numbers_A) if len(numbers_A) else less
    return replace(grown, roots=roots, left_X=leaves.left_X)


def _roots(leaves: Leaves, roots: Mapping[str, int]) -> Places:
    """The roots of added leaves under other numbers; a domain that no leaf is of may have none. Shape: int64[A]."""
    number = np.array([roots.get(domain, -1) for domain in sorted(leaves.roots, key=leaves.roots.__getitem__)])
    under: Places = number[leaves.roots_A].astype(np.int64)
    return under


def _base_roots(base: BaseTries, leaves_X: npt.NDArray[np.int64], roots: Mapping[str, int]) -> Places:
    """The roots of some leaves of a base under other numbers. Shape: int64[X]."""
    begins = np.array([begin for begin, _ in base.ranges.values()])
    number = np.array([roots[domain] for domain in base.ranges], dtype=np.int64)
    under: Places = number[begins.searchsorted(leaves_X, side="right") - 1]
    return under
