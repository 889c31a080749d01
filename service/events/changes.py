"""What becomes of the counts of transitions when users' histories become other ones.

Nearly always a history only grows, by one event or two. So what both histories begin with is left out: its transitions
would be added and taken back. Only the few events stay that the others may be near.

Shapes: E events, U users, X transitions.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from service.events.ledger import RECORD, Events, records_of
from sidera.items.transitions import TransitionRule, pairs_of

Pairs = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]
"""Item before, item after, and what is added to the count of this transition; the same one may come several times."""

_BYTES = RECORD.itemsize


def changed_pairs(before: Sequence[Events], after: Sequence[Events], rule: TransitionRule) -> Pairs:
    """What to add to the counts where users have the events ``after`` in place of those ``before``."""
    common = [_common(old, new) for old, new in zip(before, after, strict=True)]
    taken, added = _pairs_behind(before, common, rule), _pairs_behind(after, common, rule)
    return (
        np.concatenate([added[0], taken[0]]),
        np.concatenate([added[1], taken[1]]),
        np.concatenate([added[2], -taken[2]]),
    )


def _common(old: Events, new: Events) -> int:
    """How many bytes of events two histories begin with alike."""
    if new.startswith(old):
        return len(old)
    count = min(len(old), len(new)) // _BYTES
    one, two = (np.frombuffer(own, np.uint8, count * _BYTES).reshape(count, _BYTES) for own in (old, new))
    other = np.flatnonzero((one != two).any(axis=1))
    return _BYTES * (int(other[0]) if len(other) else count)


def _pairs_behind(histories: Sequence[Events], common: Sequence[int], rule: TransitionRule) -> Pairs:
    """The transitions to events behind the first ``common`` bytes of each history, and the ways back."""
    longer = [user for user, own in enumerate(histories) if len(own) > common[user]]
    every_E, user_E = records_of([histories[user] for user in longer])
    begin_U = np.searchsorted(user_E, np.arange(len(longer)))
    first_U = begin_U + np.array([common[user] for user in longer], dtype=np.int64) // _BYTES
    behind_E = np.arange(len(every_E)) >= first_U[user_E]
    kept = np.flatnonzero(every_E["weight"] != 0)
    kept = kept[_near(user_E[kept], every_E["domain"][kept], behind_E[kept], rule.window)]
    every_E = every_E[kept]
    before_X, after_X, count_X = pairs_of(
        every_E["number"],
        every_E["happened_us"] / 1e6,
        every_E["weight"],
        rule,
        domain_E=every_E["domain"],
        user_E=user_E[kept],
        counted_E=every_E["counted"] & behind_E[kept],
    )
    # An unknown item has its place among the others, which are no nearer to each other for its want.
    known_X = (before_X >= 0) & (after_X >= 0)
    return before_X[known_X], after_X[known_X], count_X[known_X]


def _near(
    user_E: npt.NDArray[np.int64], domain_E: npt.NDArray[np.int32], behind_E: npt.NDArray[np.bool_], window: int
) -> npt.NDArray[np.int64]:
    """The places of the events behind, and of the last ``window`` ones before them in each domain, in their order."""
    if not len(user_E):
        return np.empty(0, dtype=np.int64)
    group_E = user_E * (int(domain_E.max()) + 1) + domain_E
    order = np.argsort(group_E, kind="stable")
    group_E, behind_E = group_E[order], behind_E[order]
    new = np.diff(group_E, prepend=-1) != 0
    begin_G = np.flatnonzero(new)
    row_E = np.cumsum(new) - 1
    size_G = np.diff(begin_G, append=len(group_E))
    from_end_E = size_G[row_E] - (np.arange(len(group_E)) - begin_G[row_E])
    near_E = from_end_E <= (np.add.reduceat(behind_E, begin_G, dtype=np.int64) + window)[row_E]
    # A group of which nothing is behind adds nothing.
    near_E &= np.logical_or.reduceat(behind_E, begin_G)[row_E]
    return np.sort(order[near_E])
