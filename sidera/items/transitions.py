"""What an event adds to the counts of which item came near which, and the counts that events added to a bundle's.

One rule for training and for the service: two events of one user in one domain, ``distance`` events apart, add
distance^-0.5 to the transition from the former item to the latter, and a share of it to the way back. Events of weight
2 count twice; one of negative weight (skip, dislike, return) weakens the transitions to its item, and starts none.

Counts of events are whole multiples of 2^-20. So adding and subtracting them is exact in any order: what is left after
events were taken back is what would be there had they never come.

Shapes: E events, X transitions (or some items), Y entries of a run, Z some of them, K followers of one item. Items go
by number.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sidera.errors import CatalogError

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Run = tuple[Integers, Integers]
"""Sorted keys ``before << 32 | after``, each once, and their counts in units of 2^-20."""

_UNIT = 2.0**-20
_DAY = 86_400.0
_MOST_HALF_LIVES = 20.0
"""An event so much newer than the reference counts no more than that: millions of them add up in 64 bits."""

_ENTRY_BYTES = 16
_KEPT = 0.9
"""What is left of the entries when they are too many, as a share of the most."""


@dataclass(frozen=True)
class TransitionRule:
    """What an event adds.

    Attributes:
        window: how many events apart two items of a sequence still count, 1/sqrt(distance) each.
        backward: what an item counts for the one behind it, as a share of what it counts for the one before.
        longest: followers of an item that are kept at the most.
        half_life_days: in this time a transition loses half of its count; None: it keeps all.
        reference: the time that counts are of, in unix seconds: later events count more, earlier ones less.

    Raises:
        CatalogError: a value is out of its range.
    """

    window: int = 10
    backward: float = 0.2
    longest: int = 100
    half_life_days: float | None = None
    reference: float = 0.0

    def __post_init__(self) -> None:
        if self.window < 1 or self.longest < 1 or not 0 <= self.backward <= 1:
            raise CatalogError(
                f"a window of {self.window}, lists of {self.longest} and a way back of {self.backward} count nothing; "
                "set 1 or more, 1 or more, and a share from 0 to 1"
            )
        if self.half_life_days is not None and not self.half_life_days > 0:
            raise CatalogError(f"half_life_days is {self.half_life_days}; set days above 0, or none for no decay")

    def freshness(self, times_X: npt.NDArray[np.floating] | float) -> Floats:
        """What a count of these times (unix seconds) is worth beside one of the reference: float64[X]."""
        if self.half_life_days is None:
            return np.ones(np.shape(times_X))
        half_lives_X = (np.asarray(times_X, dtype=np.float64) - self.reference) / (self.half_life_days * _DAY)
        fresh_X: Floats = np.exp2(np.minimum(half_lives_X, _MOST_HALF_LIVES))
        return fresh_X


def pairs_of(
    numbers_E: npt.NDArray[np.integer],
    times_E: npt.NDArray[np.floating],
    weights_E: npt.NDArray[np.floating],
    rule: TransitionRule,
    domain_E: npt.NDArray[np.integer] | None = None,
    user_E: npt.NDArray[np.integer] | None = None,
    counted_E: npt.NDArray[np.bool_] | None = None,
) -> tuple[Integers, Integers, Floats]:
    """The transitions of some events, which stand in their order, each user's oldest first.

    Args:
        numbers_E: the items.
        times_E: unix seconds.
        weights_E: 1 for a plain event; negative ones weaken.
        domain_E: the items' domains; only items of one domain follow each other. None: all are of one.
        user_E: whose events they are; users may stand among each other. None: all are of one.
        counted_E: a transition counts if the latter of its two events is one of these. None: all are.

    Returns:
        Item before, item after and count, of every transition; the same pair may come several times. int64[X],
        int64[X], float64[X].
    """
    group_E = _groups(len(numbers_E), domain_E, user_E)
    order = np.argsort(group_E, kind="stable")
    group_E, item_E = group_E[order], np.asarray(numbers_E, dtype=np.int64)[order]
    weight_E = np.asarray(weights_E, dtype=np.float64)[order]
    latter_E = rule.freshness(np.asarray(times_E, dtype=np.float64)[order])
    if counted_E is not None:
        latter_E = latter_E * counted_E[order]
    source_E = np.maximum(weight_E, 0)
    befores, afters, counts = [], [], []
    for distance in range(1, min(rule.window, len(item_E) - 1) + 1):
        one_E, two_E = slice(None, -distance), slice(distance, None)
        both = np.flatnonzero(
            (group_E[one_E] == group_E[two_E]) & (item_E[one_E] != item_E[two_E]) & (latter_E[two_E] > 0)
        )
        former, latter = both, both + distance
        worth_X = latter_E[latter] * distance**-0.5
        befores += [item_E[former], item_E[latter]]
        afters += [item_E[latter], item_E[former]]
        counts += [
            worth_X * source_E[former] * weight_E[latter],
            worth_X * source_E[latter] * weight_E[former] * rule.backward,
        ]
    if not befores:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float64)
    before_X, after_X, count_X = np.concatenate(befores), np.concatenate(afters), np.concatenate(counts)
    kept = count_X != 0
    return before_X[kept], after_X[kept], count_X[kept]


def _groups(count: int, domain_E: npt.NDArray[np.integer] | None, user_E: npt.NDArray[np.integer] | None) -> Integers:
    """One number for each user and domain: int64[E]."""
    group_E = np.zeros(count, dtype=np.int64)
    for part_E in (user_E, domain_E):
        if part_E is not None and count:
            _, dense_E = np.unique(part_E, return_inverse=True)
            group_E = group_E * (int(dense_E.max()) + 1) + dense_E
    return group_E


@dataclass(frozen=True)
class TransitionDelta:
    """What events added to the counts of a bundle: an immutable snapshot, cheap to make the next one of.

    The entries lie in a few sorted runs; a new one is merged with those that are no more than twice as long, so a
    change costs what it brings, and now and then more. Where there are more than ``most`` entries, the smallest counts
    are forgotten; what is taken back of a forgotten one leaves it below 0.

    Attributes:
        most: entries at the most, 16 bytes each.
        runs: the entries; of one that is in several runs the counts add up.
        below: of each run the places of the entries with a count below 0, which are few. Shape: int64[Z] each.
    """

    most: int = 4_000_000
    runs: tuple[Run, ...] = ()
    below: tuple[Integers, ...] = field(default=(), repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.below) != len(self.runs):
            object.__setattr__(self, "below", tuple(_below(run) for run in self.runs))

    def added(
        self, before_X: npt.NDArray[np.integer], after_X: npt.NDArray[np.integer], count_X: npt.NDArray[np.floating]
    ) -> "TransitionDelta":
        """The next snapshot, with these transitions, as :func:`pairs_of` gives them; counts below 0 take some back."""
        units_X = np.rint(np.asarray(count_X) / _UNIT).astype(np.int64)
        key_X = (np.asarray(before_X, dtype=np.int64) << 32) | np.asarray(after_X, dtype=np.int64)
        new, runs = _merged([(key_X, units_X)]), list(self.runs)
        known = dict(zip(map(id, self.runs), self.below, strict=True))
        while runs and len(runs[-1][0]) <= 2 * len(new[0]):
            new = _merged([runs.pop(), new])
        runs += [new] if len(new[0]) else []
        if sum(len(keys) for keys, _ in runs) > self.most:
            runs = [_largest(_merged(runs), self.most)]
        below = tuple(known[id(run)] if id(run) in known else _below(run) for run in runs)
        return TransitionDelta(self.most, tuple(runs), below)

    @property
    def entries(self) -> int:
        """Entries of all runs."""
        return sum(len(keys) for keys, _ in self.runs)

    @property
    def bytes(self) -> int:
        """What they hold of memory."""
        return self.entries * _ENTRY_BYTES

    def of(self, number: int) -> tuple[Integers, Floats]:
        """The followers of an item, each once, sorted, and their counts, which may be negative."""
        found = []
        for key_X, units_X in self.runs:
            begin, end = key_X.searchsorted([number << 32, (number + 1) << 32])
            if begin < end:
                found.append((key_X[begin:end], units_X[begin:end]))
        if not found:
            return np.empty(0, np.int64), np.empty(0, np.float64)
        key_K, units_K = found[0] if len(found) == 1 else _merged(found)
        return (key_K & 0xFFFFFFFF).astype(np.int64), (units_K * _UNIT).astype(np.float64)

    def brought(self, numbers_X: npt.NDArray[np.integer]) -> Integers:
        """How many followers with a count above 0 items have, those in several runs as often: int64[X]."""
        first_X = np.asarray(numbers_X, dtype=np.int64) << 32
        brought_X = np.zeros(len(first_X), dtype=np.int64)
        for (key_Y, _), below_Z in zip(self.runs, self.below, strict=True):
            begin_X, end_X = key_Y.searchsorted(first_X), key_Y.searchsorted(first_X + (1 << 32))
            brought_X += end_X - begin_X
            if len(below_Z):
                brought_X -= below_Z.searchsorted(end_X) - below_Z.searchsorted(begin_X)
        return brought_X

    def __iter__(self) -> Iterator[tuple[int, int, float]]:
        """Item before, item after and count of every entry that is not 0."""
        key_X, units_X = _merged(self.runs)
        return zip((key_X >> 32).tolist(), (key_X & 0xFFFFFFFF).tolist(), (units_X * _UNIT).tolist(), strict=True)


def _merged(runs: Sequence[Run]) -> Run:
    """Several runs as one; what adds up to 0 is left out."""
    if not runs:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    key_X = np.concatenate([keys for keys, _ in runs])
    units_X = np.concatenate([units for _, units in runs])
    order = np.argsort(key_X, kind="stable")  # merges sorted runs in linear time
    key_X, units_X = key_X[order], units_X[order]
    begin = np.flatnonzero(np.diff(key_X, prepend=-1))
    if len(begin) < len(key_X):
        key_X, units_X = key_X[begin], np.add.reduceat(units_X, begin)
    kept = units_X != 0
    return (key_X, units_X) if kept.all() else (key_X[kept], units_X[kept])


def _below(run: Run) -> Integers:
    """Where a run has counts below 0."""
    return np.flatnonzero(run[1] < 0)


def _largest(run: Run, most: int) -> Run:
    """The entries with the largest counts, of either sign, where they are too many."""
    keys, units = run
    if len(keys) <= most:
        return run
    kept = np.sort(np.argpartition(-np.abs(units), max(1, int(most * _KEPT)) - 1)[: max(1, int(most * _KEPT))])
    return keys[kept], units[kept]
