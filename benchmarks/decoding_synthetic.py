"""Made-up tries: how a search's time grows with the catalog, and what a filter costs that keeps little of it.

One kind is a trie whose nodes above the leaves all have two children or more, so that no beam is ever finished early
and no token deferred: what remains is how the time depends on the catalog's size alone. The other kind is filled as
unevenly as real ones are.

Shapes: N items, L levels, B batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.catalog_synthetic import made_up_sids
from benchmarks.decoding_ratios import RESULTS, universal_batch
from benchmarks.decoding_scope import Scope
from benchmarks.decoding_subject import Subject, synchronised
from benchmarks.harness import Figure, Ratio, at_least, ratio_figures, shown, time_ratio
from sidera.beam_search import SearchBatch, SearchResult, beam_search
from sidera.decoding.leaf_filter import LeafFilter, LeafSet
from sidera.trie import Trie, TrieTables, build_trie, tables_of
from training.progress import track

MOST_GROWTH = 1.10
MOST_FILTER = 1.5
KEPT = 0.01
"""Share of the items that the filter keeps."""


def branching_trie(items: int, codebook_sizes: Sequence[int]) -> Trie:
    """A trie of ``items`` leaves without a node of one child: wide from the root on, two children where items run out.

    Raises:
        ValueError: so many items cannot be put so.
    """
    levels = len(codebook_sizes)
    codes, first_child = [], []
    nodes = 1
    for level, size in enumerate(codebook_sizes, start=1):
        below = min(nodes * size, items // 2 ** (levels - level))
        if below < 2 * nodes or (level == levels and below < items):
            raise ValueError(f"{items} items have no trie of {tuple(codebook_sizes)} codes that branches everywhere")
        begins = np.arange(nodes + 1, dtype=np.int64) * below // nodes
        children = np.diff(begins)
        place = np.arange(below) - np.repeat(begins[:-1], children)
        codes.append((place * size // np.repeat(children, children)).astype(np.int32))
        first_child.append(begins.astype(np.int32))
        nodes = below
    return Trie(tuple(codes), tuple(first_child))


def uneven_trie(items: int, codebook_sizes: Sequence[int]) -> Trie:
    """A trie of so many SIDs that fill it as unevenly as real ones do, with nodes of one child where items run out."""
    return build_trie(made_up_sids(items, tuple(codebook_sizes)), codebook_sizes)[0]


def measure_growth(subject: Subject, scope: Scope, name: str) -> dict[str, Figure]:
    """The time over the larger catalog against the smaller one, with the same model and prompts."""
    sizes = subject.recommender.model.vocabulary.codebook_sizes
    small, large = scope.sizes
    branching = _growth(subject, scope, *(branching_trie(items, sizes) for items in scope.sizes))
    figures = ratio_figures(name, branching, most=MOST_GROWTH)
    told = f"{large:,} items against {small:,}; every node has two children or more, so no beam is finished early"
    figures[name] = replace(figures[name], note=f"{told}; {figures[name].note}")
    skipping = _growth(subject, scope, *(uneven_trie(items, sizes) for items in scope.sizes))
    for shape, ratio in skipping.items():
        figures[f"{name}_skipping_{shape}"] = shown(ratio.median, "ratio", f"beams are finished early; {ratio.note}")
    return figures


def _growth(subject: Subject, scope: Scope, small: Trie, large: Trie) -> dict[str, Ratio]:
    ratios: dict[str, Ratio] = {}
    shapes = scope.shapes((1,))
    over_small, over_large = (tables_of([trie], subject.device) for trie in (small, large))
    with track(f"{large.num_leaves:,} items against {small.num_leaves:,}", len(shapes)) as advance:
        for shape in shapes:
            batches = _at_first_root(subject, scope.rounds, shape.length, shape.beams, shape.beams)
            ratios[str(shape)] = time_ratio(
                _searching(subject, over_large, shape.beams), _searching(subject, over_small, shape.beams), batches
            )
            advance()
    return ratios


def measure_filter(subject: Subject, scope: Scope, name: str) -> dict[str, Figure]:
    """10 results under a filter that keeps 1 % of a made-up catalog: how many come, and the time against no filter.

    The set of allowed leaves is kept between requests, as the recommender keeps it; the filter of the batch is made for
    each request.
    """
    items = scope.filtered
    trie = uneven_trie(items, subject.recommender.model.vocabulary.codebook_sizes)
    tables = tables_of([trie], subject.device)
    kept_X = np.random.default_rng(1).choice(items, size=round(items * KEPT), replace=False)
    allowed = LeafSet.of(kept_X)
    counts: list[int] = []
    ratios: dict[str, Ratio] = {}
    shapes = scope.shapes((1,))
    with track(f"a filter that keeps 1 % of {items:,} items", len(shapes)) as advance:
        for shape in shapes:
            plain = _searching(subject, tables, shape.beams)

            def filtered(batch: SearchBatch, beams: int = shape.beams) -> SearchResult:
                only = LeafFilter.build([()], [allowed], subject.device)
                found = beam_search(subject.recommender.model, tables, replace(batch, filter=only), beams)
                counts.append(_allowed_among(found, allowed))
                return found

            batches = _at_first_root(subject, scope.rounds, shape.length, shape.beams, RESULTS)
            ratios[str(shape)] = time_ratio(synchronised(filtered, subject.device), plain, batches)
            advance()
    note = f"allowed ones, the fewest of {len(counts)} requests; {len(kept_X):,} of {items:,} items are allowed"
    return {
        f"{name}_results": at_least(min(counts), RESULTS, "items", note),
        **ratio_figures(f"{name}_vs_none", ratios, most=MOST_FILTER),
    }


def _allowed_among(found: SearchResult, allowed: LeafSet) -> int:
    """How many of the results of the only request are allowed."""
    leaves: npt.NDArray[np.int64] = found.leaves_BK[0, : int(found.counts_B[0])].cpu().numpy().astype(np.int64)
    return int(allowed.contains(leaves).sum())


def _searching(subject: Subject, tables: TrieTables, beams: int) -> Callable[[SearchBatch], SearchResult]:
    """Beam search over these tables, finished when it returns."""

    def search(batch: SearchBatch) -> SearchResult:
        return beam_search(subject.recommender.model, tables, batch, beams)

    return synchronised(search, subject.device)


def _at_first_root(subject: Subject, count: int, length: int, beams: int, results: int) -> list[SearchBatch]:
    """Single requests whose domain is the first one of the tables."""
    roots_B = torch.zeros(1, dtype=torch.int64, device=subject.device)
    return [
        replace(universal_batch(subject, queries), roots_B=roots_B)
        for queries in subject.batches(count, 1, length, beams, results)
    ]
