"""A whole history read at once: vectors of items, learned from the train part, that say what comes next.

Lists of followers know only what stood near what. A reader knows an item by a vector that it shares with items taken by
the same users or told by the same texts, so it also ranks items that never came near those of the history. It is a
linear model with a softmax over all items of its domain: the history is the weighted sum of its newest items' input
vectors, the newer the heavier,

    h = sum_j a_j in(h_j) / (sum_j a_j + REST),    P(i | S) = softmax_i(out(i) h + bias(i)),

as SASRec (arXiv 1808.09781) scores items, with weights by age in place of attention. Masses are of the likeliest items
only; what the others would have goes to the language model. Items that joined later have no vectors: a history is read
without them, and they stand in the lists of items alike.

Shapes: I items of the domain, D width, A ages, R items read of one history, S items found for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sidera.errors import CatalogError
from sidera.items.memory_reading import NOTHING, Found

Floats = npt.NDArray[np.float32]

REST = 0.05
"""What is added to the sum of the weights, so that a history of little weight says less."""

LISTED = 100
"""Items that a history gets masses for."""


@dataclass(frozen=True)
class HistoryReader:
    """The vectors of one domain.

    Attributes:
        number_I: the items' numbers, each above the one before. Shape: int64[I].
        input_ID: of items in a history. Shape: float32[I, D].
        output_ID: of items that may come. Shape: float32[I, D].
        bias_I: what speaks for an item whatever came before. Shape: float32[I].
        age_A: the weight of a history's items, the newest first; older ones are not read. Shape: float32[A].

    Raises:
        CatalogError: the arrays do not fit each other.
    """

    number_I: npt.NDArray[np.int64]
    input_ID: Floats
    output_ID: Floats
    bias_I: Floats
    age_A: Floats

    def __post_init__(self) -> None:
        items = len(self.number_I)
        fits = self.input_ID.shape == self.output_ID.shape and self.input_ID.ndim == 2 and self.age_A.ndim == 1
        if not fits or len(self.input_ID) != items or self.bias_I.shape != (items,) or not len(self.age_A):
            raise CatalogError(
                f"a reader of {items} items has input vectors {self.input_ID.shape}, output vectors "
                f"{self.output_ID.shape}, biases {self.bias_I.shape} and ages {self.age_A.shape}; they must fit"
            )

    def renumbered(self, new_M: npt.NDArray[np.integer]) -> "HistoryReader":
        """The same under new numbers; items without one leave it.

        Args:
            new_M: the new number of each old one, -1 for none.
        """
        number_I = np.asarray(new_M, dtype=np.int64)[self.number_I]
        order = np.argsort(number_I, kind="stable")
        order = order[number_I[order] >= 0]
        return HistoryReader(
            number_I[order], self.input_ID[order], self.output_ID[order], self.bias_I[order], self.age_A
        )

    def read(self, numbers: Sequence[int]) -> Found:
        """The likeliest next items; masses sum to at most 1, and nothing is found where no item has a vector.

        Args:
            numbers: the history, oldest first.
        """
        newest = np.array(numbers[-len(self.age_A) :][::-1], dtype=np.int64)
        row_R = np.minimum(self.number_I.searchsorted(newest), len(self.number_I) - 1)
        known_R = self.number_I[row_R] == newest
        if not known_R.any():
            return NOTHING
        age_R = self.age_A[: len(newest)][known_R]
        history_D = (age_R @ self.input_ID[row_R[known_R]]) / (age_R.sum() + np.float32(REST))
        score_I = self.output_ID @ history_D + self.bias_I
        score_I -= score_I.max()
        np.exp(score_I, out=score_I)
        listed = min(LISTED, len(score_I))
        best_S = np.sort(np.argpartition(-score_I, listed - 1)[:listed])
        mass_S: npt.NDArray[np.float64] = score_I[best_S].astype(np.float64) / score_I.sum(dtype=np.float64)
        return self.number_I[best_S], mass_S
