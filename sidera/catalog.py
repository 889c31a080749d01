"""Items, their SIDs and tries, as one immutable snapshot with an increasing version.

An item's number never changes within a bundle: the items of the bundle are numbered by their id's place in one
``marisa-trie`` dictionary, items added later follow behind. What persists is keyed by that number; leaves, which move
as items come and go, are looked up per snapshot. A snapshot shares what the bundle holds
(:mod:`sidera.items.stored_catalog`) and adds what changed since, so making the next one takes time in proportion to the
changes, not to the items; folding them starts that count anew.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from sidera.errors import CatalogError, DuplicateItemError, UnknownDomainError
from sidera.items.catalog_item import CatalogItem, LaterChanges, item_sids
from sidera.items.folding import Pause, breathe, folded, moved
from sidera.items.item_store import ItemColumns, check_item_id, columns_of, is_item_id
from sidera.items.leaves import DomainIndex, Leaves
from sidera.items.stored_catalog import StoredCatalog, build_catalog
from sidera.names import check_domain_name
from sidera.trie import IntArray, TrieTables

__all__ = ["Catalog", "CatalogItem", "create_catalog"]


class Catalog:
    """A snapshot: changing it means making the next one (``with_...``, ``without_items``)."""

    def __init__(self, version: int, leaves: Leaves, later: LaterChanges | None = None) -> None:
        self.version = version
        self.codebook_sizes = leaves.bundle.codebook_sizes
        self.indexes = {
            domain: DomainIndex(domain, leaves, begin, end - begin) for domain, (begin, end) in leaves.ranges.items()
        }
        self._leaves = leaves
        self._store = leaves.bundle.store
        self._later = later or LaterChanges()

    @property
    def domains(self) -> tuple[str, ...]:
        """Those that have items, in the order of their roots in :meth:`tables`."""
        return tuple(self.indexes)

    def __len__(self) -> int:
        return self._leaves.count

    def size(self, domain: str) -> int:
        """How many items a domain has.

        Raises:
            UnknownDomainError: the catalog does not hold it.
        """
        return self.index(domain).num_leaves

    def index(self, domain: str) -> DomainIndex:
        """The leaves of a domain.

        Raises:
            UnknownDomainError: the catalog does not hold it.
        """
        try:
            return self.indexes[domain]
        except KeyError:
            known = ", ".join(self.indexes)
            raise UnknownDomainError(f"there is no domain {domain[:80]!r}; the domains are {known}") from None

    def tables(self, device: torch.device | str = "cpu") -> TrieTables:
        """The tries of all domains side by side."""
        return self._leaves.tables(device)

    def find(self, domain: str, item_id: str) -> int | None:
        """The number of an item, None if the catalog does not hold it."""
        number = self._number(domain, item_id)
        return None if number in self._later.removed else number

    def _number(self, domain: str, item_id: str) -> int | None:
        """The number of an item that is in the catalog, or once was."""
        number = self._later.numbers.get((domain, item_id))
        if number is not None:
            return number
        if domain not in self._leaves.bundle.tries.ranges or not is_item_id(item_id):
            return None
        return self._store.number(domain, item_id)

    def ids_from(self, domain: str, beginning: str) -> Iterator[str]:
        """The ids of the bundle's items of a domain that begin so; later changes are not among them."""
        if not beginning or is_item_id(beginning):
            yield from self._store.ids_from(domain, beginning)

    def leaf(self, number: int) -> int:
        """The leaf of an item in its domain's trie."""
        return int(self.leaves(np.array([number]))[0])

    def leaves(self, numbers_X: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """The leaves of some items, each in its domain's trie; -1 of those that were removed. Shape: int64[X]."""
        leaves_X = self.table_leaves(numbers_X)
        row_X = self._first_leaves.searchsorted(leaves_X, side="right") - 1
        return np.where(leaves_X < 0, -1, leaves_X - self._first_leaves[np.maximum(row_X, 0)])

    def table_leaves(self, numbers_X: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """The leaves of some items in :meth:`tables`; -1 of those that were removed. Shape: int64[X]."""
        return self._leaves.leaves_of(numbers_X)

    @cached_property
    def _first_leaves(self) -> npt.NDArray[np.int64]:
        return np.array([index.first_leaf for index in self.indexes.values()] or [0], dtype=np.int64)

    def hidden_leaves(self, domain: str) -> npt.NDArray[np.int64]:
        """The leaves of a domain's hidden items, sorted: they have their part in every score and never come back.

        Raises:
            UnknownDomainError: the catalog does not hold the domain.
        """
        index = self.index(domain)
        begin, end = self._hidden.searchsorted([index.first_leaf, index.first_leaf + index.num_leaves])
        hidden: npt.NDArray[np.int64] = self._hidden[begin:end] - index.first_leaf
        return hidden

    @cached_property
    def _hidden(self) -> npt.NDArray[np.int64]:
        """The leaves of all hidden items, through all domains, sorted."""
        numbers = self._later.hidden
        return np.sort(self._leaves.leaves_of(np.fromiter(numbers, np.int64, len(numbers))))

    def name(self, number: int) -> tuple[str, str | None]:
        """The item id and the title of an item: what an answer shows, without unpacking its fields."""
        known = self._later.items.get(number)
        if known is not None:
            return known.item_id, known.title
        return self._store.name(number)[1], self._store.title(number)

    def item(self, number: int) -> CatalogItem:
        """The item with a number."""
        known = self._later.items.get(number)
        if known is not None:
            return known
        domain, item_id = self._store.name(number)
        sid = self.sid(domain, number)
        return CatalogItem(domain, item_id, sid, self._store.title(number), self._store.fields(number))

    @property
    def bundle_items(self) -> pa.Table:
        """The bundle's items by number: ``title``, and ``fields`` as JSON; what came later: :meth:`later_items`."""
        return self._store.table

    def bundle_numbers(self, domain: str) -> npt.NDArray[np.int64]:
        """The numbers of the items that the bundle holds of a domain, sorted; also of those that were removed since."""
        return self._leaves.bundle.numbers_of(domain)

    def from_bundle(self, numbers_X: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
        """Whether items have the leaves that the bundle gave them: they did not come later, nor were removed."""
        return self._leaves.from_bundle(numbers_X)

    def columns(self, domain: str) -> tuple[npt.NDArray[np.int64], ItemColumns]:
        """The items of a domain in leaf order: their numbers, and all that is known of them. Shape: int64[N]."""
        numbers_N = np.asarray(self.index(domain).number_of_leaf, dtype=np.int64)
        later, table = self.later_items(domain), self._store.table
        place = {number: len(self._store) + place for place, number in enumerate(later)}
        row_N = np.array([place.get(number, number) for number in numbers_N.tolist()], dtype=np.int64)
        own = columns_of(
            [item.item_id for item in later.values()],
            [item.title for item in later.values()],
            [item.fields for item in later.values()],
        )
        titles = pa.chunked_array([*table["title"].chunks, own.titles]).take(row_N)
        fields = pa.chunked_array([*table["fields"].chunks, own.fields]).take(row_N)
        ids = [
            later[number].item_id if number in later else self._store.name(number)[1] for number in numbers_N.tolist()
        ]
        return numbers_N, ItemColumns(
            pa.array(ids, pa.large_string()), titles.combine_chunks(), fields.combine_chunks()
        )

    def later_items(self, domain: str) -> dict[int, CatalogItem]:
        """The items of a domain, by number, that were added or changed after the bundle was written."""
        return {number: item for number, item in self._later.items.items() if item.domain == domain}

    def sid(self, domain: str, number: int) -> tuple[int, ...]:
        """The SID of an item of a domain."""
        return self.sids_of(domain, [number])[0]

    def sids_of(self, domain: str, numbers: Sequence[int]) -> list[tuple[int, ...]]:
        """The SIDs of some items of a domain, looked up together."""
        self.index(domain)
        leaves_X = self._leaves.leaves_of(np.asarray(numbers, dtype=np.int64))
        return [tuple(sid) for sid in self._leaves.sids_of(leaves_X).tolist()]

    def is_hidden(self, number: int) -> bool:
        """Whether an item must not come back."""
        return number in self._later.hidden

    def holder(self, domain: str, sid: Sequence[int]) -> int | None:
        """The number of the item that has a SID; None if no item of the domain has it, or there is no such domain."""
        index = self.indexes.get(domain)
        leaf = None if index is None else index.trie.leaf_of(sid)
        return None if index is None or leaf is None else int(index.numbers_of(np.array([leaf]))[0])

    def sids(self, domain: str) -> IntArray:
        """All SIDs of a domain, in leaf order. Shape: int32[N, L]."""
        return self.index(domain).sids()

    def with_items(self, items: Sequence[CatalogItem], version: int) -> "Catalog":
        """The next snapshot: new items join, of domains that may be new too; a known item keeps its SID.

        An item that was removed joins as a new one, under its old number.

        Raises:
            CatalogError: the version does not increase, a domain's name is not allowed, or a SID has a wrong shape.
            DuplicateItemError: a SID is taken.
        """
        self._check_version(version)
        return self._with_items(items, version)

    def _with_items(self, items: Iterable[CatalogItem], version: int) -> "Catalog":
        known, numbers = dict(self._later.items), dict(self._later.numbers)
        joining: dict[int, CatalogItem] = {}
        for item in items:
            number = self._number(item.domain, item.item_id)
            if number is not None and number not in self._later.removed:
                sid = self.sid(item.domain, number)
                known[number] = CatalogItem(item.domain, item.item_id, sid, item.title, item.fields)
                continue
            if number is None:
                check_domain_name(item.domain)
                check_item_id(item.item_id)
                number = numbers.setdefault((item.domain, item.item_id), len(self._store) + len(numbers))
            if number in joining:
                raise DuplicateItemError(f"item {item.item_id!r} of {item.domain!r} is given twice; give it once")
            joining[number] = known[number] = item
        removed = self._later.removed.difference(joining)
        leaves = self._leaves
        if joining:
            roots = dict(leaves.roots)
            roots_X = [roots.setdefault(item.domain, len(roots)) for item in joining.values()]
            sids_XL = item_sids(list(joining.values()), self.codebook_sizes)
            leaves = leaves.joined(roots, np.array(roots_X), sids_XL, np.fromiter(joining, np.int64, len(joining)))
        return Catalog(version, leaves, LaterChanges(known, numbers, removed, self._later.hidden))

    def without_items(self, items: Iterable[tuple[str, str]], version: int) -> "Catalog":
        """The next snapshot, without some items, given as (domain, item id); a domain that has none left is gone too.

        Raises:
            CatalogError: the version does not increase, or the catalog does not hold an item.
        """
        self._check_version(version)
        return self._without_items(items, version)

    def _without_items(self, items: Iterable[tuple[str, str]], version: int) -> "Catalog":
        gone = self._numbers(items)
        if not gone:
            return Catalog(version, self._leaves, self._later)
        leaves = self._leaves.without(np.array(sorted(gone), dtype=np.int64))
        known = {number: item for number, item in self._later.items.items() if number not in gone}
        removed, hidden = self._later.removed | gone, self._later.hidden - gone
        return Catalog(version, leaves, replace(self._later, items=known, removed=removed, hidden=hidden))

    def with_hidden(self, items: Iterable[tuple[str, str]], version: int, *, hidden: bool = True) -> "Catalog":
        """The next snapshot, in which some items, given as (domain, item id), are hidden, or shown again.

        Raises:
            CatalogError: the version does not increase, or the catalog does not hold an item.
        """
        self._check_version(version)
        return self._with_hidden(items, version, hidden)

    def _with_hidden(self, items: Iterable[tuple[str, str]], version: int, hidden: bool) -> "Catalog":
        numbers, before = self._numbers(items), self._later.hidden
        after = before | numbers if hidden else before - numbers
        return Catalog(version, self._leaves, replace(self._later, hidden=after))

    def with_changes(
        self,
        version: int,
        *,
        removed: Iterable[tuple[str, str]] = (),
        items: Iterable[CatalogItem] = (),
        hidden: Iterable[tuple[str, str]] = (),
        shown: Iterable[tuple[str, str]] = (),
    ) -> "Catalog":
        """The next snapshot after several changes in this order, each as above; a SID moves by going and joining."""
        self._check_version(version)
        catalog = self._without_items(removed, version)._with_items(items, version)
        return catalog._with_hidden(hidden, version, True)._with_hidden(shown, version, False)

    @property
    def overlay(self) -> int:
        """How many leaves were added and removed since the tries that changes are counted from were made."""
        return len(self._leaves.removed_R) + len(self._leaves.numbers_A)

    def folded(self, pause: Pause = breathe) -> "Catalog":
        """The same snapshot over plain tries of its own; see :mod:`sidera.items.folding`.

        Args:
            pause: called every millisecond or so; what it raises ends the fold.
        """
        return Catalog(self.version, folded(self._leaves, pause), self._later)

    def moved(self, before: "Catalog", plain: "Catalog") -> "Catalog":
        """The same snapshot, counted from ``plain``, which an earlier one, ``before``, was folded into.

        Raises:
            CatalogError: the two are not of one line.
        """
        return Catalog(self.version, moved(self._leaves, before._leaves, plain._leaves), self._later)

    def _numbers(self, items: Iterable[tuple[str, str]]) -> set[int]:
        numbers = set[int]()
        for domain, item_id in items:
            number = self.find(domain, item_id)
            if number is None:
                raise CatalogError(f"there is no item {item_id[:80]!r} in domain {domain[:80]!r}")
            numbers.add(number)
        return numbers

    def _check_version(self, version: int) -> None:
        if version <= self.version:
            raise CatalogError(f"catalog version {version} does not follow {self.version}; versions only increase")

    def save(self, folder: Path) -> None:
        """Write the bundle's ``catalog/`` files; only a catalog without later changes can be written."""
        if self._later:
            raise CatalogError("a changed catalog cannot be written; create one of all its items first")
        self._leaves.bundle.save(folder)

    @classmethod
    def load(cls, folder: Path, domains: Iterable[str], codebook_sizes: Sequence[int], version: int = 1) -> "Catalog":
        """Open what :meth:`save` wrote; nothing is read into memory that is not asked for.

        Raises:
            CatalogError: a file is missing or is none of these, or they do not fit together or the domains.
        """
        return cls(version, Leaves.of(StoredCatalog.load(folder, domains, codebook_sizes)))


def create_catalog(items: Sequence[CatalogItem], codebook_sizes: Sequence[int], version: int = 1) -> Catalog:
    """A catalog of these items, numbered anew; for millions see :func:`sidera.items.stored_catalog.build_catalog`.

    Raises:
        CatalogError: no items, a domain's name is not allowed, or a SID does not fit ``codebook_sizes``.
        DuplicateItemError: two items of a domain share an id or a SID.
    """
    of_domain: dict[str, list[CatalogItem]] = {}
    for item in items:
        of_domain.setdefault(item.domain, []).append(item)
    domains = {}
    for domain, own in of_domain.items():
        check_domain_name(domain)
        columns = columns_of([item.item_id for item in own], [item.title for item in own], [i.fields for i in own])
        domains[domain] = columns, item_sids(own, codebook_sizes)
    return Catalog(version, Leaves.of(build_catalog(domains, codebook_sizes)))
