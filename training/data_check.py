"""Checks a whole data folder without stopping at the first bad row, and tells what a reader of it should know.

The rows are found by the code that ``training.data`` reads with. Shape legend: E events of one domain.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from training.data import Dataset, DomainData, few_interactions
from training.data_files import INTERACTION_FILES, ITEM_FILES, BadRows, domain_folders, find_file
from training.data_interactions import InteractionRows, read_interactions
from training.data_items import ItemRows, read_items
from training.errors import DataError
from training.no_text import unknown_items
from training.split import positional, split_events

SHOWN_PER_FILE = 20


@dataclass(frozen=True)
class DomainReport:
    """What is in one domain, counted over the rows that are good.

    ``refused``: ``file:line: reason`` of the first bad rows of each file, and how many more the file has;
    ``refused_rows`` counts all of them, a file that is refused as a whole as one. ``repeated_events``: events whose
    user had the item before. ``position_users`` and ``position_events``: those with positions for times, which are
    never merged with other domains. ``dropped_users`` and ``dropped_events``: what ``min_interactions`` would drop.
    ``items_without_text``: those whose vectors come from the train part's events, ``min_interactions`` applied; those
    that have none there are refused.
    """

    name: str
    users: int
    items: int
    events: int
    refused: tuple[str, ...]
    refused_rows: int
    repeated_events: int
    position_users: int
    position_events: int
    dropped_users: int
    dropped_events: int
    items_without_text: int


@dataclass(frozen=True)
class CheckReport:
    """The reports of all domains of a folder."""

    folder: Path
    min_interactions: int
    domains: tuple[DomainReport, ...]

    @property
    def refused_rows(self) -> int:
        """How many rows are refused in all domains; 0 when the folder can be read."""
        return sum(domain.refused_rows for domain in self.domains)


def check_folder(
    folder: Path, domains: Sequence[str] | None = None, min_interactions: int = 0, limit: int = SHOWN_PER_FILE
) -> CheckReport:
    """Check all rows of the domains asked for (default: of all); name at most ``limit`` bad rows of a file.

    Raises:
        DataError: the folder or a domain asked for is not there.
    """
    reports = tuple(_check_domain(path, min_interactions, limit) for path in domain_folders(folder, domains))
    return CheckReport(folder, min_interactions, reports)


def _check_domain(folder: Path, min_interactions: int, limit: int) -> DomainReport:
    refused: list[str] = []
    refused_rows = 0

    def note(bad: BadRows) -> None:
        nonlocal refused_rows
        refused.extend(str(row) for row in bad.first)
        refused_rows += bad.total
        if more := bad.total - len(bad.first):
            refused.append(f"{bad.first[0].path}: {more:,} more rows are refused; --limit {bad.total} names them too")

    items: ItemRows | None = None
    rows: InteractionRows | None = None
    try:
        items = read_items(find_file(folder, ITEM_FILES), limit=limit)
        note(items.bad)
    except DataError as error:
        refused.append(f"{error} (the interactions are checked once there are items)")
        refused_rows += 1
    if items is not None:
        try:
            rows = read_interactions(find_file(folder, INTERACTION_FILES), items.item_ids, limit=limit)
            note(rows.bad)
        except DataError as error:
            refused.append(str(error))
            refused_rows += 1

    nothing = np.zeros(0, dtype=np.int32)
    user_E = nothing if rows is None else rows.user_E
    item_E = nothing if rows is None else rows.item_E
    position_E = positional(user_E, nothing.astype(np.int64) if rows is None else rows.time_E)
    few_E = few_interactions(user_E, min_interactions)
    # A row that is refused may be the event that an item without text needs: these are looked for in sound files only.
    if items is not None and rows is not None and not refused_rows:
        note(_unknown_items(folder, items, rows, ~few_E, limit))
    item_count = 0 if items is None else len(items.item_ids)
    pairs = len(np.unique(user_E.astype(np.int64) * max(item_count, 1) + item_E))
    return DomainReport(
        name=folder.name,
        users=_users(user_E),
        items=item_count,
        events=len(user_E),
        refused=tuple(refused),
        refused_rows=refused_rows,
        repeated_events=len(user_E) - pairs,
        position_users=_users(user_E[position_E]),
        position_events=int(position_E.sum()),
        dropped_users=_users(user_E[few_E]),
        dropped_events=int(few_E.sum()),
        items_without_text=0 if items is None else len(items.no_text),
    )


def _unknown_items(
    folder: Path, items: ItemRows, rows: InteractionRows, kept_E: npt.NDArray[np.bool_], limit: int
) -> BadRows:
    """The items that training refuses because they have neither text nor an event in the train part."""
    domain = DomainData(
        name=folder.name,
        item_ids=items.item_ids,
        fields=items.fields,
        user_E=rows.user_E[kept_E],
        item_E=rows.item_E[kept_E],
        time_E=rows.time_E[kept_E],
        items_file=find_file(folder, ITEM_FILES),
        no_text=items.no_text,
    )
    unknown = unknown_items(domain, 0, split_events(Dataset((domain,), rows.users, "")))
    return BadRows(tuple(unknown[:limit]), len(unknown))


def _users(user_E: npt.NDArray[np.int32]) -> int:
    return len(np.unique(user_E))
