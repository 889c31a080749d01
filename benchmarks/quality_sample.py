"""A few users of a data folder and the items that they took, as a data folder: for ``--quick``."""

import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from training.data import Dataset, DomainData, read_dataset
from training.errors import DataError

_LEAST_EVENTS = 3
"""With fewer events in a domain a user has no target there."""


def write_sample(data: Path, domains: Sequence[str], users: int, folder: Path) -> Path:
    """Write ``users`` users of each domain, those that live in most of the domains first, into a new ``folder``.

    Every user brings all of their events; items that none of them took, or that have no text, are left out.

    Raises:
        DataError: the data cannot be read, or nobody has 3 events in a domain.
    """
    dataset = read_dataset(data, domains)
    events_DU = np.stack([np.bincount(domain.user_E, minlength=len(dataset.users)) for domain in dataset.domains])
    at_home_DU = events_DU >= _LEAST_EVENTS
    chosen: set[int] = set()
    for number, domain in enumerate(dataset.domains):
        own = np.flatnonzero(at_home_DU[number])
        if not len(own):
            raise DataError(f"domain {domain.name!r}: no user has 3 events, so nothing can be evaluated; add events")
        order = np.argsort(-at_home_DU[:, own].sum(axis=0), kind="stable")
        chosen.update(own[order[:users]].tolist())
    shutil.rmtree(folder, ignore_errors=True)
    for domain in dataset.domains:
        _write_domain(dataset, domain, np.array(sorted(chosen)), folder / domain.name)
    return folder


def _write_domain(dataset: Dataset, domain: DomainData, users: npt.NDArray[np.int64], folder: Path) -> None:
    folder.mkdir(parents=True)
    rows = np.flatnonzero(np.isin(domain.user_E, users) & ~np.isin(domain.item_E, list(domain.no_text)))
    with (folder / "items.jsonl").open("w") as file:
        for item in np.unique(domain.item_E[rows]).tolist():
            file.write(json.dumps({**domain.fields[item], "item_id": domain.item_ids[item]}) + "\n")
    with (folder / "interactions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user_id", "item_id", "timestamp"])
        for row in rows.tolist():
            item_id = domain.item_ids[domain.item_E[row]]
            writer.writerow([dataset.users[domain.user_E[row]], item_id, int(domain.time_E[row])])
