"""From the ranks of all variants, floors and seeds to figures: NDCG@10 with intervals, differences to a reference.

Every variant answers the same targets, so differences are paired. A target's score is its mean over the seeds.
The intervals say how sure the mean over targets is. What another seed of the language model would change is not in
them: several seeds, told one by one, show that. Tokenizers are fitted once; a variant with another ``seed`` shows what
that does.

Shapes: S seeds, T targets.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.downstream_data import Ranks
from benchmarks.harness import Figure, shown
from training.evaluation import PLACES
from training.metrics import bootstrap_interval, ndcg_values, paired_bootstrap, recall_values

_SEED = 0

DomainRanks = Mapping[str, Sequence[Ranks]]
"""The ranks of one domain's targets, by variant, one array a seed."""


def domain_results(ranks: DomainRanks, floors: Mapping[str, Ranks], reference: str) -> dict[str, dict[str, Any]]:
    """Metrics of every variant and floor on one domain, as JSON; variants also beside the reference and the floors."""
    ndcg = {name: [ndcg_values(rank_T, PLACES) for rank_T in of_seeds] for name, of_seeds in ranks.items()}
    of_floors = {name: ndcg_values(rank_T, PLACES) for name, rank_T in floors.items()}
    results = {}
    for name, of_seeds in ranks.items():
        mean_T = np.mean(ndcg[name], axis=0)
        results[name] = _metrics(mean_T, of_seeds) | {
            "minus_floors": {floor: _difference(mean_T, floor_T) for floor, floor_T in of_floors.items()}
        }
        if len(of_seeds) > 1:
            results[name]["ndcg@10_of_seeds"] = [float(ndcg_T.mean()) for ndcg_T in ndcg[name]]
        if name != reference:
            results[name]["minus_reference"] = _difference(mean_T, np.mean(ndcg[reference], axis=0))
    return results | {name: _metrics(of_floors[name], [rank_T]) for name, rank_T in floors.items()}


def quality_figures(
    domain: str, results: Mapping[str, Mapping[str, Any]], reference: str, targets: int, how: str = ""
) -> dict[str, Figure]:
    """The figures of one domain.

    Args:
        results: as :func:`domain_results` gives them.
        targets: how many the domain has.
        how: what to say of every variant's answers; the floors' are not meant.
    """
    figures = {}
    for name, found in results.items():
        note = f"{targets} targets" + (f", {how}" if how and "minus_floors" in found else "")
        low, high = found["ndcg@10_interval"]
        told = f"95 % {low:.4f} .. {high:.4f}; {note}"
        if "ndcg@10_of_seeds" in found:
            told += f"; seeds {', '.join(f'{value:.4f}' for value in found['ndcg@10_of_seeds'])}"
        figures[f"ndcg_{name}_{domain}"] = shown(found["ndcg@10"], "NDCG@10", told)
        figures[f"recall_{name}_{domain}"] = shown(found["recall@10"], "Recall@10", note)
    for name, found in results.items():
        if "minus_reference" in found:
            figures[f"ndcg_{name}_minus_{reference}_{domain}"] = _difference_figure(found["minus_reference"])
    return figures


def validation_figures(variants: Mapping[str, Mapping[str, Any]]) -> dict[str, Figure]:
    """NDCG@10 of the epoch that each variant's language model keeps, on validation targets of all trained domains.

    This is what a setting of a tokenizer is chosen by: the figures on test targets only tell what the choice is worth.
    Of several seeds the mean. Training chooses epochs by the same targets, for every variant alike.

    Args:
        variants: as for :func:`cost_figures`.
    """
    figures = {}
    for name, facts in variants.items():
        models = facts["models"].values()
        kept = [float(model["scores"][model["best_epoch"]]["ndcg@10"]) for model in models]
        epochs = ", ".join(f"{model['best_epoch'] + 1} of {len(model['scores'])}" for model in models)
        note = f"kept epoch {epochs}"
        if len(kept) > 1:
            note += f"; seeds {', '.join(f'{score:.4f}' for score in kept)}"
        figures[f"validation_ndcg_{name}"] = shown(float(np.mean(kept)), "NDCG@10", note)
    return figures


def cost_figures(variants: Mapping[str, Mapping[str, Any]]) -> dict[str, Figure]:
    """What each variant's language model read, took and weighs; of several seeds the mean.

    Args:
        variants: by name ``tokenizer``, the facts of ``Tokenized``, and ``models``, those of each ``Scored``.
    """
    figures = {}
    for name, facts in variants.items():
        models = list(facts["models"].values())
        levels = "x".join(map(str, facts["tokenizer"]["codebook_sizes"]))
        for cost, unit in (("tokens", "tokens"), ("seconds", "s"), ("weights", "weights")):
            note = {"tokens": f"{models[0]['steps']} steps", "seconds": "validation included", "weights": levels}[cost]
            figures[f"lm_{cost}_{name}"] = shown(float(np.mean([model[cost] for model in models])), unit, note)
    return figures


def _metrics(ndcg_T: npt.NDArray[np.float64], of_seeds: Sequence[Ranks]) -> dict[str, Any]:
    interval = bootstrap_interval(ndcg_T, _SEED)
    recall_S = [recall_values(rank_T, PLACES).mean() for rank_T in of_seeds]
    return {
        "ndcg@10": interval.mean,
        "ndcg@10_interval": [interval.low, interval.high],
        "recall@10": float(np.mean(recall_S)),
    }


def _difference(values_T: npt.NDArray[np.float64], others_T: npt.NDArray[np.float64]) -> dict[str, float]:
    return vars(paired_bootstrap(values_T, others_T, _SEED)).copy()


def _difference_figure(found: Mapping[str, float]) -> Figure:
    note = f"95 % {found['low']:+.4f} .. {found['high']:+.4f}, p {found['p_value']:.4f}"
    return shown(found["mean"], "NDCG@10", note)
