"""The bundle that a bundle becomes when the items that joined and left its catalog are written into it.

Language model, tokenizer, encoder, adapters, samples and report are copied byte for byte; the catalog with its vectors
and neighbours is written anew. Items get other numbers, as a catalog numbers them by their ids; SIDs stay, so a service
that swaps the new bundle in answers as it did, and has nothing to join when it starts. What users did since the bundle
was trained is no part of it: a service counts it again.

Shapes: N items of the new bundle, M numbers of the old one and of what joined it, D item vector dim, R rows, K listed.
"""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sidera.bundle import Bundle
from sidera.bundle_writing import write_bundle
from sidera.catalog import Catalog
from sidera.disk_arrays import open_tensor, read_rows, write_tensor
from sidera.errors import BundleError, CatalogError
from sidera.items.alike import Alike
from sidera.items.borrowing import Borrowers
from sidera.items.item_store import IDS_FILE, TABLE_FILE
from sidera.items.neighbours import GrownLists, Listed, NeighbourLists, Neighbours, load_neighbours, save_neighbours
from sidera.items.stored_catalog import TRIES_FILE, StoredCatalog, build_catalog
from sidera.manifest import BundleDetails, Manifest

Vectors = Mapping[tuple[str, str], npt.NDArray[np.float32]]
"""float32[D] by (domain, item id)."""

Numbers = npt.NDArray[np.int64]

VECTORS_FILE = "catalog/vectors.safetensors"
_ROWS = 16_384


@dataclass(frozen=True)
class LiveItems:
    """What a bundle's catalog became.

    Attributes:
        catalog: a snapshot of it, on the bundle's own items.
        vectors: of the items that joined.
        version: of the snapshot, in the terms of whoever keeps the changes.
    """

    catalog: Catalog
    vectors: Vectors
    version: int


def write_folded_bundle(path: Path, bundle: Bundle, live: LiveItems) -> Manifest:
    """Write the new bundle. Items of domains that the bundle does not know are left out: they stay live.

    Raises:
        BundleError: a file of the old bundle has changed, its catalog holds files that this release does not know, or
            the new one cannot be written there.
        CatalogError: a domain of the bundle has no item left, or an item that joined has no vector.
    """
    before = bundle.manifest
    listed = before.parts.get("neighbours")
    made_anew = {f"catalog/{name}" for name in (IDS_FILE, TABLE_FILE, TRIES_FILE)} | {VECTORS_FILE, listed}
    unknown = [name for name in before.files if name.startswith("catalog/") and name not in made_anew]
    if unknown:
        raise BundleError(f"{unknown[0]!r} of the bundle cannot be folded; fold with the release that wrote the bundle")
    folded = {"bundle": before.bundle_version, "catalog_version": live.version}
    details = BundleDetails(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        config=before.config,
        lineage={**before.lineage, "folded": [*before.lineage.get("folded", []), folded]},
        metrics=before.metrics,
        codebook_sizes=before.codebook_sizes,
        domains=before.domains,
        parts=before.parts,
    )

    def fill(folder: Path) -> None:
        for file in before.files:
            if file not in made_anew:
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(bundle.path(file), folder / file)
        (folder / "catalog").mkdir()
        stored, old_N = grown_catalog(live.catalog, sorted(before.domains))
        stored.save(folder / "catalog")
        if VECTORS_FILE in before.files:
            stored_ND = open_tensor(bundle.path(VECTORS_FILE), "vectors")
            write_tensor(folder / VECTORS_FILE, "vectors", _vectors(live, stored_ND, old_N), stored_ND.shape[1])
            if listed is not None:
                alike = Alike(load_neighbours(bundle.path(listed)), stored_ND).with_items(live.catalog, live.vectors)
                save_neighbours(renumbered(alike.neighbours, old_N), folder / listed)

    return write_bundle(path, fill=fill, details=details)


def grown_catalog(catalog: Catalog, domains: list[str]) -> tuple[StoredCatalog, Numbers]:
    """The items of some domains as a catalog of their own.

    Returns:
        It, and the old number of each new one. Shape: int64[N].

    Raises:
        CatalogError: a domain has no item.
    """
    columns, numbers = {}, []
    for domain in domains:
        if domain not in catalog.indexes:
            raise CatalogError(
                f"domain {domain!r} has no item left, and a bundle holds items of all its domains; register one, or "
                "train a bundle without the domain"
            )
        own_N, items = catalog.columns(domain)
        columns[domain] = items, catalog.sids(domain)
        numbers.append(own_N)
    stored = build_catalog(columns, catalog.codebook_sizes)
    old_N = np.empty(len(stored.store), dtype=np.int64)
    old_N[stored.tries.number_of_leaf] = np.concatenate(numbers)  # both stand in the order of domains and SIDs
    return stored, old_N


def _vectors(live: LiveItems, stored_ND: npt.NDArray[np.float32], old_N: Numbers) -> Iterator[npt.NDArray[np.float32]]:
    """The vectors of the new bundle's items, in parts."""
    found = {live.catalog.find(*key): vector_D for key, vector_D in live.vectors.items()}
    for begin in range(0, len(old_N), _ROWS):
        old_R = old_N[begin : begin + _ROWS]
        rows_RD = read_rows(stored_ND, np.where(old_R < len(stored_ND), old_R, 0))
        lacking = set(np.flatnonzero(~live.catalog.from_bundle(old_R)).tolist())
        for row, number in enumerate(old_R.tolist()):
            if number in found:
                rows_RD[row] = found[number]
                lacking.discard(row)
        if lacking:
            item = live.catalog.item(int(old_R[min(lacking)]))
            raise CatalogError(f"item {item.item_id[:80]!r} of {item.domain!r} has no vector; register it again")
        yield rows_RD


def renumbered(neighbours: Neighbours, old_N: Numbers) -> Neighbours:
    """The same lists under new numbers; what has no new number is in none of them.

    Args:
        old_N: the old number of each new one.
    """
    known = len(neighbours.popularity)
    popularity = np.zeros(len(old_N), dtype=np.float32)
    popularity[old_N < known] = neighbours.popularity[old_N[old_N < known]]
    similar = _renumbered(neighbours.similar.base, neighbours.similar.changed, old_N)
    return replace(
        neighbours,
        transitions=_renumbered(neighbours.transitions, {}, old_N),
        similar=GrownLists(similar),
        popularity=popularity,
        readers={name: reader.renumbered(_new_of(old_N, known)) for name, reader in neighbours.readers.items()},
        borrowers=None if neighbours.borrowers is None else _borrowers(neighbours, neighbours.borrowers, old_N),
    )


def _borrowers(neighbours: Neighbours, base: NeighbourLists, old_N: Numbers) -> NeighbourLists:
    """Who borrows from whom, items that joined among them."""
    joined = Borrowers.of(base, neighbours.similar)
    changed: dict[int, Listed] = {}
    for lender in np.unique(joined.lender_Y).tolist():
        own = slice(*joined.lender_Y.searchsorted([lender, lender + 1]))
        item_K, part_K = base.of(lender)
        items = np.concatenate([item_K, joined.borrower_Y[own].astype(np.int32)])
        changed[lender] = items, np.concatenate([part_K, joined.part_Y[own].astype(np.float32)])
    return _renumbered(base, changed, old_N)


def _renumbered(lists: NeighbourLists, changed: Mapping[int, Listed], old_N: Numbers) -> NeighbourLists:
    new_M = _new_of(old_N, max(len(lists.begin), *_largest(changed), 0))
    count_N = np.zeros(len(old_N), dtype=np.int64)
    items, weights = [], []
    for new, old in enumerate(old_N.tolist()):
        item_K, weight_K = changed.get(old) or lists.of(old)
        place_K = new_M[item_K]
        kept_K = place_K >= 0
        count_N[new] = kept_K.sum()
        items.append(place_K[kept_K])
        weights.append(np.asarray(weight_K)[kept_K])
    begin = np.concatenate([[0], np.cumsum(count_N)])
    return NeighbourLists(begin, np.concatenate(items), np.concatenate(weights).astype(np.float32, copy=False))


def _new_of(old_N: Numbers, largest: int) -> npt.NDArray[np.int32]:
    """The new number of each old one up to at least ``largest``, -1 where it has none."""
    new_M = np.full(1 + max(int(old_N.max()), largest), -1, dtype=np.int32)
    new_M[old_N] = np.arange(len(old_N), dtype=np.int32)
    return new_M


def _largest(changed: Mapping[int, Listed]) -> list[int]:
    """The largest number that changed lists hold; none where they hold none."""
    return [int(item_K.max()) for item_K, _ in changed.values() if len(item_K)]
