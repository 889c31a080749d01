"""``python -m benchmarks.quality_unseen --bundle DIR --data DIR --domain D --out FILE.json``: a domain never trained.

Its items get SIDs and lists of items alike from their texts, nothing is trained. Scored once like that, and once with a
memory of the transitions of its own train events, counted as the service counts events: no step of a gradient, and no
share is fitted; those of unseen domains are settings of the bundle.

Shapes: E events, I items of the domain, D item vector dim.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
import typer
from rich.console import Console

from benchmarks.harness import Figure, report
from benchmarks.quality_figures import events_figures, unseen_figures
from sidera.catalog import Catalog
from sidera.errors import SideraError
from sidera.items.neighbours import Neighbours, Shares
from sidera.items.transitions import TransitionDelta, pairs_of
from sidera.loading import LoadedBundle, load_bundle
from training.bundle_evaluation import register_items
from training.data import Dataset, read_dataset
from training.errors import DataError, TrainingError
from training.evaluation import evaluate
from training.split import Events, Part, split_events
from training.stages import stage

UNSEEN_WITH_EVENTS = Shares(transitions=0.7, similar=0.2)
"""Where the bundle's shares of unseen domains leave nothing to followers. Chosen on beauty as if it were unseen."""

_MOST_ENTRIES = 20_000_000
"""Entries of the delta: more than the events of any of the domains add."""


def main(
    bundle: Annotated[Path, typer.Option(help="A trained bundle with neighbours.")],
    data: Annotated[Path, typer.Option(help="Holds one folder a domain.")],
    domain: Annotated[str, typer.Option(help="A domain that the bundle does not hold.")],
    out: Annotated[Path, typer.Option(help="Where the figures go, as JSON.")],
    targets: Annotated[int, typer.Option(min=0, help="Test targets; 0: all.")] = 0,
    threads: Annotated[int, typer.Option(min=0, help="Processor threads, 0 for all cores.")] = 0,
    work: Annotated[Path | None, typer.Option(help="Keeps the vectors and reports; default: beside --out.")] = None,
) -> None:
    """Score an unseen domain, with and without a memory of its own events."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        if threads:
            torch.set_num_threads(threads)
        found = unseen_reports(bundle, data, domain, targets, work or out.with_name(out.name + ".work"))
        figures: dict[str, Figure] = unseen_figures(domain, found["report"])
        if found["with_events"] is not None:
            figures |= events_figures(domain, found["with_events"])
        report("A domain that nothing was trained on, item level, full ranking, test part", figures, out, found)
    except (SideraError, TrainingError) as error:
        console.print(f"error: {error}", style="bold red", markup=False)
        raise typer.Exit(1) from None


def unseen_reports(path: Path, data: Path, name: str, most: int, home: Path, device: str = "auto") -> dict[str, Any]:
    """The test reports of an unseen domain; kept in ``home``.

    Args:
        path: of the bundle.
        most: test targets; 0: all.

    Returns:
        ``report``, of what is served of a domain without events; ``with_events``, beside the memory of its events, None
        where the bundle has no neighbours; ``notes``, a sentence on the items.

    Raises:
        DataError: the bundle holds the domain already.
        SideraError, TrainingError: what went wrong, where, and what to do.
    """
    loaded = load_bundle(path, device)
    if name in loaded.manifest.domains:
        raise DataError(f"the bundle was trained on domain {name!r}; name one that it does not hold")
    dataset = read_dataset(data, [name], int(loaded.manifest.config["min_interactions"]))
    inputs = {"bundle": loaded.manifest.bundle_version, "data": dataset.digest, "targets": most, "events": True}
    with stage(home, name, inputs) as made:
        kept = made.folder / "reports.json"
        if not made.done:
            kept.write_text(json.dumps(_reports(loaded, dataset, most), indent=1))
        told: dict[str, Any] = json.loads(kept.read_text())
    return told


def _reports(loaded: LoadedBundle, dataset: Dataset, most: int) -> dict[str, Any]:
    (domain,) = dataset.domains
    vectors_ID = np.full((len(domain.item_ids), loaded.item_encoder.text_encoder.dim), np.nan, dtype=np.float32)
    alike = register_items(loaded, loaded.alike, domain, range(len(domain.item_ids)), vectors_ID)
    events, seed, recommender = split_events(dataset), int(loaded.manifest.config["seed"]), loaded.recommender

    def scored() -> dict[str, Any]:
        return evaluate(recommender, dataset.domains, events, [vectors_ID], Part.TEST, seed, most)

    count = f"{domain.name}, a domain that training never saw: {len(domain.item_ids):,} items got their SIDs from the "
    reports: dict[str, Any] = {"report": scored(), "with_events": None, "notes": [f"{count}bundle's tokenizer."]}
    if alike is not None:
        neighbours = with_events(alike.neighbours, _numbers(recommender.catalog, dataset), events)
        recommender.replace_neighbours(neighbours)
        reports["with_events"] = scored()
    return reports


def with_events(neighbours: Neighbours, number_I: npt.NDArray[np.int64], events: Events) -> Neighbours:
    """The same neighbours once the train events of an unseen domain were counted.

    Args:
        number_I: the catalog's number of each item. Shape: int64[I].
        events: split events of that domain alone, sorted by user and time.
    """
    train_E = np.flatnonzero(np.isin(events.part_E, (Part.TRAIN, Part.ROUTER)))
    before_X, after_X, count_X = pairs_of(
        number_I[events.item_E[train_E]],
        events.time_E[train_E].astype(np.float64),
        np.ones(len(train_E)),
        neighbours.rule,
        user_E=events.user_E[train_E],
    )
    delta = TransitionDelta(_MOST_ENTRIES).added(before_X, after_X, count_X)
    counting = neighbours.with_transitions(delta)
    return counting if counting.unseen.transitions else replace(counting, unseen=UNSEEN_WITH_EVENTS)


def _numbers(catalog: Catalog, dataset: Dataset) -> npt.NDArray[np.int64]:
    """The catalog's numbers of the dataset's only domain: int64[I]."""
    (domain,) = dataset.domains
    return np.array([catalog.find(domain.name, item_id) for item_id in domain.item_ids], dtype=np.int64)


if __name__ == "__main__":
    typer.run(main)
