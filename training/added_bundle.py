"""The bundle that a bundle becomes when a domain joins it: what is new beside what stays.

All files of the old bundle are copied byte for byte, save those that hold the rows of all domains: the backbone (one
more token row has learned), the catalog with its vectors and neighbours, the samples and the report. Items get other
numbers, as a catalog numbers them by their ids; SIDs, lists and shares of the old domains stay.

Shapes: N items of the new bundle, A of the old one, I of the domain that joins, L levels, D item vector dim.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from sidera.bundle import Bundle
from sidera.bundle_writing import write_bundle
from sidera.catalog import Catalog, CatalogItem, create_catalog
from sidera.disk_arrays import open_tensor, read_rows
from sidera.items.history_reader import HistoryReader
from sidera.items.neighbours import GrownLists, NeighbourLists, Neighbours, Shares
from sidera.manifest import BundleDetails, DomainEntry, Manifest
from training.bundling import NEIGHBOURS_FILE, commit_of_code, save_vectors
from training.data import DomainData
from training.neighbour_lists import (
    borrowers_of,
    counts_of,
    joined,
    popularity_of,
    similar_of,
    trained_until,
    transitions_of,
)
from training.neighbours_config import NeighboursConfig
from training.split import Events

_MADE_ANEW = ("backbone/", "catalog/", "samples/requests.json", "report/metrics.json")
_VECTORS_FILE = "catalog/vectors.safetensors"
_BEFORE = ""
"""Stands for all old domains where lists are joined: no domain is named so."""


@dataclass(frozen=True)
class Joining:
    """The domain that joins a bundle.

    Attributes:
        data: its items and events.
        token: the row of its token.
        sids_IL: of its items. Shape: int32[I, L].
        vectors_ID: of its items. Shape: float32[I, D].
    """

    data: DomainData
    token: int
    sids_IL: npt.NDArray[np.int32]
    vectors_ID: npt.NDArray[np.float32]

    @property
    def name(self) -> str:
        """The domain's name."""
        return self.data.name


@dataclass(frozen=True)
class Learned:
    """What training found for it.

    Attributes:
        backbone: a Hugging Face folder, in which its token's row has learned.
        adapter: its PEFT folder; None where it has no share in the mixture.
        gamma: that share.
        neighbours: the file of all domains' neighbours; None where the bundle has none.
        report: its evaluation, as :func:`training.evaluation.evaluate` gives it.
        lineage: of the new bundle, the commit aside.
        samples: ``/recommend`` bodies for it.
    """

    backbone: Path
    adapter: Path | None
    gamma: float
    neighbours: Path | None
    report: Mapping[str, Any]
    lineage: Mapping[str, Any]
    samples: Sequence[Mapping[str, Any]]


def grown_catalog(before: Catalog, joining: Joining) -> Catalog:
    """The catalog of the new bundle; all items of the old one keep their SIDs."""
    items = [before.item(number) for number in range(len(before))]
    domain = joining.data
    for item_id, fields, sid in zip(domain.item_ids, domain.fields, joining.sids_IL.tolist(), strict=True):
        title = fields.get("title")
        other = {key: value for key, value in fields.items() if key not in ("item_id", "title")}
        items.append(CatalogItem(domain.name, item_id, tuple(sid), None if title is None else str(title), other))
    return create_catalog(items, before.codebook_sizes)


def grown_neighbours(
    before: Neighbours,
    catalogs: tuple[Catalog, Catalog],
    joining: Joining,
    events: Events,
    index: int,
    config: NeighboursConfig,
    reader: HistoryReader | None = None,
) -> Neighbours:
    """The old domains' lists under their new numbers, and the new domain's own, which has no share yet.

    Args:
        catalogs: of the old and of the new bundle.
        events: of the data that the domain was learned from.
        index: of the domain in ``events``.
        reader: of the new domain's whole histories.
    """
    old, new = catalogs
    own = {} if reader is None else {joining.name: reader}
    numbers_A = _new_numbers(old, new)
    domain, count = joining.name, len(joining.data.item_ids)
    numbers_I = np.array([new.find(domain, item_id) for item_id in joining.data.item_ids], dtype=np.int64)
    numbers = {_BEFORE: numbers_A, domain: numbers_I}
    popularity = np.zeros(len(new), dtype=np.float32)
    popularity[numbers_A] = before.popularity
    popularity[numbers_I] = popularity_of(events, index, count)
    followers = {_BEFORE: _matrix(before.transitions), domain: transitions_of(events, index, count, before.rule)}
    alike = {_BEFORE: _matrix(before.similar.base), domain: similar_of(joining.vectors_ID, config, domain)}
    borrowed = {domain: borrowers_of(alike[domain], counts_of(events, index, count))}
    if before.borrowers is not None:
        borrowed[_BEFORE] = _matrix(before.borrowers)
    return Neighbours(
        joined(followers, numbers, len(new)),
        GrownLists(joined(alike, numbers, len(new))),
        popularity,
        {**before.shares, domain: Shares()},
        before.unseen,
        before.reading,
        before.rule,
        {**before.trained_until, domain: trained_until(events, index)},
        routers=before.routers,
        readers={name: reader.renumbered(numbers_A) for name, reader in before.readers.items()} | own,
        borrowers=joined(borrowed, numbers, len(new)),
    )


def write_added_bundle(
    path: Path, bundle: Bundle, catalogs: tuple[Catalog, Catalog], joining: Joining, learned: Learned
) -> Manifest:
    """Write the new bundle, in place of one that is there.

    Args:
        bundle: the old one.
        catalogs: of the old and of the new bundle.

    Raises:
        BundleError: a file of the old bundle has changed, or the new one cannot be written there.
    """
    before, name = bundle.manifest, joining.name
    adapter = None if learned.adapter is None else f"adapters/domain-{name}"
    model = dict(before.parts["language_model"])
    if adapter is not None:
        model["gammas"] = {**model["gammas"], name: learned.gamma}
    metrics = _grown_metrics(before.metrics, learned.report)
    details = BundleDetails(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        config=before.config,
        lineage={**learned.lineage, "commit": commit_of_code()},
        metrics=metrics,
        codebook_sizes=before.codebook_sizes,
        domains={**before.domains, name: DomainEntry(joining.token, adapter)},
        parts={**before.parts, "language_model": model},
    )

    def fill(folder: Path) -> None:
        for file in before.files:
            if not file.startswith(_MADE_ANEW):
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(bundle.path(file), folder / file)
        for below in ("catalog", "samples", "report"):
            (folder / below).mkdir(exist_ok=True)
        shutil.copytree(learned.backbone, folder / "backbone")
        if learned.adapter is not None:
            shutil.copytree(learned.adapter, folder / f"adapters/domain-{name}")
        catalogs[1].save(folder / "catalog")
        if learned.neighbours is not None:
            shutil.copyfile(learned.neighbours, folder / NEIGHBOURS_FILE)
        vectors = _vectors(bundle, catalogs[0]) | {name: (joining.data.item_ids, joining.vectors_ID)}
        save_vectors(folder / _VECTORS_FILE, catalogs[1], vectors)
        samples = [*json.loads(bundle.path("samples/requests.json").read_text()), *learned.samples]
        (folder / "samples" / "requests.json").write_text(json.dumps(samples, indent=1, ensure_ascii=False))
        (folder / "report" / "metrics.json").write_text(json.dumps(metrics, indent=1, ensure_ascii=False))

    return write_bundle(path, fill=fill, details=details)


def _grown_metrics(before: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, Any]:
    """The old report with the new domain in it; ``pooled`` still tells of those domains that were pooled."""
    return {**before, "domains": {**before.get("domains", {}), **report["domains"]}}


def _vectors(bundle: Bundle, catalog: Catalog) -> dict[str, tuple[list[str], npt.NDArray[np.float32]]]:
    """Item ids and vectors of every domain of a bundle."""
    stored_AD = open_tensor(bundle.path(_VECTORS_FILE), "vectors")
    found = {}
    for domain in catalog.domains:
        numbers = np.sort(catalog.index(domain).number_of_leaf)
        found[domain] = [catalog.name(number)[0] for number in numbers.tolist()], read_rows(stored_AD, numbers)
    return found


def _new_numbers(old: Catalog, new: Catalog) -> npt.NDArray[np.int64]:
    """The number in the new catalog of every item of the old one. Shape: int64[A]."""
    numbers_A = np.empty(len(old), dtype=np.int64)
    for domain in old.domains:
        for number in old.index(domain).number_of_leaf.tolist():
            found = new.find(domain, old.name(number)[0])
            assert found is not None, "the new catalog holds all items of the old one"
            numbers_A[number] = found
    return numbers_A


def _matrix(lists: NeighbourLists) -> sp.csr_matrix:
    """The lists as rows of a matrix, entries in the order of the lists. Shape: float32[A, A]."""
    count = len(lists.begin) - 1
    return sp.csr_matrix((lists.weight, lists.item, lists.begin), shape=(count, count))
