"""The events of one domain as they came: a stream by time, and the data folder of what was known at a moment.

An event without a real time is left out: nothing says before which other one it was.

Shapes: E events, I items.
"""

import csv
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from training.data import Dataset, DomainData
from training.errors import DataError
from training.split import positional


@dataclass(frozen=True, eq=False)
class Stream:
    """The events of one domain, oldest first; those of one time in file order.

    Attributes:
        domain: its items; its own events are not used.
        users: the ids that ``user_E`` points into.
        user_E: Shape: int32[E].
        item_E: into the items of ``domain``. Shape: int32[E].
        time_E: unix seconds. Shape: int64[E].
        first_I: where each item has its first event; E for one without any. Shape: int64[I].
    """

    domain: DomainData
    users: tuple[str, ...]
    user_E: npt.NDArray[np.int32]
    item_E: npt.NDArray[np.int32]
    time_E: npt.NDArray[np.int64]
    first_I: npt.NDArray[np.int64]

    def moment(self, share: float) -> int:
        """The time before which at most this share of the events lies: a whole day's events stay together."""
        return int(self.time_E[min(len(self.time_E) - 1, int(share * len(self.time_E)))])

    def place(self, moment: float) -> int:
        """Where the first event from this time on stands."""
        return int(np.searchsorted(self.time_E, moment, side="left"))


def stream_of(dataset: Dataset) -> Stream:
    """The stream of a dataset of one domain.

    Raises:
        DataError: none of its events has a real time.
    """
    (domain,) = dataset.domains
    real = np.flatnonzero(~positional(domain.user_E, domain.time_E))
    if not len(real):
        raise DataError(
            f"domain {domain.name!r}: its times are positions, so no moment splits them; choose another one"
        )
    order = real[np.argsort(domain.time_E[real], kind="stable")]
    item_E = domain.item_E[order]
    first_I = np.full(len(domain.item_ids), len(order), dtype=np.int64)
    np.minimum.at(first_I, item_E, np.arange(len(order)))
    return Stream(domain, dataset.users, domain.user_E[order], item_E, domain.time_E[order], first_I)


def write_known(stream: Stream, moment: int, folder: Path) -> int:
    """Write the data folder of what is known at a moment: the items that had an event by then, and all their events.

    The later events of these items are in it too; a calendar split is to keep training from them. Items stand in the
    order of their first events, so that what is made of them in shards is the same at a later moment.

    Returns:
        How many items are known.
    """
    begin = stream.place(moment)
    by_first = np.argsort(stream.first_I, kind="stable")
    items = by_first[stream.first_I[by_first] < begin]
    own = folder / stream.domain.name
    shutil.rmtree(folder, ignore_errors=True)
    own.mkdir(parents=True)
    with (own / "items.jsonl").open("w") as file:
        for item in items.tolist():
            file.write(json.dumps({**stream.domain.fields[item], "item_id": stream.domain.item_ids[item]}) + "\n")
    known_I = np.zeros(len(stream.first_I), dtype=bool)
    known_I[items] = True
    with (own / "interactions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user_id", "item_id", "timestamp"])
        for place in np.flatnonzero(known_I[stream.item_E]).tolist():
            item_id = stream.domain.item_ids[stream.item_E[place]]
            writer.writerow([stream.users[stream.user_E[place]], item_id, int(stream.time_E[place])])
    return len(items)
