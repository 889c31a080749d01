"""What is measured of tokenizers, told as figures: names, what each is to reach, and notes.

Knows the JSON of the measured parts alone.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.harness import Figure, at_least, at_most, shown
from benchmarks.tokenizer_sizes import ParameterCounts

MOST_COLLISIONS = 0.08
LEAST_USE = 0.95
LEAST_FULL_ENCODE = 8_000.0
LEAST_KMEANS_ENCODE = 100_000.0
MOST_FIT_SECONDS = 1_200.0
MOST_CKA_LOST = 0.001

Part = Mapping[str, Any]
"""JSON as ``benchmarks.tokenizer_measure`` gives it."""


def unique_figures(method: str, kind: str, domains: Part) -> dict[str, Figure]:
    """SIDs that two items share after the assignment, and the seconds that it took, per domain.

    Args:
        kind: ``seen`` or ``unseen``.
    """
    figures = {}
    for name, found in domains.items():
        moved = ", ".join(f"{count:,}" for count in found["moved_per_level"])
        note = f"{kind}, {found['items']:,} items; moved at levels: {moved}"
        figures[f"shared_sids_{method}_{kind}_{name}"] = at_most(found["shared_sids"], 0, "items", note)
        figures[f"assign_seconds_{method}_{kind}_{name}"] = shown(found["seconds"], "s", f"{found['items']:,} items")
    return figures


def collision_figures(method: str, kind: str, domains: Part) -> dict[str, Figure]:
    """Collision rates of the nearest codes, judged at the worst domain among different vectors."""
    figures = {}
    for name, found in domains.items():
        note = f"{kind}, {found['items']:,} items, {found['identical_vectors']:,} with the vector of an earlier one"
        figures[f"collisions_{method}_{kind}_{name}"] = shown(
            found["collision_rate_distinct"], "share", f"{note}; among different vectors"
        )
        figures[f"collisions_raw_{method}_{kind}_{name}"] = shown(found["collision_rate"], "share", note)
    if domains:
        distinct = max(domains, key=lambda name: domains[name]["collision_rate_distinct"])
        raw = max(domains, key=lambda name: domains[name]["collision_rate"])
        figures[f"collisions_{method}_worst_{kind}"] = at_most(
            domains[distinct]["collision_rate_distinct"],
            MOST_COLLISIONS,
            "share",
            f"{distinct}, among different vectors",
        )
        figures[f"collisions_raw_{method}_worst_{kind}"] = shown(
            domains[raw]["collision_rate"], "share", f"{raw}, among all items"
        )
    return figures


def use_figures(method: str, groups: Part) -> dict[str, Figure]:
    """The share of each codebook's codes that some item of the fit has, and the lowest."""
    lowest = min(groups, key=lambda name: groups[name]["use"])
    notes = {name: f"{name}: {group['size']:,} codes, {group['items']:,} items" for name, group in groups.items()}
    figures = {f"use_{method}_lowest": at_least(groups[lowest]["use"], LEAST_USE, "share", notes[lowest])}
    for name, group in groups.items():
        figures[f"use_{method}_{name.replace(',', '').replace(' ', '_')}"] = shown(group["use"], "share", notes[name])
    return figures


def fit_figures(fit: str, times: Part, note: str) -> dict[str, Figure]:
    """The seconds of every stage of a fit.

    Args:
        fit: which fit, as in the figures' names.
        note: the settings that matter.
    """
    figures = {}
    if times["runs"] > 1:
        note = f"{note}; over {times['runs']} runs, each up to its last checkpoint"
    for stage in times["stages"]:
        told = [note]
        if stage["epochs"] is not None:
            told.append(f"stopped after {stage['epochs']} epochs")
        if stage["best_epoch_error"] is not None:
            told.append(f"lowest held-out value of what it stops by {stage['best_epoch_error']:.4f}")
        name = f"fit_seconds_{fit}"
        if len(times["stages"]) > 1:
            name += f"_{stage['name'].removeprefix(fit.partition('-')[0] + '-')}"
        figures[name] = at_most(stage["seconds"], MOST_FIT_SECONDS, "s", "; ".join(told))
    if len(times["stages"]) > 1:
        figures[f"fit_seconds_{fit}_whole"] = shown(times["seconds"], "s", note)
    if times["collaborative_seconds"]:
        figures[f"fit_seconds_{fit}_collaborative"] = at_most(
            times["collaborative_seconds"], MOST_FIT_SECONDS, "s", "collaborative vectors, before the fit"
        )
    return figures


def error_figures(fit: str, errors: Part, sizes: Sequence[int]) -> dict[str, Figure]:
    """||x - x_hat||^2 / Var(x), Var around the fitted items' mean: per domain, over all seen and all unseen ones."""
    figures = {}
    told = f"SIDs of {len(sizes)} codes, levels of {', '.join(map(str, sizes))}"
    for kind, domains in errors.items():
        what = "held-out items" if kind == "seen" else "items, all unseen"
        if domains:
            count = sum(part["items"] for part in domains.values())
            figures[f"error_{fit}_{kind}"] = shown(_pooled(domains), "share", f"{count:,} {what}; {told}")
        for name, part in domains.items():
            figures[f"error_{fit}_{kind}_{name}"] = shown(_ratio(part), "share", f"{part['items']:,} {what}")
    return figures


def error_comparison(
    method: str,
    errors: Part,
    sizes: Sequence[int],
    reference: Part,
    reference_sizes: Sequence[int],
    *,
    judged_seen: bool,
    judged_unseen: bool,
) -> dict[str, Figure]:
    """Errors beside the reference's, as ratios: to be lower over the seen domains, and no higher in each unseen one.

    Raises:
        ValueError: the SIDs differ in length, so that there is nothing to compare.
    """
    if len(sizes) != len(reference_sizes):
        raise ValueError(f"SIDs of {len(sizes)} codes beside SIDs of {len(reference_sizes)}")
    levels = [", ".join(map(str, of)) for of in (sizes, reference_sizes)]
    told = f"{len(sizes)} codes each, levels of {levels[0]} against {levels[1]}"
    ours, theirs = _pooled(errors["seen"]), _pooled(reference["seen"])
    ratio, note = _over(ours, theirs), f"{_told(ours)} against {_told(theirs)} of held-out items; {told}"
    seen = Figure(ratio, "ratio", "< 1", None if ratio is None else ratio < 1, note)
    figures = {f"error_{method}_beside_rqvae_seen": seen if judged_seen else shown(ratio, "ratio", note)}
    for name, part in errors["unseen"].items():
        ours, theirs = _ratio(part), _ratio(reference["unseen"][name])
        ratio, note = _over(ours, theirs), f"{_told(ours)} against {_told(theirs)}; {told}"
        unseen = at_most(ratio, 1.0, "ratio", note) if judged_unseen else shown(ratio, "ratio", note)
        figures[f"error_{method}_beside_rqvae_unseen_{name}"] = unseen
    return figures


def cka_figures(method: str, pairs: Mapping[int, tuple[Part, Part]]) -> dict[str, Figure]:
    """CKA over domains, with the calibration loss against without.

    Args:
        pairs: by seed, (calibrated, not calibrated).
    """
    figures = {}
    variances: dict[int, tuple[float, float]] = {}
    means: dict[int, tuple[float, float]] = {}
    for seed, pair in pairs.items():
        if not all(part["domains"] for part in pair):
            note = f"seed {seed}: the smallest domain has only {pair[0]['items']} held-out items"
            return {f"cka_{method}_{name}": Figure(None, "CKA", note=note) for name in ("variance", "mean")}
        values = [list(part["domains"].values()) for part in pair]
        variances[seed] = (statistics.pvariance(values[0]), statistics.pvariance(values[1]))
        means[seed] = (statistics.fmean(values[0]), statistics.fmean(values[1]))
        for variant, part in zip(("calibrated", "uncalibrated"), pair, strict=True):
            for name, value in part["domains"].items():
                figures[f"cka_{method}_{variant}_seed{seed}_{name}"] = shown(value, "CKA", f"{part['items']} items")
    lower = ", ".join(f"seed {seed}: {_sign(*of)}, {of[0]:.3g} against {of[1]:.3g}" for seed, of in variances.items())
    kept = ", ".join(f"seed {seed}: {_sign(*of)}, {of[0]:.4f} against {of[1]:.4f}" for seed, of in means.items())
    variance = [statistics.fmean(of[side] for of in variances.values()) for side in (0, 1)]
    mean = [statistics.fmean(of[side] for of in means.values()) for side in (0, 1)]
    figures[f"cka_{method}_variance"] = Figure(
        variance[0],
        "CKA^2",
        "< without calibration",
        variance[0] < variance[1],
        f"over domains, mean of {len(pairs)} seeds, {variance[0]:.3g} against {variance[1]:.3g}; {lower}",
    )
    figures[f"cka_{method}_mean"] = Figure(
        mean[0],
        "CKA",
        f">= without calibration - {MOST_CKA_LOST:g}",
        mean[0] >= mean[1] - MOST_CKA_LOST,
        f"over domains, mean of {len(pairs)} seeds, {mean[0]:.4f} against {mean[1]:.4f}; {kept}",
    )
    return figures


def speed_figures(method: str, preset: str | None, speed: Part, sizes: str = "") -> dict[str, Figure]:
    """Items a second of ``encode``.

    Args:
        preset: of the encoder's sizes; None for a method without an encoder.
        sizes: what the note says of the encoder.
    """
    least = LEAST_KMEANS_ENCODE if preset is None else LEAST_FULL_ENCODE
    name = f"encode_per_second_{method}" if preset is None else f"encode_per_second_{method}_{preset}"
    note = (
        f"median of {speed['runs']} runs on {speed['rows']:,} vectors, best {speed['best']:,.0f}, "
        f"{speed['cpu_median']:,.0f} in a second of computing; fp32, a process of its own, threads: {speed['threads']}"
        f"{sizes and '; '}{sizes}"
    )
    return {name: at_least(speed["median"], least, "items/s", note)}


def single_figures(method: str, single: Part) -> dict[str, Figure]:
    """Items that get other latents or codes alone than in a batch."""
    note = f"of {single['compared']:,} in all domains, latents and codes bit for bit"
    return {f"single_differs_{method}": at_most(single["differ"], 0, "items", note)}


def parameter_figures(
    counts: Mapping[int, ParameterCounts], least: Mapping[int, float], note: str
) -> dict[str, Figure]:
    """How many times fewer parameters one tokenizer of experts has than one tokenizer per domain, by vector width."""
    return {
        f"parameters_unitok_{dim}": at_least(
            count.ratio, least[dim], "ratio", f"{count.apart:,} apart, {count.together:,} together; {note}"
        )
        for dim, count in counts.items()
    }


def _sign(ours: float, theirs: float) -> str:
    return "lower" if ours < theirs else "higher" if ours > theirs else "equal"


def _ratio(part: Part) -> float | None:
    return part["error"] / part["variance"] if part["variance"] else None


def _pooled(domains: Part) -> float | None:
    summed = {name: sum(part[name] for part in domains.values()) for name in ("error", "variance")}
    return _ratio(summed)


def _over(ours: float | None, theirs: float | None) -> float | None:
    return None if ours is None or not theirs else ours / theirs


def _told(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.4f}"
