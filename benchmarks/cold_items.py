"""``python -m benchmarks.cold_items --bundle DIR --data DIR --domains A,B --out FILE.json``: what borrowing is worth.

An item with few events seldom stands in a list of followers; it borrows the place of its nearest items. Scored on the
test targets whose item has fewer than 5 train events, by the whole mixture that is served, with borrowing and without;
and on some of the other targets, to say what it costs them. Test part, item level, full ranking.

Shapes: N targets.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
import typer
from rich.console import Console

from benchmarks.harness import Figure, at_least, report, shown
from sidera.errors import SideraError
from sidera.items.borrowing import FEW
from sidera.loading import LoadedBundle, load_bundle
from training.data import Dataset, read_dataset
from training.errors import DataError, TrainingError
from training.evaluation import PLACES, drawn_targets, recommend_for
from training.metrics import PairedDifference, ndcg_values, paired_bootstrap, recall_values, target_ranks
from training.split import CalendarSplit, Part, Target, split_events, targets

LEAST_RATIO = 2.0
"""Recall@10 with borrowing over that without, where that one has ``ENOUGH_HITS``."""

ENOUGH_HITS = 20

_ON, _OFF = "with", "without"


@dataclass(frozen=True, eq=False)
class Cold:
    """The ranks of one domain's targets: int64[N] each, by whether anything is borrowed (``with``, ``without``).

    Attributes:
        cold: of targets whose item has few train events.
        warm: of others.
    """

    cold: dict[str, npt.NDArray[np.int64]]
    warm: dict[str, npt.NDArray[np.int64]]


def main(
    bundle: Annotated[Path, typer.Option(help="A trained bundle with neighbours.")],
    data: Annotated[Path, typer.Option(help="The data that it was trained on.")],
    domains: Annotated[str, typer.Option(help="Domains of the bundle, such as beauty,clothing.")],
    out: Annotated[Path, typer.Option(help="Where the figures go, as JSON.")],
    targets: Annotated[int, typer.Option(min=0, help="Cold test targets of a domain; 0: all.")] = 0,
    others: Annotated[int, typer.Option(min=1, help="Other test targets of a domain.")] = 2000,
    threads: Annotated[int, typer.Option(min=0, help="Processor threads, 0 for all cores.")] = 0,
) -> None:
    """Score items with few events with borrowing and without."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        if threads:
            torch.set_num_threads(threads)
        names = [name.strip() for name in domains.split(",") if name.strip()]
        loaded = load_bundle(bundle)
        figures: dict[str, Figure] = {}
        for name, found in scored(loaded, data, names, targets, others).items():
            figures |= cold_figures(name, found, int(loaded.manifest.config["seed"]))
        context: dict[str, Any] = {"bundle": loaded.manifest.bundle_version}
        report(f"Items with fewer than {FEW} train events, test part", figures, out, context)
    except (SideraError, TrainingError) as error:
        console.print(f"error: {error}", style="bold red", markup=False)
        raise typer.Exit(1) from None


def scored(loaded: LoadedBundle, data: Path, names: Sequence[str], most: int, others: int) -> dict[str, Cold]:
    """Rank the targets of some domains twice.

    Args:
        most: cold targets of a domain; 0: all.
        others: targets of a domain whose item has more train events.

    Raises:
        DataError: a domain is not in the bundle, the bundle lets nothing borrow, or no target is cold.
    """
    strangers = [name for name in names if name not in loaded.manifest.domains]
    if strangers or not names:
        known = ", ".join(loaded.manifest.domains)
        raise DataError(f"--domains names {strangers[0] if strangers else 'nothing'!r}; choose among {known}")
    neighbours = loaded.recommender.neighbours
    if neighbours is None or neighbours.borrowers is None or not neighbours.reading.borrowing:
        raise DataError("nothing borrows in this bundle; train it with neighbours that borrow")
    trained = sorted(loaded.manifest.domains, key=lambda name: loaded.manifest.domains[name].token)
    dataset = read_dataset(data, trained, int(loaded.manifest.config["min_interactions"]))
    asked = _asked(loaded, dataset, names, most, others)
    off = replace(neighbours, reading=replace(neighbours.reading, borrowing=0.0))
    found = {name: Cold({}, {}) for name in names}
    for switch, own in ((_ON, neighbours), (_OFF, off)):
        loaded.recommender.replace_neighbours(own)
        for name, (cold, warm) in asked.items():
            for kind, ranks in ((cold, found[name].cold), (warm, found[name].warm)):
                answers = recommend_for(loaded.recommender, dataset.domains, kind, f"{name}: {switch} borrowing")
                ranks[switch] = target_ranks(answers.top_NK, np.array([target.item for target in kind]))
    return found


def _asked(
    loaded: LoadedBundle, dataset: Dataset, names: Sequence[str], most: int, others: int
) -> dict[str, tuple[list[Target], list[Target]]]:
    """The cold and the other test targets of each domain."""
    moments = loaded.manifest.config.get("split")
    events = split_events(dataset, None if moments is None else CalendarSplit(**moments))
    seed = int(loaded.manifest.config["seed"])
    every = targets(events, Part.TEST)
    asked = {}
    for number, domain in enumerate(dataset.domains):
        if domain.name not in names:
            continue
        train_E = (events.domain_E == number) & np.isin(events.part_E, (Part.TRAIN, Part.ROUTER))
        count_I = np.bincount(events.item_E[train_E], minlength=len(domain.item_ids))
        own = [target for target in every if target.domain == number]
        cold = drawn_targets([target for target in own if count_I[target.item] < FEW], most, (seed, number))
        warm = drawn_targets([target for target in own if count_I[target.item] >= FEW], others, (seed, number))
        if not cold or not warm:
            raise DataError(f"domain {domain.name!r}: no test target's item is cold, or all are; choose another domain")
        asked[domain.name] = cold, warm
    return asked


def cold_figures(name: str, found: Cold, seed: int) -> dict[str, Figure]:
    """What borrowing is worth in one domain."""
    hit = {switch: recall_values(rank_N, PLACES) for switch, rank_N in found.cold.items()}
    base = int(hit[_OFF].sum())
    figures = {
        f"cold_recall10_{switch}_{name}": shown(
            float(values.mean()), "recall", f"{int(values.sum())} of {len(values)} targets are hit"
        )
        for switch, values in hit.items()
    }
    difference = paired_bootstrap(hit[_ON], hit[_OFF], seed)
    figures[f"cold_recall10_difference_{name}"] = Figure(
        difference.mean, "recall", "interval above 0", difference.low > 0, _interval(difference)
    )
    ratio = float(hit[_ON].sum()) / base if base else None
    if base >= ENOUGH_HITS:
        figures[f"cold_recall10_ratio_{name}"] = at_least(ratio, LEAST_RATIO, "ratio")
    else:
        note = f"without borrowing {base} are hit; from {ENOUGH_HITS} on the ratio is to be {LEAST_RATIO:g}"
        figures[f"cold_recall10_ratio_{name}"] = shown(ratio, "ratio", note)
    gain = {switch: ndcg_values(rank_N, PLACES) for switch, rank_N in found.warm.items()}
    cost = paired_bootstrap(gain[_ON], gain[_OFF], seed)
    figures[f"other_ndcg10_difference_{name}"] = shown(
        cost.mean,
        "ndcg",
        f"{_interval(cost)}; {len(gain[_ON])} targets of other items, {gain[_OFF].mean():.4f} without",
    )
    return figures


def _interval(found: PairedDifference) -> str:
    return f"95 % interval {found.low:+.4f} .. {found.high:+.4f}"


if __name__ == "__main__":
    typer.run(main)
