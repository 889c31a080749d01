"""Users' events as token sequences for training.

Real times merge a user's domains into one chronological sequence; where timestamps are positions, each domain is a
sequence of its own. Only events of the train part are targets; events of users with too few events are context; events
of validation and test, and those held out for the user router, never enter. A long sequence is cut into windows, at
another place every epoch, so that every event is a target once an epoch and is seen with histories of all lengths, the
empty one included.

Shapes: E events, S sequences, B sequences of a batch, W items of a window, L levels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sidera.model.vocabulary import Vocabulary
from training.split import Events, Part


@dataclass(frozen=True)
class TrainingSequences:
    """All sequences, end to end.

    Attributes:
        domain_E: the domain (index) of each event. Shape: int32[E].
        codes_EL: the SID of its item. Shape: int32[E, L].
        target_E: whether it is a target. Shape: bool[E].
        begin_S: where each sequence begins, and where the last one ends. Shape: int64[S + 1].
    """

    domain_E: npt.NDArray[np.int32]
    codes_EL: npt.NDArray[np.int32]
    target_E: npt.NDArray[np.bool_]
    begin_S: npt.NDArray[np.int64]

    def only_targets_of(self, domain: int) -> "TrainingSequences":
        """The same sequences with the events of one domain as the only targets."""
        return TrainingSequences(self.domain_E, self.codes_EL, self.target_E & (self.domain_E == domain), self.begin_S)


@dataclass(frozen=True)
class SequenceBatch:
    """Windows of one batch, padded on the right; item by item ``domain c_1 .. c_L``.

    Attributes:
        tokens_BWX: Shape: int64[B, W, 1 + L].
        codes_BWL: Shape: int64[B, W, L].
        domain_BW: the domain (index) of each item, whatever token stands for it. Shape: int64[B, W].
        target_BW: which items count in the loss. Shape: bool[B, W].
        name: which batch this is, for messages.
    """

    tokens_BWX: Tensor
    codes_BWL: Tensor
    domain_BW: Tensor
    target_BW: Tensor
    name: str

    @property
    def num_tokens(self) -> int:
        """Tokens that are read, padding included."""
        return self.tokens_BWX.numel()

    @property
    def weight(self) -> int:
        """How many targets the batch has."""
        return int(self.target_BW.sum())

    def part(self, index: int, parts: int) -> "SequenceBatch | None":
        """Every ``parts``-th window, so that parts take equally long; None where no window is left."""
        rows = slice(index, None, parts)
        if index >= len(self.tokens_BWX):
            return None
        return SequenceBatch(
            self.tokens_BWX[rows], self.codes_BWL[rows], self.domain_BW[rows], self.target_BW[rows], self.name
        )


def training_sequences(events: Events, sids: Sequence[npt.NDArray[np.int32]]) -> TrainingSequences:
    """The sequences of all users.

    Args:
        events: split events of all domains.
        sids: the SIDs of each domain's items. Shape of each: int32[N, L].
    """
    kept = (events.part_E == Part.TRAIN) | (events.part_E == Part.CONTEXT)
    user_E, domain_E, item_E = events.user_E[kept], events.domain_E[kept], events.item_E[kept]
    own_sequence_E = np.where(events.real_time_E[kept], -1, domain_E)
    order = np.lexsort((own_sequence_E, user_E))
    user_E, domain_E, item_E, own_sequence_E = user_E[order], domain_E[order], item_E[order], own_sequence_E[order]
    changes = (np.diff(user_E) != 0) | (np.diff(own_sequence_E) != 0)
    begin_S = np.concatenate([[0], np.flatnonzero(changes) + 1, [len(user_E)]]).astype(np.int64)
    codes_EL = np.empty((len(user_E), sids[0].shape[1]), dtype=np.int32)
    for domain, own_sids in enumerate(sids):
        rows = domain_E == domain
        codes_EL[rows] = own_sids[item_E[rows]]
    return TrainingSequences(domain_E, codes_EL, (events.part_E[kept] == Part.TRAIN)[order], begin_S)


class EpochBatches(Sequence[SequenceBatch]):
    """The batches of one epoch; each is made when it is taken, so that a run may go on at any of them.

    Args:
        sequences: where the windows are cut from.
        vocabulary: the tokens of codes and domains.
        domain_names: name of each domain index.
        windows: of each window, the event it begins at, its items, and whether ``<any_domain>`` stands for its domains.
            Shapes: int64[C], int64[C], bool[C].
        groups: the windows of each batch.
    """

    def __init__(
        self,
        sequences: TrainingSequences,
        vocabulary: Vocabulary,
        domain_names: Sequence[str],
        windows: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_]],
        groups: Sequence[npt.NDArray[np.int64]],
    ) -> None:
        self._sequences, self._vocabulary, self._groups = sequences, vocabulary, groups
        self._begin_C, self._length_C, self._anonymous_C = windows
        self._domain_token_of = np.array([vocabulary.domain_token(name) for name in domain_names])
        self._first_code_L = np.array([vocabulary.first_code(level) for level in range(vocabulary.num_levels)])

    def __len__(self) -> int:
        return len(self._groups)

    @overload
    def __getitem__(self, place: int) -> SequenceBatch: ...

    @overload
    def __getitem__(self, place: slice) -> list[SequenceBatch]: ...

    def __getitem__(self, place: int | slice) -> SequenceBatch | list[SequenceBatch]:
        if isinstance(place, slice):
            return [self._batch(windows) for windows in self._groups[place]]
        return self._batch(self._groups[place])

    def _batch(self, windows: npt.NDArray[np.int64]) -> SequenceBatch:
        begin_B, length_B = self._begin_C[windows], self._length_C[windows]
        step_W = np.arange(length_B.max())
        inside_BW = step_W < length_B[:, None]
        event_BW = np.where(inside_BW, begin_B[:, None] + step_W, 0)
        codes_BWL = self._sequences.codes_EL[event_BW].astype(np.int64)
        domain_BW = self._sequences.domain_E[event_BW].astype(np.int64)
        token_BW = self._domain_token_of[domain_BW]
        token_BW = np.where(self._anonymous_C[windows][:, None], self._vocabulary.any_domain, token_BW)
        tokens_BWX = np.concatenate([token_BW[..., None], codes_BWL + self._first_code_L], axis=2)
        tokens_BWX = np.where(inside_BW[..., None], tokens_BWX, self._vocabulary.pad)
        return SequenceBatch(
            tokens_BWX=torch.from_numpy(tokens_BWX),
            codes_BWL=torch.from_numpy(codes_BWL),
            domain_BW=torch.from_numpy(domain_BW),
            target_BW=torch.from_numpy(inside_BW & self._sequences.target_E[event_BW]),
            name=f"windows of {len(step_W)} items at events {begin_B[:3].tolist()}...",
        )


def epoch_batches(
    sequences: TrainingSequences,
    vocabulary: Vocabulary,
    domain_names: Sequence[str],
    *,
    max_items: int,
    batch_tokens: int,
    any_domain_probability: float,
    seed: Sequence[int],
) -> EpochBatches:
    """The batches of one epoch: windows of similar length together, in an order that the seed decides.

    Args:
        max_items: items of a window at the most.
        batch_tokens: tokens of a batch at the most, padding included; at least one window.
        any_domain_probability: how often ``<any_domain>`` stands for all domain tokens of a window.
        seed: the same numbers give the same batches.
    """
    random = np.random.default_rng(list(seed))
    begin_C, length_C = _windows(sequences, max_items, random)
    shuffled = random.permutation(len(begin_C))
    by_length = shuffled[np.argsort(length_C[shuffled], kind="stable")]
    groups = list(_grouped(by_length, length_C, batch_tokens // vocabulary.tokens_per_item))
    anonymous_C = random.random(len(begin_C)) < any_domain_probability
    ordered = [groups[place] for place in random.permutation(len(groups))]
    return EpochBatches(sequences, vocabulary, domain_names, (begin_C, length_C, anonymous_C), ordered)


def _windows(
    sequences: TrainingSequences, max_items: int, random: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where each window begins, and how many items it has; windows without a target are left out."""
    begin_S, end_S = sequences.begin_S[:-1], sequences.begin_S[1:]
    long_S = end_S - begin_S > max_items
    first_S = np.where(long_S, begin_S + random.integers(1, max_items + 1, size=len(begin_S)), end_S)
    more_S = -(-(end_S - first_S) // max_items)  # windows behind the first cut
    last_C = np.cumsum(1 + more_S)
    sequence_C = np.repeat(np.arange(len(begin_S)), 1 + more_S)
    number_C = np.arange(len(sequence_C)) - (last_C - more_S - 1)[sequence_C]
    cut_C = first_S[sequence_C] + (number_C - 1) * max_items
    begin_C = np.where(number_C == 0, begin_S[sequence_C], cut_C)
    length_C = np.minimum(np.where(number_C == 0, first_S[sequence_C], cut_C + max_items), end_S[sequence_C]) - begin_C
    counted = np.concatenate([[0], np.cumsum(sequences.target_E)])
    has_target = counted[begin_C + length_C] > counted[begin_C]
    return begin_C[has_target], length_C[has_target]


def _grouped(
    order: npt.NDArray[np.int64], length_C: npt.NDArray[np.int64], batch_items: int
) -> Iterator[npt.NDArray[np.int64]]:
    """Neighbours of the order, as many as fit when padded to the longest (the last, for lengths that rise)."""
    start = 0
    for stop in range(1, len(order) + 1):
        if stop == len(order) or (stop + 1 - start) * length_C[order[stop]] > batch_items:
            yield order[start:stop]
            start = stop
