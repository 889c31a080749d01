"""The process that ``benchmarks.catalog_scale`` measures: it builds a catalog, or opens one and uses it.

Called with one JSON object: ``task`` (``build``, ``open``, ``change``, ``search`` or ``fold``), ``folder`` (of the
catalog) and ``items``. It prints what it found as one line of JSON. Memory is what ``/proc/self/status`` says, after a
small catalog has been built and used, so that code and libraries are in memory already and what is added is the
catalog's.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.catalog_synthetic import DOMAIN, SIZES, made_up_items, made_up_sids, new_items
from sidera.catalog import Catalog, CatalogItem
from sidera.items.stored_catalog import build_catalog

_WARM_UP_ITEMS = 1_000
_LOOKUPS = 10_000
_CHANGES = 20
_ADDED = 10_000


def main() -> None:
    """Do the task and say what was found."""
    task = json.loads(sys.argv[1])
    tasks: dict[str, Callable[[Path, int], dict[str, Any]]] = {
        "build": build,
        "open": open_and_use,
        "change": change,
        "search": _searches("search_changed"),
        "fold": _searches("fold"),
    }
    with tempfile.TemporaryDirectory() as small:
        build(Path(small), _WARM_UP_ITEMS)
        open_and_use(Path(small), _WARM_UP_ITEMS)
    print(json.dumps(tasks[task["task"]](Path(task["folder"]), task["items"])))


def _searches(name: str) -> Callable[[Path, int], dict[str, Any]]:
    """A task of :mod:`benchmarks.catalog_searches`, whose libraries the other processes have no use for."""

    def run(folder: Path, items: int) -> dict[str, Any]:
        from benchmarks import catalog_searches

        found: dict[str, Any] = getattr(catalog_searches, name)(folder, items)
        return found

    return run


def build(folder: Path, items: int) -> dict[str, Any]:
    """Build the catalog of so many items and write it."""
    columns, sids_NL = made_up_items(items), made_up_sids(items, SIZES)
    begun, begun_cpu = time.perf_counter(), time.process_time()
    stored = build_catalog({DOMAIN: (columns, sids_NL)}, SIZES)
    seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - begun_cpu
    begun = time.perf_counter()
    stored.save(folder)
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "save_seconds": time.perf_counter() - begun,
        "nodes": [len(codes) for codes in stored.tries.trie.codes],
        "trie_bytes": sum(array.nbytes for array in stored.tries.trie.arrays().values()),
        "number_bytes": stored.tries.number_of_leaf.nbytes + stored.tries.leaf_of_number.nbytes,
        "file_bytes": {file.name: file.stat().st_size for file in folder.iterdir()},
    }


def open_and_use(folder: Path, items: int) -> dict[str, Any]:
    """Open a catalog and look items up, as requests do."""
    before = resident()
    begun, begun_cpu = time.perf_counter(), time.process_time()
    catalog = Catalog.load(folder, [DOMAIN], SIZES)
    tables = catalog.tables("cpu")
    seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - begun_cpu
    opened = resident()
    leaves = np.random.default_rng(1).integers(items, size=_LOOKUPS)
    index = catalog.index(DOMAIN)
    begun = time.perf_counter()
    for leaf in leaves.tolist():
        number = int(index.numbers_of(np.array([leaf]))[0])
        item_id, title = catalog.name(number)
        if title is None or catalog.find(DOMAIN, item_id) != number or catalog.leaf(number) != leaf:
            raise SystemExit(f"leaf {leaf} is not found again")
    looked_up = time.perf_counter() - begun
    catalog.sids_of(DOMAIN, index.numbers_of(leaves).tolist())
    tables.ancestors(torch.from_numpy(leaves))
    used = resident()
    found = {"seconds": seconds, "cpu_seconds": cpu_seconds, "lookup_seconds": looked_up / _LOOKUPS}
    for kind, amount in before.items():
        found[f"opened_{kind}"], found[f"used_{kind}"] = opened[kind] - amount, used[kind] - amount
    return found


def change(folder: Path, items: int) -> dict[str, Any]:
    """Items join, leave and hide, one at a time; then the same beside many that joined before."""
    catalog = Catalog.load(folder, [DOMAIN], SIZES)
    new = new_items(catalog, _ADDED + _CHANGES)
    found = {f"one_{name}": seconds for name, seconds in _changes(catalog, new[:_CHANGES]).items()}
    grown = catalog.with_items(new[_CHANGES:], 2)
    return found | {f"later_{name}": seconds for name, seconds in _changes(grown, new[:_CHANGES]).items()}


def _changes(catalog: Catalog, new: Sequence[CatalogItem]) -> dict[str, float]:
    """Seconds of one change each, the median; a snapshot counts once its tables are there."""
    index = catalog.index(DOMAIN)
    before = resident()["anonymous"]
    ids = [
        catalog.name(int(number))[0]
        for number in index.numbers_of(np.linspace(0, index.num_leaves - 1, len(new)).astype(int))
    ]
    seconds: dict[str, list[float]] = {"add": [], "remove": [], "hide": []}
    for place, item in enumerate(new):
        known = [(DOMAIN, ids[place])]
        steps: dict[str, Callable[[Catalog], Catalog]] = {
            "add": lambda last, item=item: last.with_items([item], last.version + 1),  # type: ignore[misc]
            "remove": lambda last, known=known: last.without_items(known, last.version + 1),  # type: ignore[misc]
            "hide": lambda last, known=known: last.with_hidden(known, last.version + 1),  # type: ignore[misc]
        }
        for name, step in steps.items():
            begun = time.perf_counter()
            step(catalog).tables("cpu")
            seconds[name].append(time.perf_counter() - begun)
    told = {name: float(np.median(every)) for name, every in seconds.items()}
    return told | {"anonymous": resident()["anonymous"] - before}


def resident() -> dict[str, int]:
    """Bytes of memory that this process holds: its own (anonymous), and pages of files."""
    names = {"RssAnon": "anonymous", "RssFile": "file"}
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {names[words[0][:-1]]: int(words[1]) * 1024 for words in lines if words[0][:-1] in names}


if __name__ == "__main__":
    main()
