"""Which leaves of a catalog's snapshot pass a request's conditions, allow-list, and what the catalog hides.

A field's column is built when a request first names it, for all snapshots of a bundle: it is keyed by item number,
which no snapshot changes. Columns that no request named for long go when all of them take too much memory. Items that
were added or changed later have columns of their own, per snapshot. From then on a request's leaves come from array
operations, and requests with the same conditions share one set. Any thread may ask: one that builds a column holds up
only those that need the same one.

Shapes: N leaves of a domain, R items of it that the bundle holds, X items that pass.
"""

import json
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from threading import Lock

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sidera.catalog import Catalog
from sidera.decoding.leaf_filter import LeafArray, LeafSet
from sidera.errors import FilterError
from sidera.items.conditions import Condition, FieldColumn

_KEPT_SETS = 64
"""How many sets of leaves are kept for requests with the same conditions."""

_KEPT_LEAVES = 16_000_000
"""How many leaves they may list together: 128 MB."""

MOST_BYTES = 256 * 1024 * 1024
"""Of all columns, unless it is set."""

_CHUNK = 65_536


class BundleColumns:
    """The columns of the items that a bundle holds, which all its snapshots share.

    Attributes:
        most_bytes: what they may take together; the one named last stays in any case.
        num_bytes: what they take.
    """

    def __init__(self, catalog: Catalog, most_bytes: int = MOST_BYTES) -> None:
        self.most_bytes = most_bytes
        self.num_bytes = 0
        self.table: pa.Table = catalog.bundle_items
        self._numbers: dict[str, npt.NDArray[np.int32]] = {}
        self._fields: dict[str, frozenset[str]] = {}
        self._columns: OrderedDict[tuple[str, str], FieldColumn] = OrderedDict()
        self._building: defaultdict[tuple[str, str], Lock] = defaultdict(Lock)
        self._lock = Lock()

    def numbers(self, domain: str) -> npt.NDArray[np.int32]:
        """The numbers of a domain's items: the rows of its columns. Shape: int32[R]."""
        if domain not in self._numbers:
            own_N = pc.equal(self.table["domain"], domain)
            self._numbers[domain] = pc.indices_nonzero(own_N).to_numpy().astype(np.int32)
        return self._numbers[domain]

    def column(self, domain: str, field: str) -> FieldColumn:
        """One field of a domain's items."""
        known = self._known(domain, field)
        if known is not None:
            return known
        with self._lock:
            building = self._building[domain, field]
        with building:
            known = self._known(domain, field)
            return self._build(domain, field) if known is None else known

    def _known(self, domain: str, field: str) -> FieldColumn | None:
        """A column that was built; an empty one where it is known that no item has the field."""
        if field not in self._fields.get(domain, {field}):
            return FieldColumn.build((), field)
        with self._lock:
            known = self._columns.get((domain, field))
            if known is not None:
                self._columns.move_to_end((domain, field))
            return known

    def _build(self, domain: str, field: str) -> FieldColumn:
        items = map(json.loads, self._texts(self.numbers(domain)))
        if domain in self._fields:
            column = FieldColumn.build(items, field)
        else:  # the first look at the items notes all their fields, so that a field that none has costs nothing later
            fields: set[str] = set()
            column = FieldColumn.build(_noting(items, fields), field)
            self._fields[domain] = frozenset(fields)
        with self._lock:
            if field in self._fields[domain]:
                self._columns[domain, field] = column
                self.num_bytes += column.num_bytes
            while self.num_bytes > self.most_bytes and len(self._columns) > 1:
                self.num_bytes -= self._columns.popitem(last=False)[1].num_bytes
            del self._building[domain, field]
        return column

    def _texts(self, numbers_R: npt.NDArray[np.int32]) -> Iterator[str]:
        for begin in range(0, len(numbers_R), _CHUNK):
            yield from self.table["fields"].take(pa.array(numbers_R[begin : begin + _CHUNK])).to_pylist()


def _noting(items: Iterator[dict[str, object]], fields: set[str]) -> Iterator[dict[str, object]]:
    """The same items; their fields' names are collected on the way."""
    for item in items:
        fields.update(item)
        yield item


class ItemFilter:
    """The filters of one snapshot.

    Args:
        catalog: the snapshot.
        first_leaf: of each domain in the tables that are searched.
        columns: of the bundle, where an earlier snapshot of it has filled them.
    """

    def __init__(self, catalog: Catalog, first_leaf: Mapping[str, int], columns: BundleColumns | None = None) -> None:
        known = columns is not None and columns.table is catalog.bundle_items
        self.columns = columns if known and columns is not None else BundleColumns(catalog)
        self._catalog, self._first_leaf = catalog, first_leaf
        self._domains: dict[str, _DomainFields] = {}
        self._sets: OrderedDict[tuple[str, tuple[Condition, ...]], LeafSet | None] = OrderedDict()
        self._lock = Lock()

    def allowed(
        self, domain: str, conditions: tuple[Condition, ...] = (), only: frozenset[str] | None = None
    ) -> LeafSet | None:
        """The leaves that may come back for requests of a domain; None: all.

        Args:
            conditions: all of them must be met.
            only: item ids of the domain, unknown ones change nothing; None: all items.

        Raises:
            FilterError: a condition names a field that no item of the domain has, or that holds no such values.
        """
        met = self._meeting(domain, conditions)
        if only is None:
            return met
        found = [self._catalog.find(domain, item_id) for item_id in only]
        numbers = np.array([number for number in found if number is not None], dtype=np.int64)
        listed = np.unique(self._catalog.leaves(numbers)) + self._first_leaf[domain]
        return LeafSet(listed if met is None else listed[met.contains(listed)])

    def _meeting(self, domain: str, conditions: tuple[Condition, ...]) -> LeafSet | None:
        """The leaves that meet conditions and are not hidden; the same object for the same conditions."""
        asked = domain, conditions
        with self._lock:
            if asked in self._sets:
                self._sets.move_to_end(asked)
                return self._sets[asked]
        found = self._found(domain, conditions)
        with self._lock:
            kept = self._sets.setdefault(asked, found)
            while len(self._sets) > _KEPT_SETS or (len(self._sets) > 1 and self._listed() > _KEPT_LEAVES):
                self._sets.popitem(last=False)
            return kept

    def _listed(self) -> int:
        """How many leaves the kept sets list together."""
        return sum(len(kept.listed) for kept in self._sets.values() if kept is not None)

    def _found(self, domain: str, conditions: Sequence[Condition]) -> LeafSet | None:
        hidden = self._catalog.hidden_leaves(domain)
        if not conditions:  # no look at all the domain's leaves
            return LeafSet(hidden + self._first_leaf[domain], allows=False) if len(hidden) else None
        fields = self._domains.get(domain)
        if fields is None:
            fields = self._domains.setdefault(domain, _DomainFields(self._catalog, self.columns, domain))
        mask_N = np.ones(self._catalog.size(domain), dtype=np.bool_)
        for condition in conditions:
            met_N = np.zeros_like(mask_N)
            met_N[fields.leaves(condition)] = True
            mask_N &= met_N
        mask_N[hidden] = False
        return LeafSet.of_mask(mask_N, self._first_leaf[domain])


class _DomainFields:
    """The fields of the items of one domain in one snapshot."""

    def __init__(self, catalog: Catalog, columns: BundleColumns, domain: str) -> None:
        self._columns, self._domain = columns, domain
        numbers_R = columns.numbers(domain)
        self._leaf_R = catalog.leaves(numbers_R).astype(np.int32)
        later = catalog.later_items(domain)
        self._later = [item.fields for item in later.values()]
        later_numbers = np.fromiter(later, np.int64, len(later))
        self._later_leaf = catalog.leaves(later_numbers)
        self._gone_R = np.isin(numbers_R, later_numbers) | ~catalog.from_bundle(numbers_R)
        self._later_columns: dict[str, FieldColumn] = {}

    def leaves(self, condition: Condition) -> LeafArray:
        """The leaves that meet a condition, in the domain, in any order. Shape: int64[X]."""
        field = condition.field
        column = self._columns.column(self._domain, field)
        later = self._later_columns.get(field)
        if later is None:
            later = FieldColumn.build(self._later, field)
            if later.has_field or column.has_field:
                later = self._later_columns.setdefault(field, later)
        self._check(condition, column, later)
        rows_X = column.matching(condition)
        rows_X = rows_X[~self._gone_R[rows_X]]
        return np.concatenate([self._leaf_R[rows_X], self._later_leaf[later.matching(condition)]])

    def _check(self, condition: Condition, *columns: FieldColumn) -> None:
        where = f"the field {condition.field[:80]!r} of {self._domain!r}"
        if not any(column.has_field for column in columns):
            raise FilterError(f"no item has {where}; filter by a field of its items", condition.field)
        if not any(len(column.rows) for column in columns):
            raise FilterError(
                f"{where} holds objects; filter by a field of text, numbers, true or false, or lists", condition.field
            )
        if condition.any_of is None and not any(column.numbers for column in columns):
            raise FilterError(f"{where} holds no numbers, so a range cannot be asked for; list values", condition.field)
