"""The report of a fitted tokenizer: ``tokenization.json``, and the same figures as a page, ``tokenization.html``.

Puts together what ``tokenization_figures`` (all items), ``tokenization_samples`` (samples of them) and
``tokenization_items`` (titles and categories) measure; does not know how any method is fitted.

Shapes: N item, D item vector dim, C width of collaborative vectors, L level.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sidera.files import write_atomically
from sidera.items.assignment import AssignmentReport
from sidera.tokenizers import ItemTokenizer, tokenizer_digest
from training.collaborative import CfVectors, shared_prefixes
from training.tokenization_figures import code_figures, error_figures, pass_over
from training.tokenization_items import Fields, category_agreement, first_codes, nearest_items
from training.tokenization_page import report_page
from training.tokenization_samples import dependence_figures, map_figures, route_figures, rows_of, sample_rows

_MOST_SAMPLED = 2000
"""Items of a domain that maps show and that the router's load is measured on."""


def tokenization_report(
    tokenizer: ItemTokenizer,
    vectors_by_domain: Mapping[str, npt.NDArray[Any]],
    sids_by_domain: Mapping[str, npt.NDArray[np.int32]],
    assignments: Mapping[str, AssignmentReport],
    held_out_by_domain: Mapping[str, npt.NDArray[np.bool_]],
    cf_by_domain: CfVectors | None = None,
    fields_by_domain: Mapping[str, Fields] | None = None,
) -> dict[str, Any]:
    """Figures of a tokenizer on the items that it was fitted on, per domain and over all.

    ``relative_reconstruction_error`` is ||x - x_hat||^2 / Var(x), x_hat from the nearest codes, Var(x) around the
    mean of the items that are not held out; ``quantisation_error`` is the same of latents and what their nearest codes
    stand for. Codebook use is the share of codes that some item's nearest codes hold; perplexity is exp of the entropy
    of a codebook's codes. Words, near items and collisions after are those of the unique SIDs.

    Args:
        tokenizer: fitted.
        vectors_by_domain: float[N, D] each; arrays on disk are read in parts.
        sids_by_domain: int[N, L] unique SIDs each.
        assignments: of each domain.
        held_out_by_domain: bool[N] each: items that the fit did not see.
        cf_by_domain: collaborative vectors float32[N, C] each; with them the report says how far codes follow them.
        fields_by_domain: the fields of every item; with them the report says what codes mean in words.

    Returns:
        A JSON object.
    """
    names = list(vectors_by_domain)
    passes = pass_over(tokenizer, vectors_by_domain, held_out_by_domain)
    codes = {name: passes[name].codes_NL for name in names}
    samples = {
        name: rows_of(vectors_ND, sample_rows(len(vectors_ND), _MOST_SAMPLED))
        for name, vectors_ND in vectors_by_domain.items()
    }
    collisions = {name: _collisions(assignments[name], sids_by_domain[name]) for name in names}
    domains: dict[str, dict[str, Any]] = {}
    for name in names:
        domains[name] = {
            "held_out_items": int(held_out_by_domain[name].sum()),
            **collisions[name],
            **error_figures(passes, [name]),
            **code_figures(tokenizer, codes[name]),
            "routes": route_figures(tokenizer, samples[name], name),
        }
        if fields_by_domain is not None:
            fields = fields_by_domain[name]
            domains[name]["category_agreement"] = category_agreement(codes[name], fields)
            domains[name]["first_codes"] = first_codes(sids_by_domain[name], fields)
            domains[name]["nearest_items"] = nearest_items(tokenizer, sids_by_domain[name], fields)
        if cf_by_domain is not None:
            everyone = np.ones(len(codes[name]), dtype=bool)
            domains[name]["codes_shared_with_cf_neighbours"] = {
                "all": shared_prefixes(cf_by_domain[name], codes[name], everyone),
                "held_out": shared_prefixes(cf_by_domain[name], codes[name], held_out_by_domain[name]),
            }
    return {
        "method": tokenizer.method,
        "tokenizer": tokenizer_digest(tokenizer),
        "codebook_sizes": list(tokenizer.codebook_sizes),
        "held_out_items": sum(domain["held_out_items"] for domain in domains.values()),
        **_pooled(list(collisions.values())),
        **error_figures(passes, names),
        **code_figures(tokenizer, np.concatenate(list(codes.values()))),
        "dependence": dependence_figures(tokenizer, vectors_by_domain, held_out_by_domain, codes),
        "sampled_items": {name: len(rows) for name, rows in samples.items()},
        "maps": map_figures(tokenizer, samples, len(passes[names[0]].latents[0].shift)),
        "domains": domains,
    }


def write_report(report: Mapping[str, Any], folder: Path) -> None:
    """Write ``tokenization.json`` and ``tokenization.html`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "tokenization.json", (json.dumps(report, allow_nan=False) + "\n").encode())
    write_atomically(folder / "tokenization.html", report_page(report).encode())


def _collisions(assignment: AssignmentReport, sids_NL: npt.NDArray[np.int32]) -> dict[str, Any]:
    return {
        "items": assignment.items,
        "collision_rate_before": assignment.collision_rate_before,
        "collision_rate_before_distinct_vectors": assignment.collision_rate_distinct,
        "identical_vectors": assignment.identical_vectors,
        "collision_rate_after": 1 - len(np.unique(sids_NL, axis=0)) / max(assignment.items, 1),
        "moved_per_level": list(assignment.moved_per_level),
        "extra_quantisation_error": assignment.extra_error,
    }


def _pooled(domains: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The same over all domains; SIDs of two domains never collide."""
    items = np.array([domain["items"] for domain in domains])
    distinct = items - np.array([domain["identical_vectors"] for domain in domains])

    def mean(figure: str, weights: npt.NDArray[np.int64] = items) -> float:
        return float((np.array([domain[figure] for domain in domains]) * weights).sum() / max(weights.sum(), 1))

    return {
        "items": int(items.sum()),
        "collision_rate_before": mean("collision_rate_before"),
        "collision_rate_before_distinct_vectors": mean("collision_rate_before_distinct_vectors", distinct),
        "identical_vectors": int(items.sum() - distinct.sum()),
        "collision_rate_after": mean("collision_rate_after"),
        "moved_per_level": np.sum([domain["moved_per_level"] for domain in domains], axis=0).tolist(),
        "extra_quantisation_error": mean("extra_quantisation_error"),
    }
