"""Reads a data folder, any number of domains, into arrays; refuses the first bad row with file, line and reason.

A user id names the same user in all domains. Knows nothing of splits, vectors or models.
Shape legend: E events of one domain, in file order.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from training.data_files import INTERACTION_FILES, ITEM_FILES, domain_folders, find_file
from training.data_interactions import read_interactions
from training.data_items import read_items
from training.errors import DataError
from training.forgetting import read_deletions


@dataclass(frozen=True, eq=False)
class DomainData:
    """One domain: its items, and its events in file order.

    user_E: int32[E] into ``Dataset.users``. item_E: int32[E] into ``item_ids``. time_E: int64[E], unix seconds, or
    positions where they are small (see ``training.split``). no_text: the line of every item without text in
    ``items_file``, by item number; ``training.no_text`` makes their vectors.
    """

    name: str
    item_ids: tuple[str, ...]
    fields: tuple[Mapping[str, object], ...]
    user_E: npt.NDArray[np.int32]
    item_E: npt.NDArray[np.int32]
    time_E: npt.NDArray[np.int64]
    items_file: Path = Path(ITEM_FILES[0])
    no_text: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Dataset:
    """All domains that were read, the users of them all, and a digest of the files' bytes and the options.

    ``forgotten_events`` and ``forgotten_users``: what the list of users to forget took away.
    """

    domains: tuple[DomainData, ...]
    users: tuple[str, ...]
    digest: str
    forgotten_events: int = 0
    forgotten_users: int = 0

    def domain(self, name: str) -> DomainData:
        """The domain of that name.

        Raises:
            DataError: it was not read.
        """
        for domain in self.domains:
            if domain.name == name:
                return domain
        raise DataError(f"domain {name!r} is not in the data; choose among {', '.join(d.name for d in self.domains)}")


def read_dataset(
    folder: Path, domains: Sequence[str] | None = None, min_interactions: int = 0, forget: Path | None = None
) -> Dataset:
    """Read the domains asked for (all: in the order of their names) and check every row.

    Args:
        folder: holds one sub-folder a domain, with ``items.jsonl[.gz]`` and ``interactions.{csv,csv.gz,parquet}``.
        domains: names of domains, in the order wanted.
        min_interactions: events of a user in a domain are dropped where they are fewer. Items all stay.
        forget: a list of users whose events up to a time are dropped before all else, see ``training.forgetting``.

    Raises:
        DataError: ``<file>:<line>: <reason; what to do>`` about the first bad row, or about a file as a whole.
    """
    read: list[DomainData] = []
    user_number: dict[str, int] = {}
    files: dict[str, list[str]] = {}
    deletions = None if forget is None else read_deletions(forget)
    forgotten: set[str] = set()
    forgotten_events = 0
    for path in domain_folders(folder, domains):
        items_path = find_file(path, ITEM_FILES)
        items = read_items(items_path)
        items.bad.raise_first()
        interactions_path = find_file(path, INTERACTION_FILES)
        rows = read_interactions(interactions_path, items.item_ids)
        rows.bad.raise_first()
        remembered_E = np.ones(len(rows.user_E), dtype=bool)
        if deletions is not None:
            remembered_E = ~deletions.forgets(rows.users, rows.user_E, rows.time_E)
            forgotten.update(rows.users[user] for user in np.unique(rows.user_E[~remembered_E]).tolist())
            forgotten_events += int((~remembered_E).sum())
            if not remembered_E.any():
                raise DataError(f"{interactions_path}: all of its users are to be forgotten; leave the domain out")
        kept_E = remembered_E.copy()
        kept_E[remembered_E] = ~few_interactions(rows.user_E[remembered_E], min_interactions)
        if not kept_E.any():
            raise DataError(f"{interactions_path}: no user has {min_interactions} interactions; ask for fewer")
        user_E = rows.user_E[kept_E]
        read.append(
            DomainData(
                name=path.name,
                item_ids=items.item_ids,
                fields=items.fields,
                user_E=_shared_numbers(rows.users, user_E, user_number),
                item_E=rows.item_E[kept_E],
                time_E=rows.time_E[kept_E],
                items_file=items_path,
                no_text=items.no_text,
            )
        )
        files[path.name] = [items.sha256, rows.sha256]
    what: dict[str, object] = {"domains": list(files.items()), "min_interactions": min_interactions}
    if deletions is not None:
        what["forget"] = deletions.sha256
    digest = hashlib.sha256(json.dumps(what).encode()).hexdigest()
    return Dataset(tuple(read), tuple(user_number), digest, forgotten_events, len(forgotten))


def few_interactions(user_E: npt.NDArray[np.int32], min_interactions: int) -> npt.NDArray[np.bool_]:
    """Which events bool[E] belong to a user with fewer than ``min_interactions`` of them."""
    few: npt.NDArray[np.bool_] = np.bincount(user_E)[user_E] < min_interactions
    return few


def _shared_numbers(
    names: Sequence[str], user_E: npt.NDArray[np.int32], user_number: dict[str, int]
) -> npt.NDArray[np.int32]:
    """Numbers over all domains, int32[E], of a domain's users; new users are added to ``user_number``."""
    shared = np.full(len(names), -1, dtype=np.int32)
    for user in np.unique(user_E).tolist():
        shared[user] = user_number.setdefault(names[user], len(user_number))
    return shared[user_E]
