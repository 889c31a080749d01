"""The plots of the tokenization report, each a PNG; the same report gives the same bytes.

Knows the report's JSON object; does not know tokenizers, items or pages. Drawn without a display.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_WIDTH, _HEIGHT, _DPI = 7.0, 3.8, 110
_NAMED_DOMAINS = 20
"""More names than that do not fit in a legend."""


def collisions(report: Mapping[str, Any]) -> bytes:
    """Collision rates before SIDs are made unique, and the share of items that moved to make them so."""
    names, domains = _domains(report)
    moved = [sum(domain["moved_per_level"]) / max(domain["items"], 1) for domain in domains]
    bars = {
        "collisions before": [domain["collision_rate_before"] for domain in domains],
        "the same, identical vectors apart": [domain["collision_rate_before_distinct_vectors"] for domain in domains],
        "moved to be unique": moved,
    }
    return _bars(names, {label: [100 * share for share in shares] for label, shares in bars.items()}, "% of items")


def codebook_use(report: Mapping[str, Any]) -> bytes:
    """Items of each code, most items first: flat lines are good, a fall to zero shows codes that nothing uses."""
    figure, axes = _figure()
    for number, level in enumerate(report["levels"], start=1):
        counts = sorted(level["items_per_code"], reverse=True)
        axes.plot(range(1, len(counts) + 1), counts, label=f"level {number}: {level['codebook_use']:.0%} used")
    axes.set(xlabel="code, most items first", ylabel="items")
    axes.legend(fontsize=8)
    return _png(figure)


def entropy(report: Mapping[str, Any]) -> bytes:
    """Bits that each level tells of an item, beside the most that its codebook could."""
    labels = [f"level {number}" for number, _ in enumerate(report["levels"], start=1)]
    bars = {
        "entropy": [level["entropy_bits"] for level in report["levels"]],
        "most possible": [float(np.log2(level["codebook_size"])) for level in report["levels"]],
    }
    return _bars(labels, bars, "bits")


def errors(report: Mapping[str, Any]) -> bytes:
    """Relative errors of held-out items; no bar where a domain has none, or where nothing varies."""
    names, domains = _domains(report)
    bars = {}
    for figure, label in (("relative_reconstruction_error", "reconstruction"), ("quantisation_error", "quantisation")):
        own = [domain[figure]["held_out"] for domain in domains]
        bars[label] = [np.nan if error is None else error for error in own]
    return _bars(names, bars, "error / variance")


def dependence(report: Mapping[str, Any]) -> bytes:
    """CKA of every domain that is large enough."""
    domains = report["dependence"]["domains"]
    return _bars(list(domains), {"CKA": [own["cka"] for own in domains.values()]}, "CKA, 0 to 1")


def routes(report: Mapping[str, Any]) -> bytes:
    """The mean share of every route in every domain, stacked to 100 %."""
    names, domains = _domains(report)
    figure, axes = _figure(height=1.5 + 0.3 * len(names))
    left = np.zeros(len(names))
    for number, route in enumerate(dict.fromkeys(route for own in domains for route in own["routes"]["mean_share"])):
        share = np.array([100 * own["routes"]["mean_share"].get(route, 0.0) for own in domains])
        axes.barh(names, share, left=left, label=route, color=_colour(number))
        left += share
    axes.invert_yaxis()
    axes.set(xlabel="mean share, %", xlim=(0, 100))
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return _png(figure)


def latent_maps(report: Mapping[str, Any]) -> bytes:
    """Latents on their two main axes, a colour a domain: before and after domain adaptation where they differ."""
    maps = report["maps"]
    figure, first = _figure(panels=len(maps), height=4.2)
    for axes, (title, points_by_domain) in zip(np.atleast_1d(first), maps.items(), strict=True):
        for number, (name, points) in enumerate(points_by_domain.items()):
            x, y = np.array(points).T
            axes.scatter(x, y, s=4, alpha=0.5, linewidths=0, color=_colour(number), label=name)
        if len(maps) > 1:
            axes.set_title(f"{title} domain adaptation", fontsize=9)
        axes.set(xticks=[], yticks=[])
    if len(report["domains"]) <= _NAMED_DOMAINS:
        handles, labels = np.atleast_1d(first)[0].get_legend_handles_labels()
        figure.legend(handles, labels, fontsize=8, markerscale=3, loc="outside right upper")
    return _png(figure)


def _domains(report: Mapping[str, Any]) -> tuple[list[str], list[Mapping[str, Any]]]:
    return list(report["domains"]), list(report["domains"].values())


def _bars(labels: Sequence[str], bars: Mapping[str, Sequence[float]], unit: str) -> bytes:
    """Bars in groups: a group a label, a colour a kind."""
    figure, axes = _figure()
    places, width = np.arange(len(labels)), 0.8 / len(bars)
    for number, (label, heights) in enumerate(bars.items()):
        offset = (number - (len(bars) - 1) / 2) * width
        axes.bar(places + offset, heights, width, label=label, color=_colour(number))
    axes.set_xticks(places, labels, rotation=30 if len(labels) > 4 else 0, ha="right" if len(labels) > 4 else "center")
    axes.set_ylabel(unit)
    if len(bars) > 1:
        figure.legend(fontsize=8, ncols=len(bars), loc="outside upper center")
    return _png(figure)


def _colour(number: int) -> Any:
    """Ten strong colours, then the pale ones of the same hues."""
    return matplotlib.colormaps["tab20"](2 * number % 20 + number // 10 % 2)


def _figure(panels: int = 1, height: float = _HEIGHT) -> tuple[Figure, Any]:
    figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, panels, sharex=True, sharey=True)


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()
