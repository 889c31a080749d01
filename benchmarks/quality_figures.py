"""From reports, trainings and ranks to figures, each with what is to be reached."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.harness import Figure, at_least, at_most, shown
from benchmarks.quality_ablations import ABLATIONS, WHOLE, Ablated, Ablation
from benchmarks.quality_runs import QualityRun
from benchmarks.sasrec import Baseline, OwnDomain
from training.evaluation import MODEL, PLACES
from training.metrics import bootstrap_interval, ndcg_values, paired_bootstrap, target_ranks

FLOORS = ("popularity", "bigram", "content-kNN")

OF_BIGRAM = 0.9
"""What a joint model is to reach of the item-bigram's NDCG@10 in each domain; a model of one domain is to be above."""

OF_ALONE = 0.95
"""What a joint model is to reach of a model that was trained on the domain alone."""

_LEARNING_STEPS = ("tokenizer", "universal", "adapter", "mixture", "neighbours")
_CLEAR = 0.05
_SEED = 0

Report = Mapping[str, Any]
"""As ``training.evaluation.evaluate`` gives it."""


@dataclass(frozen=True)
class Effect:
    """What a switch does to the NDCG@10 of one domain.

    Attributes:
        whole, without: NDCG@10 of the whole and of the variant.
        change: their difference as a share of the whole's; None where that is 0.
        low, high: the 95 % interval of the difference; ``p_value`` of its bootstrap.
    """

    whole: float
    without: float
    change: float | None
    low: float
    high: float
    p_value: float

    @property
    def told(self) -> str:
        """The effect in words."""
        if self.p_value >= _CLEAR:
            return "no clear change"
        return "falls" if self.without < self.whole else "rises"


def quality_figures(report: Report, alone: Report) -> dict[str, Figure]:
    """What is served, the language model without neighbours, and the floors, in each domain.

    Args:
        report: of what is served.
        alone: of the language model alone, on the same targets.
    """
    figures: dict[str, Figure] = {}
    joint = len(report["domains"]) > 1
    for domain, found in report["domains"].items():
        model = alone["domains"][domain]
        rankers = {"sidera": found["rankers"][MODEL], "language_model": model["rankers"][MODEL]}
        rankers |= {floor: found["rankers"][floor] for floor in FLOORS}
        for name, own in rankers.items():
            figures |= _ranker_figures(name, domain, own)
        ndcg = {name: float(own["ndcg@10"]) for name, own in rankers.items()}
        of_bigram = _ratio(ndcg["sidera"], ndcg["bigram"])
        figures[f"sidera_vs_bigram_{domain}"] = at_least(of_bigram, OF_BIGRAM, "ratio") if joint else _above(of_bigram)
        of_content = _ratio(ndcg["sidera"], ndcg["content-kNN"])
        figures[f"sidera_vs_content-kNN_{domain}"] = _above(of_content) if joint else shown(of_content, "ratio")
        figures[f"language_model_vs_bigram_{domain}"] = shown(_ratio(ndcg["language_model"], ndcg["bigram"]), "ratio")
        for name, differences in (("sidera", found["differences"]), ("language_model", model["differences"])):
            figures[f"{name}_minus_bigram_{domain}"] = _difference(differences["bigram"])
    return figures


def training_figures(name: str, run: QualityRun, most_minutes: float | None = None) -> dict[str, Figure]:
    """The time of every step of a training, validation included, and what the language model read.

    Args:
        name: of the training.
        most_minutes: that all that learns may take together; vectors and the test part are not meant.
    """
    learning = {step: taken for step, taken in run.seconds.items() if step.split()[0] in _LEARNING_STEPS}
    minutes = sum(learning.values()) / 60
    note = ", ".join(f"{step} {taken / 60:.1f}" for step, taken in learning.items())
    figures = {
        f"training_minutes_{name}": shown(minutes, "min", note)
        if most_minutes is None
        else at_most(minutes, most_minutes, "min", note)
    }
    others = {step: taken for step, taken in run.seconds.items() if step not in learning}
    note = ", ".join(f"{_OTHER.get(step, step)} {taken / 60:.1f}" for step, taken in others.items())
    figures[f"other_minutes_{name}"] = shown(sum(others.values()) / 60, "min", note)
    for step, read in run.training.items():
        taken = run.seconds.get(step)
        note = f"{read['epochs']} epochs, the {read['kept_epoch']}. kept; {read['targets']:,} targets"
        if taken:
            note += f"; {read['tokens'] / taken:,.0f} a second, validation included"
        figures[f"tokens_{name}_{step.replace(' ', '_')}"] = shown(read["tokens"], "tokens", note)
    return figures


_OTHER = {"bundle": "test part and bundle"}


def alone_figures(
    joint: QualityRun, alone: Mapping[str, tuple[QualityRun, Report]], model: Report
) -> dict[str, Figure]:
    """The joint model beside one that was trained on each domain alone.

    Args:
        alone: by domain, the training and the report of its language model without neighbours.
        model: that report of the joint one.
    """
    figures: dict[str, Figure] = {}
    for domain, (run, own_model) in alone.items():
        pairs = {
            "sidera": (joint.manifest.metrics["domains"][domain], run.manifest.metrics["domains"][domain]),
            "language_model": (model["domains"][domain], own_model["domains"][domain]),
        }
        for name, found in pairs.items():
            ours, own = (float(one["rankers"][MODEL]["ndcg@10"]) for one in found)
            ratio, note = _ratio(ours, own), f"{ours:.4f} against {own:.4f}"
            reached = name == "sidera"
            figures[f"{name}_joint_vs_alone_{domain}"] = (
                at_least(ratio, OF_ALONE, "ratio", note) if reached else shown(ratio, "ratio", note)
            )
        figures |= training_figures(f"alone_{domain}", run)
    return figures


def sasrec_figures(own: OwnDomain, baseline: Baseline, served: float) -> dict[str, Figure]:
    """SASRec of one domain, its time, and what is served as a share of it.

    Args:
        served: NDCG@10 of what is served.
    """
    chosen = baseline.fits[baseline.chosen]
    gains = ndcg_values(target_ranks(baseline.top_NK, np.array([target.item for target in own.test])), PLACES)
    figures = _ranker_figures(
        "sasrec", own.name, {**baseline.metrics, "ndcg@10_interval": _interval(gains), "targets": len(gains)}
    )
    minutes = sum(one.seconds for one in baseline.fits) / 60
    end = "converged" if chosen.converged else "NOT converged: its time or its epochs were over"
    note = f"{len(baseline.fits)} trainings; the chosen one {chosen.seconds / 60:.1f}, {end}"
    figures[f"sasrec_minutes_{own.name}"] = shown(minutes, "min", note)
    figures[f"sidera_vs_sasrec_{own.name}"] = shown(_ratio(served, float(baseline.metrics["ndcg@10"])), "ratio", end)
    return figures


def unseen_figures(domain: str, report: Report) -> dict[str, Figure]:
    """A domain that nothing was trained on."""
    found = report["domains"][domain]
    figures: dict[str, Figure] = {}
    for name, own in found["rankers"].items():
        note = "counts the domain's own events" if name in ("popularity", "bigram") else "zero-shot"
        figures |= _ranker_figures(name, domain, own, note)
    ratio = _ratio(float(found["rankers"][MODEL]["ndcg@10"]), float(found["rankers"]["content-kNN"]["ndcg@10"]))
    figures[f"sidera_vs_content-kNN_{domain}"] = at_least(ratio, 1.0, "ratio", "zero-shot")
    figures[f"sidera_minus_content-kNN_{domain}"] = _difference(found["differences"]["content-kNN"])
    return figures


def events_figures(domain: str, report: Report) -> dict[str, Figure]:
    """A domain that nothing was trained on, with a memory of its own train events, beside what counts them too."""
    found = report["domains"][domain]
    own = found["rankers"][MODEL]
    figures = _ranker_figures("with_events", domain, own, "counts the domain's own events; nothing trained")
    for name in ("bigram", "content-kNN"):
        ratio = _ratio(float(own["ndcg@10"]), float(found["rankers"][name]["ndcg@10"]))
        figures[f"with_events_vs_{name}_{domain}"] = _above(ratio)
        figures[f"with_events_minus_{name}_{domain}"] = _difference(found["differences"][name])
    recalls = _ratio(float(own["recall@10"]), float(found["rankers"]["bigram"]["recall@10"]))
    figures[f"with_events_vs_bigram_recall_{domain}"] = _above(recalls)
    return figures


def effects_of(ablated: Ablated) -> dict[str, dict[str, Effect]]:
    """The effect of every switch that says something, by its name and the domain."""
    effects: dict[str, dict[str, Effect]] = {}
    for ablation in ABLATIONS:
        if ablation.name in ablated.left_out:
            continue
        effects[ablation.name] = {}
        for domain, ranks in ablated.ranks.items():
            without_N, whole_N = (ndcg_values(ranks[name], PLACES) for name in (ablation.name, ablation.than))
            found = paired_bootstrap(without_N, whole_N, _SEED)
            whole = float(whole_N.mean())
            change = found.mean / whole if whole else None
            effect = Effect(whole, float(without_N.mean()), change, found.low, found.high, found.p_value)
            effects[ablation.name][domain] = effect
    return effects


def ablation_figures(ablated: Ablated) -> dict[str, Figure]:
    """NDCG@10 of every switch in each domain, and what it changes."""
    effects = effects_of(ablated)
    figures: dict[str, Figure] = {}
    for ablation in ABLATIONS:
        for domain, ranks in ablated.ranks.items():
            name = f"ablation_{ablation.name}_{domain}"
            if ablation.name in ablated.left_out:
                figures[name] = Figure(None, "NDCG@10", note=ablated.left_out[ablation.name])
                continue
            effect = effects[ablation.name][domain]
            change = "" if effect.change is None else f" ({effect.change:+.1%})"
            difference = f"{effect.low:+.4f} .. {effect.high:+.4f}, p {effect.p_value:.4f}"
            than = f"{_whole_name(ablation)} {effect.whole:.4f}{change}, difference 95 % {difference}"
            note = f"{than}, {len(ranks[WHOLE])} targets; paper: {ablation.paper}; here: {effect.told}"
            figures[name] = shown(effect.without, "NDCG@10", note)
    return figures


def ablation_table(ablated: Ablated) -> Table:
    """NDCG@10 of every switch by domain, beside the paper's direction."""
    table = Table(title="Ablations: NDCG@10, its change, and the direction that GenCDR's paper gives")
    for column in ("without", *ablated.ranks, "paper"):
        table.add_column(column)
    effects = effects_of(ablated)
    first = next(iter(effects.values()))
    table.add_row("(nothing, no neighbours)", *(f"{effect.whole:.4f}" for effect in first.values()), "")
    for ablation in ABLATIONS:
        if reason := ablated.left_out.get(ablation.name):
            table.add_row(ablation.name, *["not measured"] * len(ablated.ranks), reason)
            continue
        cells = [
            f"{effect.without:.4f}" + ("" if effect.change is None else f" {effect.change:+.1%}") + f", {effect.told}"
            for effect in effects[ablation.name].values()
        ]
        against = "" if ablation.than == WHOLE else " (against what is served)"
        table.add_row(ablation.name, *cells, ablation.paper + against)
    return table


def _whole_name(ablation: Ablation) -> str:
    return "language model" if ablation.than == WHOLE else "served"


def _ranker_figures(name: str, domain: str, own: Mapping[str, Any], note: str = "") -> dict[str, Figure]:
    """NDCG@10 and Recall@10, each with its bootstrap interval."""
    targets, recall = int(own["targets"]), float(own["recall@10"])
    hits = round(recall * targets)
    # A target is hit or not, so the mean and the number of targets say all that is resampled.
    intervals = {"recall": _interval(np.repeat([1.0, 0.0], [hits, targets - hits])), "ndcg": own["ndcg@10_interval"]}
    more = f", {targets:,} targets" + (f", {note}" if note else "")
    told = {kind: f"95 % {low:.4f} .. {high:.4f}{more}" for kind, (low, high) in intervals.items()}
    return {
        f"ndcg_{name}_{domain}": shown(float(own["ndcg@10"]), "NDCG@10", told["ndcg"]),
        f"recall_{name}_{domain}": shown(recall, "Recall@10", told["recall"]),
    }


def _interval(values_N: Any) -> tuple[float, float]:
    found = bootstrap_interval(values_N, _SEED)
    return found.low, found.high


def _difference(found: Mapping[str, float]) -> Figure:
    return shown(
        found["mean"], "NDCG@10", f"95 % {found['low']:+.4f} .. {found['high']:+.4f}, p {found['p_value']:.4f}"
    )


def _ratio(ours: float, other: float) -> float | None:
    """None where the other is 0."""
    return ours / other if other else None


def _above(ratio: float | None) -> Figure:
    return Figure(ratio, "ratio", "> 1", None if ratio is None else ratio > 1)
