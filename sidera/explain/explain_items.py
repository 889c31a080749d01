"""Explains recommended items, by reading them once more.

Two batches for each query that asks for it: the prompt once for each item, with the item's codes behind it; and the
prompt once for each item of the history that was read, without that one, searched among the recommended items alone. So
a history of H items costs about as much as H requests. Nothing else pays for it.

Shapes: M distributions (0 universal, 1 the domain's), K items, L levels, V codes of a level, D hidden width.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sidera.catalog import Catalog
from sidera.decoding.leaf_filter import LeafSet
from sidera.explain.item_explanation import CodeProbability, HistoryEffect, ItemExplanation, OtherCode, Parts
from sidera.item_scores import read_levels
from sidera.items.neighbours import Found
from sidera.queries import Query, Recommendation

if TYPE_CHECKING:
    from sidera.recommender import Recommender, Understood

OTHER_CODES = 3
"""Codes that are told beside each code of an item."""


def explained(recommender: "Recommender", query: Query, asked: "Understood", answer: Recommendation) -> Recommendation:
    """The same answer, its items with their explanations."""
    if not answer.items:
        return answer
    leaves = [recommender.leaf(query.domain, item.item_id) for item in answer.items]
    codes, gamma, chances = _codes(recommender, query, asked, leaves, [item.sid for item in answer.items])
    parts = _parts(recommender, query, asked, [item.item_id for item in answer.items], leaves, chances)
    effects = _effects(recommender, query, asked, leaves, [item.score for item in answer.items])
    items = [
        replace(item, explanation=ItemExplanation(own_codes, gamma, own_parts, own_effects))
        for item, own_codes, own_parts, own_effects in zip(answer.items, codes, parts, effects, strict=True)
    ]
    return replace(answer, items=tuple(items))


def _codes(
    recommender: "Recommender",
    query: Query,
    asked: "Understood",
    leaves: Sequence[int],
    sids: Sequence[tuple[int, ...]],
) -> tuple[list[tuple[CodeProbability, ...]], float, list[float]]:
    """The codes' probabilities of every item, gamma, and the probability that the language model gives to each."""
    model, count = recommender.model, len(leaves)
    mixture = model.mixture([query.domain]).repeated(0, count)
    leaves_K = torch.tensor(leaves, device=model.device)
    levels, codes_LK, hidden_MKD = read_levels(
        model, recommender.tables, [asked.prompt] * count, leaves_K, mixture.adapters_B
    )
    num = mixture.num_distributions
    log_weights_MK = mixture.log_weights(hidden_MKD[-num:])
    steps = [
        _step(logprobs_MKV, codes_K, log_weights_MK) for logprobs_MKV, codes_K in zip(levels, codes_LK, strict=True)
    ]
    log_mass_MKL = torch.stack([own_MK for own_MK, _ in steps], dim=2)
    chance_K = torch.logsumexp(log_mass_MKL[-num:].sum(dim=2) + log_weights_MK, dim=0).exp()
    alone = float(mixture.adapters_B is not None)
    gamma = alone if num == 1 else float(log_weights_MK[1, 0].exp())
    universal, *domain = log_mass_MKL.exp().tolist()
    own = domain[0] if domain else [[None] * len(sid) for sid in sids]
    others = zip(*(beside for _, beside in steps), strict=True)
    codes = [tuple(map(CodeProbability, *of_item)) for of_item in zip(sids, universal, own, others, strict=True)]
    return codes, gamma, chance_K.tolist()


def _step(logprobs_MKV: Tensor, codes_K: Tensor, log_weights_MK: Tensor) -> tuple[Tensor, list[tuple[OtherCode, ...]]]:
    """Of one level: the log-probability of each item's code, float32[M, K], and for each item the likeliest others."""
    own_MK = logprobs_MKV.gather(2, codes_K.expand(len(logprobs_MKV), -1)[..., None])[..., 0]
    num = len(log_weights_MK)
    mixed_KV = torch.logsumexp(logprobs_MKV[-num:] + log_weights_MK[..., None], dim=0)
    mixed_KV = mixed_KV.scatter(1, codes_K[:, None], -math.inf)
    log_chance_KO, other_KO = mixed_KV.topk(min(OTHER_CODES, mixed_KV.shape[1]), dim=1)
    chances_MKO = logprobs_MKV.gather(2, other_KO.expand(len(logprobs_MKV), -1, -1)).exp()
    universal, *domain = chances_MKO.tolist()
    own = domain[0] if domain else [[None] * other_KO.shape[1]] * len(other_KO)
    beside = []
    for row, there in enumerate(log_chance_KO.isfinite().tolist()):
        of_item = zip(other_KO[row].tolist(), universal[row], own[row], there, strict=True)
        beside.append(tuple(OtherCode(code, shared, alone) for code, shared, alone, is_there in of_item if is_there))
    return own_MK, beside


def _parts(
    recommender: "Recommender",
    query: Query,
    asked: "Understood",
    item_ids: Sequence[str],
    leaves: Sequence[int],
    chances: Sequence[float],
) -> list[Parts]:
    """What the mixture's parts add to each item's probability."""
    neighbours = recommender.neighbours
    if neighbours is None:
        return [Parts(chance) for chance in chances]
    known = neighbours.known_of(query.domain, asked.own)
    shares = known.shares
    followed = _weighed(shares.transitions, known.followers, recommender.catalog)
    alike = _weighed(shares.similar, known.likes, recommender.catalog)
    rest = max(1.0 - shares.popularity - sum(followed.values()) - sum(alike.values()), 0.0)
    parts = []
    for item_id, leaf, chance in zip(item_ids, leaves, chances, strict=True):
        number = recommender.catalog.find(query.domain, item_id)
        assert number is not None
        parts.append(
            Parts(
                language_model=rest * chance,
                followed=followed.get(number, 0.0),
                alike=alike.get(number, 0.0),
                popular=shares.popularity * recommender.popularity(leaf),
            )
        )
    return parts


def _weighed(share: float, found: Found, catalog: Catalog) -> dict[int, float]:
    """A share of these masses, by item number. Of items that were removed the language model has the share."""
    here_S = catalog.leaves(found[0]) >= 0
    pairs = zip(found[0][here_S].tolist(), found[1][here_S].tolist(), strict=True)
    return {number: share * mass for number, mass in pairs}


def _effects(
    recommender: "Recommender", query: Query, asked: "Understood", leaves: Sequence[int], scores: Sequence[float]
) -> list[tuple[HistoryEffect, ...]]:
    """For every item what each item of the history that was read did for it; the window of the history stays."""
    read = range(asked.first_read, len(asked.known))
    if not read:
        return [()] * len(leaves)
    search_all = Query(query.domain, num_results=len(leaves))
    only = LeafSet.of(leaves)
    without = [replace(recommender.without(query, asked, place), allowed=only) for place in read]
    found = recommender.search([search_all] * len(without), without, len(leaves))
    effects: list[list[HistoryEffect]] = [[] for _ in leaves]
    for row, place in enumerate(read):
        domain, number = asked.known[place]
        item_id, _ = recommender.catalog.name(number)
        own = slice(int(found.counts_B[row]))
        score_of = dict(zip(found.leaves_BK[row, own].tolist(), found.scores_BK[row, own].tolist(), strict=True))
        for of_item, leaf, score in zip(effects, leaves, scores, strict=True):
            effect = score - score_of.get(leaf, -math.inf)
            of_item.append(HistoryEffect(asked.places[place], domain, item_id, effect))
    return [tuple(sorted(of_item, key=lambda one: -abs(one.effect))) for of_item in effects]
