"""What a fitted tokenizer does to the items: figures as JSON, and plots.

Knows vectors, codes and the report of making SIDs unique; does not know how any method is fitted.

Shapes: N item, D item vector dim, L level, V codebook size.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sidera.assignment import AssignmentReport
from sidera.files import write_atomically
from sidera.tokenizers import ItemTokenizer, tokenizer_digest
from training.collaborative import CfVectors, shared_prefixes

_ROWS = 16_384


def tokenization_report(
    tokenizer: ItemTokenizer,
    vectors_by_domain: Mapping[str, np.ndarray],
    sids_by_domain: Mapping[str, np.ndarray],
    assignments: Mapping[str, AssignmentReport],
    held_out_by_domain: Mapping[str, np.ndarray],
    cf_by_domain: CfVectors | None = None,
) -> dict[str, Any]:
    """Figures of a tokenizer on the items that it was fitted on, per domain and over all.

    ``relative_reconstruction_error`` is ||x - x_hat||^2 / Var(x), x_hat from the nearest codes, Var(x) around the
    mean of the items that are not held out. Codebook use is the share of codes that some item's nearest codes hold;
    perplexity is exp of the entropy of a level's codes.

    Args:
        tokenizer: fitted.
        vectors_by_domain: float[N, D] each.
        sids_by_domain: int[N, L] unique SIDs each.
        assignments: of each domain.
        held_out_by_domain: bool[N] each: items that the fit did not see.
        cf_by_domain: collaborative vectors float32[N, C] each; with them the report says how far codes follow them.

    Returns:
        A JSON object.
    """
    fitted_sum, fitted = np.zeros(tokenizer.dim), 0
    for name, vectors_ND in vectors_by_domain.items():
        fitted_sum += vectors_ND[~held_out_by_domain[name]].sum(axis=0, dtype=np.float64)
        fitted += int((~held_out_by_domain[name]).sum())
    mean_D = fitted_sum / max(fitted, 1)
    errors, variances, nearest = {}, {}, {}
    for name, vectors_ND in vectors_by_domain.items():
        nearest[name], errors[name], variances[name] = _reconstruction(tokenizer, vectors_ND, name, mean_D)
    domains = {}
    for name, assignment in assignments.items():
        domains[name] = {
            "items": assignment.items,
            "collision_rate_before": assignment.collision_rate_before,
            "collision_rate_before_distinct_vectors": assignment.collision_rate_distinct,
            "identical_vectors": assignment.identical_vectors,
            "collision_rate_after": 1 - len(np.unique(sids_by_domain[name], axis=0)) / max(assignment.items, 1),
            "moved_per_level": list(assignment.moved_per_level),
            "extra_quantisation_error": assignment.extra_error,
            "relative_reconstruction_error": _ratio(errors[name], variances[name]),
        }
        if cf_by_domain is not None:
            domains[name]["codes_shared_with_cf_neighbours"] = {
                "all": shared_prefixes(cf_by_domain[name], nearest[name], np.ones(len(nearest[name]), dtype=bool)),
                "held_out": shared_prefixes(cf_by_domain[name], nearest[name], held_out_by_domain[name]),
            }
    held_out_N = np.concatenate([held_out_by_domain[name] for name in vectors_by_domain])
    error_N = np.concatenate([errors[name] for name in vectors_by_domain])
    variance_N = np.concatenate([variances[name] for name in vectors_by_domain])
    return {
        "method": tokenizer.method,
        "tokenizer": tokenizer_digest(tokenizer),
        "codebook_sizes": list(tokenizer.codebook_sizes),
        "items": len(error_N),
        "held_out_items": int(held_out_N.sum()),
        "relative_reconstruction_error": {
            "all": _ratio(error_N, variance_N),
            "held_out": _ratio(error_N[held_out_N], variance_N[held_out_N]),
        },
        "levels": _levels(np.concatenate([nearest[name] for name in vectors_by_domain]), tokenizer.codebook_sizes),
        "domains": domains,
    }


def write_report(report: Mapping[str, Any], folder: Path) -> None:
    """Write ``tokenization.json``, ``codebook_use.png`` and ``collisions.png`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "tokenization.json", (json.dumps(report, indent=2) + "\n").encode())
    _plot_codebook_use(report, folder / "codebook_use.png")
    _plot_collisions(report, folder / "collisions.png")


def _reconstruction(
    tokenizer: ItemTokenizer, vectors_ND: np.ndarray, domain: str, mean_D: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nearest codes int[N, L], squared error float64[N] and squared distance to the mean float64[N] of each item."""
    codes = [np.empty((0, len(tokenizer.codebook_sizes)), dtype=np.int64)]
    errors, variances = [np.empty(0)], [np.empty(0)]
    for start in range(0, len(vectors_ND), _ROWS):
        part_ND = np.array(vectors_ND[start : start + _ROWS], dtype=np.float32)
        codes_NL = tokenizer.encode(torch.from_numpy(part_ND), domain)
        reconstructed_ND = tokenizer.reconstruct(codes_NL).cpu().numpy()
        codes.append(codes_NL.cpu().numpy())
        errors.append(np.square(part_ND - reconstructed_ND, dtype=np.float64).sum(axis=1))
        variances.append(np.square(part_ND - mean_D, dtype=np.float64).sum(axis=1))
    return np.concatenate(codes), np.concatenate(errors), np.concatenate(variances)


def _ratio(error_N: np.ndarray, variance_N: np.ndarray) -> float | None:
    """Summed error over summed variance; None where nothing varies."""
    variance = float(variance_N.sum())
    return float(error_N.sum()) / variance if variance > 0 else None


def _levels(codes_NL: np.ndarray, sizes: tuple[int, ...]) -> list[dict[str, Any]]:
    levels = []
    for level, size in enumerate(sizes):
        counts_V = np.bincount(codes_NL[:, level], minlength=size)
        shares = counts_V[counts_V > 0] / max(counts_V.sum(), 1)
        levels.append(
            {
                "codebook_size": size,
                "codebook_use": float((counts_V > 0).mean()),
                "perplexity": float(np.exp(-(shares * np.log(shares)).sum())),
                "items_per_code": counts_V.tolist(),
            }
        )
    return levels


def _plot_codebook_use(report: Mapping[str, Any], path: Path) -> None:
    figure, axes = _figure()
    for number, level in enumerate(report["levels"], start=1):
        counts = sorted(level["items_per_code"], reverse=True)
        label = f"level {number}: {level['codebook_use']:.0%} used, perplexity {level['perplexity']:.0f}"
        axes.plot(range(1, len(counts) + 1), counts, label=label)
    axes.set(xlabel="code, most items first", ylabel="items", title=f"Codebook use ({report['method']})")
    axes.legend()
    figure.savefig(path)


def _plot_collisions(report: Mapping[str, Any], path: Path) -> None:
    figure, axes = _figure()
    names = list(report["domains"])
    domains = [report["domains"][name] for name in names]
    rates = [100 * domain["collision_rate_before"] for domain in domains]
    moved = [100 * sum(domain["moved_per_level"]) / max(domain["items"], 1) for domain in domains]
    places = np.arange(len(names))
    axes.bar(places - 0.2, rates, 0.4, label="collision rate before")
    axes.bar(places + 0.2, moved, 0.4, label="moved to be unique")
    axes.set_xticks(places, names, rotation=30, ha="right")
    axes.set(ylabel="% of items", title=f"Collisions ({report['method']})")
    axes.legend()
    figure.savefig(path)


def _figure() -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()
