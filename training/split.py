"""Splits events into train, validation and test, and builds the history of every target.

Per (user, domain) with at least 3 events the last is test, the one before is validation, the rest is train; or, by
calendar time, all before one moment is train, up to another one validation, and the rest test. Of some users the last
train event can be held out for the routers. Times below ``POSITION_LIMIT`` are positions, not times: such
a (user, domain) is never merged with other domains.
Knows nothing of files or models. Shape legend: E events of all domains.
"""

import hashlib
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from training.data import Dataset
from training.data_times import LATEST_SECONDS, iso_seconds
from training.errors import ConfigError, DataError
from training.forgetting import FIRST_REAL_TIME

POSITION_LIMIT = FIRST_REAL_TIME
"""A time below this many seconds (before March 1973) is a position in the user's sequence."""


class Part(IntEnum):
    """What an event serves. CONTEXT: history only, never counted: of a (user, domain) with fewer than 3 events, or,
    where calendar time splits, with positions for times.

    ROUTER: a train event that of the language model only the user router learns. The memory has it as all others.
    """

    TRAIN = 0
    VALIDATION = 1
    TEST = 2
    CONTEXT = 3
    ROUTER = 4


@dataclass(frozen=True, eq=False)
class Events:
    """Events of all domains, sorted by user, time, domain and file order.

    user_E: int32[E]. domain_E: int32[E] into ``Dataset.domains``. item_E: int32[E] into that domain's ``item_ids``.
    time_E: int64[E]. part_E: int8[E], a ``Part``. real_time_E: bool[E], False for all events of a (user, domain) with
    positions for times. row_E: int32[E], the event's place in its domain's file order.
    """

    user_E: npt.NDArray[np.int32]
    domain_E: npt.NDArray[np.int32]
    item_E: npt.NDArray[np.int32]
    time_E: npt.NDArray[np.int64]
    part_E: npt.NDArray[np.int8]
    real_time_E: npt.NDArray[np.bool_]
    row_E: npt.NDArray[np.int32]


@dataclass(frozen=True)
class Target:
    """An item to predict from a history of (domain, item), oldest first.

    ``repeated``: the user had the item before, in the same domain, whether or not the history still holds it.
    """

    user: int
    domain: int
    item: int
    history: tuple[tuple[int, int], ...]
    repeated: bool


class _MomentError(ConfigError, ValueError):
    """A moment that cannot split. pydantic adds the section to every ``ValueError``."""


@dataclass(frozen=True)
class CalendarSplit:
    """Moments that split the events of all users; each is unix seconds or an ISO 8601 time, UTC where it names no zone.

    Attributes:
        validation_from: events before it are train.
        test_from: events before it and from ``validation_from`` on are validation, the rest is test.
    """

    validation_from: int | str
    test_from: int | str

    def __post_init__(self) -> None:
        for name in ("validation_from", "test_from"):
            if not POSITION_LIMIT <= _moment(getattr(self, name)) <= LATEST_SECONDS:
                raise _MomentError(
                    f"{name} is {getattr(self, name)}, which is no time; set unix seconds or an ISO 8601 time"
                )
        validation, test = self.moments
        if validation >= test:
            raise _MomentError(
                f"validation_from {self.validation_from} is not before test_from {self.test_from}; set an earlier one"
            )

    @property
    def moments(self) -> tuple[float, float]:
        """Where validation and test begin, in unix seconds."""
        return _moment(self.validation_from), _moment(self.test_from)


def _moment(told: int | str) -> float:
    return iso_seconds(told) if isinstance(told, str) else float(told)


def split_events(dataset: Dataset, calendar: CalendarSplit | None = None) -> Events:
    """Give every event its part, and sort the events.

    Args:
        calendar: splits by time; None: by each user's last events.

    Raises:
        DataError: ``calendar`` leaves a part without any event.
    """
    counts = [len(domain.user_E) for domain in dataset.domains]
    user_E = np.concatenate([domain.user_E for domain in dataset.domains])
    item_E = np.concatenate([domain.item_E for domain in dataset.domains])
    time_E = np.concatenate([domain.time_E for domain in dataset.domains])
    domain_E = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    row_E = np.concatenate([np.arange(count, dtype=np.int32) for count in counts])

    # Concatenated domain by domain in file order, so a stable sort settles ties of time as it must.
    order = np.lexsort((time_E, user_E))
    user_E, domain_E, time_E = user_E[order], domain_E[order], time_E[order]
    group_E = user_E.astype(np.int64) * len(counts) + domain_E
    real_time_E = ~positional(group_E, time_E)
    return Events(
        user_E=user_E,
        domain_E=domain_E,
        item_E=item_E[order],
        time_E=time_E,
        part_E=_parts(group_E) if calendar is None else _calendar_parts(time_E, real_time_E, calendar),
        real_time_E=real_time_E,
        row_E=row_E[order],
    )


def hold_out(events: Events, share: float, most: int, seed: int) -> Events:
    """Set train events aside for the routers, so that no expert or adapter learns them.

    In every domain a share of the (user, domain) pairs with at least 4 events, drawn by the seed, gives its last train
    event. An item's only train event stays: nothing else would be known of the item.

    Args:
        most: events of a domain that are set aside at the most.
    """
    part_E = events.part_E.copy()
    for domain in range(int(events.domain_E.max(initial=-1)) + 1):
        train = np.flatnonzero((events.domain_E == domain) & (events.part_E == Part.TRAIN))
        _, first, size = np.unique(events.user_E[train], return_index=True, return_counts=True)
        last = train[(first + size - 1)[size > 1]]
        wanted = min(most, round(share * len(last)))
        left_I = np.bincount(events.item_E[train])
        taken: list[int] = []
        for event in np.random.default_rng([seed, domain]).permutation(last).tolist():
            if len(taken) == wanted:
                break
            item = events.item_E[event]
            if left_I[item] > 1:
                left_I[item] -= 1
                taken.append(event)
        part_E[taken] = Part.ROUTER
    return replace(events, part_E=part_E)


def parts_digest(events: Events) -> str:
    """sha256 (hex) over what each event serves: what learning from given data depends on beside them."""
    return hashlib.sha256(np.ascontiguousarray(events.part_E).tobytes()).hexdigest()


def positional(group_E: npt.NDArray[np.integer], time_E: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which events bool[E] belong to a group (a user in a domain) that has a position for a time anywhere."""
    _, dense_E = np.unique(group_E, return_inverse=True)
    found: npt.NDArray[np.bool_] = np.bincount(dense_E, weights=time_E < POSITION_LIMIT)[dense_E] > 0
    return found


def targets(events: Events, part: Part, max_history: int | None = None) -> list[Target]:
    """All targets of a part, in the order of ``events``, each with its newest ``max_history`` events (default: all).

    A history holds the same domain's events before the target, and other domains' events strictly earlier in time,
    where both have real times. Train histories hold train and context events only; validation histories no test event
    of any domain, and the router's neither test nor validation events.

    Raises:
        ValueError: ``part`` is CONTEXT, whose events are never targets, or ``max_history`` is negative.
    """
    if part is Part.CONTEXT:
        raise ValueError("context events are never targets; ask for TRAIN, ROUTER, VALIDATION or TEST")
    if max_history is not None and max_history < 0:
        raise ValueError(f"max_history is {max_history}; give None or a number from 0 on")
    hidden = {
        Part.TRAIN: (Part.ROUTER, Part.VALIDATION, Part.TEST),
        Part.ROUTER: (Part.VALIDATION, Part.TEST),
        Part.VALIDATION: (Part.TEST,),
        Part.TEST: (),
    }[part]
    shown = (events.real_time_E & ~np.isin(events.part_E, hidden)).tolist()
    repeated = _repeated(events)
    begins = np.searchsorted(events.user_E, events.user_E, side="left")
    domain, time, real = events.domain_E.tolist(), events.time_E.tolist(), events.real_time_E.tolist()
    pairs = list(zip(domain, events.item_E.tolist(), strict=True))

    found = []
    for event in np.flatnonzero(events.part_E == part).tolist():
        newest_first: list[tuple[int, int]] = []
        for before in range(event - 1, int(begins[event]) - 1, -1):
            if len(newest_first) == max_history:
                break
            if domain[before] == domain[event] or (real[event] and shown[before] and time[before] < time[event]):
                newest_first.append(pairs[before])
        found.append(
            Target(
                user=int(events.user_E[event]),
                domain=domain[event],
                item=pairs[event][1],
                history=tuple(reversed(newest_first)),
                repeated=bool(repeated[event]),
            )
        )
    return found


def _parts(group_E: npt.NDArray[np.int64]) -> npt.NDArray[np.int8]:
    """Parts int8[E] of events whose order within each group is that of time."""
    order = np.argsort(group_E, kind="stable")
    _, begins, sizes = np.unique(group_E[order], return_index=True, return_counts=True)
    size = np.repeat(sizes, sizes)
    to_come = np.repeat(begins + sizes, sizes) - np.arange(len(order)) - 1
    sorted_parts = np.full(len(order), Part.TRAIN, dtype=np.int8)
    sorted_parts[to_come == 1] = Part.VALIDATION
    sorted_parts[to_come == 0] = Part.TEST
    sorted_parts[size < 3] = Part.CONTEXT
    part_E = np.empty_like(sorted_parts)
    part_E[order] = sorted_parts
    return part_E


def _calendar_parts(
    time_E: npt.NDArray[np.int64], real_time_E: npt.NDArray[np.bool_], calendar: CalendarSplit
) -> npt.NDArray[np.int8]:
    """Parts int8[E] by time."""
    validation, test = calendar.moments
    part_E = np.full(len(time_E), Part.TRAIN, dtype=np.int8)
    part_E[time_E >= validation] = Part.VALIDATION
    part_E[time_E >= test] = Part.TEST
    part_E[~real_time_E] = Part.CONTEXT
    for part, where, change in (
        (Part.TRAIN, f"before validation_from {calendar.validation_from}", "a later one"),
        (Part.VALIDATION, f"from validation_from {calendar.validation_from} on and before test_from", "an earlier one"),
        (Part.TEST, f"from test_from {calendar.test_from} on", "an earlier one"),
    ):
        if not (part_E == part).any():
            raise DataError(f"split: no event with a real time lies {where}; set {change}")
    return part_E


def _repeated(events: Events) -> npt.NDArray[np.bool_]:
    """Which events bool[E] have an earlier one of the same user, domain and item."""
    order = np.lexsort((events.item_E, events.domain_E, events.user_E))
    keys = np.stack([events.user_E, events.domain_E, events.item_E])[:, order]
    repeated = np.zeros(len(order), dtype=bool)
    repeated[order[1:]] = (keys[:, 1:] == keys[:, :-1]).all(axis=0)
    return repeated
