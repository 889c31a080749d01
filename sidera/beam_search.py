"""Constrained beam search over the SIDs that exist.

The history is read once per request. At each level all beams of a request are one run of tokens in the sequence
dimension; a mask shows each token the history and its own ancestors, so keys and values are never copied or reordered.
Every node's children get a softmax over **all** children of this catalog version; a filter only decides afterwards
which of them may go on, so every score equals exhaustive scoring. A node with one child needs no scores: its beam goes
down without a forward pass, and its token is fed later, in the pass that first needs it. A beam whose subtree holds one
leaf is finished. Where few children branch again they are fed with their parents, and the next level needs no pass.

This module must not know items, domains, text or HTTP: it sees tokens, nodes and leaves.

Shapes: M mixed distributions, B batch, K beams, C children, L levels, l levels walked so far, P history tokens, T
tokens of one run, S tokens of the search so far, A active beams (those that need scores), V codes of a level, D hidden
width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sidera.decoding.beams import NEVER, Beams, Children, best_children, best_of_every_prefix, in_order
from sidera.decoding.diversity import PrefixCaps
from sidera.decoding.known_mass import KnownMass
from sidera.decoding.leaf_filter import LeafFilter
from sidera.decoding.sampling import Draws, Sampler
from sidera.decoding.walk import Walk
from sidera.errors import SearchError
from sidera.language_model import LanguageModel
from sidera.model.user_router import Mixture
from sidera.stages import stage_ended
from sidera.trie import TrieTables


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
        caps: how many leaves of one prefix may come back; None: any number.
        sampler: which requests draw their leaves at random; None: none does.
    """

    tokens_BP: Tensor
    lengths_B: Tensor
    roots_B: Tensor
    mixture: Mixture
    num_results_B: Tensor
    filter: LeafFilter | None = None
    known: KnownMass | None = None
    caps: PrefixCaps | None = None
    sampler: Sampler | None = None


@dataclass(frozen=True)
class SearchResult:
    """What a search found, best first, of equal scores the first in SID order first; drawn leaves in the order drawn.

    Attributes:
        leaves_BK: Shape: int64[B, K].
        scores_BK: item-level log-probabilities. Shape: float32[B, K].
        counts_B: how many columns of each row are results; fewer than asked when fewer are allowed. Shape: int64[B].
        certified_B: whether no wider beam would find other leaves: the last result is at least as good as the best
            prefix that was pruned (a prefix bounds its leaves). Of drawn leaves: whether their distribution is the one
            asked for, without a bias of the beams. Shape: bool[B].
        passes: forward passes after the prefill, 0..L-1.
        tokens_fed: tokens of those passes, padding not counted.
    """

    leaves_BK: Tensor
    scores_BK: Tensor
    counts_B: Tensor
    certified_B: Tensor
    passes: int
    tokens_fed: int


@torch.no_grad()
def beam_search(model: LanguageModel, tables: TrieTables, batch: SearchBatch, beam_width: int) -> SearchResult:
    """Find the best leaves of each request.

    Args:
        model: reads prompts and scores codes.
        tables: the tries of the catalog, on the model's device.
        batch: the requests.
        beam_width: beams kept at every level; at least the largest ``num_results``. More than there are leaves are as
            many as there are leaves.

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
    stage_ended("prefill", device)
    if batch.known is not None:
        log_weights_MB = log_weights_MB + batch.known.log_rest_B
    walk = Walk(model, history)
    nothing_B1 = torch.zeros(size, 1, device=device)
    beams = Beams(
        nodes_BK=batch.roots_B[:, None],
        scores_BK=nothing_B1,
        rank_BK=nothing_B1,
        log_mass_MBK=torch.zeros(num, size, 1, device=device),
        path_BKl2=torch.empty(size, 1, 0, 2, dtype=torch.int64, device=device),
        draws=None if batch.sampler is None else batch.sampler.root(),
    )
    best_pruned_B = torch.full((size,), NEVER, device=device)
    both_ends = torch.arange(2, device=device)
    for level in range(tables.num_levels):
        begin_BK, end_BK = tables.first_child[level][beams.nodes_BK[..., None] + both_ends].unbind(-1)
        count_BK = end_BK - begin_BK
        active_BK = (count_BK > 1) & (beams.scores_BK > NEVER)
        active = active_BK.nonzero(as_tuple=True)
        step_X = torch.arange(int(count_BK.max()) + 1, device=device)
        exists_BKC = step_X[:-1] < count_BK[..., None]
        place_BKX = begin_BK[..., None] + step_X
        child_BKC = place_BKX[..., :-1].clamp_max(len(tables.codes[level]) - 1)

        all_active = len(active[0]) == count_BK.numel()
        logprobs_MBKC = torch.where(exists_BKC, 0.0, NEVER)[None]
        slots_BX = None
        if len(active[0]):
            if level > 0:
                ahead = None
                if level + 1 < tables.num_levels and walk.fed_depth != level:
                    alive_BKC = exists_BKC & (beams.scores_BK[..., None] > NEVER)
                    ahead = walk.look_ahead(tables, level, child_BKC, alive_BKC)
                hidden_MAD, slots_Y = walk.hidden_of(beams.path_BKl2, active_BK, active, ahead)
                if ahead is not None and slots_Y is not None:
                    slots_BX = torch.full_like(child_BKC, -1).index_put_(ahead.places, slots_Y).flatten(1)
            else:
                hidden_MAD = hidden_MBD if all_active else hidden_MBD[:, active[0]]
            child_AC = child_BKC.flatten(0, 1) if all_active else child_BKC[active]
            exists_AC = exists_BKC.flatten(0, 1) if all_active else exists_BKC[active]
            logits_MAV = model.code_logits(hidden_MAD, level)
            logits_MAC = logits_MAV.gather(2, tables.codes[level][child_AC].expand(num, -1, -1))
            logprobs_MAC = torch.where(exists_AC, logits_MAC, NEVER).log_softmax(dim=-1)
            if all_active:
                logprobs_MBKC = logprobs_MAC.view(num, *child_BKC.shape)
            else:
                logprobs_MBKC = logprobs_MBKC.repeat(num, 1, 1, 1)
                logprobs_MBKC[:, active[0], active[1]] = logprobs_MAC

        log_mass_MBKC = beams.log_mass_MBK[..., None] + logprobs_MBKC
        scores_BKC = _mixed(log_mass_MBKC, log_weights_MB)
        if batch.filter is not None or batch.known is not None:
            leaves_BKX = tables.leaf_begin[level + 1][place_BKX.minimum(end_BK[..., None])]
        if batch.known is not None:
            known_BKC = batch.known.log_mass(leaves_BKX)
            known_BKC.masked_fill_((beams.scores_BK == NEVER)[..., None], NEVER)
            scores_BKC = torch.logaddexp(scores_BKC, known_BKC)
        draws_BKC = None
        if batch.sampler is not None and beams.draws is not None:
            draws_BKC = batch.sampler.children(beams.draws, scores_BKC, tables.codes[level][child_BKC])
        if batch.filter is not None:
            scores_BKC = torch.where(batch.filter.any_allowed(leaves_BKX), scores_BKC, NEVER)
        children = _children(batch, beams, level + 1, child_BKC, scores_BKC, log_mass_MBKC, draws_BKC, slots_BX)
        if batch.caps is not None and level + 1 < tables.num_levels:
            index_BK, best_cut_B = best_of_every_prefix(children, batch.caps, beam_width)
        else:
            children = children if batch.caps is None else children.capped(batch.caps)
            index_BK, best_cut_B = best_children(children.rank_BX, children.nodes_BX, beam_width)
        beams = children.chosen(beams, index_BK, tables.codes[level], model.vocabulary.first_code(level))
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


def _children(
    batch: SearchBatch,
    beams: Beams,
    level: int,
    child_BKC: Tensor,
    scores_BKC: Tensor,
    log_mass_MBKC: Tensor,
    draws_BKC: Draws | None,
    slots_BX: Tensor | None,
) -> Children:
    """The children of all beams side by side, with what they are compared by; ``level`` is how many codes they have."""
    nodes_BX = child_BKC.flatten(1)
    scores_BX = rank_BX = scores_BKC.flatten(1)
    if batch.sampler is not None and draws_BKC is not None:
        rank_BX = batch.sampler.rank(draws_BKC, scores_BKC).flatten(1)
    prefix_BX = None
    if batch.caps is not None:
        parents_BX = beams.prefix_BK
        if parents_BX is not None:
            parents_BX = parents_BX.repeat_interleave(child_BKC.shape[2], dim=1)
        prefix_BX = batch.caps.prefixes(level, parents_BX, nodes_BX)
    return Children(nodes_BX, scores_BX, rank_BX, log_mass_MBKC.flatten(2), draws_BKC, prefix_BX, slots_BX)


def _result(beams: Beams, num_results_B: Tensor, best_pruned_B: Tensor, walk: Walk) -> SearchResult:
    if bool(beams.scores_BK.isnan().any()):
        raise SearchError("the model's scores are NaN; the bundle's weights are damaged or overflow in this precision")
    order_BK = in_order(beams.rank_BK, beams.nodes_BK)
    rank_BK, scores_BK = beams.rank_BK.gather(1, order_BK), beams.scores_BK.gather(1, order_BK)
    counts_B = torch.minimum((scores_BK > NEVER).sum(1), num_results_B)
    last_BK = rank_BK.gather(1, (counts_B - 1).clamp_min(0)[:, None])
    worst_B = torch.where(counts_B == num_results_B, last_BK[:, 0], NEVER)
    return SearchResult(
        leaves_BK=beams.nodes_BK.gather(1, order_BK),
        scores_BK=scores_BK,
        counts_B=counts_B,
        certified_B=worst_B >= best_pruned_B,
        passes=walk.passes,
        tokens_fed=walk.tokens_fed,
    )
