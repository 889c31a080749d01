"""A few users of one domain, enough of them that something can be learned and tested at both moments: for ``--quick``.

Of few users the items are hardly the same, so that each late event may be of an item that nobody took before. A model
that is trained before a moment knows no such item, and no event is left to test it with.
"""

from pathlib import Path

from benchmarks.quality_sample import write_sample
from benchmarks.time_split_data import Stream, stream_of
from benchmarks.time_split_figures import CHOOSING, MOMENTS
from training.data import read_dataset


def write_late_sample(data: Path, name: str, users: int, folder: Path) -> Path:
    """Write ``users`` users of a domain into a new ``folder``; twice as many as long as a moment lacks events.

    A domain that lacks them with all of its users is written whole; the split says what it lacks.

    Raises:
        DataError: the data cannot be read, nobody has 3 events, or none of the events has a real time.
    """
    most = len(read_dataset(data, [name]).users)
    while True:
        write_sample(data, [name], users, folder)
        stream = stream_of(read_dataset(folder, [name]))
        if users >= most or all(_splits(stream, share) for share in MOMENTS.values()):
            return folder
        users *= 2


def _splits(stream: Stream, share: float) -> bool:
    """Whether events of the items known at a moment lie before what chooses, in what chooses, and behind it."""
    choosing, begin = stream.place(stream.moment(share - CHOOSING)), stream.place(stream.moment(share))
    known_E = stream.first_I[stream.item_E] < begin
    return all(part_E.any() for part_E in (known_E[:choosing], known_E[choosing:begin], known_E[begin:]))
