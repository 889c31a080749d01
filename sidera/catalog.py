"""Items, their SIDs and tries, as one immutable snapshot with an increasing version.

An item's number never changes within a bundle: the items of the bundle are numbered by their id's place in one
``marisa-trie`` dictionary, items added later follow behind. What persists is keyed by that number; leaves, which move
whenever a trie is built anew, are looked up per snapshot.

On disk (``catalog/`` of a bundle): ``item_ids.marisa``, ``items.parquet`` (a row an item number), and per domain
``<domain>.safetensors`` (the trie, and the item number of every leaf).
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import marisa_trie
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file, save_file

from sidera.errors import CatalogError, DuplicateItemError, UnknownDomainError
from sidera.names import check_domain_name
from sidera.trie import IntArray, Trie, build_trie

_SEPARATOR = "\x1f"


@dataclass(frozen=True)
class CatalogItem:
    """A thing to recommend.

    Attributes:
        sid: its semantic ID, unique within its domain.
        title: what to show for it, if it has one.
        fields: everything else that is known of it, as its JSON object says.
    """

    domain: str
    item_id: str
    sid: tuple[int, ...]
    title: str | None = None
    fields: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class DomainIndex:
    """The trie of one domain, and the item number of each of its leaves."""

    trie: Trie
    number_of_leaf: npt.NDArray[np.int64]


@dataclass(frozen=True)
class _StoredItems:
    """The items of the bundle, by item number."""

    ids: marisa_trie.Trie
    table: pa.Table


class Catalog:
    """A snapshot: changing it means making the next one (:meth:`with_items`)."""

    def __init__(
        self,
        version: int,
        codebook_sizes: Sequence[int],
        indexes: Mapping[str, DomainIndex],
        stored: _StoredItems,
        added: tuple[CatalogItem, ...] = (),
        replaced: Mapping[int, CatalogItem] | None = None,
    ) -> None:
        self.version = version
        self.codebook_sizes = tuple(codebook_sizes)
        self.indexes = dict(indexes)
        self._stored = stored
        self._added = added
        self._replaced = dict(replaced or {})
        self._added_number = {
            (item.domain, item.item_id): len(stored.table) + place for place, item in enumerate(added)
        }
        self._leaf_of_number = np.full(len(stored.table) + len(added), -1, dtype=np.int32)
        for index in self.indexes.values():
            self._leaf_of_number[index.number_of_leaf] = np.arange(index.trie.num_leaves, dtype=np.int32)

    @property
    def domains(self) -> tuple[str, ...]:
        return tuple(self.indexes)

    def __len__(self) -> int:
        return len(self._leaf_of_number)

    def size(self, domain: str) -> int:
        """How many items a domain has.

        Raises:
            UnknownDomainError: the catalog does not hold it.
        """
        return self.index(domain).trie.num_leaves

    def index(self, domain: str) -> DomainIndex:
        """The trie of a domain.

        Raises:
            UnknownDomainError: the catalog does not hold it.
        """
        try:
            return self.indexes[domain]
        except KeyError:
            known = ", ".join(self.indexes)
            raise UnknownDomainError(f"there is no domain {domain[:80]!r}; the domains are {known}") from None

    def find(self, domain: str, item_id: str) -> int | None:
        """The number of an item, None if the catalog does not hold it."""
        number = self._added_number.get((domain, item_id))
        if number is not None:
            return number
        if domain not in self.indexes or not _is_item_id(item_id):
            return None
        number = self._stored.ids.get(_key(domain, item_id))
        return None if number is None else int(number)

    def ids_from(self, domain: str, beginning: str) -> Iterator[str]:
        """The ids of the bundle's items of a domain that begin so; later additions are not among them."""
        if not beginning or _is_item_id(beginning):
            for key in self._stored.ids.iterkeys(_key(domain, beginning)):
                yield key.partition(_SEPARATOR)[2]

    def leaf(self, number: int) -> int:
        """The leaf of an item in its domain's trie."""
        return int(self._leaf_of_number[number])

    def leaves(self, numbers_X: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """The leaves of some items, each in its domain's trie. Shape: int64[X]."""
        leaves_X: npt.NDArray[np.int64] = self._leaf_of_number[numbers_X].astype(np.int64)
        return leaves_X

    def name(self, number: int) -> tuple[str, str | None]:
        """The item id and the title of an item: what an answer shows, without unpacking its fields."""
        known = self._later(number)
        if known is not None:
            return known.item_id, known.title
        _, _, item_id = self._stored.ids.restore_key(number).partition(_SEPARATOR)
        return item_id, self._stored.table["title"][number].as_py()

    def item(self, number: int) -> CatalogItem:
        """The item with a number."""
        known = self._later(number)
        if known is not None:
            return known
        domain, _, item_id = self._stored.ids.restore_key(number).partition(_SEPARATOR)
        return CatalogItem(
            domain,
            item_id,
            self.sid(domain, number),
            title=self._stored.table["title"][number].as_py(),
            fields=json.loads(self._stored.table["fields"][number].as_py()),
        )

    def sid(self, domain: str, number: int) -> tuple[int, ...]:
        """The SID of an item of a domain."""
        return self.sids_of(domain, [number])[0]

    def sids_of(self, domain: str, numbers: Sequence[int]) -> list[tuple[int, ...]]:
        """The SIDs of some items of a domain, looked up together."""
        leaves_X = self._leaf_of_number[np.asarray(numbers, dtype=np.int64)]
        return [tuple(sid) for sid in self.index(domain).trie.sids_of(leaves_X).tolist()]

    def _later(self, number: int) -> CatalogItem | None:
        """An item that was added or replaced after the bundle was written."""
        if number >= len(self._stored.table):
            return self._replaced.get(number, self._added[number - len(self._stored.table)])
        return self._replaced.get(number)

    def sids(self, domain: str) -> IntArray:
        """All SIDs of a domain, in leaf order. Shape: int32[N, L]."""
        return self.index(domain).trie.sids()

    def with_items(self, items: Sequence[CatalogItem], version: int) -> "Catalog":
        """The next snapshot: new items join, of domains that may be new too; a known item keeps its SID.

        Raises:
            CatalogError: the version does not increase, a domain's name is not allowed, or a SID has a wrong shape.
            DuplicateItemError: a SID is taken.
        """
        if version <= self.version:
            raise CatalogError(f"catalog version {version} does not follow {self.version}; versions only increase")
        added, replaced = list(self._added), dict(self._replaced)
        new_numbers: dict[str, list[int]] = defaultdict(list)
        numbers = dict[tuple[str, str], int]()
        for item in items:
            number = self.find(item.domain, item.item_id)
            number = numbers.get((item.domain, item.item_id)) if number is None else number
            if number is None:
                check_domain_name(item.domain)
                _check_item_id(item.item_id)
                number = len(self._stored.table) + len(added)
                numbers[item.domain, item.item_id] = number
                new_numbers[item.domain].append(number)
                added.append(item)
            elif number < len(self):
                sid = self.sid(item.domain, number)
                replaced[number] = CatalogItem(item.domain, item.item_id, sid, item.title, item.fields)
            else:
                raise DuplicateItemError(f"item {item.item_id!r} of {item.domain!r} is given twice; give it once")
        indexes = dict(self.indexes)
        for domain, own_numbers in new_numbers.items():
            sids_NL = _sids([added[number - len(self._stored.table)] for number in own_numbers], self.codebook_sizes)
            known = indexes.get(domain)
            numbers_N = np.array(own_numbers, dtype=np.int64)
            if known is not None:
                sids_NL = np.concatenate([known.trie.sids(), sids_NL])
                numbers_N = np.concatenate([known.number_of_leaf, numbers_N])
            trie, order = build_trie(sids_NL, self.codebook_sizes)
            indexes[domain] = DomainIndex(trie, numbers_N[order])
        return Catalog(version, self.codebook_sizes, indexes, self._stored, tuple(added), replaced)

    def save(self, folder: Path) -> None:
        """Write the bundle's ``catalog/`` files; only a catalog without later additions can be written."""
        if self._added or self._replaced:
            raise CatalogError("a changed catalog cannot be written; create one of all its items first")
        self._stored.ids.save(str(folder / "item_ids.marisa"))
        pq.write_table(self._stored.table, folder / "items.parquet")
        for domain, index in self.indexes.items():
            arrays = index.trie.arrays() | {"number_of_leaf": index.number_of_leaf}
            save_file(arrays, folder / f"{domain}.safetensors")

    @classmethod
    def load(cls, folder: Path, domains: Iterable[str], codebook_sizes: Sequence[int], version: int = 1) -> "Catalog":
        """Read what :meth:`save` wrote."""
        ids = marisa_trie.Trie()
        ids.mmap(str(folder / "item_ids.marisa"))
        table = pq.read_table(folder / "items.parquet")
        if len(table) != len(ids):
            raise CatalogError(f"items.parquet has {len(table)} rows for {len(ids)} item ids; export the bundle again")
        indexes = {}
        for domain in domains:
            arrays = load_file(folder / f"{domain}.safetensors")
            trie = Trie.from_arrays(arrays, len(codebook_sizes))
            number_of_leaf = arrays["number_of_leaf"]
            if not _are_numbers(number_of_leaf, trie.num_leaves, len(table)):
                raise CatalogError(f"the trie of {domain!r} does not fit items.parquet; export the bundle again")
            indexes[domain] = DomainIndex(trie, number_of_leaf)
        return cls(version, codebook_sizes, indexes, _StoredItems(ids, table))


def create_catalog(items: Sequence[CatalogItem], codebook_sizes: Sequence[int], version: int = 1) -> Catalog:
    """A catalog of these items, numbered anew.

    Raises:
        CatalogError: no items, a domain's name is not allowed, or a SID does not fit ``codebook_sizes``.
        DuplicateItemError: two items of a domain share an id or a SID.
    """
    if not items:
        raise CatalogError("a catalog needs at least one item")
    for item in items:
        check_domain_name(item.domain)
        _check_item_id(item.item_id)
    ids = marisa_trie.Trie([_key(item.domain, item.item_id) for item in items])
    if len(ids) != len(items):
        raise DuplicateItemError("an item id occurs twice in its domain; item ids are unique within a domain")
    numbers = [ids[_key(item.domain, item.item_id)] for item in items]
    by_number = [item for _, item in sorted(zip(numbers, items, strict=True), key=lambda pair: pair[0])]
    table = pa.table(
        {
            "domain": pa.array([item.domain for item in by_number]).dictionary_encode(),
            "title": pa.array([item.title for item in by_number], type=pa.string()),
            "fields": pa.array([json.dumps(dict(item.fields), ensure_ascii=False) for item in by_number]),
        }
    )
    numbers_of: dict[str, list[int]] = defaultdict(list)
    for number, item in enumerate(by_number):
        numbers_of[item.domain].append(number)
    indexes = {}
    for domain in dict.fromkeys(item.domain for item in items):
        sids_NL = _sids([by_number[number] for number in numbers_of[domain]], codebook_sizes)
        trie, order = build_trie(sids_NL, codebook_sizes)
        indexes[domain] = DomainIndex(trie, np.array(numbers_of[domain], dtype=np.int64)[order])
    return Catalog(version, codebook_sizes, indexes, _StoredItems(ids, table))


def _key(domain: str, item_id: str) -> str:
    return f"{domain}{_SEPARATOR}{item_id}"


def _is_item_id(item_id: str) -> bool:
    """Whether the dictionary can hold it: it ends a key at U+0000, and stores UTF-8, which has no lone surrogates."""
    if not item_id or "\0" in item_id:
        return False
    return item_id.isascii() or not any("\ud800" <= character <= "\udfff" for character in item_id)


def _check_item_id(item_id: str) -> None:
    if not _is_item_id(item_id):
        raise CatalogError(f"item id {item_id[:80]!r} is not allowed; give text without U+0000 and lone surrogates")


def _sids(items: Sequence[CatalogItem], codebook_sizes: Sequence[int]) -> npt.NDArray[np.int64]:
    for item in items:
        if len(item.sid) != len(codebook_sizes):
            raise CatalogError(
                f"item {item.item_id[:80]!r} of {item.domain!r} has a SID of {len(item.sid)} codes, not "
                f"{len(codebook_sizes)}; encode it with this catalog's tokenizer"
            )
    return np.array([item.sid for item in items], dtype=np.int64)


def _are_numbers(number_of_leaf: npt.NDArray[np.integer], num_leaves: int, num_items: int) -> bool:
    """Whether each leaf stands for an item of its own."""
    if len(number_of_leaf) != num_leaves or number_of_leaf.min() < 0 or number_of_leaf.max() >= num_items:
        return False
    return len(np.unique(number_of_leaf)) == num_leaves
