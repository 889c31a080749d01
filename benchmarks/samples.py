"""A bundle and the requests to measure it with: the histories of validation and test events of real data."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sidera.errors import BundleError
from sidera.loading import LoadedBundle, load_bundle
from sidera.recommender import Query
from training.data import read_dataset
from training.errors import DataError
from training.evaluation import query_of
from training.split import Part, split_events, targets


@dataclass(frozen=True)
class Bench:
    """What is measured.

    Attributes:
        path: the bundle's folder.
        loaded: the bundle.
        queries: what evaluation asks, in a random order that is the same in every run.
    """

    path: Path
    loaded: LoadedBundle
    queries: Sequence[Query]

    def batches(self, count: int, size: int, width: int) -> list[list[Query]]:
        """``count`` batches of queries with a history, which ask for ``width`` results."""
        with_history = [query for query in self.queries if query.history]
        places = np.arange(count * size) % len(with_history)
        chosen = [replace(with_history[place], num_results=width, beam_width=width) for place in places]
        return [chosen[begin : begin + size] for begin in range(0, len(chosen), size)]


def load_bench(path: Path, data: Path, seed: int = 0) -> Bench:
    """Load a bundle and the evaluation histories of the domains that it shares with ``data``.

    Raises:
        BundleError: there is no bundle, or it is damaged.
        DataError: the data cannot be read, or hold no domain of the bundle.
    """
    if not path.is_dir():
        raise BundleError(f"{path}: there is no bundle; make the demo's with `make demo SERVE=0`, or give --bundle")
    if not data.is_dir():
        raise DataError(f"{data}: there are no data; get the demo's with `sidera data demo`, or give --data")
    loaded = load_bundle(path, "cpu")
    shared = [domain for domain in loaded.recommender.catalog.domains if (data / domain).is_dir()]
    if not shared:
        raise DataError(f"{data}: no folder is named as a domain of {path}; give the data that it was trained on")
    dataset = read_dataset(data, shared)
    events = split_events(dataset)
    asked = [*targets(events, Part.VALIDATION), *targets(events, Part.TEST)]
    order = np.random.default_rng(seed).permutation(len(asked)).tolist()
    return Bench(path, loaded, [query_of(asked[place], dataset.domains) for place in order])
