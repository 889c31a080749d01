"""The items of a bundle by number: a dictionary of their ids, and a table of what is known of them, read row by row.

An item's number is its id's place in one ``marisa-trie``. Both files are mapped into memory, nothing is parsed when
they are opened, and pages of the table are handed back once a row is read: they cost memory only while they are looked
at, however many items are asked for.

Files: ``item_ids.marisa`` (domain, unit separator, item id), ``items.arrow`` (Arrow IPC, uncompressed, a row an item
number: domain, title, fields as a JSON object).

Shapes: N items.
"""

import json
import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import marisa_trie
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sidera.errors import CatalogError, DuplicateItemError

IDS_FILE = "item_ids.marisa"
TABLE_FILE = "items.arrow"

_SEPARATOR = "\x1f"
_ROWS_AT_ONCE = 65_536
_TEXT = pa.large_string()


@dataclass(frozen=True)
class ItemColumns:
    """The items of one domain, column by column; all columns are of one length.

    Attributes:
        item_ids: strings.
        titles: strings or nulls; None: no item has one.
        fields: JSON objects as text; None: nothing else is known of them.
    """

    item_ids: pa.Array
    titles: pa.Array | None = None
    fields: pa.Array | None = None


class ItemStore:
    """Items that do not change.

    Args:
        ids: the dictionary of all (domain, item id).
        table: a row an item number.
        mapped: the mapping that the table lies in; None where it is in memory.
    """

    def __init__(self, ids: marisa_trie.Trie, table: pa.Table, mapped: mmap.mmap | None = None) -> None:
        if table.num_rows != len(ids):
            raise CatalogError(
                f"{TABLE_FILE} has {table.num_rows} rows for {len(ids)} item ids; export the bundle again"
            )
        self._ids = ids
        self.table = table
        self._titles, self._fields = table["title"], table["fields"]
        self._mapped = mapped

    def __len__(self) -> int:
        return len(self._ids)

    def number(self, domain: str, item_id: str) -> int | None:
        """The number of an item, None if there is none; ``item_id`` is one that :func:`is_item_id` allows."""
        number = self._ids.get(_key(domain, item_id))
        return None if number is None else int(number)

    def ids_from(self, domain: str, beginning: str) -> Iterator[str]:
        """The ids of a domain that begin so."""
        for key in self._ids.iterkeys(_key(domain, beginning)):
            yield key.partition(_SEPARATOR)[2]

    def name(self, number: int) -> tuple[str, str]:
        """Domain and item id of an item."""
        domain, _, item_id = self._ids.restore_key(number).partition(_SEPARATOR)
        return domain, item_id

    def title(self, number: int) -> str | None:
        """The title of an item, if it has one."""
        title: str | None = self._titles[number].as_py()
        self._release()
        return title

    def fields(self, number: int) -> dict[str, object]:
        """What else is known of an item."""
        fields: dict[str, object] = json.loads(self._fields[number].as_py())
        self._release()
        return fields

    def _release(self) -> None:
        if self._mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._mapped.madvise(mmap.MADV_DONTNEED)

    def save(self, folder: Path) -> None:
        """Write both files."""
        self._ids.save(str(folder / IDS_FILE))
        with pa.OSFile(str(folder / TABLE_FILE), "wb") as file, pa.ipc.new_file(file, self.table.schema) as writer:
            writer.write_table(self.table, max_chunksize=_ROWS_AT_ONCE)

    @classmethod
    def load(cls, folder: Path) -> "ItemStore":
        """Open what :meth:`save` wrote.

        Raises:
            CatalogError: a file is missing or is none of these, or they do not fit together.
        """
        ids = marisa_trie.Trie()
        try:
            ids.mmap(str(folder / IDS_FILE))
        except (RuntimeError, OSError) as error:
            raise CatalogError(f"{IDS_FILE} cannot be read ({error}); export the bundle again") from error
        return cls(ids, *_mapped_table(folder / TABLE_FILE))


def _mapped_table(path: Path) -> tuple[pa.Table, mmap.mmap]:
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        table = pa.ipc.open_file(pa.py_buffer(mapped)).read_all()
        types = [table.schema.field(name).type for name in ("domain", "title", "fields")]
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise CatalogError(f"{TABLE_FILE} cannot be read ({error}); export the bundle again") from error
    if types[1:] != [_TEXT, _TEXT] or not pa.types.is_dictionary(types[0]):
        raise CatalogError(f"{TABLE_FILE} has columns of other types; export the bundle again")
    return table, mapped


def build_store(domains: Mapping[str, ItemColumns]) -> tuple[ItemStore, dict[str, npt.NDArray[np.int32]]]:
    """Number items.

    Returns:
        The store, and the number of each domain's items in the order that they were given. Shape of each: int32[N].

    Raises:
        CatalogError: no items, columns of different lengths, or an id that is not allowed.
        DuplicateItemError: two items of a domain share an id.
    """
    keys: list[str] = []
    rows = []
    for domain, columns in domains.items():
        ids = _checked_ids(domain, columns)
        order = pc.sort_indices(ids)  # neighbours in the dictionary are looked up in half the time
        rows.append(order.to_numpy().astype(np.int32) + np.int32(len(keys)))
        whole = pc.binary_join_element_wise(pa.scalar(domain, _TEXT), ids.take(order), pa.scalar(_SEPARATOR, _TEXT))
        keys += whole.to_pylist()
    if not 0 < len(keys) < 2**31:
        raise CatalogError(f"a catalog of {len(keys)} items; it needs at least one item and fewer than 2**31")
    dictionary = marisa_trie.Trie(keys)
    if len(dictionary) != len(keys):
        raise DuplicateItemError("an item id occurs twice in its domain; item ids are unique within a domain")
    numbers_N = np.empty(len(keys), dtype=np.int32)
    numbers_N[np.concatenate(rows)] = np.fromiter(map(dictionary.__getitem__, keys), np.int32, len(keys))
    del keys
    sizes = [len(columns.item_ids) for columns in domains.values()]
    row_of_number = np.empty_like(numbers_N)
    row_of_number[numbers_N] = np.arange(len(numbers_N), dtype=np.int32)
    domain_N = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)[row_of_number]
    titles = pa.chunked_array([_column(columns.titles, columns, None) for columns in domains.values()])
    fields = pa.chunked_array([_column(columns.fields, columns, "{}") for columns in domains.values()])
    table = pa.table(
        {
            "domain": pa.DictionaryArray.from_arrays(domain_N, pa.array(list(domains))),
            "title": titles.take(row_of_number),
            "fields": fields.take(row_of_number),
        }
    )
    parts = np.split(numbers_N, np.cumsum(sizes)[:-1])
    return ItemStore(dictionary, table), dict(zip(domains, parts, strict=True))


def _checked_ids(domain: str, columns: ItemColumns) -> pa.Array:
    ids = columns.item_ids.cast(_TEXT)
    if ids.null_count:
        raise CatalogError(f"domain {domain!r} has an item without an id; give every item one")
    forbidden = pc.or_(pc.equal(pc.binary_length(ids), 0), pc.match_substring(ids, "\0"))
    if pc.any(forbidden).as_py():
        check_item_id(ids[pc.index(forbidden, True).as_py()].as_py())
    return ids


def _column(values: pa.Array | None, columns: ItemColumns, missing: str | None) -> pa.Array:
    length = len(columns.item_ids)
    if values is None:
        return pa.repeat(pa.scalar(missing, _TEXT), length)
    if len(values) != length:
        raise CatalogError(f"{len(values)} titles or fields are given for {length} items; give one for each")
    return values.cast(_TEXT)


def _key(domain: str, item_id: str) -> str:
    return f"{domain}{_SEPARATOR}{item_id}"


def is_item_id(item_id: str) -> bool:
    """Whether the dictionary can hold it: it ends a key at U+0000, and stores UTF-8, which has no lone surrogates."""
    if not item_id or "\0" in item_id:
        return False
    return item_id.isascii() or not any("\ud800" <= character <= "\udfff" for character in item_id)


def check_item_id(item_id: str) -> None:
    """Refuse an id that the dictionary cannot hold.

    Raises:
        CatalogError: it is empty, or has U+0000 or a lone surrogate.
    """
    if not is_item_id(item_id):
        raise CatalogError(f"item id {item_id[:80]!r} is not allowed; give text without U+0000 and lone surrogates")


def columns_of(
    item_ids: Sequence[str], titles: Sequence[str | None], fields: Sequence[Mapping[str, Any]]
) -> ItemColumns:
    """Columns of items that are given one by one.

    Raises:
        CatalogError: an id is not allowed.
    """
    for item_id in item_ids:
        check_item_id(item_id)
    texts = [json.dumps(dict(own), ensure_ascii=False) for own in fields]
    return ItemColumns(pa.array(item_ids, _TEXT), pa.array(titles, _TEXT), pa.array(texts, _TEXT))
