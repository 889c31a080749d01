"""Writes the items that joined and left a bundle's catalog into a new bundle of the store: ``sidera fold``.

Replicas that watch the store swap it in, or an operator activates it. Then a start has nothing to join, and the live
changes are counted from the new bundle. The rows of the database stay: replicas on the old bundle, and a rollback to
it, find all they need.
"""

import json
import shutil
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from structlog.typing import FilteringBoundLogger

from service.bundles.choice import Choice, read_choice
from service.bundles.folder import BundleFolder, StoredBundle
from service.bundles.versions import Versions
from service.catalog.placing import Placer, Vectors
from service.catalog.restoring import Reading, Restorer
from service.catalog.rows import CatalogStore, Key
from service.catalog.state import State, all_fields
from service.errors import StaleCatalogError, StartError
from service.item_model import BundleItems
from service.settings import Settings
from sidera.bundle import Bundle, open_bundle, verified_bundle
from sidera.catalog import Catalog
from sidera.folded_bundle import LiveItems, write_folded_bundle
from sidera.items.item_encoder import load_item_encoder
from sidera.tokenizers import load_tokenizer

_ATTEMPTS = 5


def fold_offline(
    settings: Settings,
    database: CatalogStore,
    log: FilteringBoundLogger,
    least: int,
    say: Callable[[str], None],
    keep: int = 0,
) -> str | None:
    """Write the version that serves, with all its live items, as a new version of the bundle store.

    Args:
        least: so many changes are worth a bundle.
        say: told what is done.
        keep: folded versions beyond the newest so many are deleted, save the one that serves and the one that a
            rollback goes to; 0 keeps all.

    Returns:
        The new folder's name; None where there are fewer changes.

    Raises:
        StartError: there is no store, or no bundle in it that can be read.
        StoreError: the database cannot be read.
        BundleError, CatalogError: see :func:`sidera.folded_bundle.write_folded_bundle`.
    """
    if settings.bundle_store is None:
        raise StartError("only a bundle of a store can be folded; set SIDERA_BUNDLE_STORE")
    stored: StoredBundle = Versions(settings, log, lambda: database).candidates()[0]
    bundle = verified_bundle(stored.path)
    say(f"{stored.name} is whole")
    items = _ItemsOnDisk(stored.path, bundle)
    reading = _read(items, database, log)
    catalog = reading.state.catalog
    changes = sum(_changes(catalog, domain) for domain in bundle.manifest.domains)
    if changes < max(1, least):
        say(f"{changes} changes of items, fewer than {max(1, least)}: nothing to fold")
        return None
    name = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%S")
    vectors = _vectors(catalog, bundle.manifest.domains, items, reading.joined)
    live = LiveItems(catalog, vectors, reading.state.stored_version)
    manifest = write_folded_bundle(settings.bundle_store / name, bundle, live)
    say(f"{name} holds all items of catalog version {live.version}: bundle {manifest.bundle_version[:12]}")
    if keep:
        _delete_old(BundleFolder(settings.bundle_store), stored.name, read_choice(database), keep, say)
    return name


def _delete_old(
    folder: BundleFolder, serving: str, choice: Choice | None, keep: int, say: Callable[[str], None]
) -> None:
    needed = {serving} if choice is None else {serving, choice.name, *choice.previous[:1]}
    complete = [stored for stored in folder.versions() if stored.problem is None]
    folded = [stored for stored in complete if open_bundle(stored.path).manifest.lineage.get("folded")]
    for stored in folded[keep:]:
        if stored.name not in needed:
            gone = stored.path.with_name(f".{stored.name}.deleting")  # from here on nobody sees it
            stored.path.rename(gone)
            shutil.rmtree(gone)
            say(f"{stored.name} was folded before, and is deleted")


def _changes(catalog: Catalog, domain: str) -> int:
    """How many items of a domain joined, left, or got other fields since the bundle was written."""
    return len(catalog.later_items(domain)) + int((catalog.leaves(catalog.bundle_numbers(domain)) < 0).sum())


def _vectors(catalog: Catalog, domains: Iterable[str], items: "_ItemsOnDisk", known: Vectors) -> Vectors:
    """The vectors of all items that joined; those that no database has under this encoder are made."""
    made: dict[Key, npt.NDArray[np.float32]] = {}
    for domain in domains:
        later = catalog.later_items(domain)
        joined = ~catalog.from_bundle(np.fromiter(later, np.int64, len(later)))
        lacking = [
            item
            for item, is_new in zip(later.values(), joined.tolist(), strict=True)
            if is_new and (domain, item.item_id) not in known
        ]
        if lacking:
            vectors = items.vectors([{"item_id": item.item_id, **all_fields(item)} for item in lacking])
            made |= {(domain, item.item_id): vector_D for item, vector_D in zip(lacking, vectors, strict=True)}
    return {**known, **made}


def _read(items: "_ItemsOnDisk", database: CatalogStore, log: FilteringBoundLogger) -> Reading:
    """Everything that is stored, joined to the bundle's catalog; items without a SID get theirs, as in a service."""
    tokenizer = items.description.tokenizer_digest
    restorer = Restorer(items.catalog, database, Placer(items), tokenizer, log)
    for _ in range(_ATTEMPTS):
        reading = restorer.read(State(items.catalog), whole=True, above=items.catalog.version)
        if not reading.changes.given:
            return reading
        version = reading.state.stored_version
        try:
            database.commit(
                reading.changes, tokenizer=tokenizer, expected_version=reading.read_version, version=version
            )
        except StaleCatalogError:
            continue
        return reading
    raise StartError("other processes kept changing the catalog while it was read; fold again")


class _ItemsOnDisk(BundleItems):
    """A bundle without its language model; the encoder is loaded once an item needs it."""

    def __init__(self, path: Path, bundle: Bundle) -> None:
        manifest = bundle.manifest
        self.catalog = Catalog.load(bundle.folder("catalog"), manifest.domains, manifest.codebook_sizes)
        tokenizer = load_tokenizer(bundle.folder("tokenizer"))
        embedder = json.loads(bundle.path("embedder/config.json").read_text())
        super().__init__(manifest, tokenizer, embedder["digest"], cache(partial(load_item_encoder, path)))
