"""Explains recommended items, by reading them once more.

Two batches for each query that asks for it: the prompt once for each item, with the item's codes behind it; and the
prompt once for each item of the history that was read, without that one, searched among the recommended items alone. So
a history of H items costs about as much as H requests. Nothing else pays for it.

Shapes: M distributions (0 universal, 1 the domain's), K items, L levels, D hidden width.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from sidera.decoding.leaf_filter import LeafSet
from sidera.explain.item_explanation import CodeProbability, HistoryEffect, ItemExplanation, Parts
from sidera.item_scores import read_codes
from sidera.items.neighbours import Found
from sidera.queries import Query, Recommendation

if TYPE_CHECKING:
    from sidera.recommender import Recommender, Understood


def explained(recommender: "Recommender", query: Query, asked: "Understood", answer: Recommendation) -> Recommendation:
    """The same answer, its items with their explanations."""
    if not answer.items:
        return answer
    leaves = [recommender.leaf(query.domain, item.item_id) for item in answer.items]
    codes, gamma, chances = _codes(recommender, query, asked, leaves, [item.sid for item in answer.items])
    parts = _parts(recommender, query, asked, [item.item_id for item in answer.items], chances)
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
    log_mass_MKL, hidden_MKD = read_codes(
        model, recommender.tables, [asked.prompt] * count, leaves_K, mixture.adapters_B
    )
    num = mixture.num_distributions
    log_weights_MK = mixture.log_weights(hidden_MKD[-num:])
    chance_K = torch.logsumexp(log_mass_MKL[-num:].sum(dim=2) + log_weights_MK, dim=0).exp()
    alone = float(mixture.adapters_B is not None)
    gamma = alone if num == 1 else float(log_weights_MK[1, 0].exp())
    universal, *domain = log_mass_MKL.exp().tolist()
    own = domain[0] if domain else [[None] * len(sid) for sid in sids]
    codes = [tuple(map(CodeProbability, *of_item)) for of_item in zip(sids, universal, own, strict=True)]
    return codes, gamma, chance_K.tolist()


def _parts(
    recommender: "Recommender", query: Query, asked: "Understood", item_ids: Sequence[str], chances: Sequence[float]
) -> list[Parts]:
    """What the mixture's parts add to each item's probability."""
    neighbours, catalog = recommender.neighbours, recommender.catalog
    if neighbours is None:
        return [Parts(chance) for chance in chances]
    known = neighbours.known_of(query.domain, asked.own)
    shares = known.shares
    followed = _weighed(shares.transitions, known.followers)
    alike = _weighed(shares.similar, known.likes)
    rest = max(1.0 - shares.popularity - sum(followed.values()) - sum(alike.values()), 0.0)
    parts = []
    for item_id, chance in zip(item_ids, chances, strict=True):
        number = catalog.find(query.domain, item_id)
        assert number is not None
        popular = float(neighbours.popularity[number]) if number < len(neighbours.popularity) else 0.0
        parts.append(
            Parts(
                language_model=rest * chance,
                followed=followed.get(number, 0.0),
                alike=alike.get(number, 0.0),
                popular=shares.popularity * popular,
            )
        )
    return parts


def _weighed(share: float, found: Found) -> dict[int, float]:
    """A share of these masses, by item number."""
    return {number: share * mass for number, mass in zip(found[0].tolist(), found[1].tolist(), strict=True)}


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
