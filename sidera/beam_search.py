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
from sidera.known_mass import KnownMass
from sidera.language_model import LanguageModel, ReadHistory
from sidera.leaf_filter import LeafFilter
from sidera.trie import TrieTables
from sidera.user_router import Mixture

_NEVER = float("-inf")


@dataclass(frozen=True)
class SearchBatch:
    """Requests that are decoded together.

    Attributes:
        tokens_BP: prompts, padded on the right. Shape: int64[B, P].
        lengths_B: tokens of each prompt, at least 1. Shape: int64[B].
        roots_B: the root of each request's domain in the tables. Shape: int64[B].
        mixture: the distributions that are mixed; their weights are asked for once the prompts are read.
        num_results_B: how many leaves each request wants. Shape: int64[B].
        filter: which leaves may come back; None: all.
        known: mass of leaves that is known before the search; the mixture has the rest. None: the mixture has all.
    """

    tokens_BP: Tensor
    lengths_B: Tensor
    roots_B: Tensor
    mixture: Mixture
    num_results_B: Tensor
    filter: LeafFilter | None = None
    known: KnownMass | None = None


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
    """The beams of all requests after l levels. A dead beam (score -inf) keeps its place; nothing comes of it.

    Attributes:
        nodes_BK: where each beam stands.
        scores_BK: its log-probability under the mixture.
        log_mass_MBK: its log-probability under each distribution, unmixed.
        path_BKl2: for each code of its prefix the token, and the token's slot: its place among the search's tokens, -1
            while it has not been fed.
    """

    nodes_BK: Tensor
    scores_BK: Tensor
    log_mass_MBK: Tensor
    path_BKl2: Tensor


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
    num, size = batch.mixture.num_distributions, batch.mixture.size
    device = batch.tokens_BP.device
    hidden_MBD, history = model.prefill(batch.tokens_BP, batch.lengths_B, batch.mixture.adapters_B, num)
    log_weights_MB = batch.mixture.log_weights(hidden_MBD)
    if batch.known is not None:
        log_weights_MB = log_weights_MB + batch.known.log_rest_B
    walk = _Walk(model, history)
    beams = _Beams(
        nodes_BK=batch.roots_B[:, None],
        scores_BK=torch.zeros(size, 1, device=device),
        log_mass_MBK=torch.zeros(num, size, 1, device=device),
        path_BKl2=torch.empty(size, 1, 0, 2, dtype=torch.int64, device=device),
    )
    best_pruned_B = torch.full((size,), _NEVER, device=device)
    both_ends = torch.arange(2, device=device)
    for level in range(tables.num_levels):
        begin_BK, end_BK = tables.first_child[level][beams.nodes_BK[..., None] + both_ends].unbind(-1)
        count_BK = end_BK - begin_BK
        active_BK = (count_BK > 1) & (beams.scores_BK > _NEVER)
        active = active_BK.nonzero(as_tuple=True)
        step_C = torch.arange(int(count_BK.max()), device=device)
        exists_BKC = step_C < count_BK[..., None]
        place_BKC = begin_BK[..., None] + step_C
        child_BKC = place_BKC.clamp_max(len(tables.codes[level]) - 1)

        all_active = len(active[0]) == count_BK.numel()
        logprobs_MBKC = torch.where(exists_BKC, 0.0, _NEVER)[None]
        if len(active[0]):
            if level > 0:
                hidden_MAD = walk.hidden_of(beams.path_BKl2, active_BK, active)
            else:
                hidden_MAD = hidden_MBD if all_active else hidden_MBD[:, active[0]]
            child_AC = child_BKC.flatten(0, 1) if all_active else child_BKC[active]
            exists_AC = exists_BKC.flatten(0, 1) if all_active else exists_BKC[active]
            logits_MAV = model.code_logits(hidden_MAD, level)
            logits_MAC = logits_MAV.gather(2, tables.codes[level][child_AC].expand(num, -1, -1))
            logprobs_MAC = torch.where(exists_AC, logits_MAC, _NEVER).log_softmax(dim=-1)
            if all_active:
                logprobs_MBKC = logprobs_MAC.view(num, *child_BKC.shape)
            else:
                logprobs_MBKC = logprobs_MBKC.repeat(num, 1, 1, 1)
                logprobs_MBKC[:, active[0], active[1]] = logprobs_MAC

        log_mass_MBKC = beams.log_mass_MBK[..., None] + logprobs_MBKC
        scores_BKC = _mixed(log_mass_MBKC, log_weights_MB)
        if batch.filter is not None or batch.known is not None:
            boundary_BKX = torch.cat([place_BKC, end_BK[..., None]], dim=2).minimum(end_BK[..., None])
            leaves_BKX = tables.leaf_begin[level + 1][boundary_BKX]
            if batch.known is not None:
                known_BX = batch.known.log_mass(leaves_BKX[..., :-1].flatten(1), leaves_BKX[..., 1:].flatten(1))
                known_BKC = torch.where(beams.scores_BK[..., None] > _NEVER, known_BX.view_as(scores_BKC), _NEVER)
                scores_BKC = torch.logaddexp(scores_BKC, known_BKC)
            if batch.filter is not None:
                scores_BKC = torch.where(batch.filter.any_allowed(leaves_BKX), scores_BKC, _NEVER)
        tokens = model.vocabulary.first_code(level) + tables.codes[level]
        beams, best_cut_B = _keep_best(beams, scores_BKC, log_mass_MBKC, child_BKC, tokens, beam_width)
        best_pruned_B = torch.maximum(best_pruned_B, best_cut_B)
    return _result(beams, batch.num_results_B, best_pruned_B, walk)


def _mixed(log_mass_MX: Tensor, log_weights_MB: Tensor) -> Tensor:
    """log sum_m w_m p_m of log-masses p, float32[M, B, ...]. Weight 0 or mass 0 is -inf, never NaN."""
    weighted_MX = log_mass_MX + log_weights_MB.view(*log_weights_MB.shape, *[1] * (log_mass_MX.ndim - 2))
    if len(weighted_MX) == 1:
        return weighted_MX[0]
    if len(weighted_MX) == 2:
        return torch.logaddexp(weighted_MX[0], weighted_MX[1])
    return torch.logsumexp(weighted_MX, dim=0)


def _keep_best(
    beams: _Beams, scores_BKC: Tensor, log_mass_MBKC: Tensor, child_BKC: Tensor, tokens: Tensor, beam_width: int
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
    nodes_BK = child_BKC.flatten(1).gather(1, index_BK)
    added_BK2 = torch.stack([tokens[nodes_BK], torch.full_like(nodes_BK, -1)], dim=2)
    path_BKl2 = beams.path_BKl2
    if path_BKl2.shape[2]:
        rows_BK = torch.arange(len(index_BK), device=index_BK.device)[:, None]
        path_BKl2 = torch.cat([path_BKl2[rows_BK, index_BK // width_C], added_BK2[:, :, None]], dim=2)
    else:
        path_BKl2 = added_BK2[:, :, None]
    log_mass_MBK = log_mass_MBKC.flatten(2).gather(2, index_BK.expand(len(log_mass_MBKC), -1, -1))
    return _Beams(nodes_BK, scores_BK, log_mass_MBK, path_BKl2), best_cut_B


class _Walk:
    """Feeds tokens of beams to the model, in runs, and remembers how many lie there."""

    def __init__(self, model: LanguageModel, history: ReadHistory) -> None:
        self._model = model
        self._history = history
        self._fed_slots = 0
        self.passes = 0
        self.tokens_fed = 0

    def hidden_of(self, path_BKl2: Tensor, active_BK: Tensor, active: tuple[Tensor, ...]) -> Tensor:
        """The hidden state behind the last code of every active beam, float[M, A, D].

        What an active beam has not fed yet is fed in one run; its slots are written into ``path_BKl2``.
        """
        device = path_BKl2.device
        slots_BKl = path_BKl2[..., 1]
        b, k, depth = (active_BK[..., None] & (slots_BKl < 0)).nonzero(as_tuple=True)
        place = torch.arange(len(b), device=device)
        length = len(b)
        if len(path_BKl2) > 1:
            fed_B = torch.bincount(b, minlength=len(path_BKl2))
            place = place - (fed_B.cumsum(0) - fed_B)[b]
            length = int(fed_B.max())
        seen, self._fed_slots = self._fed_slots, self._fed_slots + length
        slots_BKl[b, k, depth] = seen + place

        own_Xl = slots_BKl[b, k]
        if len(b) > len(active[0]):
            later_Xl = torch.arange(own_Xl.shape[1], device=device) > depth[:, None]
            own_Xl = torch.where(later_Xl, own_Xl[:, :1], own_Xl)
        visible_XS = torch.zeros(len(b), self._fed_slots, dtype=torch.bool, device=device)
        visible_XS.scatter_(1, own_Xl, True)

        def in_rows(values_X: Tensor, padding: int) -> Tensor:
            """One row a request, padded on the right."""
            if len(path_BKl2) == 1:
                return values_X[None]
            rows = values_X.new_full((len(path_BKl2), length, *values_X.shape[1:]), padding)
            rows[b, place] = values_X
            return rows

        hidden_MBTD = self._model.extend(
            self._history,
            in_rows(path_BKl2[b, k, depth, 0], self._model.vocabulary.pad),
            in_rows(depth, 0),
            in_rows(visible_XS, False),
        )
        self.passes += 1
        self.tokens_fed += len(b)
        if len(path_BKl2) == 1 and len(b) == len(active[0]):
            return hidden_MBTD[:, 0]
        return hidden_MBTD[:, active[0], slots_BKl[active[0], active[1], -1] - seen]


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
