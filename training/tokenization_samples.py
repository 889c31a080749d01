"""Figures of a fitted tokenizer that are measured on a sample of each domain: dependence, routes, maps of latents.

Knows vectors and codes; does not know titles, plots or pages. Every draw is seeded: the same items give the same
figures.

Shapes: N item, D item vector dim, d quantised dim, L level, n items of one sample, R route.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sidera.tokenizers import ItemTokenizer
from training.tokenizers.dependence import cka, hsic

_MOST_COMPARED, _LEAST_COMPARED = 512, 32
"""Items of one domain that dependence is measured on: more cost quadratic time, fewer measure the sample's size."""


def sample_rows(items: int, most: int) -> npt.NDArray[np.int64]:
    """At most so many rows of so many items, drawn without replacement, in rising order."""
    if items <= most:
        return np.arange(items)
    return np.sort(np.random.default_rng([0, items]).choice(items, most, replace=False))


def rows_of(vectors_ND: npt.NDArray[Any], rows_n: npt.NDArray[np.int64]) -> Tensor:
    """Some rows, copied out of an array that may lie on disk: float32[n, D]."""
    return torch.from_numpy(np.array(vectors_ND[rows_n], dtype=np.float32))


def route_figures(tokenizer: ItemTokenizer, sample_nD: Tensor, domain: str) -> dict[str, dict[str, float]]:
    """``mean_share`` of every route, and ``top_share``: of how many items it is the largest; empty without a router."""
    routes = tokenizer.routes(sample_nD, domain)
    if not routes:
        return {}
    names = list(routes)
    shares_nR = torch.stack([routes[name].cpu() for name in names], dim=1)
    top_n = shares_nR.argmax(dim=1)
    mean = shares_nR.double().mean(dim=0).tolist()
    return {
        "mean_share": dict(zip(names, mean, strict=True)),
        "top_share": {name: float((top_n == route).double().mean()) for route, name in enumerate(names)},
    }


def dependence_figures(
    tokenizer: ItemTokenizer,
    vectors_by_domain: Mapping[str, npt.NDArray[Any]],
    held_out_by_domain: Mapping[str, npt.NDArray[np.bool_]],
    codes_by_domain: Mapping[str, npt.NDArray[np.int64]],
) -> dict[str, Any]:
    """How far item vectors and what their codes stand for depend on each other: HSIC and its normalised form, CKA.

    Gaussian kernels of the median bandwidth, over equally many held-out items of every domain, as the figure grows with
    the items. A domain with fewer than 32 held-out items is filled up with fitted ones; one with fewer than 32 items
    has no figure.
    """
    measured = [name for name, vectors_ND in vectors_by_domain.items() if len(vectors_ND) >= _LEAST_COMPARED]
    fewest = min((int(held_out_by_domain[name].sum()) for name in measured), default=0)
    count = max(_LEAST_COMPARED, min(_MOST_COMPARED, fewest))
    domains, columns = {}, {}
    for name in measured:
        held_n = np.flatnonzero(held_out_by_domain[name])
        rows_n = held_n[sample_rows(len(held_n), count)]
        filled = count - len(rows_n)
        if filled:
            fitted_n = np.flatnonzero(~held_out_by_domain[name])
            rows_n = np.sort(np.concatenate([rows_n, fitted_n[sample_rows(len(fitted_n), filled)]]))
        sample_nD = rows_of(vectors_by_domain[name], rows_n)
        quantised_nd = tokenizer.quantised(torch.from_numpy(codes_by_domain[name][rows_n]))
        own = {"hsic": float(hsic(sample_nD, quantised_nd)), "cka": float(cka(sample_nD, quantised_nd))}
        domains[name] = {**own, "fitted_items": filled}
        columns[name] = own
    over_domains = {
        figure: {
            "mean": float(np.mean([own[figure] for own in columns.values()])),
            "variance": float(np.var([own[figure] for own in columns.values()])),
        }
        for figure in ("hsic", "cka")
        if columns
    }
    return {"items_per_domain": count if measured else 0, "domains": domains, "over_domains": over_domains}


def map_figures(
    tokenizer: ItemTokenizer, samples: Mapping[str, Tensor], width: int
) -> dict[str, dict[str, list[list[float]]]]:
    """Latents of some items of each domain on their two main axes, [x, y] an item.

    ``before``: as items of no known domain; ``after``: as items of their domain. ``after`` alone where the domain
    changes nothing. Both lie on the same axes.

    Args:
        samples: float32[n, D] item vectors by domain.
        width: of what is quantised; latents may be wider.
    """
    after = {name: tokenizer.latents(rows, name)[:, :width].cpu() for name, rows in samples.items()}
    before = {name: tokenizer.latents(rows, "")[:, :width].cpu() for name, rows in samples.items()}
    maps = {"before": before, "after": after}
    if all(torch.equal(before[name], after[name]) for name in samples):
        del maps["before"]
    points = torch.cat([rows for named in maps.values() for rows in named.values()])
    mean_d, axes_d2 = _main_axes(points)
    return {
        title: {
            name: [[float(f"{x:.4g}"), float(f"{y:.4g}")] for x, y in ((rows - mean_d) @ axes_d2).tolist()]
            for name, rows in named.items()
        }
        for title, named in maps.items()
    }


def _main_axes(points_nd: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and the two axes of largest variance, float32[d, 2]; each points where its largest component is positive."""
    mean_d = points_nd.mean(dim=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        rank = min(8, *points_nd.shape)
        _, _, axes_dk = torch.svd_lowrank(points_nd - mean_d, q=rank, niter=6)
    axes_d2 = torch.zeros(points_nd.shape[1], 2)
    axes_d2[:, : min(2, rank)] = axes_dk[:, :2]
    largest_2 = axes_d2.gather(0, axes_d2.abs().argmax(dim=0, keepdim=True))
    return mean_d, axes_d2 * torch.where(largest_2 < 0, -1.0, 1.0)
