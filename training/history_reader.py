"""Fits :mod:`sidera.items.history_reader`: the next item of every train sequence, by a softmax over sampled items.

An item's vector is its own part, learned freely, and a map of its text's vector: an item with few events is known by
its text. The same vectors stand for an item in a history, normalised, and for one that may come. The softmax is over
the target and negatives drawn by popularity^0.75, whose logits are corrected by how often they were drawn and by the
logarithm of how often they are expected (Bengio and Senecal, 2008). After every pass validation targets are ranked; the
best pass is kept, and training ends when three passes were no better.

Events that were held out for the language model's router are learned too, as the counts have them.

Shapes: I items of the domain, T targets, B of one batch, A ages, X negatives, U different items of a batch, D width, V
text vector dim.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, gelu

from sidera.items.history_reader import NORM_EPSILON, HistoryReader
from sidera.items.unit_vectors import unit_rows
from training.evaluation import PLACES
from training.metrics import ndcg_values
from training.progress import track
from training.split import Events, Part, Target

AGES = 12
"""Items of a history that are read."""

PATIENCE = 3
"""Passes that may be no better than the best one before."""

_BATCH = 1024
_FEWEST_BATCHES = 128
"""Of a pass, where there are few targets: they come in smaller batches."""
_SMALLEST_BATCH = 64
_NEGATIVES = 4096
_RATE = 1e-3
_DROPOUT = 0.3
_POWER = 0.75
_HIDDEN = 4
"""Times the width."""
_INITIAL_STD = 0.02
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

    text_IV: Tensor

    def __init__(self, vectors_IV: npt.NDArray[np.float32], width: int) -> None:
        super().__init__()
        items, dim = vectors_IV.shape
        text_IV = unit_rows(vectors_IV - vectors_IV.mean(axis=0, dtype=np.float64).astype(np.float32))
        self.register_buffer("text_IV", torch.from_numpy(text_IV.astype(np.float32)))
        self.item = nn.Embedding(items, width)
        nn.init.normal_(self.item.weight, std=_INITIAL_STD)
        self.text = nn.Linear(dim, width, bias=False)
        self.norm = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.age_A = nn.Parameter(-0.5 * torch.arange(AGES))
        self.inner_norm = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.inner = nn.Linear(width, _HIDDEN * width)
        self.outer = nn.Linear(_HIDDEN * width, width)
        self.last_norm = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.bias_I = nn.Parameter(torch.zeros(items))

    def vectors(self, row_U: Tensor) -> Tensor:
        """Of some items: float32[U, D]."""
        found: Tensor = self.item(row_U) + self.text(self.text_IV[row_U])
        return found

    def histories(self, before_BA: Tensor) -> Tensor:
        """The vectors of histories: float32[B, D]."""
        row_U, place_BA = torch.unique(before_BA, return_inverse=True)
        items = len(self.bias_I)
        input_UD = self.norm(self.vectors(row_U.clamp_max(items - 1))) * (row_U < items)[:, None]
        told_BAD = dropout(input_UD[place_BA], _DROPOUT, self.training)
        sum_BD = torch.einsum("a,bad->bd", torch.softmax(self.age_A, dim=0), told_BAD)
        hidden_BH = dropout(gelu(self.inner(self.inner_norm(sum_BD)), approximate="tanh"), _DROPOUT, self.training)
        found: Tensor = self.last_norm(sum_BD + dropout(self.outer(hidden_BH), _DROPOUT, self.training))
        return found

    @torch.no_grad()
    def export(self, number_I: npt.NDArray[np.int64]) -> HistoryReader:
        """What serves; ``number_I`` are the items' numbers, in any order. Gains of norms go into what reads them."""
        order = np.argsort(number_I)
        vectors_ID = self.vectors(torch.from_numpy(order).to(self.bias_I.device))
        made = {
            "input_ID": self.norm(vectors_ID),
            "output_ID": vectors_ID * self.last_norm.weight,
            "bias_I": self.bias_I[torch.from_numpy(order)] + vectors_ID @ self.last_norm.bias,
            "age_A": torch.softmax(self.age_A, dim=0),
            "inner_HD": self.inner.weight * self.inner_norm.weight,
            "inner_H": self.inner.bias + self.inner.weight @ self.inner_norm.bias,
            "outer_DH": self.outer.weight,
            "outer_D": self.outer.bias,
        }
        return HistoryReader(number_I[order], **{name: value.cpu().numpy().copy() for name, value in made.items()})


def fit_reader(
    events: Events,
    domain: int,
    vectors_IV: npt.NDArray[np.float32],
    number_I: npt.NDArray[np.int64],
    judged: Sequence[Target],
    width: int,
    passes: int,
    seed: int,
    label: str,
    device: str = "cpu",
) -> HistoryReader | None:
    """The reader of one domain, as it ranked targets best; None where there is nothing to learn.

    Args:
        vectors_IV: of the items' texts.
        number_I: of the items in the catalog.
        judged: validation targets of the domain.
        width: D.
        passes: over the train targets at the most.
    """
    told = _sequences(events, domain, len(number_I))
    if not len(told.target_T) or not judged:
        return None
    with torch.random.fork_rng(devices=[device] if device != "cpu" else []):
        torch.manual_seed(seed)
        return _learned(_Network(vectors_IV, width).to(device), told, number_I, judged, passes, label)


def _learned(
    network: _Network,
    told: _Sequences,
    number_I: npt.NDArray[np.int64],
    judged: Sequence[Target],
    passes: int,
    label: str,
) -> HistoryReader:
    device = network.bias_I.device
    optimizer = torch.optim.Adam(network.parameters(), lr=_RATE, fused=True)
    negatives = _Negatives(told.target_T, len(number_I))
    before_TA, target_T = told.before_TA.to(device), told.target_T.to(device)
    targets = len(target_T)
    size = min(_BATCH, max(_SMALLEST_BATCH, targets // _FEWEST_BATCHES))
    best, highest, waited = network.export(number_I), -1.0, 0
    with track(f"reader: {label}", passes * -(-targets // size)) as advance:
        for _ in range(passes):
            for row_B in torch.randperm(targets).split(size):
                loss = _loss(network, before_TA[row_B], target_T[row_B], negatives)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                advance(1)
            network.eval()
            made = network.export(number_I)
            network.train()
            reached = float(reader_ndcg(made, number_I, judged).mean())
            advance(0, note=f"validation NDCG@10 {reached:.4f}")
            waited += 1
            if reached > highest:
                best, highest, waited = made, reached, 0
            if waited == PATIENCE:
                break
    return best


class _Negatives:
    """Draws items, the more popular ones more often."""

    def __init__(self, target_T: Tensor, items: int) -> None:
        weight_I = (torch.bincount(target_T, minlength=items) + 1.0) ** _POWER
        self._below_I = (weight_I / weight_I.sum()).double().cumsum(0)
        self._expected_I = (weight_I / weight_I.sum() * _NEGATIVES).log()

    def drawn(self, target_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The different items of targets and negatives, what is added to their logits, and the targets' places.

        An item that is a target here and no negative counts for no other target.
        """
        device = target_B.device
        negative_X = torch.searchsorted(self._below_I, torch.rand(_NEGATIVES, dtype=torch.float64))
        negative_X = negative_X.clamp_max(len(self._below_I) - 1).to(device)
        row_U, place_X = torch.unique(torch.cat([target_B, negative_X]), return_inverse=True)
        drawn_U = torch.bincount(place_X[len(target_B) :], minlength=len(row_U)).float()
        return row_U, drawn_U.log() - self._expected_I.to(device)[row_U], place_X[: len(target_B)]


def _loss(network: _Network, before_BA: Tensor, target_B: Tensor, negatives: _Negatives) -> Tensor:
    """The mean of minus the logarithm of the targets' chances among the negatives."""
    history_BD = network.histories(before_BA)
    row_U, added_U, place_B = negatives.drawn(target_B)
    score_BU = history_BD @ network.vectors(row_U).T + network.bias_I[row_U]
    right_B = score_BU.gather(1, place_B[:, None]).squeeze(1)
    # A target counts once and without a correction, however often it was drawn; so no row is without a finite logit.
    logit_BU = (score_BU + added_U).scatter(1, place_B[:, None], right_B[:, None])
    return (logit_BU.logsumexp(dim=1) - right_B).mean()


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
        sum_BD = np.zeros((len(part), reader.input_ID.shape[1]), dtype=np.float32)
        for place, target in enumerate(part):
            read = row_I[[item for _, item in _own(target)[: -len(reader.age_A) - 1 : -1]]].astype(np.int64)
            sum_BD[place] = reader.age_A[: len(read)] @ reader.input_ID[read]
        score_BI = reader.scores(sum_BD)
        for place, target in enumerate(part):
            right = float(score_BI[place, row_I[target.item]])
            score_BI[place, row_I[[item for _, item in _own(target) if item != target.item]].astype(np.int64)] = -np.inf
            # Not "higher": a score that is no number is no hit.
            rank_T[begin + place] = int((~(score_BI[place] <= right)).sum())
    return ndcg_values(rank_T, PLACES)


def _own(target: Target) -> list[tuple[int, int]]:
    """The history in the target's domain, oldest first."""
    return [(domain, item) for domain, item in target.history if domain == target.domain]


def _sequences(events: Events, domain: int, items: int) -> _Sequences:
    """All targets of the train part that have an item before them."""
    train_E = np.flatnonzero(np.isin(events.part_E, (Part.TRAIN, Part.ROUTER)) & (events.domain_E == domain))
    user_E, item_E = events.user_E[train_E], events.item_E[train_E].astype(np.int64)
    before_EA = np.full((len(train_E), AGES), items, dtype=np.int64)
    for age in range(1, AGES + 1):
        later = np.flatnonzero(user_E[age:] == user_E[:-age]) + age
        before_EA[later, age - 1] = item_E[later - age]
    kept = before_EA[:, 0] < items
    return _Sequences(torch.from_numpy(before_EA[kept]), torch.from_numpy(item_E[kept]))
