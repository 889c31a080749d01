"""Which targets of a domain are of a kind: of cold users, short and long histories, several domains, rare items.

A target may be in several slices, or in none. Shapes: N targets.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from training.metrics import bootstrap_interval, ndcg_values, recall_values
from training.split import Events, Part, Target

COLD_EVENTS = 3
"""A user with at most so many train events in the target's domain is cold."""

SHORT_HISTORY = 5
"""At most so many events, of all domains, are a short history."""

LONG_HISTORY = 20
"""At least so many events, of all domains, are a long one."""

RARE_EVENTS = 5
"""An item with fewer train events is rare."""

MEANING = {
    "cold": f"at most {COLD_EVENTS} train events in the domain",
    "short": f"a history of at most {SHORT_HISTORY} events",
    "long": f"a history of at least {LONG_HISTORY} events",
    "several": "a history of several domains",
    "rare": f"an item with fewer than {RARE_EVENTS} train events",
    "known": f"an item with at least {RARE_EVENTS} train events",
}
"""What each slice holds, in words."""


def members(events: Events, asked: Sequence[Target]) -> dict[str, npt.NDArray[np.bool_]]:
    """Which targets each slice holds, bool[N] by its name.

    Train events that are held out for the user router count as train events.
    """
    train = np.isin(events.part_E, (Part.TRAIN, Part.ROUTER))
    domains = int(events.domain_E.max(initial=0)) + 1
    count = np.bincount(events.user_E[train].astype(np.int64) * domains + events.domain_E[train])
    key_N = np.array([target.user * domains + target.domain for target in asked], dtype=np.int64)
    known_N = key_N < len(count)
    train_N = np.where(known_N, count[np.where(known_N, key_N, 0)], 0) if len(count) else np.zeros(len(asked))
    item_N = np.empty(len(asked), dtype=np.int64)
    for domain in {target.domain for target in asked}:
        own = np.array([row for row, target in enumerate(asked) if target.domain == domain])
        item_of_own = np.array([asked[row].item for row in own])
        events_I = np.bincount(events.item_E[train & (events.domain_E == domain)], minlength=item_of_own.max() + 1)
        item_N[own] = events_I[item_of_own]
    length_N = np.array([len(target.history) for target in asked])
    several_N = [len({domain for domain, _ in (*t.history, (t.domain, t.item))}) > 1 for t in asked]
    return {
        "cold": train_N <= COLD_EVENTS,
        "short": length_N <= SHORT_HISTORY,
        "long": length_N >= LONG_HISTORY,
        "several": np.array(several_N, dtype=bool),
        "rare": item_N < RARE_EVENTS,
        "known": item_N >= RARE_EVENTS,
    }


def slice_report(
    ranks: Mapping[str, npt.NDArray[np.int64]],
    events: Events,
    asked: Sequence[Target],
    model: str,
    places: int,
    seed: int,
) -> dict[str, Any]:
    """Each slice that holds a target: the model's figures with bootstrap intervals, and the floors' beside them.

    Args:
        ranks: of the targets, int64[N], by ranker.
        model: whose intervals are made; all others are floors.
    """
    told: dict[str, Any] = {}
    for name, member_N in members(events, asked).items():
        if not member_N.any():
            continue
        figures: dict[str, Any] = {"targets": int(member_N.sum())}
        for figure, values in (("recall", recall_values), ("ndcg", ndcg_values)):
            interval = bootstrap_interval(values(ranks[model][member_N], places), seed)
            figures[f"{figure}@{places}"] = interval.mean
            figures[f"{figure}@{places}_interval"] = [interval.low, interval.high]
        figures["floors"] = {
            floor: {f"ndcg@{places}": float(ndcg_values(rank_N[member_N], places).mean())}
            for floor, rank_N in ranks.items()
            if floor != model
        }
        told[name] = figures
    return told
