"""Evaluates a bundle that lies on disk on any data folder."""

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from sidera.bundle import open_bundle
from sidera.loading import load_bundle
from training.data import read_dataset
from training.errors import DataError
from training.evaluation import evaluate
from training.split import Part, split_events


def evaluate_bundle(path: Path, data: Path, device: str = "auto") -> dict[str, Any]:
    """The report of the bundle's recommender on the test events of those domains of ``data`` that it was trained on.

    Raises:
        BundleError: the bundle cannot be read.
        DataError: no domain of ``data`` is in the bundle, or an item of one is not.
    """
    loaded = load_bundle(path, device)
    catalog = loaded.recommender.catalog
    # In the order of training, because the order of domains settles ties of time.
    in_order = sorted(loaded.manifest.domains, key=lambda name: loaded.manifest.domains[name].token)
    shared = [name for name in in_order if (data / name).is_dir()]
    if not shared:
        raise DataError(f"{data}: no folder is named as one of the bundle's domains, {', '.join(catalog.domains)}")
    dataset = read_dataset(data, shared, int(loaded.manifest.config["min_interactions"]))
    vectors_ND = load_file(open_bundle(path).path("catalog/vectors.safetensors"))["vectors"]
    vectors = []
    for domain in dataset.domains:
        numbers = [catalog.find(domain.name, item_id) for item_id in domain.item_ids]
        known = [number for number in numbers if number is not None]
        if len(known) < len(numbers):
            first = domain.item_ids[numbers.index(None)]
            raise DataError(
                f"{data}: {len(numbers) - len(known)} items of {domain.name!r} are not in the bundle, {first!r} the "
                "first of them; train on these data, or evaluate with the data that the bundle was trained on"
            )
        vectors.append(vectors_ND[np.array(known)])
    events = split_events(dataset)
    return evaluate(
        loaded.recommender, dataset.domains, events, vectors, Part.TEST, int(loaded.manifest.config["seed"])
    )
