"""Evaluates a bundle that lies on disk on any data folder.

Domains and items that the bundle does not hold can be given SIDs first, by its own encoder and tokenizer, as the
service would: that is how a domain is scored that training never saw.

Shapes: I items of a domain, M of them new, N items of the bundle, L levels, D item vector dim.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from sidera.bundle import open_bundle
from sidera.catalog import Catalog, CatalogItem
from sidera.item_text import item_texts
from sidera.items.alike import Alike
from sidera.items.assignment import assign_sids
from sidera.loading import LoadedBundle, load_bundle
from training.data import DomainData, read_dataset
from training.data_files import domain_folders
from training.errors import DataError
from training.evaluation import drawn_targets, evaluate
from training.memory_experts import expert_report
from training.progress import track
from training.split import CalendarSplit, Events, Part, split_events, targets

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Evaluated:
    """The report of an evaluation, and sentences on what it does and does not say."""

    report: dict[str, Any]
    notes: tuple[str, ...]


def evaluate_bundle(
    path: Path,
    data: Path,
    device: str = "auto",
    domains: Sequence[str] | None = None,
    new: bool = False,
    most: int = 0,
    experts: bool = False,
    forget: Path | None = None,
) -> Evaluated:
    """Score a bundle's recommender on the test events of a data folder.

    Args:
        domains: only these of ``data``; None: those that the bundle holds, with ``new`` all.
        new: domains and items that the bundle does not hold get SIDs from its tokenizer first.
        most: test targets of a domain; 0: all.
        experts: report every expert of the mixture alone, every pair and all of them too, which takes about as long
            as all the rest once more.
        forget: the list of users whose events do not count, see ``training.forgetting``; the one of the training.

    Raises:
        BundleError: the bundle cannot be read.
        DataError: a domain or item is not in the bundle, and ``new`` is not asked for; or the list cannot be read.
        EmbeddingError: a new item has no text.
    """
    loaded = load_bundle(path, device)
    names, left_out = _names(loaded, data, domains, new)
    dataset = read_dataset(data, names, int(loaded.manifest.config["min_interactions"]), forget)
    notes = []
    if forget is not None:
        gone = f"{dataset.forgotten_events:,} events of {dataset.forgotten_users:,} users"
        notes.append(f"forgotten: {gone} do not count.")
    if left_out:
        notes.append(f"left out, since the bundle does not hold them: {', '.join(left_out)}; --new scores them too.")
    vectors, alike = _known_vectors(path, loaded.recommender.catalog, dataset.domains), loaded.alike
    for number, domain in enumerate(dataset.domains):
        missing = np.flatnonzero(np.isnan(vectors[number][:, 0])).tolist()
        if not missing:
            continue
        if not new:
            raise DataError(
                f"{data}: {len(missing)} items of {domain.name!r} are not in the bundle, "
                f"{domain.item_ids[missing[0]]!r} the first of them; give them SIDs with --new, train on these data, "
                "or evaluate with the data that the bundle was trained on"
            )
        unseen = "" if domain.name in loaded.manifest.domains else ", a domain that training never saw"
        notes.append(f"{domain.name}{unseen}: {len(missing):,} items got their SIDs from the bundle's tokenizer.")
        alike = register_items(loaded, alike, domain, missing, vectors[number])
    trained = [name for name in names if name in loaded.manifest.domains]
    if trained and dataset.digest != loaded.manifest.lineage["data"]:
        notes.append(
            "the data and domains are not those that the bundle was trained on: histories hold what these domains say, "
            f"and if they have other events, {', '.join(trained)} may have been learned from these targets. If "
            "training forgot users, name its list with --forget."
        )
    moments = loaded.manifest.config.get("split")  # a bundle of a release before calendar splits has none
    events = split_events(dataset, None if moments is None else CalendarSplit(**moments))
    seed = int(loaded.manifest.config["seed"])
    report = evaluate(loaded.recommender, dataset.domains, events, vectors, Part.TEST, seed, most)
    if experts:
        _add_experts(report, loaded, dataset.domains, events, seed, most)
    return Evaluated(report, tuple(notes))


def _add_experts(
    report: dict[str, Any], loaded: LoadedBundle, domains: Sequence[DomainData], events: Events, seed: int, most: int
) -> None:
    """``experts`` of every domain of a report, on the targets that the report is over."""
    every = targets(events, Part.TEST)
    for index, domain in enumerate(domains):
        own = drawn_targets([target for target in every if target.domain == index], most, (seed, index))
        if own:
            found = expert_report(loaded.recommender, domains, index, events, own, seed)
            report["domains"][domain.name]["experts"] = found


def _names(
    loaded: LoadedBundle, data: Path, domains: Sequence[str] | None, new: bool
) -> tuple[list[str], tuple[str, ...]]:
    """The domains to score, and those of ``data`` that are left out. In the order of training: it settles ties."""
    entries = loaded.manifest.domains
    trained = sorted(entries, key=lambda name: entries[name].token)
    found = [folder.name for folder in domain_folders(data, domains)]
    known = [name for name in trained if name in found]
    strangers = tuple(name for name in found if name not in entries)
    if new:
        return known + list(strangers), ()
    if domains is not None and strangers:
        raise DataError(
            f"{data}: the bundle does not hold {', '.join(strangers)}; score unseen domains with --new, or choose "
            f"among {', '.join(trained)}"
        )
    if not known:
        raise DataError(
            f"{data}: no folder is named as one of the bundle's domains, {', '.join(trained)}; score unseen domains "
            "with --new"
        )
    return known, strangers


def _known_vectors(path: Path, catalog: Catalog, domains: Sequence[DomainData]) -> list[Vectors]:
    """The bundle's vectors of each domain's items, float32[I, D]; NaN where the bundle does not hold the item."""
    stored_ND = load_file(open_bundle(path).path("catalog/vectors.safetensors"))["vectors"]
    vectors = []
    for domain in domains:
        found = [catalog.find(domain.name, item_id) for item_id in domain.item_ids]
        number_I = np.array([-1 if number is None else number for number in found], dtype=np.int64)
        vectors_ID = stored_ND[number_I]
        vectors_ID[number_I < 0] = np.nan
        vectors.append(vectors_ID)
    return vectors


def register_items(
    loaded: LoadedBundle, alike: Alike | None, domain: DomainData, missing: Sequence[int], vectors_ID: Vectors
) -> Alike | None:
    """Give items SIDs, fill in their vectors, and let the recommender serve them; what ``alike`` is then."""
    catalog = loaded.recommender.catalog
    items = [{**domain.fields[row], "item_id": domain.item_ids[row]} for row in missing]
    with track(f"vectors of {domain.name}", len(items)) as advance:
        made_MD = loaded.item_encoder.text_encoder.encode(item_texts(items), on_batch=advance)
    vectors_ID[np.array(missing)] = made_MD
    if domain.name in catalog.domains:
        sids_ML, _ = loaded.item_encoder.place(made_MD, domain.name, catalog.sids(domain.name))
    else:
        sids_ML, _ = assign_sids(loaded.tokenizer, made_MD, domain.name)
    added = [
        CatalogItem(domain.name, domain.item_ids[row], tuple(sid))
        for row, sid in zip(missing, sids_ML.tolist(), strict=True)
    ]
    grown = catalog.with_items(added, catalog.version + 1)
    if alike is not None:
        keys = [(item.domain, item.item_id) for item in added]
        alike = alike.with_items(grown, dict(zip(keys, made_MD, strict=True)))
    neighbours = None if alike is None else alike.neighbours
    loaded.recommender.replace_catalog(loaded.recommender.prepare_catalog(grown, neighbours))
    return alike
