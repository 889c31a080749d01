"""Makes the lists of :mod:`sidera.items.neighbours`: what followed an item in the train part, and what is like it.

Knows item numbers of one domain (0..I-1), and puts all domains' lists together by the bundle's numbers.

Shapes: I items of a domain, N items of the bundle, D item vector dim, E events, X entries of all lists.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from sidera.items.borrowing import FEW, NEAREST
from sidera.items.neighbours import NeighbourLists
from sidera.items.transitions import TransitionRule, pairs_of
from sidera.items.unit_vectors import unit_rows
from training.neighbours_config import NeighboursConfig
from training.progress import track
from training.split import Events, Part

_SCORES_AT_ONCE = 16_000_000


def rule_of(config: NeighboursConfig, events: Events) -> TransitionRule:
    """What an event adds; counts are of the time of the newest train event that has a real one.

    Where none has, nothing fades: no time would be theirs, and a later event would count as if they were ages old.
    """
    real_E = _trained(events) & events.real_time_E
    newest = float(events.time_E[real_E].max(initial=0))
    half_life_days = config.half_life_days if real_E.any() else None
    return TransitionRule(config.window, config.backward, config.longest, half_life_days, newest)


def trained_until(events: Events, domain: int) -> float | None:
    """The time of a domain's newest train event, unix seconds; None where times are positions, or none is there."""
    real_E = _train(events, domain) & events.real_time_E
    return float(events.time_E[real_E].max()) if real_E.any() else None


def transitions_of(events: Events, domain: int, num_items: int, rule: TransitionRule) -> sp.csr_matrix:
    """How often an item came near each other one in the train part's sequences of its domain: float32[I, I]."""
    train_E = np.flatnonzero(_train(events, domain))
    time_E = np.where(events.real_time_E[train_E], events.time_E[train_E], rule.reference)
    before_X, after_X, count_X = pairs_of(
        events.item_E[train_E], time_E, np.ones(len(train_E)), rule, user_E=events.user_E[train_E]
    )
    counted = sp.coo_matrix((count_X, (before_X, after_X)), shape=(num_items, num_items)).tocsr()
    counted.eliminate_zeros()
    return _longest(counted, rule.longest)


def similar_of(vectors_ID: npt.NDArray[np.floating], config: NeighboursConfig, label: str) -> sp.csr_matrix:
    """The nearest items of each, with exp((cosine - 1) / temperature); none of zero vectors. Shape: float32[I, I]."""
    count, nearest = len(vectors_ID), min(config.nearest, len(vectors_ID) - 1)
    if nearest < 1:
        return sp.csr_matrix((count, count), dtype=np.float32)
    unit_ID = unit_rows(vectors_ID)
    told_I = np.any(unit_ID, axis=1)
    item_IK = np.empty((count, nearest), dtype=np.int64)
    weight_IK = np.empty((count, nearest), dtype=np.float32)
    at_once = max(1, _SCORES_AT_ONCE // count)
    with track(f"items alike: {label}", count) as advance:
        for begin in range(0, count, at_once):
            rows = np.arange(begin, min(begin + at_once, count))
            cosine_RI = unit_ID[rows] @ unit_ID.T
            cosine_RI[np.arange(len(rows)), rows] = -np.inf
            item_RK = np.argpartition(-cosine_RI, nearest - 1, axis=1)[:, :nearest]
            cosine_RK = np.take_along_axis(cosine_RI, item_RK, axis=1)
            item_IK[rows] = item_RK
            told_RK = told_I[rows][:, None] & told_I[item_RK]
            weight_IK[rows] = np.where(told_RK, np.exp((cosine_RK - 1) / config.temperature), 0)
            advance(len(rows))
    begin_I = np.arange(count + 1, dtype=np.int64) * nearest
    found = sp.csr_matrix((weight_IK.ravel(), item_IK.ravel(), begin_I), shape=(count, count))
    found.eliminate_zeros()
    found.sort_indices()
    return found


def popularity_of(events: Events, domain: int, num_items: int) -> npt.NDArray[np.float32]:
    """The share of each item in the train events of its domain. Shape: float32[I]; zeros where there are none."""
    count_I = counts_of(events, domain, num_items)
    share_I: npt.NDArray[np.float32] = (count_I / max(1, count_I.sum())).astype(np.float32)
    return share_I


def borrowers_of(similar: sp.csr_matrix, count_I: npt.NDArray[np.integer]) -> sp.csr_matrix:
    """What part of an item's mass in a list of followers each hardly known item borrows: float32[I, I].

    Args:
        similar: the items alike of each.
        count_I: train events of each.
    """
    kept = _longest(similar, NEAREST)
    row_X = np.repeat(np.arange(kept.shape[0]), np.diff(kept.indptr))
    whole_I = np.bincount(row_X, weights=kept.data, minlength=kept.shape[0])
    wanting_I = np.maximum(0, 1 - count_I / FEW)
    part_X = (wanting_I[row_X] * kept.data / whole_I[row_X]).astype(np.float32)
    borrowed = sp.coo_matrix((part_X, (kept.indices, row_X)), shape=kept.shape).tocsr()
    borrowed.eliminate_zeros()
    return borrowed


def counts_of(events: Events, domain: int, num_items: int) -> npt.NDArray[np.int64]:
    """The train events of each item of a domain. Shape: int64[I]."""
    count_I: npt.NDArray[np.int64] = np.bincount(events.item_E[_train(events, domain)], minlength=num_items)
    return count_I


def joined(
    lists: Mapping[str, sp.csr_matrix], numbers: Mapping[str, npt.NDArray[np.int64]], num_items: int
) -> NeighbourLists:
    """The lists of all domains by the bundle's item numbers.

    Args:
        numbers: of each domain's items. Shape: int64[I].
        num_items: N.
    """
    length_N = np.zeros(num_items, dtype=np.int64)
    for name, own in lists.items():
        length_N[numbers[name]] = np.diff(own.indptr)
    begin_N = np.concatenate([[0], np.cumsum(length_N)])
    item_X = np.empty(begin_N[-1], dtype=np.int32)
    weight_X = np.empty(begin_N[-1], dtype=np.float32)
    for name, own in lists.items():
        row_X = np.repeat(np.arange(own.shape[0]), np.diff(own.indptr))
        place_X = begin_N[numbers[name]][row_X] + np.arange(len(row_X)) - own.indptr[row_X]
        item_X[place_X] = numbers[name][own.indices]
        weight_X[place_X] = own.data
    return NeighbourLists(begin_N, item_X, weight_X)


def _train(events: Events, domain: int) -> npt.NDArray[np.bool_]:
    """The train events of a domain. bool[E]."""
    own_E: npt.NDArray[np.bool_] = _trained(events) & (events.domain_E == domain)
    return own_E


def _trained(events: Events) -> npt.NDArray[np.bool_]:
    """All train events, those that were held out for the user router included. bool[E]."""
    trained_E: npt.NDArray[np.bool_] = np.isin(events.part_E, (Part.TRAIN, Part.ROUTER))
    return trained_E


def _longest(counted: sp.csr_matrix, longest: int) -> sp.csr_matrix:
    """The largest entries of every row; of equal ones those of the lower column."""
    row_X = np.repeat(np.arange(counted.shape[0]), np.diff(counted.indptr))
    order = np.lexsort((counted.indices, -counted.data, row_X))
    place_X = np.arange(len(row_X)) - counted.indptr[row_X]
    kept = order[place_X < longest]
    entries = (counted.data[kept].astype(np.float32), (row_X[kept], counted.indices[kept]))
    return sp.coo_matrix(entries, shape=counted.shape).tocsr()
