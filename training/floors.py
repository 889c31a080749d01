"""The floors that a model must be above: popularity, item-bigram and content-kNN, at item level.

They count train events only, those that are held out for the user router too. Items of the target's history are not
recommended again, unless ``keep_seen``.
Knows nothing of SIDs or models. Shape legend: N targets, C targets of a chunk, K places, I items of the domain, B items
of a block, D dim, E events.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sidera.items.unit_vectors import unit_rows
from training.progress import track
from training.split import Events, Part, Target

POPULAR_ITEMS = 3000
"""Only so many of the most popular items are recommended for being popular."""

_SCORES_AT_ONCE = 8_000_000
_BLOCK_ITEMS = 16_384


@dataclass(frozen=True, eq=False)
class FloorTask:
    """Recommend ``places`` items of one domain for each of its targets.

    ``domain``: its number, as in ``events`` and ``targets``. ``item_ids``: of that domain. ``targets``: all of that
    domain, with their whole histories (``max_history=None``), since a history says which items are seen.
    """

    events: Events
    domain: int
    item_ids: Sequence[str]
    targets: Sequence[Target]
    places: int = 10
    keep_seen: bool = False


def popularity(task: FloorTask) -> npt.NDArray[np.int32]:
    """The items with most train events, int32[N, K], -1 behind the last; ties by first appearance in the file."""
    popular, _ = _popular(task)
    return _fill(task, ((popular,) for _ in task.targets))


def item_bigram(task: FloorTask) -> npt.NDArray[np.int32]:
    """The items seen most often right after the history's newest, then popular ones, int32[N, K], -1 behind the last.

    Newest of the same domain. Ties of successors by popularity, then by item id.
    """
    popular, count_I = _popular(task)
    successors = _successors(task, count_I)
    nothing: list[int] = []

    def candidates() -> Iterable[tuple[list[int], list[int]]]:
        for target in task.targets:
            newest = _newest(target)
            yield (nothing if newest is None else successors.get(newest, nothing)), popular

    return _fill(task, candidates())


def content_knn(task: FloorTask, vectors_ID: npt.NDArray[np.floating]) -> npt.NDArray[np.int32]:
    """The items nearest by cosine to the history's newest of the same domain, int32[N, K], -1 behind the last.

    Ties by item number. A target with no history in its domain gets none. A vector of zeros is at cosine 0 to all.
    Memory holds a block of the vectors, which may lie on disk.

    Raises:
        ValueError: ``vectors_ID`` has not one row an item.
    """
    items = len(task.item_ids)
    if vectors_ID.shape[0] != items:
        raise ValueError(f"{vectors_ID.shape[0]} vectors are given for {items} items; give one each")
    top_NK = np.full((len(task.targets), task.places), -1, dtype=np.int32)
    asked = [(row, newest) for row, target in enumerate(task.targets) if (newest := _newest(target)) is not None]
    at_once = max(1, _SCORES_AT_ONCE // max(1, min(items, _BLOCK_ITEMS)))
    with track("content-kNN", total=len(asked)) as advance:
        for begin in range(0, len(asked), at_once):
            row_C, newest_C = np.array(asked[begin : begin + at_once]).T
            seen = [_seen(task, task.targets[row]) for row in row_C]
            top_NK[row_C] = _nearest(vectors_ID, newest_C, seen, task.places)
            advance(len(row_C))
    return top_NK


def _nearest(
    vectors_ID: npt.NDArray[np.floating], asked_C: npt.NDArray[np.int64], seen: Sequence[set[int]], places: int
) -> npt.NDArray[np.int64]:
    """The items nearest to those asked for, int64[C, K], -1 behind the last, without those seen; block by block."""
    query_CD = unit_rows(vectors_ID[asked_C])
    of_C = np.repeat(np.arange(len(seen)), [len(own) for own in seen])
    seen_C = np.fromiter((item for own in seen for item in own), dtype=np.int64, count=len(of_C))
    item_CK = np.full((len(seen), places), -1)
    score_CK = np.full((len(seen), places), -np.inf, dtype=np.float32)
    for begin in range(0, len(vectors_ID), _BLOCK_ITEMS):
        cosine_CB = query_CD @ unit_rows(vectors_ID[begin : begin + _BLOCK_ITEMS]).T
        here = (seen_C >= begin) & (seen_C < begin + cosine_CB.shape[1])
        cosine_CB[of_C[here], seen_C[here] - begin] = -np.inf
        # An item of an earlier block has a smaller number, so that it stays in front of one of the same cosine.
        for row in np.flatnonzero(cosine_CB.max(axis=1) > score_CK[:, -1]):
            block_K = _largest(cosine_CB[row], places)
            score = np.concatenate([score_CK[row], cosine_CB[row, block_K]])
            order_K = np.argsort(-score, kind="stable")[:places]
            score_CK[row] = score[order_K]
            item_CK[row] = np.concatenate([item_CK[row], begin + block_K])[order_K]
    return item_CK


def _largest(score_I: npt.NDArray[np.floating], places: int) -> npt.NDArray[np.int64]:
    """Indices of the largest finite scores, largest first, ties by index."""
    candidates = np.flatnonzero(score_I > -np.inf)
    if len(candidates) > places:
        threshold = np.partition(score_I, len(score_I) - places)[len(score_I) - places]
        candidates = np.flatnonzero(score_I >= threshold)
    order = np.argsort(-score_I[candidates], kind="stable")
    largest: npt.NDArray[np.int64] = candidates[order][:places]
    return largest


def _train_rows(task: FloorTask) -> npt.NDArray[np.int64]:
    """Places of the domain's train events in ``events``, sorted by user and time."""
    counted_E = np.isin(task.events.part_E, (Part.TRAIN, Part.ROUTER))
    return np.flatnonzero((task.events.domain_E == task.domain) & counted_E)


def _popular(task: FloorTask) -> tuple[list[int], npt.NDArray[np.int64]]:
    """The most popular items, most popular first, and the train events int64[I] of every item."""
    train_E = _train_rows(task)
    item_E = task.events.item_E[train_E]
    count_I = np.bincount(item_E, minlength=len(task.item_ids)).astype(np.int64)
    first_I = np.full(len(task.item_ids), np.iinfo(np.int64).max)
    np.minimum.at(first_I, item_E, task.events.row_E[train_E].astype(np.int64))
    order = np.lexsort((first_I, -count_I))
    return order[: min(POPULAR_ITEMS, int((count_I > 0).sum()))].tolist(), count_I


def _successors(task: FloorTask, count_I: npt.NDArray[np.int64]) -> dict[int, list[int]]:
    """For each item the items that came right after it in train, most frequent first."""
    train_E = _train_rows(task)
    item_E, user_E = task.events.item_E[train_E].astype(np.int64), task.events.user_E[train_E]
    same_user = user_E[1:] == user_E[:-1]
    pairs, counts = np.unique(item_E[:-1][same_user] * len(task.item_ids) + item_E[1:][same_user], return_counts=True)
    before, after = np.divmod(pairs, len(task.item_ids))
    id_rank_I = np.empty(len(task.item_ids), dtype=np.int64)
    id_rank_I[sorted(range(len(task.item_ids)), key=task.item_ids.__getitem__)] = np.arange(len(task.item_ids))
    order = np.lexsort((id_rank_I[after], -count_I[after], -counts, before))
    items, begins = np.unique(before[order], return_index=True)
    lists = np.split(after[order], begins[1:])
    return {item: list_of.tolist() for item, list_of in zip(items.tolist(), lists, strict=False)}


def _newest(target: Target) -> int | None:
    return next((item for domain, item in reversed(target.history) if domain == target.domain), None)


def _seen(task: FloorTask, target: Target) -> set[int]:
    if task.keep_seen:
        return set()
    return {item for domain, item in target.history if domain == task.domain}


def _fill(task: FloorTask, candidates: Iterable[Iterable[Iterable[int]]]) -> npt.NDArray[np.int32]:
    """For each target the first items of its lists of candidates that are not seen, each once."""
    top_NK = np.full((len(task.targets), task.places), -1, dtype=np.int32)
    for row, (target, lists) in enumerate(zip(task.targets, candidates, strict=True)):
        taken = _seen(task, target)
        place = 0
        for item in (item for one in lists for item in one):
            if place == task.places:
                break
            if item not in taken:
                taken.add(item)
                top_NK[row, place] = item
                place += 1
    return top_NK
