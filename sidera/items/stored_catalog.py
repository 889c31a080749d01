"""What a bundle holds of a catalog: its items, their tries side by side, and which leaf stands for which item.

Nothing of it ever changes; :mod:`sidera.catalog` makes snapshots on top of it. On disk (``catalog/`` of a bundle) the
tries are one safetensors file, which is mapped into memory: opening it parses nothing, and host and CPU tables share
its pages.

Files: those of :mod:`sidera.items.item_store`, and ``tries.safetensors``: ``codes.1..L``, ``first_child.0..L-1`` (see
:class:`~sidera.trie.Trie`), ``number_of_leaf`` and ``leaf_of_number``, int32[N]; the names of the roots are in its
header.

Shapes: N items of all domains, L levels.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from sidera.errors import CatalogError
from sidera.items.base_tries import BaseTries
from sidera.items.item_store import ItemColumns, ItemStore, build_store
from sidera.trie import IntArray, SmallInts, Trie, build_trie, side_by_side

TRIES_FILE = "tries.safetensors"

_DOMAINS = "domains"
_LEAVES_AT_ONCE = 1_000_000


@dataclass(frozen=True)
class StoredCatalog:
    """Items and tries that do not change."""

    codebook_sizes: tuple[int, ...]
    store: ItemStore
    tries: BaseTries

    def numbers_of(self, domain: str) -> npt.NDArray[np.int64]:
        """The item numbers of a domain, sorted; none of a domain that is not in the bundle. Shape: int64[any]."""
        numbers = np.sort(self.tries.number_of_leaf[slice(*self.tries.ranges.get(domain, (0, 0)))])
        return numbers.astype(np.int64)

    def save(self, folder: Path) -> None:
        """Write the files of ``catalog/``."""
        self.store.save(folder)
        tries = self.tries
        arrays: dict[str, SmallInts] = dict(tries.trie.arrays())
        arrays |= {"number_of_leaf": tries.number_of_leaf, "leaf_of_number": tries.leaf_of_number}
        save_file(arrays, folder / TRIES_FILE, metadata={_DOMAINS: json.dumps(tries.domains)})

    @classmethod
    def load(cls, folder: Path, domains: Iterable[str], codebook_sizes: Sequence[int]) -> "StoredCatalog":
        """Open what :meth:`save` wrote.

        Args:
            domains: those that it should hold, in any order.

        Raises:
            CatalogError: a file is missing or is none of these, or they do not fit together or the domains.
        """
        store = ItemStore.load(folder)
        try:
            with safe_open(folder / TRIES_FILE, framework="pt") as file:
                names = tuple(json.loads(file.metadata()[_DOMAINS]))
                arrays = {name: file.get_tensor(name).numpy() for name in file.keys()}  # noqa: SIM118
            number_of_leaf, leaf_of_number = arrays["number_of_leaf"], arrays["leaf_of_number"]
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise CatalogError(f"{TRIES_FILE} cannot be read ({error}); export the bundle again") from error
        wanted = sorted(domains)
        if sorted(names) != wanted:
            raise CatalogError(
                f"{TRIES_FILE} holds the domains {', '.join(map(str, names))}, not {', '.join(wanted)}; export the "
                "bundle again"
            )
        trie = Trie.from_arrays(arrays, codebook_sizes, num_roots=len(names))
        if not _fit(number_of_leaf, leaf_of_number, trie.num_leaves, len(store)):
            raise CatalogError(f"the leaves of {TRIES_FILE} do not fit the items; export the bundle again")
        return cls(tuple(codebook_sizes), store, BaseTries(names, trie, number_of_leaf, leaf_of_number))


def build_catalog(
    domains: Mapping[str, tuple[ItemColumns, npt.NDArray[np.integer]]], codebook_sizes: Sequence[int]
) -> StoredCatalog:
    """Number items and build the tries of their domains.

    Args:
        domains: the items of each, and their SIDs in the same order. Shape of the latter: int[N, L]. Their own order
            changes nothing: roots stand in the order of names.

    Raises:
        CatalogError: no items, an id or a SID that is not allowed, or another number of SIDs than items.
        DuplicateItemError: two items of a domain share an id or a SID.
    """
    domains = {name: domains[name] for name in sorted(domains)}
    store, numbers = build_store({name: columns for name, (columns, _) in domains.items()})
    tries, number_of_leaf = [], []
    for name, (columns, sids_NL) in domains.items():
        if len(sids_NL) != len(columns.item_ids):
            raise CatalogError(f"{len(sids_NL)} SIDs for {len(columns.item_ids)} items of {name!r}; encode each once")
        trie, order = build_trie(sids_NL, codebook_sizes)
        tries.append(trie)
        number_of_leaf.append(numbers[name][order])
    leaves = np.concatenate(number_of_leaf)
    leaf_of_number = np.empty_like(leaves)
    leaf_of_number[leaves] = np.arange(len(leaves), dtype=np.int32)
    base = BaseTries(tuple(domains), side_by_side(tries), leaves, leaf_of_number)
    return StoredCatalog(tuple(codebook_sizes), store, base)


def _fit(number_of_leaf: IntArray, leaf_of_number: IntArray, leaves: int, items: int) -> bool:
    """Whether each leaf stands for an item of its own, and both arrays say the same."""
    for array in (number_of_leaf, leaf_of_number):
        if array.dtype != np.int32 or array.shape != (leaves,) or leaves != items:
            return False
    if number_of_leaf.min() < 0 or number_of_leaf.max() >= items:
        return False
    for begin in range(0, leaves, _LEAVES_AT_ONCE):
        part = number_of_leaf[begin : begin + _LEAVES_AT_ONCE]
        if not np.array_equal(leaf_of_number[part], np.arange(begin, begin + len(part))):
            return False
    return True
