"""Constrained beam search over the SIDs that exist.

The history is read once per request. At each level all beams of a request are one run of tokens in the sequence
dimension; a mask shows each token the history and its own ancestors, so keys and values are never copied or reordered.
Every node's children get a softmax over **all** children of this catalog version; a filter only decides afterwards
which of them may go on, so every score equals exhaustive scoring. A node with one child needs no scores: its beam goes
down without a forward pass, and its token is fed later, in the pass that first needs it. A beam whose subtree holds one
leaf is finished.

This module must not know items, domains, text or HTTP: it sees tokens, nodes and leaves.

Shapes: M mixed distributions, B batch, K beams, C children, L levels, l levels walked so far, P history tokens, T
tokens of one run, S tokens of the search so far, A active beams (those that need scores), V codes of a level, D hidden
width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sidera.errors import SearchError
from sidera.language_model import LanguageModel, ReadHistory
from sidera.leaf_filter import LeafFilter
from sidera.trie import TrieTables

_NEVER = float("-inf")


@dataclass(frozen=True)
class SearchBatch:
    """Requests that are decoded together.

    Attributes:
        tokens_BP: prompts, padded on the right. Shape: int64[B, P].
        lengths_B: tokens of each prompt, at least 1. Shape: int64[B].
        roots_B: the root of each request's domain in the tables. Shape: int64[B].
        log_weights_MB: log-weight of each mixed distribution. Shape: float32[M, B].
        adapters_B: the adapter of each request's domain distribution; None: only the universal one. With adapters and M
            of 1 it is the domain distribution alone. Shape: int64[B].
        num_results_B: how many leaves each request wants. Shape: int64[B].
        filter: which leaves may come back; None: all.
    """

    tokens_BP: Tensor
    lengths_B: Tensor
    roots_B: Tensor
    log_weights_MB: Tensor
    adapters_B: Tensor | None
    num_results_B: Tensor
    filter: LeafFilter | None = None


@dataclass(frozen=True)
class SearchResult:
    """What a search found, best first.

    Attributes:
        leaves_BK: Shape: int64[B, K].
        scores_BK: item-level log-probabilities. Shape: float32[B, K].
        counts_B: how many columns of each row are results; fewer than asked when fewer are allowed. Shape: int64[B].
        certified_B: whether no other allowed leaf can score higher: the last result is at least as good as the best
            prefix that was pruned (a prefix bounds its leaves). Shape: bool[B].
        passes: forward passes after the prefill, 0..L-1.
        tokens_fed: tokens of those passes, padding not counted.
    """

    leaves_BK: Tensor
    scores_BK: Tensor
    counts_B: Tensor
    certified_B: Tensor
    passes: int
    tokens_fed: int


@dataclass
class _Beams:
    """The beams of all requests after l levels. A dead beam (score -inf) keeps its place and has no children."""

    nodes_BK: Tensor
    scores_BK: Tensor
    log_mass_MBK: Tensor
    """The prefix's log-probability under each distribution, unmixed."""
    codes_BKl: Tensor
    slots_BKl: Tensor
    """Where each code's token lies among the search's tokens; -1 while it has not been fed."""


@torch.no_grad()
def beam_search(model: LanguageModel, tables: TrieTables, batch: SearchBatch, beam_width: int) -> SearchResult:
    """Find the best leaves of each request.

    Args:
        model: reads prompts and scores codes.
        tables: the tries of the catalog, on the model's device.
        batch: the requests.
        beam_width: beams kept at every level; at least the largest ``num_results``.

    Raises:
        SearchError: ``beam_width`` is below 1 or below a request's ``num_results``, or the model's scores are NaN.
    """
    if beam_width < max(1, int(batch.num_results_B.max())):
        raise SearchError(f"beam_width {beam_width} is below the results asked for; use at least as many beams")
    beam_width = min(beam_width, tables.num_leaves)
    num, size = batch.log_weights_MB.shape
    device = batch.tokens_BP.device
    hidden_MBD, history = model.prefill(batch.tokens_BP, batch.lengths_B, batch.adapters_B, num)
    walk = _Walk(model, history)
    beams = _Beams(
        nodes_BK=batch.roots_B[:, None],
        scores_BK=torch.zeros(size, 1, device=device),
        log_mass_MBK=torch.zeros(num, size, 1, device=device),
        codes_BKl=torch.empty(size, 1, 0, dtype=torch.int64, device=device),
        slots_BKl=torch.empty(size, 1, 0, dtype=torch.int64, device=device),
    )
    best_pruned_B = torch.full((size,), _NEVER, device=device)
    for level in range(tables.num_levels):
        first_child = tables.first_child[level]
        begin_BK = first_child[beams.nodes_BK]
        alive_BK = beams.scores_BK > _NEVER
        count_BK = torch.where(alive_BK, first_child[beams.nodes_BK + 1] - begin_BK, 0)
        active = (count_BK > 1).nonzero(as_tuple=True)
        widest = max(int(count_BK.max()), 1)
        child_BKC = begin_BK[..., None] + torch.arange(widest, device=device)
        exists_BKC = torch.arange(widest, device=device) < count_BK[..., None]
        child_BKC = torch.where(exists_BKC, child_BKC, begin_BK[..., None])

        logprobs_MBKC = torch.where(exists_BKC, 0.0, _NEVER).expand(num, -1, -1, -1)
        if len(active[0]):
            hidden_MAD = hidden_MBD[:, active[0]] if level == 0 else walk.hidden_of(beams, count_BK > 1, active)
            logits_MAV = model.code_logits(hidden_MAD, level)
            code_AC = tables.codes[level][child_BKC[active]]
            logits_MAC = logits_MAV.gather(2, code_AC.expand(num, -1, -1))
            logits_MAC = logits_MAC.masked_fill(~exists_BKC[active], _NEVER)
            logprobs_MBKC = logprobs_MBKC.clone()
            logprobs_MBKC[:, active[0], active[1]] = logits_MAC.log_softmax(dim=-1)

        log_mass_MBKC = beams.log_mass_MBK[..., None] + logprobs_MBKC
        scores_BKC = _mix(log_mass_MBKC, batch.log_weights_MB)
        if batch.filter is not None:
            boundary_BKX = begin_BK[..., None] + torch.arange(widest + 1, device=device).minimum(count_BK[..., None])
            allowed_BKC = batch.filter.any_allowed(tables.leaf_begin[level + 1][boundary_BKX])
            scores_BKC = scores_BKC.masked_fill(~allowed_BKC, _NEVER)
        beams, best_cut_B = _keep_best(beams, scores_BKC, log_mass_MBKC, child_BKC, tables.codes[level], beam_width)
        best_pruned_B = torch.maximum(best_pruned_B, best_cut_B)
    return _result(beams, batch.num_results_B, best_pruned_B, walk)


def _mix(log_mass_MBKC: Tensor, log_weights_MB: Tensor) -> Tensor:
    """log sum_m w_m p_m: weight 0 or mass 0 is -inf, never NaN. Shape: float32[B, K, C]."""
    if len(log_mass_MBKC) == 1:
        return log_mass_MBKC[0] + log_weights_MB[0, :, None, None]
    return torch.logsumexp(log_mass_MBKC + log_weights_MB[:, :, None, None], dim=0)


def _keep_best(
    beams: _Beams, scores_BKC: Tensor, log_mass_MBKC: Tensor, child_BKC: Tensor, codes: Tensor, beam_width: int
) -> tuple[_Beams, Tensor]:
    """The ``beam_width`` best children of all beams, and the score of the best one left behind, float32[B]."""
    width_C = scores_BKC.shape[2]
    flat_BX = scores_BKC.flatten(1)
    scores_BK, index_BK = flat_BX.topk(min(beam_width + 1, flat_BX.shape[1]), dim=1)
    if scores_BK.shape[1] > beam_width:
        best_cut_B = scores_BK[:, beam_width]
        scores_BK, index_BK = scores_BK[:, :beam_width], index_BK[:, :beam_width]
    else:
        best_cut_B = torch.full_like(scores_BK[:, 0], _NEVER)
    parent_BK = index_BK // width_C
    nodes_BK = child_BKC.flatten(1).gather(1, index_BK)
    parent_BKl = parent_BK[..., None].expand(-1, -1, beams.codes_BKl.shape[2])
    kept = _Beams(
        nodes_BK=nodes_BK,
        scores_BK=scores_BK,
        log_mass_MBK=log_mass_MBKC.flatten(2).gather(2, index_BK.expand(len(log_mass_MBKC), -1, -1)),
        codes_BKl=torch.cat([beams.codes_BKl.gather(1, parent_BKl), codes[nodes_BK][..., None]], dim=2),
        slots_BKl=torch.cat(
            [beams.slots_BKl.gather(1, parent_BKl), torch.full_like(nodes_BK, -1)[..., None]],
            dim=2,
        ),
    )
    return kept, best_cut_B


class _Walk:
    """Feeds tokens of beams to the model, in runs, and remembers how many lie there."""

    def __init__(self, model: LanguageModel, history: ReadHistory) -> None:
        self._model = model
        self._history = history
        self._visible_slots = 0
        self.passes = 0
        self.tokens_fed = 0

    def hidden_of(self, beams: _Beams, active_BK: Tensor, active: tuple[Tensor, ...]) -> Tensor:
        """The hidden state behind the last code of every active beam, float[M, A, D]; feeds what has not been fed."""
        depth_l = torch.arange(beams.codes_BKl.shape[2], device=active_BK.device)
        unfed_BKl = active_BK[..., None] & (beams.slots_BKl < 0)
        order_BKl = unfed_BKl.flatten(1).cumsum(1).view_as(unfed_BKl) - 1
        length = int(order_BKl[:, -1, -1].max()) + 1
        seen = self._visible_slots
        beams.slots_BKl = torch.where(unfed_BKl, seen + order_BKl, beams.slots_BKl)

        b, k, depth = unfed_BKl.nonzero(as_tuple=True)
        place = order_BKl[b, k, depth]
        vocabulary = self._model.vocabulary
        first_code_l = torch.tensor([vocabulary.first_code(level) for level in depth_l.tolist()], device=b.device)
        tokens_BT = torch.full((len(active_BK), length), vocabulary.pad, device=b.device)
        tokens_BT[b, place] = beams.codes_BKl[b, k, depth] + first_code_l[depth]
        depths_BT = torch.zeros_like(tokens_BT)
        depths_BT[b, place] = depth
        own_Xl = torch.where(depth_l <= depth[:, None], beams.slots_BKl[b, k], seen + length)
        visible_BTS = torch.zeros(*tokens_BT.shape, seen + length + 1, dtype=torch.bool, device=b.device)
        visible_BTS[b[:, None], place[:, None], own_Xl] = True
        hidden_MBTD = self._model.extend(self._history, tokens_BT, depths_BT, visible_BTS[..., :-1])

        self._visible_slots = seen + length
        self.passes += 1
        self.tokens_fed += len(b)
        last_A = beams.slots_BKl[active[0], active[1], -1] - seen
        return hidden_MBTD[:, active[0], last_A]


def _result(beams: _Beams, num_results_B: Tensor, best_pruned_B: Tensor, walk: _Walk) -> SearchResult:
    if bool(beams.scores_BK.isnan().any()):
        raise SearchError("the model's scores are NaN; the bundle's weights are damaged or overflow in this precision")
    counts_B = torch.minimum((beams.scores_BK > _NEVER).sum(1), num_results_B)
    last_BK = beams.scores_BK.gather(1, (counts_B - 1).clamp_min(0)[:, None])
    worst_B = torch.where(counts_B == num_results_B, last_BK[:, 0], _NEVER)
    return SearchResult(
        leaves_BK=beams.nodes_BK,
        scores_BK=beams.scores_BK,
        counts_B=counts_B,
        certified_B=worst_B >= best_pruned_B,
        passes=walk.passes,
        tokens_fed=walk.tokens_fed,
    )
