"""Slices by the age of an item; the others are tested where reports are (``test_evaluation``)."""

import numpy as np
import numpy.typing as npt

from training.slices import NEW_DAYS, members
from training.split import Events, Part, Target

_BEGIN = 1_400_000_000
_DAY = 86_400


def test_an_item_is_new_by_its_first_train_event_in_its_own_domain_and_old_a_day_later() -> None:
    """Users 0 and 1 teach items 0 and 1; users 2 to 5 take them, and item 2 that nobody trained, later."""
    events = _events(
        [
            (0, 0, 0, 0, Part.TRAIN),
            (1, 0, 1, 1, Part.TRAIN),
            (1, 1, 2, 0, Part.TRAIN),  # the item of that number in another domain
            (2, 0, 0, NEW_DAYS, Part.TEST),
            (3, 0, 0, 0, Part.TRAIN),
            (3, 0, 0, NEW_DAYS + 1, Part.TEST),
            (4, 0, 1, NEW_DAYS + 1, Part.TEST),
            (5, 0, 2, NEW_DAYS + 9, Part.TEST),
        ]
    )
    asked = [_target(2, 0), _target(3, 0), _target(4, 1), _target(5, 2)]
    found = members(events, asked)
    assert found["new"].tolist() == [True, False, True, True]
    assert found["old"].tolist() == [False, True, False, False]


def test_events_behind_train_make_no_item_older() -> None:
    rows = [(0, 0, 0, 0, Part.VALIDATION), (1, 0, 0, NEW_DAYS, Part.TRAIN), (2, 0, 0, NEW_DAYS + 2, Part.TEST)]
    assert members(_events(rows), [_target(2, 0)])["new"].tolist() == [True]


def test_a_target_whose_time_is_a_position_is_of_neither_kind() -> None:
    rows = [(0, 0, 0, 0, Part.TRAIN), (1, 0, 0, 5, Part.TEST)]
    found = members(_events(rows, real=False), [_target(1, 0)])
    assert not found["new"].any()
    assert not found["old"].any()


def _events(rows: list[tuple[int, int, int, int, Part]], real: bool = True) -> Events:
    """Events of (user, domain, item, day, part)."""
    user_E, domain_E, item_E, day_E, part_E = np.array(rows).T

    def small(values_E: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        return values_E.astype(np.int32)

    return Events(
        small(user_E),
        small(domain_E),
        small(item_E),
        _BEGIN + _DAY * day_E.astype(np.int64),
        part_E.astype(np.int8),
        np.full(len(rows), real),
        small(np.arange(len(rows))),
    )


def _target(user: int, item: int) -> Target:
    return Target(user, 0, item, (), False)
