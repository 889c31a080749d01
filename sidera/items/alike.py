"""Keeps the lists of items alike up to date while items join a catalog.

An item that joins gets its own list, and enters the lists of those that it is nearer to than what they hold. One that
was there before, with this vector or another one, leaves all lists first, which are filled up. What comes of many items
is the same however they are batched, ties and rounding aside: a list always holds the nearest items by cosine, of equal
ones those that were there before.

Shapes: N items of the bundle, A items of a domain that were there before, M new ones, O owners of lists, R some rows, D
item vector dim, K items of a list, X any.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from sidera.catalog import Catalog
from sidera.disk_arrays import read_rows
from sidera.errors import CatalogError
from sidera.items.neighbours import GrownLists, Listed, Neighbours
from sidera.items.unit_vectors import unit_rows

Numbers = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]

_ROWS = 16384
_JOIN_AT_ONCE = 512


@dataclass(frozen=True)
class Alike:
    """The neighbours of a catalog, and what it takes to let items join.

    Attributes:
        neighbours: of the catalog as it is.
        stored_ND: the vectors of the bundle's items, by number; may lie on disk. Shape: float32[N, D].
        joined_before: numbers and unit vectors of the items that joined each domain, in parts.
    """

    neighbours: Neighbours
    stored_ND: Vectors
    joined_before: Mapping[str, Sequence[tuple[Numbers, Vectors]]] = field(default_factory=dict)

    def with_items(self, catalog: Catalog, vectors: Mapping[tuple[str, str], Vectors]) -> "Alike":
        """What it is once these items have joined.

        Args:
            catalog: holds them already, behind all items of before.
            vectors: by (domain, item id). Shape of each: float32[D].

        Raises:
            CatalogError: the catalog does not hold an item.
        """
        rows: dict[str, list[tuple[int, Vectors]]] = defaultdict(list)
        for (domain, item_id), vector_D in vectors.items():
            number = catalog.find(domain, item_id)
            if number is None:
                raise CatalogError(f"there is no item {item_id[:80]!r} in domain {domain!r}; register it first")
            rows[domain].append((number, vector_D))
        grown = self
        for domain, added in rows.items():
            for begin in range(0, len(added), _JOIN_AT_ONCE):
                numbers, vectors_MD = zip(*added[begin : begin + _JOIN_AT_ONCE], strict=True)
                numbers_M = np.array(numbers, dtype=np.int64)
                grown = grown._without(catalog, domain, numbers_M)
                grown = grown._joined(catalog, domain, numbers_M, unit_rows(np.stack(vectors_MD)))
        return grown

    def _without(self, catalog: Catalog, domain: str, numbers_M: Numbers) -> "Alike":
        """What it is once those of some items that were there before have left all lists; others take their places."""
        parts = self.joined_before.get(domain, ())
        joined = np.concatenate([np.empty(0, dtype=np.int64), *(number_P for number_P, _ in parts)])
        again = numbers_M[(numbers_M < len(self.stored_ND)) | np.isin(numbers_M, joined)]
        if not len(again):
            return self
        kept_of = [(number_P, unit_PD, ~np.isin(number_P, again)) for number_P, unit_PD in parts]
        left = [(number_P[kept_P], unit_PD[kept_P]) for number_P, unit_PD, kept_P in kept_of if kept_P.any()]
        fewer = replace(self, joined_before={**self.joined_before, domain: tuple(left)})
        owner_O = self.neighbours.similar.holding(again)
        owner_O = owner_O[~np.isin(owner_O, again) & (catalog.leaves(owner_O) >= 0)]
        lists = self.neighbours.similar
        changed = dict(lists.changed)
        for begin in range(0, len(owner_O), _JOIN_AT_ONCE):
            changed |= fewer._lists_of(catalog, domain, owner_O[begin : begin + _JOIN_AT_ONCE])
        return replace(fewer, neighbours=self.neighbours.with_similar(GrownLists(lists.base, changed)))

    def _lists_of(self, catalog: Catalog, domain: str, owner_O: Numbers) -> dict[int, Listed]:
        """The lists of some items, of all items that are there."""
        nearest = self.neighbours.reading.nearest
        unit_OD = self._units(catalog, domain, owner_O)
        own_item = np.empty((len(owner_O), 0), dtype=np.int64)
        own_weight = np.empty((len(owner_O), 0), dtype=np.float32)
        for before_R, unit_RD in self._before(catalog, domain):
            weight_OR = self._weights(unit_OD, unit_RD)
            weight_OR[owner_O[:, None] == before_R] = 0
            own_item, own_weight = _nearest(own_item, own_weight, before_R, weight_OR, nearest)
        return _listed(owner_O, own_item, own_weight)

    def _units(self, catalog: Catalog, domain: str, numbers_O: Numbers) -> Vectors:
        """The unit vectors of some items that are there. Shape: float32[O, D]."""
        unit_OD = np.zeros((len(numbers_O), self.stored_ND.shape[1]), dtype=np.float32)
        of_bundle_O = catalog.from_bundle(numbers_O)
        unit_OD[of_bundle_O] = unit_rows(read_rows(self.stored_ND, numbers_O[of_bundle_O]))
        for number_P, unit_PD in self.joined_before.get(domain, ()):
            _, place_O, place_P = np.intersect1d(numbers_O, number_P, return_indices=True)
            unit_OD[place_O] = unit_PD[place_P]
        return unit_OD

    def _joined(self, catalog: Catalog, domain: str, numbers_M: Numbers, unit_MD: Vectors) -> "Alike":
        """What it is once some items of one domain have joined."""
        lists = self._grown(self.neighbours.similar, catalog, domain, numbers_M, unit_MD)
        parts = list(self.joined_before.get(domain, ()))
        if parts and len(parts[-1][0]) < _JOIN_AT_ONCE:
            last_P, last_PD = parts.pop()
            numbers_M, unit_MD = np.concatenate([last_P, numbers_M]), np.concatenate([last_PD, unit_MD])
        joined = {**self.joined_before, domain: (*parts, (numbers_M, unit_MD))}
        return Alike(self.neighbours.with_similar(lists), self.stored_ND, joined)

    def _grown(
        self, lists: GrownLists, catalog: Catalog, domain: str, numbers_M: Numbers, unit_MD: Vectors
    ) -> GrownLists:
        """The lists with new items of one domain in them."""
        nearest = self.neighbours.reading.nearest
        own_item = np.empty((len(numbers_M), 0), dtype=np.int64)
        own_weight = np.empty((len(numbers_M), 0), dtype=np.float32)
        entering: list[tuple[Numbers, Numbers, Vectors]] = []
        for before_R, unit_RD in self._before(catalog, domain):
            weight_MR = self._weights(unit_MD, unit_RD)
            own_item, own_weight = _nearest(own_item, own_weight, before_R, weight_MR, nearest)
            new, old = np.nonzero(weight_MR > lists.threshold(before_R, nearest))
            entering.append((before_R[old], numbers_M[new], weight_MR[new, old]))
        among_MM = self._weights(unit_MD, unit_MD)
        np.fill_diagonal(among_MM, 0.0)
        own_item, own_weight = _nearest(own_item, own_weight, numbers_M, among_MM, nearest)

        changed = {**lists.changed, **_listed(numbers_M, own_item, own_weight)}
        for number, item_X, weight_X in _by_owner(entering):
            was_item, was_weight = lists.of(number)
            item_X, weight_X = np.concatenate([was_item, item_X]), np.concatenate([was_weight, weight_X])
            kept = np.lexsort((item_X, -weight_X))[:nearest]
            changed[number] = item_X[kept].astype(np.int32), weight_X[kept]
        return GrownLists(lists.base, changed)

    def _before(self, catalog: Catalog, domain: str) -> Iterator[tuple[Numbers, Vectors]]:
        """Numbers and unit vectors of a domain's items that were there before, in parts."""
        number_A = catalog.bundle_numbers(domain)
        number_A = number_A[catalog.from_bundle(number_A)]
        for begin in range(0, len(number_A), _ROWS):
            number_R = number_A[begin : begin + _ROWS]
            yield number_R, unit_rows(read_rows(self.stored_ND, number_R))
        for number_P, unit_PD in self.joined_before.get(domain, ()):
            there_P = catalog.leaves(number_P) >= 0
            yield number_P[there_P], unit_PD[there_P]

    def _weights(self, unit_MD: Vectors, unit_RD: Vectors) -> Vectors:
        """Of every pair; 0 where a vector is zero, which is like nothing. Shape: float32[M, R]."""
        weight_MR: Vectors = np.exp((unit_MD @ unit_RD.T - 1) / self.neighbours.reading.temperature)
        weight_MR[~np.any(unit_MD, axis=1)] = 0
        weight_MR[:, ~np.any(unit_RD, axis=1)] = 0
        return weight_MR


def _listed(owner_O: Numbers, item_OK: Numbers, weight_OK: Vectors) -> dict[int, Listed]:
    """Lists by owner; what weighs nothing is not listed."""
    found = zip(owner_O.tolist(), item_OK, weight_OK, strict=True)
    return {owner: (item_K[weight_K > 0].astype(np.int32), weight_K[weight_K > 0]) for owner, item_K, weight_K in found}


def _nearest(
    item_MK: Numbers, weight_MK: Vectors, item_R: Numbers, weight_MR: Vectors, nearest: int
) -> tuple[Numbers, Vectors]:
    """The heaviest of the items so far and of some more, of equal ones those of the lower number."""
    if weight_MR.shape[1] > nearest:  # most of them are out of the question, and sorting them all would take the time
        least_M = np.partition(weight_MR, -nearest, axis=1)[:, -nearest]
        rows, places = np.nonzero(weight_MR >= least_M[:, None])
        kept_M = np.bincount(rows, minlength=len(weight_MR))
        place_X = np.arange(len(rows)) - np.repeat(np.cumsum(kept_M) - kept_M, kept_M)
        item_MY = np.full((len(weight_MR), kept_M.max()), item_R.max() + 1, dtype=np.int64)
        weight_MY = np.full(item_MY.shape, -1, dtype=np.float32)
        item_MY[rows, place_X], weight_MY[rows, place_X] = item_R[places], weight_MR[rows, places]
    else:
        item_MY, weight_MY = np.broadcast_to(item_R, weight_MR.shape), weight_MR
    item_MX = np.concatenate([item_MK, item_MY], axis=1)
    weight_MX = np.concatenate([weight_MK, weight_MY], axis=1)
    order_MX = np.lexsort((item_MX, -weight_MX))[:, :nearest]
    return np.take_along_axis(item_MX, order_MX, 1), np.take_along_axis(weight_MX, order_MX, 1)


def _by_owner(entering: list[tuple[Numbers, Numbers, Vectors]]) -> Iterator[tuple[int, Numbers, Vectors]]:
    """Each list that items enter: whose it is, the items and their weights."""
    if not any(len(owner_X) for owner_X, _, _ in entering):
        return
    owner_X, item_X, weight_X = (np.concatenate(parts) for parts in zip(*entering, strict=True))
    order = np.argsort(owner_X, kind="stable")
    owner_X, item_X, weight_X = owner_X[order], item_X[order], weight_X[order]
    owners, begins = np.unique(owner_X, return_index=True)
    for owner, begin, end in zip(owners.tolist(), begins, [*begins[1:], len(owner_X)], strict=True):
        yield owner, item_X[begin:end], weight_X[begin:end]
