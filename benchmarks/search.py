"""Beam search against the bare forward passes that it cannot do without.

Bare are: the prefill of the same histories, then L - 1 passes of ``beam_width`` tokens a request over the same KV cache
with masks of the same shapes, through the same adapters. No head, no trie, no selection, and no beam that ends early.

Shapes: B batch, K beams, P history tokens, S tokens of the search so far.
"""

from collections.abc import Sequence
from functools import partial
from itertools import product

import torch

from benchmarks.harness import Figure, Ratio, ratio_figures, time_ratio
from benchmarks.samples import Bench
from sidera.beam_search import SearchBatch, beam_search
from sidera.decoding.leaf_filter import LeafFilter
from sidera.language_model import LanguageModel
from sidera.model.user_router import Mixture
from sidera.recommender import Query, Recommender
from training.progress import track

MOST = 1.15
BATCH_SIZES = (1, 8)
BEAM_WIDTHS = (20, 50)


def search_batch(recommender: Recommender, queries: Sequence[Query], universal_only: bool = False) -> SearchBatch:
    """What ``beam_search`` gets for these queries.

    Args:
        universal_only: the universal distribution alone (M is 1) and no filter, instead of what serving does.
    """
    model, catalog = recommender.model, recommender.catalog
    prompts = [recommender.prompt(query) for query in queries]
    tokens_BP = torch.full((len(prompts), max(map(len, prompts))), model.vocabulary.pad)
    for row, prompt in enumerate(prompts):
        tokens_BP[row, : len(prompt)] = torch.tensor(prompt)
    if universal_only:
        mixture, blocked = Mixture(torch.zeros(1, len(queries))), None
    else:
        mixture = model.mixture([query.domain for query in queries])
        blocked = LeafFilter.build([_history_leaves(recommender, query) for query in queries])
    return SearchBatch(
        tokens_BP=tokens_BP,
        lengths_B=torch.tensor([len(prompt) for prompt in prompts]),
        roots_B=torch.tensor([catalog.domains.index(query.domain) for query in queries]),
        mixture=mixture,
        num_results_B=torch.tensor([query.num_results for query in queries]),
        filter=blocked,
    )


def _history_leaves(recommender: Recommender, query: Query) -> list[int]:
    return [recommender.leaf(domain, item_id) for domain, item_id in query.history if domain == query.domain]


class BarePasses:
    """The forward passes of a search, with nothing else; masks and tokens are made beforehand."""

    def __init__(self, model: LanguageModel, size: int, beam_width: int) -> None:
        self._model = model
        levels = range(1, model.vocabulary.num_levels)
        own_KK = torch.eye(beam_width, dtype=torch.bool)
        self._masks = [own_KK.repeat(1, level).expand(size, -1, -1).contiguous() for level in levels]
        self._depths = [torch.full((size, beam_width), level - 1) for level in levels]
        self._tokens = [
            torch.full((size, beam_width), model.vocabulary.first_code(level - 1), dtype=torch.int64)
            for level in levels
        ]

    def __call__(self, batch: SearchBatch) -> None:
        """Read the histories of a batch, and one run of tokens for each level but the last."""
        mixture = batch.mixture
        _, history = self._model.prefill(
            batch.tokens_BP, batch.lengths_B, mixture.adapters_B, mixture.num_distributions
        )
        for tokens_BK, depths_BK, visible_BKS in zip(self._tokens, self._depths, self._masks, strict=True):
            self._model.extend(history, tokens_BK, depths_BK, visible_BKS)


def measure_search(bench: Bench, rounds: int) -> dict[str, Figure]:
    """The ratio at every batch size and beam width, their median and the worst."""
    recommender = bench.loaded.recommender
    ratios: dict[str, Ratio] = {}
    with track("beam search against bare passes", len(BATCH_SIZES) * len(BEAM_WIDTHS)) as advance:
        for size, width in product(BATCH_SIZES, BEAM_WIDTHS):
            batches = [search_batch(recommender, queries) for queries in bench.batches(rounds, size, width)]
            search = partial(beam_search, recommender.model, recommender.tables, beam_width=width)
            bare = BarePasses(recommender.model, size, width)
            ratios[f"batch_{size}_beams_{width}"] = time_ratio(search, bare, batches)
            advance()
    return ratio_figures("beam_vs_bare", ratios, most=MOST)
