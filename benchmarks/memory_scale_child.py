"""The process that ``benchmarks.memory_scale`` measures: it makes lists of followers, or opens and reads them.

Called with one JSON object: ``task`` (``build`` or ``read``), ``folder``, ``items`` and ``transitions``. It prints what
it found as one line of JSON. Memory is what was added since a small memory was made and read.

Shapes: N items, X entries of all lists, C items of a chunk.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.catalog_scale_child import resident
from sidera.items.neighbour_lists import GrownLists, NeighbourLists
from sidera.items.neighbours import Neighbours, Reading, Shares, load_neighbours, save_neighbours
from sidera.items.transitions import TransitionDelta, TransitionRule

DOMAIN = "made-up"
_FILE = "neighbours.safetensors"
_WARM_UP = {"items": 1_000, "transitions": 10_000}
_CHUNK = 500_000
_LONGEST = 100
_READS = 10_000
_HISTORY = 8


def main() -> None:
    """Do the task and say what was found."""
    task = json.loads(sys.argv[1])
    tasks: dict[str, Callable[[Path, int, int], dict[str, Any]]] = {"build": build, "read": read}
    with tempfile.TemporaryDirectory() as small:
        build(Path(small), **_WARM_UP)
        read(Path(small), **_WARM_UP)
    print(json.dumps(tasks[task["task"]](Path(task["folder"]), task["items"], task["transitions"])))


def build(folder: Path, items: int, transitions: int) -> dict[str, Any]:
    """Make lists of so many followers in all, and write them as a bundle holds them."""
    begun = time.perf_counter()
    random = np.random.default_rng(0)
    length_N = lengths(items, transitions, random)
    begin_N = np.concatenate([[0], np.cumsum(length_N)])
    item_X = np.lib.format.open_memmap(folder / "item.npy", "w+", np.int32, (transitions,))
    weight_X = np.lib.format.open_memmap(folder / "weight.npy", "w+", np.float32, (transitions,))
    for first in range(0, items, _CHUNK):
        length_C = length_N[first : first + _CHUNK]
        rows = slice(begin_N[first], begin_N[min(items, first + _CHUNK)])
        item_X[rows] = followers(length_C, items, random)
        weight_X[rows] = 1 + random.poisson(2.0, size=rows.stop - rows.start)
    nothing = NeighbourLists(np.zeros(items + 1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))
    made = Neighbours(
        transitions=NeighbourLists(begin_N, item_X, weight_X),
        similar=GrownLists(nothing),
        popularity=np.full(items, 1 / items, dtype=np.float32),
        shares={DOMAIN: Shares(transitions=0.4, popularity=0.1)},
        unseen=Shares(),
        reading=Reading(smoothing=5.0),
        rule=TransitionRule(longest=_LONGEST),
        trained_until={DOMAIN: 1.6e9},
    )
    save_neighbours(made, folder / _FILE)
    for name in ("item.npy", "weight.npy"):
        (folder / name).unlink()
    return {"seconds": time.perf_counter() - begun, "file_bytes": (folder / _FILE).stat().st_size}


def read(folder: Path, items: int, transitions: int) -> dict[str, Any]:
    """Open the lists and look histories up, as recommendations do; then beside what events added."""
    before = resident()
    begun, begun_cpu = time.perf_counter(), time.process_time()
    opened = load_neighbours(folder / _FILE)
    found: dict[str, Any] = {
        "load_seconds": time.perf_counter() - begun,
        "load_cpu_seconds": time.process_time() - begun_cpu,
        "reads": _READS,
    }

    def note(state: str) -> None:
        now = resident()
        found.update({f"{state}_{kind}": now[kind] - amount for kind, amount in before.items()})

    note("loaded")
    random = np.random.default_rng(1)
    histories = skewed(random.random((_READS, _HISTORY)), items).tolist()
    found["read_p50"], found["read_p99"] = _timed(opened, histories)
    note("read")
    delta = TransitionDelta()
    count = min(delta.most, transitions)
    before_X, after_X = skewed(random.random((2, count)), items)
    delta = delta.added(before_X, after_X, np.ones(count))
    del before_X, after_X
    begun = time.perf_counter()
    grown = opened.with_transitions(delta.added(np.array([0]), np.array([1]), np.array([1.0])))
    grown.known(DOMAIN, histories[0])
    found["swap_seconds"] = time.perf_counter() - begun
    found["delta_entries"] = delta.entries
    found["grown_p50"], found["grown_p99"] = _timed(grown, histories)
    note("grown")
    for array in (opened.transitions.begin, opened.transitions.item, opened.transitions.weight, opened.popularity):
        array[:: 4096 // array.itemsize].sum()
    note("whole")
    return found


def lengths(items: int, transitions: int, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """The lengths of all lists, few long ones and many short ones, ``transitions`` in all: int64[N]."""
    if transitions > items * _LONGEST // 2:
        raise SystemExit(f"{transitions} followers do not fit {items} lists; ask for {items * _LONGEST // 2} or fewer")
    length_N = np.minimum(_LONGEST, random.exponential(transitions / items, items)).astype(np.int64)
    while missing := transitions - int(length_N.sum()):
        open_N = np.flatnonzero((length_N < _LONGEST) if missing > 0 else (length_N > 0))
        chosen = random.permutation(open_N)[: abs(missing)]
        length_N[chosen] += np.sign(missing)
    return length_N


def followers(length_C: npt.NDArray[np.int64], items: int, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """The listed items of some lists end to end, each list sorted and without doubles."""
    row_X = np.repeat(np.arange(len(length_C)), length_C)
    key_X = row_X * items + skewed(random.random(len(row_X)), items)
    while True:
        key_X.sort()
        twice = np.flatnonzero(np.diff(key_X, prepend=-1) == 0)
        if not len(twice):
            return np.asarray(key_X % items)
        key_X[twice] = row_X[twice] * items + random.integers(items, size=len(twice))


def skewed(uniform: npt.NDArray[np.float64], items: int) -> npt.NDArray[np.int64]:
    """Item numbers of which a few come often: a tenth of the items takes almost half of the draws."""
    return (uniform**3 * items).astype(np.int64)


def _timed(neighbours: Neighbours, histories: Sequence[Sequence[int]]) -> tuple[float, float]:
    """The median and the 99th percentile of the seconds that reading one history takes."""
    seconds = []
    for history in histories:
        begun = time.perf_counter()
        neighbours.known(DOMAIN, history)
        seconds.append(time.perf_counter() - begun)
    p50, p99 = np.percentile(seconds, [50, 99]).tolist()
    return p50, p99


if __name__ == "__main__":
    main()
