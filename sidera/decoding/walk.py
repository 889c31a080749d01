"""Feeds the tokens of a search's beams to the model.

At a step all beams of a request are one run of tokens in the sequence dimension; a mask shows each token the history
and its own ancestors. A beam's token that no pass has needed yet is fed later, in the pass that first needs it.

Shapes: M mixed distributions, B batch, K beams, l levels walked so far, T tokens of one run, S tokens of the search so
far, A active beams (those that need scores), X tokens that are fed, D hidden width.
"""

import torch
from torch import Tensor

from sidera.language_model import LanguageModel, ReadHistory


class Walk:
    """Feeds tokens of beams to the model, in runs, and remembers how many lie there."""

    def __init__(self, model: LanguageModel, history: ReadHistory) -> None:
        self._model = model
        self._history = history
        self._fed_slots = 0
        self.passes = 0
        self.tokens_fed = 0

    def hidden_of(self, path_BKl2: Tensor, active_BK: Tensor, active: tuple[Tensor, ...]) -> Tensor:
        """The hidden state behind the last code of every active beam, float[M, A, D].

        What an active beam has not fed yet is fed in one run; its slots are written into ``path_BKl2``.
        """
        device = path_BKl2.device
        slots_BKl = path_BKl2[..., 1]
        b, k, depth = (active_BK[..., None] & (slots_BKl < 0)).nonzero(as_tuple=True)
        place = torch.arange(len(b), device=device)
        length = len(b)
        if len(path_BKl2) > 1:
            fed_B = torch.bincount(b, minlength=len(path_BKl2))
            place = place - (fed_B.cumsum(0) - fed_B)[b]
            length = int(fed_B.max())
        seen, self._fed_slots = self._fed_slots, self._fed_slots + length
        slots_BKl[b, k, depth] = seen + place

        own_Xl = slots_BKl[b, k]
        if len(b) > len(active[0]):
            later_Xl = torch.arange(own_Xl.shape[1], device=device) > depth[:, None]
            own_Xl = torch.where(later_Xl, own_Xl[:, :1], own_Xl)
        visible_XS = torch.zeros(len(b), self._fed_slots, dtype=torch.bool, device=device)
        visible_XS.scatter_(1, own_Xl, True)

        def in_rows(values_X: Tensor, padding: int) -> Tensor:
            """One row a request, padded on the right."""
            if len(path_BKl2) == 1:
                return values_X[None]
            rows = values_X.new_full((len(path_BKl2), length, *values_X.shape[1:]), padding)
            rows[b, place] = values_X
            return rows

        hidden_MBTD = self._model.extend(
            self._history,
            in_rows(path_BKl2[b, k, depth, 0], self._model.vocabulary.pad),
            in_rows(depth, 0),
            in_rows(visible_XS, False),
        )
        self.passes += 1
        self.tokens_fed += len(b)
        if len(path_BKl2) == 1 and len(b) == len(active[0]):
            return hidden_MBTD[:, 0]
        return hidden_MBTD[:, active[0], slots_BKl[active[0], active[1], -1] - seen]
