"""What every expert of the mixture is worth: alone, with each other one, and all together.

The experts are the language model's universal and domain distributions, and what the memory has: followers, items
alike, popularity. Candidates are all that the memory lists, the most popular items, and the first 50 of either
distribution, each asked for alone; the mass that a distribution gives to others is taken for 0. Experts keep the ratio
of their shares, those below 0.01 taken for 0.01, so that each can stand alone; what followers and items alike leave
goes to those of the language model that are among them. A target costs two searches of 50 beams, one for either
distribution, and one more reading of its prompt.

Shapes: N targets, G experts, C candidates of one target.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from sidera.items.memory_router import LEAST_SHARE
from sidera.recommender import Recommender
from training.data import DomainData
from training.evaluation import PLACES
from training.expert_masses import Experts, Known, known_to_experts
from training.metrics import ABSENT, bootstrap_interval, ndcg_values, recall_values
from training.slices import members
from training.split import Events, Target


def expert_report(
    recommender: Recommender,
    domains: Sequence[DomainData],
    index: int,
    events: Events,
    asked: Sequence[Target],
    seed: int,
) -> dict[str, Any]:
    """Recall@10 and NDCG@10 of every expert, every pair and all, on some targets of one domain.

    Args:
        recommender: with its neighbours.
        index: of the domain. One that no adapter serves has no ``domain`` expert.

    Returns:
        By names joined with `` + ``, of all experts ``all``: figures, the interval of NDCG@10, and NDCG@10 of each
        slice; empty for a recommender without neighbours, and for a domain without shares of its own, where
        followers have their whole share.
    """
    listed = recommender.neighbours
    if listed is None or domains[index].name not in listed.shares:
        return {}
    experts = known_to_experts(recommender, listed, domains, index, asked)
    slices = members(events, asked)
    told = {}
    for parts in _parts(len(experts.names)):
        name = "all" if len(parts) == len(experts.names) else " + ".join(experts.names[part] for part in parts)
        told[name] = _figures(_ranks(experts, parts), slices, seed)
    return told


def _parts(count: int) -> list[tuple[int, ...]]:
    numbers = range(count)
    return [*combinations(numbers, 1), *combinations(numbers, 2), tuple(numbers)]


def _ranks(experts: Experts, parts: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Where each target stands among its candidates, from 0; ``ABSENT`` where none of the parts knows it."""
    rank_N = np.full(len(experts.known), ABSENT, dtype=np.int64)
    for row, known in enumerate(experts.known):
        if known.target is None:
            continue
        score_C = _scores(known, list(parts), experts.of_model)
        if score_C[known.target] > 0:
            rank_N[row] = int((score_C > score_C[known.target]).sum())
    return rank_N


def _scores(known: Known, parts: list[int], of_model: int) -> npt.NDArray[np.float64]:
    """What some experts together give the candidates: float64[C].

    Args:
        of_model: the first so many experts are the language model's.
    """
    share_G = np.zeros(len(known.share_G))
    share_G[parts] = np.maximum(known.share_G[parts], LEAST_SHARE)
    ours = share_G[:of_model].sum()
    if ours:
        share_G[:of_model] *= 1 + (share_G @ known.left_G) / ours
    score_C: npt.NDArray[np.float64] = share_G @ known.mass_GC
    return score_C


def _figures(rank_N: npt.NDArray[np.int64], slices: Mapping[str, npt.NDArray[np.bool_]], seed: int) -> dict[str, Any]:
    ndcg_N = ndcg_values(rank_N, PLACES)
    interval = bootstrap_interval(ndcg_N, seed)
    return {
        f"recall@{PLACES}": float(recall_values(rank_N, PLACES).mean()),
        f"ndcg@{PLACES}": interval.mean,
        f"ndcg@{PLACES}_interval": [interval.low, interval.high],
        "slices": {name: float(ndcg_N[member_N].mean()) for name, member_N in slices.items() if member_N.any()},
    }
