"""Fits :mod:`sidera.items.history_reader`: the next item of every train sequence, by a softmax over sampled items.

An item's vectors are its own part, learned freely, and a map of its text's vector: an item with few events is known by
its text. The softmax is over the target and negatives drawn by popularity^0.75, whose logits are corrected by the
logarithm of how often they are drawn (Bengio and Senecal, 2008). Items of a history are left out at random, and so are
single numbers of their vectors. The rate falls to 0, and the state is kept that ranks validation targets best.

Events that are held out for routers are not learned, so these may judge what the reader says of them.

Shapes: I items of the domain, T targets, B of one batch, A ages, X negatives, D width, V text vector dim.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from sidera.items.history_reader import REST, HistoryReader
from sidera.items.unit_vectors import unit_rows
from training.evaluation import PLACES
from training.metrics import ndcg_values
from training.progress import track
from training.split import Events, Part, Target

AGES = 10
"""Items of a history that are read."""

_BATCH = 1024
_NEGATIVES = 2048
_RATE = 3e-3
_PASSES = 20
"""Over the targets at the most: of few events less is to be learned."""
_WARM_UP = 0.05
"""Of all batches."""
_DECAY = 0.05
_LEFT_OUT = 0.3
_DROPOUT = 0.2
_POWER = 0.75
_SCALE = 2.5
"""The logarithm of what logits are multiplied with at the start."""
_JUDGED = 10
"""How often validation targets are ranked."""
_JUDGED_ON = 2000
_AT_ONCE = 250


@dataclass(frozen=True)
class _Sequences:
    """Targets of the train part, and the rows of the items before them.

    Attributes:
        before_TA: newest first; I where there is none.
        target_T: the item that came.
    """

    before_TA: Tensor
    target_T: Tensor


class _Network(nn.Module):
    """The reader, while it learns."""

    def __init__(self, vectors_IV: npt.NDArray[np.float32], width: int) -> None:
        super().__init__()
        items, dim = vectors_IV.shape
        text_IV = unit_rows(vectors_IV - vectors_IV.mean(axis=0, dtype=np.float64).astype(np.float32))
        # The last row is that of no item.
        self.text_IV = torch.from_numpy(np.concatenate([text_IV, np.zeros((1, dim), np.float32)]))
        self.input = nn.Embedding(items + 1, width, padding_idx=items)
        self.output = nn.Embedding(items, width)
        self.input_text = nn.Linear(dim, width, bias=False)
        self.output_text = nn.Linear(dim, width, bias=False)
        self.bias_I = nn.Parameter(torch.zeros(items))
        self.age_A = nn.Parameter(-0.5 * torch.arange(AGES))
        self.scale = nn.Parameter(torch.tensor(_SCALE))
        for table in (self.input, self.output):
            nn.init.normal_(table.weight, std=0.05)
        with torch.no_grad():
            self.input.weight[items] = 0

    def histories(self, before_BA: Tensor) -> Tensor:
        """The vectors of histories, with some items left out: float32[B, D]."""
        row_X, place_BA = torch.unique(before_BA, return_inverse=True)
        vectors_XD = self.input(row_X) + self.input_text(self.text_IV[row_X])
        told_BA = (before_BA < len(self.bias_I)) & (torch.rand(before_BA.shape) >= _LEFT_OUT)
        weight_BA = torch.softmax(self.age_A, dim=0) * told_BA
        weight_BA = weight_BA / (weight_BA.sum(dim=1, keepdim=True) + REST)
        vectors_BAD = dropout(vectors_XD[place_BA], _DROPOUT)
        return self.scale.exp() * torch.einsum("ba,bad->bd", weight_BA, vectors_BAD)

    def candidates(self, row_X: Tensor) -> Tensor:
        """The output vectors of some items: float32[X, D]."""
        found: Tensor = self.output(row_X) + self.output_text(self.text_IV[row_X])
        return found

    @torch.no_grad()
    def export(self, number_I: npt.NDArray[np.int64]) -> HistoryReader:
        """What serves; ``number_I`` are the items' numbers, in any order."""
        order = np.argsort(number_I)
        every = torch.from_numpy(order)
        text_IV = self.text_IV[every]
        input_ID = self.scale.exp() * (self.input.weight[every] + self.input_text(text_IV))
        return HistoryReader(
            number_I[order],
            input_ID.numpy().copy(),
            self.candidates(every).numpy().copy(),
            self.bias_I[every].numpy().copy(),
            torch.softmax(self.age_A, dim=0).numpy().copy(),
        )


def fit_reader(
    events: Events,
    domain: int,
    vectors_IV: npt.NDArray[np.float32],
    number_I: npt.NDArray[np.int64],
    validation: Sequence[Target],
    width: int,
    steps: int,
    seed: int,
    label: str,
) -> HistoryReader | None:
    """The reader of one domain, as it ranked validation targets best; None where there is nothing to learn.

    Args:
        vectors_IV: of the items' texts.
        number_I: of the items in the catalog.
        validation: targets of the domain that select; at most 2,000 of them are ranked.
        width: D.
        steps: batches learned from, fewer where these would be more than 20 passes over the targets.
    """
    told = _sequences(events, domain, len(number_I))
    if not len(told.target_T) or not validation:
        return None
    judged = _drawn(validation, seed)
    steps = min(steps, _PASSES * -(-len(told.target_T) // _BATCH))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _Network(vectors_IV, width)
        return _learned(network, told, number_I, judged, steps, label)


def _learned(
    network: _Network,
    told: _Sequences,
    number_I: npt.NDArray[np.int64],
    judged: Sequence[Target],
    steps: int,
    label: str,
) -> HistoryReader:
    own = [network.input.weight, network.output.weight]
    shared = [value for name, value in network.named_parameters() if name not in ("input.weight", "output.weight")]
    optimizer = torch.optim.AdamW(
        [{"params": own, "weight_decay": _DECAY}, {"params": shared, "weight_decay": 1e-3}], lr=_RATE
    )
    drawn_I = (torch.bincount(told.target_T, minlength=len(number_I)) + 1.0) ** _POWER
    below_I = (drawn_I / drawn_I.sum()).double().cumsum(0)
    expected_I = (drawn_I / drawn_I.sum() * _NEGATIVES).log()
    best, highest = network.export(number_I), -1.0
    often = -(-steps // _JUDGED)
    with track(f"reader: {label}", steps) as advance:
        for step in range(1, steps + 1):
            rows_B = torch.randint(len(told.target_T), (min(_BATCH, len(told.target_T)),))
            negative_X = torch.searchsorted(below_I, torch.rand(_NEGATIVES, dtype=torch.float64))
            negative_X = negative_X.clamp_max(len(number_I) - 1)
            loss = _loss(network, told.before_TA[rows_B], told.target_T[rows_B], negative_X, expected_I)
            for group in optimizer.param_groups:
                group["lr"] = _RATE * min(1.0, step / (_WARM_UP * steps)) * (1 - (step - 1) / steps)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % often == 0 or step == steps:
                made = network.export(number_I)
                reached = float(reader_ndcg(made, number_I, judged).mean())
                if reached > highest:
                    best, highest = made, reached
                advance((step - 1) % often + 1, note=f"validation NDCG@10 {reached:.4f}")
    return best


def _loss(network: _Network, before_BA: Tensor, target_B: Tensor, negative_X: Tensor, expected_I: Tensor) -> Tensor:
    """The mean of minus the logarithm of the targets' chances among the negatives."""
    history_BD = network.histories(before_BA)
    right_B = (history_BD * network.candidates(target_B)).sum(dim=1) + network.bias_I[target_B]
    wrong_BX = history_BD @ network.candidates(negative_X).T + (network.bias_I - expected_I)[negative_X]
    wrong_BX = wrong_BX.masked_fill(negative_X == target_B[:, None], -torch.inf)
    return (torch.logaddexp(wrong_BX.logsumexp(dim=1), right_B) - right_B).mean()


def reader_ndcg(
    reader: HistoryReader, number_I: npt.NDArray[np.int64], asked: Sequence[Target]
) -> npt.NDArray[np.float64]:
    """NDCG@10 of each target by the reader alone, among all items but those of its history.

    Args:
        number_I: of the domain's items in the catalog.
    """
    row_I = np.argsort(np.argsort(number_I))  # the reader's rows stand by number
    rank_T = np.empty(len(asked), dtype=np.int64)
    for begin in range(0, len(asked), _AT_ONCE):
        part = asked[begin : begin + _AT_ONCE]
        history_BD = np.zeros((len(part), reader.input_ID.shape[1]), dtype=np.float32)
        for place, target in enumerate(part):
            read = row_I[[item for _, item in _own(target)[: -len(reader.age_A) - 1 : -1]]].astype(np.int64)
            age_R = reader.age_A[: len(read)]
            history_BD[place] = (age_R @ reader.input_ID[read]) / (age_R.sum() + np.float32(REST))
        score_BI = history_BD @ reader.output_ID.T + reader.bias_I
        for place, target in enumerate(part):
            right = float(score_BI[place, row_I[target.item]])
            score_BI[place, row_I[[item for _, item in _own(target) if item != target.item]].astype(np.int64)] = -np.inf
            rank_T[begin + place] = int((score_BI[place] > right).sum())
    return ndcg_values(rank_T, PLACES)


def _own(target: Target) -> list[tuple[int, int]]:
    """The history in the target's domain, oldest first."""
    return [(domain, item) for domain, item in target.history if domain == target.domain]


def _drawn(validation: Sequence[Target], seed: int) -> list[Target]:
    chosen = np.random.default_rng(seed).permutation(len(validation))[:_JUDGED_ON]
    return [validation[row] for row in sorted(chosen.tolist())]


def _sequences(events: Events, domain: int, items: int) -> _Sequences:
    """All targets of the train part that have an item before them."""
    train_E = np.flatnonzero((events.part_E == Part.TRAIN) & (events.domain_E == domain))
    user_E, item_E = events.user_E[train_E], events.item_E[train_E].astype(np.int64)
    before_EA = np.full((len(train_E), AGES), items, dtype=np.int64)
    for age in range(1, AGES + 1):
        later = np.flatnonzero(user_E[age:] == user_E[:-age]) + age
        before_EA[later, age - 1] = item_E[later - age]
    kept = before_EA[:, 0] < items
    return _Sequences(torch.from_numpy(before_EA[kept]), torch.from_numpy(item_E[kept]))
