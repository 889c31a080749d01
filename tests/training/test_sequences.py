"""Which events training sees, in which order, and what is a target."""

from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sidera.model.vocabulary import Vocabulary
from training.data import Dataset, DomainData
from training.sequences import EpochBatches, SequenceBatch, TrainingSequences, epoch_batches, training_sequences
from training.split import Events, Part, split_events

NAMES = ("books", "films", "games")
ITEMS = 6
SIZES = (6, 12, 5)
VOCABULARY = Vocabulary(SIZES, {name: row for row, name in enumerate(NAMES)})
REAL = 1_500_000_000
SIDS = [
    np.stack([np.arange(ITEMS), 2 * np.arange(ITEMS), np.full(ITEMS, domain)], axis=1).astype(np.int32)
    for domain in range(len(NAMES))
]
"""The SID of an item holds the item as its first code and its domain's number as its last one."""

Row = tuple[int, int, int]
"""User, item, time."""


def split(rows_of: list[list[Row]]) -> Events:
    domains = []
    for name, rows in zip(NAMES, rows_of, strict=False):
        user, item, time = (np.array(column) for column in zip(*rows, strict=True))
        item_ids = tuple(f"{name}-{number}" for number in range(ITEMS))
        fields = tuple({"title": item_id} for item_id in item_ids)
        domains.append(
            DomainData(name, item_ids, fields, user.astype(np.int32), item.astype(np.int32), time.astype(np.int64))
        )
    return split_events(Dataset(tuple(domains), tuple("abcd"), ""))


def batches(
    sequences: TrainingSequences, *, max_items: int = 5, batch_tokens: int = 60, anonymous: float = 0.0, seed: int = 0
) -> list[SequenceBatch]:
    return list(
        epoch_batches(
            sequences,
            VOCABULARY,
            NAMES,
            max_items=max_items,
            batch_tokens=batch_tokens,
            any_domain_probability=anonymous,
            seed=(seed, 1),
        )
    )


def windows(made: list[SequenceBatch]) -> list[npt.NDArray[np.int64]]:
    """The windows without their padding: rows of domain token, codes, and whether it is a target. int64[W, 2 + L]."""
    found = []
    for batch in made:
        for tokens_WX, codes_WL, target_W in zip(batch.tokens_BWX, batch.codes_BWL, batch.target_BW, strict=True):
            inside = (tokens_WX != VOCABULARY.pad).all(dim=1)
            assert inside.tolist() == sorted(inside.tolist(), reverse=True), "padding is on the right"
            assert not target_W[~inside].any()
            first = np.array([VOCABULARY.first_code(level) for level in range(len(SIZES))])
            assert (tokens_WX[inside][:, 1:].numpy() == codes_WL[inside].numpy() + first).all()
            rows = [tokens_WX[inside][:, :1], codes_WL[inside], target_W[inside][:, None]]
            found.append(np.concatenate([part.numpy().astype(np.int64) for part in rows], axis=1))
    return found


rows = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.integers(0, ITEMS - 1),
        st.one_of(st.integers(0, 3), st.integers(REAL, REAL + 4)),
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(rows, min_size=1, max_size=3), st.integers(1, 6), st.integers(4, 200), st.integers(0, 5))
def test_every_train_event_is_a_target_once_an_epoch_and_nothing_else_ever_is(
    rows_of: list[list[Row]], max_items: int, batch_tokens: int, seed: int
) -> None:
    events = split(rows_of)
    made = batches(
        training_sequences(events, SIDS[: len(rows_of)]), max_items=max_items, batch_tokens=batch_tokens, seed=seed
    )
    trained = Counter((int(row[3]), int(row[1])) for window in windows(made) for row in window if row[4])
    train = events.part_E == Part.TRAIN
    assert trained == Counter(zip(events.domain_E[train].tolist(), events.item_E[train].tolist(), strict=True))
    seen = Counter((int(row[3]), int(row[1])) for window in windows(made) for row in window)
    allowed = train | (events.part_E == Part.CONTEXT)
    assert seen <= Counter(zip(events.domain_E[allowed].tolist(), events.item_E[allowed].tolist(), strict=True))
    for window in windows(made):
        assert 1 <= len(window) <= max_items
        assert window[:, 4].any(), "a window without a target teaches nothing"
    for batch in made:
        assert batch.tokens_BWX.numel() <= batch_tokens or len(batch.tokens_BWX) == 1


def naive_sequences(events: Events) -> list[list[tuple[int, int, bool]]]:
    """Every user's (domain, item, whether it is a target), merged over the domains with real times."""
    sequences: dict[tuple[int, int], list[tuple[int, int, bool]]] = {}
    for event in np.flatnonzero((events.part_E == Part.TRAIN) | (events.part_E == Part.CONTEXT)).tolist():
        domain = int(events.domain_E[event])
        place = (int(events.user_E[event]), -1 if events.real_time_E[event] else domain)
        row = (domain, int(events.item_E[event]), bool(events.part_E[event] == Part.TRAIN))
        sequences.setdefault(place, []).append(row)
    return list(sequences.values())


@settings(max_examples=60, deadline=None)
@given(st.lists(rows, min_size=1, max_size=3))
def test_where_windows_are_long_enough_they_are_the_whole_sequences_that_have_a_target_context_included(
    rows_of: list[list[Row]],
) -> None:
    events = split(rows_of)
    made = batches(training_sequences(events, SIDS[: len(rows_of)]), max_items=100)
    found = [[(int(row[3]), int(row[1]), bool(row[4])) for row in window] for window in windows(made)]
    whole = [sequence for sequence in naive_sequences(events) if any(target for *_, target in sequence)]
    assert sorted(found) == sorted(whole)


@settings(max_examples=60, deadline=None)
@given(st.lists(rows, min_size=1, max_size=3), st.integers(1, 30), st.integers(0, 5))
def test_every_window_is_a_run_of_one_user_in_order_and_positions_are_never_merged(
    rows_of: list[list[Row]], max_items: int, seed: int
) -> None:
    events = split(rows_of)
    sequences = naive_sequences(events)
    runs = {
        tuple(sequence[begin:end])
        for sequence in sequences
        for begin in range(len(sequence))
        for end in range(begin + 1, len(sequence) + 1)
    }
    made = batches(training_sequences(events, SIDS[: len(rows_of)]), max_items=max_items, seed=seed)
    for window in windows(made):
        assert tuple((int(row[3]), int(row[1]), bool(row[4])) for row in window) in runs
        assert (window[:, 0] == [VOCABULARY.domain_token(NAMES[domain]) for domain in window[:, 3]]).all()


def world() -> TrainingSequences:
    """4 users of two domains with real times, 120 events of each in each."""
    random = np.random.default_rng(0)
    shape = [[(user, int(random.integers(ITEMS)), REAL + step) for user in range(4) for step in range(120)]] * 2
    return training_sequences(split(shape), SIDS[:2])


def test_the_same_seed_gives_the_same_batches_and_another_seed_others() -> None:
    sequences = world()
    one, same, other = (batches(sequences, anonymous=0.3, seed=seed) for seed in (1, 1, 2))
    assert all(
        a.tokens_BWX.equal(b.tokens_BWX) and a.target_BW.equal(b.target_BW) and a.name == b.name
        for a, b in zip(one, same, strict=True)
    )
    assert sorted(batch.name for batch in one) != sorted(batch.name for batch in other)


def test_any_domain_stands_for_all_domain_tokens_of_a_window_or_for_none() -> None:
    sequences = world()
    found = [
        window[:, 0] == VOCABULARY.any_domain
        for seed in range(10)
        for window in windows(batches(sequences, anonymous=0.25, seed=seed))
    ]
    assert all(anonymous.all() or not anonymous.any() for anonymous in found)
    share = np.mean([anonymous[0] for anonymous in found])
    assert len(found) > 1500
    assert abs(share - 0.25) < 0.05
    assert all((window[:, 0] == VOCABULARY.any_domain).all() for window in windows(batches(sequences, anonymous=1.0)))
    assert not any((window[:, 0] == VOCABULARY.any_domain).any() for window in windows(batches(sequences)))


def test_every_epoch_cuts_elsewhere_so_that_any_event_gets_histories_of_all_lengths_the_empty_one_included() -> None:
    rows_of = [[(0, item % ITEMS, REAL + item) for item in range(40)]]
    sequences = training_sequences(split(rows_of), SIDS[:1])
    sequences = TrainingSequences(
        sequences.domain_E,
        np.stack([np.arange(38), np.zeros(38), np.zeros(38)], axis=1).astype(np.int32),
        sequences.target_E,
        sequences.begin_S,
    )
    places: dict[int, set[int]] = {event: set() for event in range(38)}
    for seed in range(80):
        for batch in batches(sequences, max_items=4, seed=seed):
            for codes_WL, tokens_WX in zip(batch.codes_BWL, batch.tokens_BWX, strict=True):
                for place in range(int((tokens_WX[:, 0] != VOCABULARY.pad).sum())):
                    places[int(codes_WL[place, 0])].add(place)
    assert all(places[event] == {0, 1, 2, 3} for event in range(3, 38))
    assert places[0] == {0}


def test_a_batch_holds_windows_of_similar_length() -> None:
    lengths = np.random.default_rng(1).integers(1, 30, size=200).tolist()
    made = batches(one_domain(lengths), max_items=30, batch_tokens=400)
    cells = sum(batch.target_BW.numel() for batch in made)
    assert sum(lengths) / cells > 0.9


def one_domain(lengths: list[int]) -> TrainingSequences:
    """Sequences of these lengths, every event a target."""
    total = sum(lengths)
    codes_EL = np.stack([np.arange(total) // size**level % size for level, size in enumerate((5, 5, 5))], axis=1)
    return TrainingSequences(
        np.zeros(total, dtype=np.int32),
        codes_EL.astype(np.int32),
        np.ones(total, dtype=np.bool_),
        np.concatenate([[0], np.cumsum(lengths)]),
    )


def test_only_the_targets_of_one_domain_stay_targets_and_the_rest_stays_history() -> None:
    sequences = world()
    only = sequences.only_targets_of(1)
    assert (only.target_E == (sequences.target_E & (sequences.domain_E == 1))).all()
    assert only.target_E.any()
    assert (only.codes_EL == sequences.codes_EL).all()
    assert (only.begin_S == sequences.begin_S).all()
    seen = [row for window in windows(batches(only)) for row in window]
    assert {int(row[3]) for row in seen} == {0, 1}
    assert {int(row[3]) for row in seen if row[4]} == {1}


def test_an_epoch_without_a_target_has_no_batch() -> None:
    events = split([[(0, 1, REAL), (0, 2, REAL + 1)]])
    assert set(events.part_E) == {Part.CONTEXT}
    assert batches(training_sequences(events, SIDS[:1])) == []


def test_a_batch_is_made_when_it_is_taken_and_is_the_same_whenever_that_is(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    plain = EpochBatches._batch

    def counted(self: EpochBatches, rows: npt.NDArray[np.int64]) -> SequenceBatch:
        batch = plain(self, rows)
        made.append(batch.name)
        return batch

    monkeypatch.setattr(EpochBatches, "_batch", counted)
    epoch = epoch_batches(
        one_domain([3, 9, 4, 1, 12, 5, 2]),
        VOCABULARY,
        NAMES,
        max_items=5,
        batch_tokens=60,
        any_domain_probability=0.5,
        seed=(0, 1),
    )
    assert made == []
    last = epoch[len(epoch) - 1]
    assert len(made) == 1
    again = list(epoch)[-1]
    assert torch.equal(last.tokens_BWX, again.tokens_BWX)
    assert torch.equal(last.target_BW, again.target_BW)


def test_the_parts_of_a_batch_are_its_windows_once_each() -> None:
    (batch,) = batches(one_domain([3, 4, 1, 5, 2]), batch_tokens=1000)
    for parts in (1, 2, 3, 5, 7):
        split = [batch.part(index, parts) for index in range(parts)]
        assert [part is None for part in split] == [index >= 5 for index in range(parts)]
        there = [part for part in split if part is not None]
        assert sum(part.weight for part in there) == batch.weight == 15
        rows = torch.cat([part.tokens_BWX for part in there])
        assert sorted(rows.flatten(1).tolist()) == sorted(batch.tokens_BWX.flatten(1).tolist())
