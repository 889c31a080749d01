"""The tries that a snapshot's changes are counted from: side by side, with the item of each leaf; they never change.

They are those of a bundle, or plain tries of a later snapshot (:mod:`sidera.items.folding`).

Shapes: N leaves of all domains, M item numbers, L levels.
"""

import itertools
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from sidera.trie import IntArray, Trie, TrieTables, tables_of


@dataclass(frozen=True)
class BaseTries:
    """Tries that do not change; leaves count through those of all domains.

    Attributes:
        domains: whose trie each root is.
        trie: the tries side by side.
        number_of_leaf: the item number of each leaf. Shape: int32[N].
        leaf_of_number: the leaf of each item number; -1 where it has none. Shape: int32[M].
    """

    domains: tuple[str, ...]
    trie: Trie
    number_of_leaf: IntArray
    leaf_of_number: IntArray
    _tables: dict[torch.device, TrieTables] = field(default_factory=dict, repr=False, compare=False)

    def tables(self, device: torch.device | str) -> TrieTables:
        """The tries on a device: made once, and on a CPU without a copy."""
        device = torch.device(device)
        if device not in self._tables:
            self._tables[device] = tables_of([self.trie], device)
        return self._tables[device]

    @cached_property
    def ranges(self) -> dict[str, tuple[int, int]]:
        """The leaves of each domain, from the first to before the last."""
        begins = np.arange(len(self.domains) + 1)
        for first_child in self.trie.first_child:
            begins = first_child[begins].astype(np.int64)
        return dict(zip(self.domains, itertools.pairwise(begins.tolist()), strict=True))

    def kept_sids(self, domain: str, removed_R: npt.NDArray[np.int64]) -> IntArray:
        """The SIDs of a domain in leaf order, without those of some leaves, which count through all domains."""
        begin, end = self.ranges[domain]
        kept_N = np.ones(end - begin, dtype=bool)
        kept_N[removed_R[slice(*removed_R.searchsorted([begin, end]))] - begin] = False
        sids_NL: IntArray = self.trie.below(self.domains.index(domain)).sids()[kept_N]
        return sids_NL
