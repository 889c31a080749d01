"""A whole history read at once: vectors of items, learned from the train part, that say what comes next.

Lists of followers know only what stood near what. A reader knows an item by a vector that it shares with items taken by
the same users or told by the same texts, so it also ranks items that never came near those of the history. The history
is the weighted sum of its newest items' vectors, the newer the heavier, and one layer behind it:

    s = sum_j a_j in(h_j),    h = norm(s + outer gelu(inner norm(s))),    P(i | S) = softmax_i(out(i) h + bias(i)),

SASRec (arXiv 1808.09781) with weights by age in place of attention, and with texts. norm: mean 0, deviation 1. Masses
are of the likeliest items only, which a large domain finds by their main directions; what the others would have goes to
the language model. Items that joined later have no vectors: a history is read without them, and they stand in the lists
of items alike.

Shapes: I items of the domain, D width, H hidden width, A ages, R items read of one history, K items looked at in full,
S items found for it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from sidera.errors import CatalogError
from sidera.items.main_directions import DIRECTIONS, MainDirections
from sidera.items.memory_reading import NOTHING, Entries
from sidera.items.memory_router import gelu

Floats = npt.NDArray[np.float32]

LISTED = 100
"""Items that a history gets masses for."""

_LOOKED_AT = 4096
"""Items of which the likeliest are found by looking at all in full."""

NORM_EPSILON = 1e-5


@dataclass(frozen=True)
class HistoryReader:
    """The vectors of one domain.

    Attributes:
        number_I: the items' numbers, each above the one before. Shape: int64[I].
        input_ID: of items in a history. Shape: float32[I, D].
        output_ID: of items that may come. Shape: float32[I, D].
        bias_I: what speaks for an item whatever came before. Shape: float32[I].
        age_A: the weight of a history's items, the newest first; older ones are not read. Shape: float32[A].
        inner_HD, inner_H, outer_DH, outer_D: the layer.
        share: of the mass of items alike, where it knows an item of the history; the lists have the rest.

    Raises:
        CatalogError: the arrays do not fit each other.
    """

    number_I: npt.NDArray[np.int64]
    input_ID: Floats
    output_ID: Floats
    bias_I: Floats
    age_A: Floats
    inner_HD: Floats
    inner_H: Floats
    outer_DH: Floats
    outer_D: Floats
    share: float = 1.0

    def __post_init__(self) -> None:
        items, width, hidden = len(self.number_I), self.input_ID.shape[-1], len(self.inner_H)
        wanted = {
            "input_ID": (items, width),
            "output_ID": (items, width),
            "bias_I": (items,),
            "age_A": (max(1, len(self.age_A)),),
            "inner_HD": (hidden, width),
            "outer_DH": (width, hidden),
            "outer_D": (width,),
        }
        for name, shape in wanted.items():
            if getattr(self, name).shape != shape:
                raise CatalogError(
                    f"{name} of a reader of {items} items is of shape {getattr(self, name).shape}, and must be {shape}"
                )

    def renumbered(self, new_M: npt.NDArray[np.integer]) -> "HistoryReader":
        """The same under new numbers; items without one leave it.

        Args:
            new_M: the new number of each old one, -1 for none.
        """
        number_I = np.asarray(new_M, dtype=np.int64)[self.number_I]
        order = np.argsort(number_I, kind="stable")
        order = order[number_I[order] >= 0]
        return replace(
            self,
            number_I=number_I[order],
            input_ID=self.input_ID[order],
            output_ID=self.output_ID[order],
            bias_I=self.bias_I[order],
        )

    def read(self, numbers: Sequence[int]) -> Entries:
        """The likeliest next items, each once; masses sum to at most 1, and to 0 where no item has a vector.

        Args:
            numbers: the history, oldest first.
        """
        if not len(self.number_I):
            return NOTHING
        newest = np.array(numbers[-len(self.age_A) :][::-1], dtype=np.int64)
        row_R = np.minimum(self.number_I.searchsorted(newest), len(self.number_I) - 1)
        known_R = self.number_I[row_R] == newest
        if not known_R.any():
            return NOTHING
        sum_D = self.age_A[: len(newest)][known_R] @ self.input_ID[row_R[known_R]]
        history_D = self._history(sum_D[None])[0]
        if self._directions is None:
            place_K, log_rest = np.arange(len(self.number_I)), -math.inf
            score_K = self.output_ID @ history_D + self.bias_I
        else:
            place_K, log_rest = self._directions.promising(history_D, self.bias_I)
            score_K = self.output_ID.take(place_K, axis=0) @ history_D + self.bias_I[place_K]
        peak = score_K.max()
        log_whole = np.logaddexp(peak + np.log(np.exp(score_K - peak).sum()), log_rest)
        others = max(len(score_K) - LISTED, 0)
        best_S = score_K.argpartition(others)[others:]
        return self.number_I[place_K[best_S]], np.exp(score_K[best_S] - log_whole, dtype=np.float64)

    def scores(self, sum_BD: Floats) -> Floats:
        """What speaks for every item after histories, by the weighted sums of their vectors: float32[B, I]."""
        score_BI: Floats = self._history(sum_BD) @ self.output_ID.T + self.bias_I
        return score_BI

    def _history(self, sum_BD: Floats) -> Floats:
        """The vectors of histories, by the weighted sums of their items': float32[B, D]."""
        hidden_BH = gelu(_normalised(sum_BD) @ self.inner_HD.T + self.inner_H)
        return _normalised(sum_BD + hidden_BH @ self.outer_DH.T + self.outer_D)

    @cached_property
    def _directions(self) -> MainDirections | None:
        """By which the likeliest items are found; None: they are so few that each is looked at in full."""
        wide_enough = self.output_ID.shape[1] > DIRECTIONS and len(self.number_I) > _LOOKED_AT
        return MainDirections.of(self.output_ID) if wide_enough else None


def _normalised(x_BD: Floats) -> Floats:
    """Each row with mean 0 and deviation 1."""
    width = x_BD.shape[1]
    norm_BD: Floats = x_BD - x_BD.sum(axis=1, keepdims=True) / width
    norm_BD /= np.sqrt((norm_BD * norm_BD).sum(axis=1, keepdims=True) / width + NORM_EPSILON)
    return norm_BD
