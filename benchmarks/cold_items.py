"""``python -m benchmarks.cold_items --bundle DIR --data DIR --domains A,B --out FILE.json``: what borrowing is worth.

An item with few events seldom stands in a list of followers; it borrows the place of its nearest items. Scored on the
targets whose item has fewer than 5 train events, on the same bundle with borrowing and with it switched off (the shares
of the mixture stay), in two readings: the followers alone, which is what borrows, and the whole mixture that is served,
in which items alike help cold items too. And on some of the other targets, to say what it costs or brings them. Item
level, full ranking.

Shapes: N targets, S items found for one history.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
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
from sidera.items.neighbours import Neighbours
from sidera.loading import LoadedBundle, load_bundle
from sidera.recommender import Recommender
from training.data import Dataset, DomainData, read_dataset
from training.errors import DataError, TrainingError
from training.evaluation import PLACES, drawn_targets, query_of, recommend_for
from training.metrics import (
    ABSENT,
    Interval,
    PairedDifference,
    ndcg_values,
    paired_bootstrap,
    recall_values,
    stratified_bootstrap,
    target_ranks,
)
from training.split import CalendarSplit, Part, Target, split_events, targets

LEAST_RATIO = 2.0
"""Recall@10 with borrowing over that without, where that one has ``ENOUGH_HITS``."""

ENOUGH_HITS = 20

_ON, _OFF = "with", "without"

Ranks = dict[str, npt.NDArray[np.int64]]
"""int64[N] by whether anything is borrowed (``with``, ``without``)."""


@dataclass(frozen=True, eq=False)
class Cold:
    """The ranks of one domain's targets.

    Attributes:
        cold: of targets whose item has few train events, in the mixture.
        warm: of others.
        cold_alone, warm_alone: among followers alone.
        share: of all targets, those whose item has few train events.
    """

    cold: Ranks = field(default_factory=dict)
    warm: Ranks = field(default_factory=dict)
    cold_alone: Ranks = field(default_factory=dict)
    warm_alone: Ranks = field(default_factory=dict)
    share: float = 0.5


@dataclass(frozen=True)
class _Asked:
    cold: list[Target]
    warm: list[Target]
    share: float


def main(
    bundle: Annotated[Path, typer.Option(help="A trained bundle with neighbours.")],
    data: Annotated[Path, typer.Option(help="The data that it was trained on.")],
    domains: Annotated[str, typer.Option(help="Domains of the bundle, such as beauty,clothing.")],
    out: Annotated[Path, typer.Option(help="Where the figures go, as JSON.")],
    targets: Annotated[int, typer.Option(min=0, help="Cold targets of a domain; 0: all.")] = 0,
    others: Annotated[int, typer.Option(min=1, help="Other targets of a domain.")] = 2000,
    threads: Annotated[int, typer.Option(min=0, help="Processor threads, 0 for all cores.")] = 0,
    validation: Annotated[bool, typer.Option("--validation", help="Of the validation part, to choose by.")] = False,
    forget: Annotated[Path | None, typer.Option(help="The list of users to forget that training had.")] = None,
) -> None:
    """Score items with few events with borrowing and without."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        if threads:
            torch.set_num_threads(threads)
        names = [name.strip() for name in domains.split(",") if name.strip()]
        loaded = load_bundle(bundle)
        part = Part.VALIDATION if validation else Part.TEST
        figures: dict[str, Figure] = {}
        for name, found in scored(loaded, data, names, targets, others, part, forget).items():
            figures |= cold_figures(name, found, int(loaded.manifest.config["seed"]))
        context: dict[str, Any] = {"bundle": loaded.manifest.bundle_version, "part": part.name.lower()}
        report(f"Items with fewer than {FEW} train events, {context['part']} part", figures, out, context)
    except (SideraError, TrainingError) as error:
        console.print(f"error: {error}", style="bold red", markup=False)
        raise typer.Exit(1) from None


def scored(
    loaded: LoadedBundle,
    data: Path,
    names: Sequence[str],
    most: int,
    others: int,
    part: Part = Part.TEST,
    forget: Path | None = None,
) -> dict[str, Cold]:
    """Rank the targets of some domains twice.

    Args:
        most: cold targets of a domain; 0: all.
        others: targets of a domain whose item has more train events.
        part: whose targets.
        forget: users whose events do not count.

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
    dataset = read_dataset(data, trained, int(loaded.manifest.config["min_interactions"]), forget)
    asked = _asked(loaded, dataset, names, most, others, part)
    off = replace(neighbours, reading=replace(neighbours.reading, borrowing=0.0))
    found = {name: Cold(share=asked[name].share) for name in names}
    for switch, own in ((_ON, neighbours), (_OFF, off)):
        loaded.recommender.replace_neighbours(own)
        for name, of_domain in asked.items():
            told = found[name]
            for kind, ranks, alone in (
                (of_domain.cold, told.cold, told.cold_alone),
                (of_domain.warm, told.warm, told.warm_alone),
            ):
                answers = recommend_for(loaded.recommender, dataset.domains, kind, f"{name}: {switch} borrowing")
                ranks[switch] = target_ranks(answers.top_NK, np.array([target.item for target in kind]))
                alone[switch] = follower_ranks(loaded.recommender, own, dataset.domains, kind)
    return found


def follower_ranks(
    recommender: Recommender, neighbours: Neighbours, domains: Sequence[DomainData], asked: Sequence[Target]
) -> npt.NDArray[np.int64]:
    """Where each target stands among the followers of its history, items of which are left out: int64[N]."""
    catalog = recommender.catalog
    rank_N = np.full(len(asked), ABSENT, dtype=np.int64)
    for row, target in enumerate(asked):
        query = query_of(target, domains)
        found = [catalog.find(*entry) for entry in query.history if entry[0] == query.domain]
        history = [number for number in found if number is not None]
        item_S, mass_S = neighbours.followers(history)
        mass_S = np.where(np.isin(item_S, history), 0.0, mass_S)
        own = mass_S[item_S == catalog.find(query.domain, domains[target.domain].item_ids[target.item])]
        if len(own) and own[0] > 0:
            rank_N[row] = int((mass_S > own[0]).sum())
    return rank_N


def _asked(
    loaded: LoadedBundle, dataset: Dataset, names: Sequence[str], most: int, others: int, part: Part
) -> dict[str, _Asked]:
    """The cold and the other targets of each domain."""
    moments = loaded.manifest.config.get("split")
    events = split_events(dataset, None if moments is None else CalendarSplit(**moments))
    seed = int(loaded.manifest.config["seed"])
    every = targets(events, part)
    asked = {}
    for number, domain in enumerate(dataset.domains):
        if domain.name not in names:
            continue
        train_E = (events.domain_E == number) & np.isin(events.part_E, (Part.TRAIN, Part.ROUTER))
        count_I = np.bincount(events.item_E[train_E], minlength=len(domain.item_ids))
        own = [target for target in every if target.domain == number]
        few = [target for target in own if count_I[target.item] < FEW]
        cold = drawn_targets(few, most, (seed, number))
        warm = drawn_targets([target for target in own if count_I[target.item] >= FEW], others, (seed, number))
        if not cold or not warm:
            raise DataError(f"domain {domain.name!r}: no target's item is cold, or all are; choose another domain")
        asked[domain.name] = _Asked(cold, warm, len(few) / len(own))
    return asked


def cold_figures(name: str, found: Cold, seed: int) -> dict[str, Figure]:
    """What borrowing is worth in one domain."""
    figures = _of_cold(f"cold_followers_{{}}_{name}", found.cold_alone, seed)
    figures |= _of_cold(f"cold_{{}}_{name}", found.cold, seed)
    for reading, cold, warm in (("followers_", found.cold_alone, found.warm_alone), ("", found.cold, found.warm)):
        gain_cold, gain_warm = _gains(cold), _gains(warm)
        cost = paired_bootstrap(gain_warm[_ON], gain_warm[_OFF], seed)
        note = f"{_interval(cost)}; {len(gain_warm[_ON])} targets of other items, {gain_warm[_OFF].mean():.4f} without"
        figures[f"other_{reading}ndcg10_difference_{name}"] = shown(cost.mean, "ndcg", note)
        every = stratified_bootstrap(
            [gain_cold[_ON] - gain_cold[_OFF], gain_warm[_ON] - gain_warm[_OFF]], [found.share, 1 - found.share], seed
        )
        figures[f"all_{reading}ndcg10_difference_{name}"] = Figure(
            every.mean,
            "ndcg",
            "interval not below 0",
            every.high >= 0,
            f"{_interval(every)}; cold targets and others, weighted as all targets are ({found.share:.1%} cold)",
        )
    return figures


def _of_cold(naming: str, ranks: Ranks, seed: int) -> dict[str, Figure]:
    """Recall@10 and NDCG@10 of cold targets, with and without.

    Args:
        naming: of figures, with a place for what they are.
    """
    hit = {switch: recall_values(rank_N, PLACES) for switch, rank_N in ranks.items()}
    gain = _gains(ranks)
    base = int(hit[_OFF].sum())
    figures = {}
    for switch, values in hit.items():
        note = f"{int(values.sum())} of {len(values)} targets are hit; NDCG@10 {gain[switch].mean():.4f}"
        figures[naming.format(f"recall10_{switch}")] = shown(float(values.mean()), "recall", note)
    for figure, of_switch in (("recall10", hit), ("ndcg10", gain)):
        difference = paired_bootstrap(of_switch[_ON], of_switch[_OFF], seed)
        unit, told = figure.removesuffix("10"), _interval(difference)
        figures[naming.format(f"{figure}_difference")] = Figure(
            difference.mean, unit, "interval above 0", difference.low > 0, told
        )
    ratio = float(hit[_ON].sum()) / base if base else None
    if base >= ENOUGH_HITS:
        figures[naming.format("recall10_ratio")] = at_least(ratio, LEAST_RATIO, "ratio")
    else:
        note = f"without borrowing {base} are hit; from {ENOUGH_HITS} on the ratio is to be {LEAST_RATIO:g}"
        figures[naming.format("recall10_ratio")] = shown(ratio, "ratio", note)
    return figures


def _gains(ranks: Ranks) -> dict[str, npt.NDArray[np.float64]]:
    return {switch: ndcg_values(rank_N, PLACES) for switch, rank_N in ranks.items()}


def _interval(found: PairedDifference | Interval) -> str:
    return f"95 % interval {found.low:+.4f} .. {found.high:+.4f}"


if __name__ == "__main__":
    typer.run(main)
