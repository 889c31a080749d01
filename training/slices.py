"""Which targets of a domain are of a kind: of cold users, short and long histories, several domains, rare or new items.

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

NEW_DAYS = 180
"""An item whose first train event came at most so many days before the target is new."""

_DAY = 86_400

MEANING = {
    "cold": f"at most {COLD_EVENTS} train events in the domain",
    "short": f"a history of at most {SHORT_HISTORY} events",
    "long": f"a history of at least {LONG_HISTORY} events",
    "several": "a history of several domains",
    "rare": f"an item with fewer than {RARE_EVENTS} train events",
    "known": f"an item with at least {RARE_EVENTS} train events",
    "new": f"an item first seen in training at most {NEW_DAYS} days before, or never",
    "old": f"an item first seen in training more than {NEW_DAYS} days before",
}
"""What each slice holds, in words."""


def members(events: Events, asked: Sequence[Target]) -> dict[str, npt.NDArray[np.bool_]]:
    """Which targets each slice holds, bool[N] by its name.

    Train events that are held out for the user router count as train events. Targets whose time is a position are
    neither of new nor of old items.
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
    age_N = _item_ages(events, train, asked)
    several_N = [len({domain for domain, _ in (*t.history, (t.domain, t.item))}) > 1 for t in asked]
    return {
        "cold": train_N <= COLD_EVENTS,
        "short": length_N <= SHORT_HISTORY,
        "long": length_N >= LONG_HISTORY,
        "several": np.array(several_N, dtype=bool),
        "rare": item_N < RARE_EVENTS,
        "known": item_N >= RARE_EVENTS,
        "new": age_N <= NEW_DAYS * _DAY,
        "old": age_N > NEW_DAYS * _DAY,
    }


def _item_ages(events: Events, train_E: npt.NDArray[np.bool_], asked: Sequence[Target]) -> npt.NDArray[np.float64]:
    """Seconds from an item's first train event to the target, float64[N]: 0 without such an event, NaN without a time.

    The target's time is that of the user's last event with its item.
    """
    real_E = events.real_time_E
    items = 1 + max([int(events.item_E.max(initial=0)), *(target.item for target in asked)])
    domains = 1 + max([int(events.domain_E.max(initial=0)), *(target.domain for target in asked)])
    item_E = (events.domain_E.astype(np.int64) * items + events.item_E)[real_E]
    owned_E = events.user_E[real_E].astype(np.int64) * domains * items + item_E
    time_E = events.time_E[real_E].astype(np.float64)
    first_I = np.full(domains * items, np.inf)
    np.minimum.at(first_I, item_E[train_E[real_E]], time_E[train_E[real_E]])
    item_N = np.array([target.domain * items + target.item for target in asked], dtype=np.int64)
    owned_N = np.array([target.user for target in asked], dtype=np.int64) * domains * items + item_N
    order_E = np.argsort(owned_E, kind="stable")  # a user's events stand by time
    place_N = np.searchsorted(owned_E[order_E], owned_N, side="right") - 1
    found_N = place_N >= 0
    found_N[found_N] = owned_E[order_E[place_N[found_N]]] == owned_N[found_N]
    time_N = np.full(len(asked), np.nan)
    time_N[found_N] = time_E[order_E[place_N[found_N]]]
    age_N: npt.NDArray[np.float64] = time_N - np.minimum(first_I[item_N], time_N)
    return age_N


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
