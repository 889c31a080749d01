"""Beam search against ``transformers``' own ``generate`` on the same model, and whether both find the same items.

``generate`` gets what it offers for this job: ``prefix_allowed_tokens_fn`` looks the allowed tokens of a prefix up in a
dictionary that is made beforehand, ``renormalize_logits`` makes its scores those of a softmax over the trie's children,
and a length penalty of 0 adds them up. Both search the universal distribution alone, filter nothing, and return all
beams.

Shapes: B batch, K beams, P history tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import GenerationConfig

from benchmarks.harness import Figure, Ratio, at_least, ratio_figures, shown, time_ratio
from benchmarks.samples import Bench
from benchmarks.search import BATCH_SIZES, BEAM_WIDTHS, search_batch
from sidera.beam_search import SearchBatch, beam_search
from sidera.recommender import Query, Recommender
from training.progress import track

LEAST = 3.0
TIE = 1e-5
"""Items whose scores lie as close as this may stand in either order."""

Ranked = list[tuple[tuple[int, ...], float]]
"""Items as tokens of their codes, and their scores, best first."""


@dataclass(frozen=True)
class _Asked:
    """The same requests as both sides get them."""

    batch: SearchBatch
    tokens_BP: Tensor
    seen_BP: Tensor
    domains: tuple[str, ...]


class GenerateSearch:
    """Recommends with ``generate``.

    Args:
        recommender: whose model and tries are used.
        beam_width: how many beams it keeps, and returns.
    """

    def __init__(self, recommender: Recommender, beam_width: int) -> None:
        self._backbone = recommender.model.backbone
        vocabulary = recommender.model.vocabulary
        self._num_levels = vocabulary.num_levels
        self._pad = vocabulary.pad
        first_codes = [vocabulary.first_code(level) for level in range(self._num_levels)]
        self._allowed = {
            domain: _children(recommender.catalog.sids(domain) + first_codes) for domain in recommender.catalog.domains
        }
        self._config = GenerationConfig(
            num_beams=beam_width,
            num_return_sequences=beam_width,
            max_new_tokens=self._num_levels,
            do_sample=False,
            renormalize_logits=True,
            length_penalty=0.0,
            pad_token_id=vocabulary.pad,
            return_dict_in_generate=True,
            output_scores=True,
        )

    def __call__(self, asked: _Asked) -> list[Ranked]:
        """The beams of each request."""
        padded = asked.tokens_BP.shape[1]
        children = [self._allowed[domain] for domain in asked.domains]

        def allowed(row: int, tokens: Tensor) -> list[int]:
            # A beam that stands for nothing (fewer children than beams) has score -inf and may go anywhere.
            return children[row].get(tuple(tokens[padded:].tolist()), [self._pad])

        found = self._backbone.generate(
            asked.tokens_BP,
            attention_mask=asked.seen_BP,
            generation_config=self._config,
            prefix_allowed_tokens_fn=allowed,
        )
        beams = found.sequences[:, padded:].view(len(asked.domains), -1, self._num_levels).tolist()
        scores = found.sequences_scores.view(len(asked.domains), -1).tolist()
        return [
            [(tuple(codes), score) for codes, score in zip(*row, strict=True) if score > float("-inf")]
            for row in zip(beams, scores, strict=True)
        ]


def measure_generate(bench: Bench, rounds: int, warm_up: int) -> dict[str, Figure]:
    """How much faster beam search is, and how often both find the same.

    Args:
        rounds: batches at each batch size and beam width; they are timed and compared.
        warm_up: how many of them are computed once before; their items are compared too.
    """
    recommender = bench.loaded.recommender
    ratios: dict[str, Ratio] = {}
    ours: list[Ranked] = []
    theirs: list[Ranked] = []
    with track("beam search against generate", len(BATCH_SIZES) * len(BEAM_WIDTHS)) as advance:
        for size, width in product(BATCH_SIZES, BEAM_WIDTHS):
            generate = kept(GenerateSearch(recommender, width), theirs)
            search = kept(beam_searcher(recommender, width), ours)
            asked = [as_generate_asks(recommender, queries) for queries in bench.batches(rounds, size, width)]
            ratios[f"batch_{size}_beams_{width}"] = time_ratio(generate, search, asked, warm_up=warm_up)
            advance()
    same = sum(map(same_items, ours, theirs))
    furthest = max(map(score_difference, ours, theirs))
    note = f"{same} of {len(ours)} lists, all beams compared; order may differ where scores lie within {TIE:g}"
    return {
        **ratio_figures("generate_vs_beam", ratios, least=LEAST),
        "same_items": at_least(same / len(ours), 1.0, "share", note),
        "same_items_score_difference": shown(furthest, "nats", "the largest between the scores of one item"),
    }


def kept(search: Callable[[_Asked], list[Ranked]], answers: list[Ranked]) -> Callable[[_Asked], None]:
    """The same search, whose answers are kept in the order of its calls."""
    return lambda asked: answers.extend(search(asked))


def same_items(ours: Ranked, theirs: Ranked) -> bool:
    """Whether two rankings agree, but for items whose scores are tied."""
    if len(ours) != len(theirs):
        return False
    return all(
        item == other or abs(score - other_score) <= TIE
        for (item, score), (other, other_score) in zip(ours, theirs, strict=True)
    )


def score_difference(ours: Ranked, theirs: Ranked) -> float:
    """The largest difference between the scores that both give to one item."""
    other: Mapping[tuple[int, ...], float] = dict(theirs)
    return max((abs(score - other[item]) for item, score in ours if item in other), default=0.0)


def beam_searcher(recommender: Recommender, width: int) -> Callable[[_Asked], list[Ranked]]:
    """Sidera's own search for what ``generate`` is asked."""
    tables, vocabulary = recommender.tables, recommender.model.vocabulary
    first_codes = torch.tensor([vocabulary.first_code(level) for level in range(tables.num_levels)])

    def search(asked: _Asked) -> list[Ranked]:
        found = beam_search(recommender.model, tables, asked.batch, width)
        nodes_BKL = tables.ancestors(found.leaves_BK.flatten()).view(*found.leaves_BK.shape, -1)[..., 1:]
        codes = [codes[nodes_BKL[..., level]] for level, codes in enumerate(tables.codes)]
        items = (torch.stack(codes, dim=-1) + first_codes).tolist()
        rows = zip(items, found.scores_BK.tolist(), found.counts_B.tolist(), strict=True)
        return [
            [(tuple(item), score) for item, score in zip(row[:count], scores[:count], strict=True)]
            for row, scores, count in rows
        ]

    return search


def as_generate_asks(recommender: Recommender, queries: Sequence[Query]) -> _Asked:
    """``generate`` wants its prompts padded on the left."""
    batch = search_batch(recommender, queries, universal_only=True)
    longest = batch.tokens_BP.shape[1]
    seen_BP = torch.arange(longest) >= longest - batch.lengths_B[:, None]
    tokens_BP = torch.full_like(batch.tokens_BP, recommender.model.vocabulary.pad)
    tokens_BP[seen_BP] = batch.tokens_BP[torch.arange(longest) < batch.lengths_B[:, None]]
    return _Asked(batch, tokens_BP, seen_BP.long(), tuple(query.domain for query in queries))


def _children(tokens_NL: npt.NDArray[np.integer]) -> dict[tuple[int, ...], list[int]]:
    """The tokens that may follow each prefix of the SIDs."""
    children: dict[tuple[int, ...], dict[int, None]] = {}
    for tokens in tokens_NL.tolist():
        for level, token in enumerate(tokens):
            children.setdefault(tuple(tokens[:level]), {})[token] = None
    return {prefix: list(found) for prefix, found in children.items()}
