"""The reader of whole histories, fitted on a world where the next item is told by the text of the one before."""

from dataclasses import replace

import numpy as np
import pytest

from sidera.items.history_reader import HistoryReader
from training.history_reader import fit_reader, reader_ndcg
from training.split import Events, Part, Target, targets

ITEMS = 40


def world(users: int = 200) -> Events:
    """Every user goes round the items in steps of one; the last two events are validation and test."""
    rng = np.random.default_rng(0)
    item_E = ((rng.integers(ITEMS, size=users)[:, None] + np.arange(6)) % ITEMS).ravel()
    part_E = np.tile([Part.TRAIN] * 4 + [Part.VALIDATION, Part.TEST], users)
    count = len(item_E)
    return Events(
        user_E=np.repeat(np.arange(users, dtype=np.int32), 6),
        domain_E=np.zeros(count, dtype=np.int32),
        item_E=item_E.astype(np.int32),
        time_E=np.arange(count, dtype=np.int64) + 10**9,
        part_E=part_E.astype(np.int8),
        real_time_E=np.ones(count, dtype=bool),
        row_E=np.arange(count, dtype=np.int32),
    )


def vectors() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(ITEMS, 16)).astype(np.float32)


def fitted(events: Events, numbers: np.ndarray, seed: int = 0, steps: int = 60) -> HistoryReader:
    judged = targets(events, Part.VALIDATION)
    made = fit_reader(events, 0, vectors(), numbers, judged, 16, steps, seed, "films")
    assert made is not None
    return made


def test_a_fitted_reader_knows_what_comes_next() -> None:
    events, numbers = world(users=2000), np.arange(ITEMS)[::-1] * 3
    reader = fitted(events, numbers.copy(), steps=100)
    asked = targets(events, Part.TEST)[:500]
    assert reader_ndcg(reader, numbers, asked).mean() > 0.9
    found_S, mass_S = reader.read([int(numbers[4]), int(numbers[5])])
    assert found_S[mass_S.argmax()] in (numbers[6], numbers[5])


def test_the_figure_that_selects_is_that_of_what_is_read_without_the_history() -> None:
    events, numbers = world(), np.arange(ITEMS)
    reader = fitted(events, numbers, steps=5)
    asked = targets(events, Part.TEST)[:50]
    for target, figure in zip(asked, reader_ndcg(reader, numbers, asked), strict=True):
        history = [item for _, item in target.history]
        found_S, mass_S = reader.read(history)
        mass_S = np.where(np.isin(found_S, history), 0, mass_S)
        rank = int((mass_S > mass_S[found_S == target.item]).sum())
        assert figure == pytest.approx(1 / np.log2(rank + 2) if rank < 10 else 0)


def test_the_same_seed_gives_the_same_reader_and_another_one_another() -> None:
    events, numbers = world(), np.arange(ITEMS)
    one, two, other = (fitted(events, numbers, seed, steps=5) for seed in (0, 0, 1))
    assert np.array_equal(one.input_ID, two.input_ID)
    assert np.array_equal(one.output_ID, two.output_ID)
    assert not np.array_equal(one.input_ID, other.input_ID)


def test_events_held_out_for_routers_and_those_of_later_parts_change_nothing() -> None:
    events, numbers = world(), np.arange(ITEMS)
    held = events.part_E.copy()
    held[3::6] = Part.ROUTER
    held_out = replace(events, part_E=held)
    changed = events.item_E.copy()
    changed[held != Part.TRAIN] = 0
    judged = targets(events, Part.VALIDATION)[:1]
    judged = [Target(one.user, one.domain, one.item, one.history, one.repeated) for one in judged]
    made = [
        fit_reader(own, 0, vectors(), numbers, judged, 8, 5, 0, "films")
        for own in (held_out, replace(held_out, item_E=changed))
    ]
    assert made[0] is not None
    assert made[1] is not None
    assert np.array_equal(made[0].output_ID, made[1].output_ID)


def test_without_sequences_or_without_targets_that_select_there_is_no_reader() -> None:
    events, numbers = world(), np.arange(ITEMS)
    assert fit_reader(events, 0, vectors(), numbers, [], 8, 5, 0, "films") is None
    nothing = replace(events, part_E=np.full_like(events.part_E, Part.VALIDATION))
    assert fit_reader(nothing, 0, vectors(), numbers, targets(events, Part.TEST), 8, 5, 0, "films") is None
