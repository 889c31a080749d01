"""Items by what their codes stand for: a map of a sample of the catalog in two dimensions, and the items near a SID.

A SID's vector is what the tokenizer makes of its codes (:meth:`~sidera.tokenizers.base.ItemTokenizer.reconstruct`), so
items that were registered later, and SIDs that no item has yet, are in the same space as all others.

Shapes: N sampled items, S asked SIDs, C compared items, L levels, D item vector dim.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sidera.catalog import Catalog
from sidera.items.trie_nodes import prefix_ranges, spread
from sidera.items.unit_vectors import unit_rows

CodeVectors = Callable[[npt.NDArray[np.int32]], npt.NDArray[np.float32]]
"""The vectors of SIDs, int32[N, L] to float32[N, D]."""

MAPPED_ITEMS = 2000
"""Items of a map, about, of all domains together."""
COMPARED_ITEMS = 4096
"""Items that one SID is compared with, of all domains together; of a large domain those that begin alike."""


@dataclass(frozen=True)
class PlacedItem:
    """An item and where it lies, from -1 to 1."""

    domain: str
    item_id: str
    title: str | None
    sid: tuple[int, ...]
    x: float
    y: float


@dataclass(frozen=True)
class ItemMap:
    """A map.

    Attributes:
        items: of all domains, in proportion to their sizes.
        variance: the share of all differences between the items that each axis shows.
    """

    items: tuple[PlacedItem, ...]
    variance: tuple[float, float]


@dataclass(frozen=True)
class NearItem:
    """An item near a SID: how alike the two are (the cosine of their vectors), and how many codes they begin with."""

    domain: str
    item_id: str
    title: str | None
    sid: tuple[int, ...]
    similarity: float
    shared: int


def item_map(catalog: Catalog, vectors: CodeVectors) -> ItemMap:
    """The two directions in which the sampled items differ most (principal components), as a map."""
    named: list[tuple[str, int]] = []
    sids = []
    for domain in catalog.domains:
        index = catalog.index(domain)
        most = max(MAPPED_ITEMS * index.num_leaves // len(catalog), 1)
        leaves = spread(0, index.num_leaves, most)
        sids.append(index.sids_of(leaves))
        named += [(domain, number) for number in index.numbers_of(leaves).tolist()]
    if not named:
        return ItemMap((), (0.0, 0.0))
    sids_NL = np.concatenate(sids)
    place_N2, variance = _plane(vectors(sids_NL).astype(np.float64))
    items = []
    for (domain, number), sid, (x, y) in zip(named, sids_NL.tolist(), place_N2.tolist(), strict=True):
        items.append(PlacedItem(domain, *catalog.name(number), tuple(sid), x, y))
    return ItemMap(tuple(items), variance)


def near_items(
    catalog: Catalog,
    sids_SL: npt.NDArray[np.int32],
    most: int,
    vectors: CodeVectors,
    without: str | None = None,
) -> list[list[NearItem]]:
    """The items whose codes stand for nearly the same, the nearest first, for each SID.

    Args:
        sids_SL: need not be of the catalog.
        most: items for each SID.
        without: a domain whose items are left out.
    """
    domains = [domain for domain in catalog.domains if domain != without]
    compared = max(COMPARED_ITEMS // max(len(domains), 1), most)
    unit_SD = unit_rows(vectors(sids_SL))
    found: list[list[NearItem]] = [[] for _ in sids_SL]
    for domain in domains:
        index = catalog.index(domain)
        whole = index.num_leaves <= compared
        leaves = np.arange(index.num_leaves if whole else 0)
        sids_CL, unit_CD = index.sids_of(leaves), unit_rows(vectors(index.sids_of(leaves)))
        for row, sid in enumerate(sids_SL.tolist()):
            if not whole:
                leaves = _alike(prefix_ranges(catalog, domain, sid), compared)
                sids_CL = index.sids_of(leaves)
                unit_CD = unit_rows(vectors(sids_CL))
            cosine_C = unit_CD @ unit_SD[row]
            shared_C = np.cumprod(sids_CL == np.array(sid), axis=1).sum(axis=1)
            for place in np.lexsort((-shared_C, -cosine_C))[:most].tolist():
                number = int(index.numbers_of(leaves[place : place + 1])[0])
                own = tuple(sids_CL[place].tolist())
                similarity = min(float(cosine_C[place]), 1.0)
                found[row].append(NearItem(domain, *catalog.name(number), own, similarity, int(shared_C[place])))
    return [sorted(own, key=lambda item: (-item.similarity, -item.shared))[:most] for own in found]


def _alike(ranges: Sequence[tuple[int, int]], most: int) -> npt.NDArray[np.int64]:
    """The leaves of the widest range that is not too wide; of the narrowest one a sample where all are."""
    for begin, end in ranges:
        if end - begin <= most:
            return np.arange(begin, end)
    return spread(*ranges[-1], most)


def _plane(vectors_ND: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], tuple[float, float]]:
    """Where vectors lie on their first two principal axes, from -1 to 1 on one scale, and the axes' variance shares."""
    centred_ND = vectors_ND - vectors_ND.mean(axis=0)
    value_D, axis_DD = np.linalg.eigh(centred_ND.T @ centred_ND)
    value_D, axis_DD = np.maximum(value_D[::-1], 0.0), axis_DD[:, ::-1]
    axis_D2, value_2 = np.zeros((len(value_D), 2)), np.zeros(2)
    axis_D2[:, : min(2, len(value_D))], value_2[: min(2, len(value_D))] = axis_DD[:, :2], value_D[:2]
    axis_D2 *= np.where(axis_D2[np.abs(axis_D2).argmax(axis=0), [0, 1]] < 0, -1, 1)  # an eigenvector has no sign
    place_N2 = centred_ND @ axis_D2
    widest, total = np.abs(place_N2).max(), value_D.sum()
    place_N2 /= widest or 1.0
    first, second = (value_2 / (total or 1.0)).tolist()
    return place_N2, (first, second)
