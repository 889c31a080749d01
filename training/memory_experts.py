"""What every part of the mixture is worth: alone, with each other one, and all together.

The candidates are those of :mod:`training.memory_proposals`: all that the memory lists, and the first 50 of the
language model and of popularity. Parts keep the ratio of their shares, those below 0.01 taken for 0.01, so that each
can stand alone; what followers and items alike leave goes to the language model where it is one of them.

Shapes: N targets, G parts of the mixture, C candidates of one target.
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
from training.memory_proposals import Proposals
from training.memory_router import Asked
from training.metrics import ABSENT, bootstrap_interval, ndcg_values, recall_values
from training.slices import members
from training.split import Events, Target

EXPERTS = ("followers", "alike", "popularity", "language model")
_OURS = 3


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
        index: of the domain.

    Returns:
        By names joined with `` + ``, of all four ``all``: figures, the interval of NDCG@10, and NDCG@10 of each slice;
        empty for a recommender without neighbours, and for a domain without shares of its own, where what followers
        leave goes to items alike.
    """
    listed = recommender.neighbours
    if listed is None or domains[index].name not in listed.shares:
        return {}
    alone = Recommender(recommender.model, recommender.catalog, recommender.max_history, recommender.beam_width)
    proposed = Proposals(alone, listed, domains, index, 0).asked(asked)
    base, router = listed.shares_of(domains[index].name), listed.routers.get(domains[index].name)
    every = [base if router is None else router.shares(base, features_F) for features_F in proposed.features_XF]
    share_NG = np.array([[own.transitions, own.similar, own.popularity] for own in every]).reshape(len(asked), 3)
    share_NG = np.concatenate([share_NG, 1 - share_NG.sum(axis=1, keepdims=True)], axis=1)
    slices = members(events, asked)
    told = {}
    for parts in _parts():
        rank_N = _ranks(proposed, share_NG, parts)
        name = "all" if len(parts) == len(EXPERTS) else " + ".join(EXPERTS[part] for part in parts)
        told[name] = _figures(rank_N, slices, seed)
    return told


def _parts() -> list[tuple[int, ...]]:
    numbers = range(len(EXPERTS))
    return [*combinations(numbers, 1), *combinations(numbers, 2), tuple(numbers)]


def _ranks(proposed: Asked, share_NG: npt.NDArray[np.float64], parts: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Where each target stands among its candidates, from 0; ``ABSENT`` where none of the parts knows it."""
    rank_N = np.full(len(share_NG), ABSENT, dtype=np.int64)
    for row, (own, mass_GC) in enumerate(zip(proposed.candidates, proposed.alone, strict=True)):
        if own.target is None:
            continue
        masses_GC = own.mass_GC if _OURS in parts else mass_GC
        score_C = np.maximum(share_NG[row, parts], LEAST_SHARE) @ masses_GC[list(parts)]
        if score_C[own.target] > 0:
            rank_N[row] = int((score_C > score_C[own.target]).sum())
    return rank_N


def _figures(rank_N: npt.NDArray[np.int64], slices: Mapping[str, npt.NDArray[np.bool_]], seed: int) -> dict[str, Any]:
    ndcg_N = ndcg_values(rank_N, PLACES)
    interval = bootstrap_interval(ndcg_N, seed)
    return {
        f"recall@{PLACES}": float(recall_values(rank_N, PLACES).mean()),
        f"ndcg@{PLACES}": interval.mean,
        f"ndcg@{PLACES}_interval": [interval.low, interval.high],
        "slices": {name: float(ndcg_N[member_N].mean()) for name, member_N in slices.items() if member_N.any()},
    }
