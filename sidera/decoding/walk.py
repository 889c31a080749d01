"""Feeds the tokens of a search's beams to the model.

At a step all beams of a request are one run of tokens in the sequence dimension; a mask shows each token the history
and its own ancestors. A beam's token that no pass has needed yet is fed later, in the pass that first needs it. And
where few of the beams' children branch again, these are fed in the same run as the beams: the next level then needs no
pass, whichever of them become beams.

Shapes: M mixed distributions, B batch, K beams, C children, l levels walked so far, T tokens of one run, S tokens of
the search so far, A active beams (those that need scores), X tokens that are fed, Y of them those of children, D hidden
width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sidera.language_model import LanguageModel, ReadHistory
from sidera.trie import TrieTables

_PASS_TOKENS = {"cpu": 24}
_PASS_TOKENS_ELSEWHERE = 256
"""A pass costs at least as much as so many more tokens in the pass before it."""


@dataclass(frozen=True)
class Ahead:
    """Children that are fed together with their parents, in the order of their places.

    Attributes:
        places: request, parent and child of each one. Shape: int64[Y] each.
        tokens_Y: their tokens.
    """

    places: tuple[Tensor, Tensor, Tensor]
    tokens_Y: Tensor


class Walk:
    """Feeds tokens of beams to the model, in runs, and remembers how many lie there.

    Attributes:
        passes: how many runs there were.
        tokens_fed: tokens of them, padding not counted.
        fed_depth: the codes of the beams whose last tokens the last run holds already; 0 where it does of none.
    """

    def __init__(self, model: LanguageModel, history: ReadHistory) -> None:
        self._model = model
        self._history = history
        self._fed_slots = 0
        self._run: tuple[int, Tensor] | None = None
        self.passes = 0
        self.tokens_fed = 0
        self.fed_depth = 0

    def look_ahead(self, tables: TrieTables, level: int, child_BKC: Tensor, alive_BKC: Tensor) -> Ahead | None:
        """The children that the next level needs scores below; None where a pass of their own costs less.

        Args:
            level: how many codes the beams have.
            child_BKC: the beams' children.
            alive_BKC: which of them there are.
        """
        first_child = tables.first_child[level + 1]
        branching_BKC = alive_BKC & (first_child[child_BKC + 1] - first_child[child_BKC] > 1)
        longest = int(branching_BKC.flatten(1).sum(1).max())
        if len(child_BKC) * longest > _PASS_TOKENS.get(child_BKC.device.type, _PASS_TOKENS_ELSEWHERE):
            return None
        b, k, c = branching_BKC.nonzero(as_tuple=True)
        codes_Y = tables.codes[level][child_BKC[b, k, c]]
        return Ahead((b, k, c), codes_Y + self._model.vocabulary.first_code(level))

    def hidden_of(
        self, path_BKl2: Tensor, active_BK: Tensor, active: tuple[Tensor, ...], ahead: Ahead | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The hidden state behind the last code of every active beam, and where children were fed.

        What an active beam has not fed yet is fed in one run; its slots are written into ``path_BKl2``.

        Args:
            ahead: children to feed in the same run.

        Returns:
            float[M, A, D]; and the slots of ``ahead``, int64[Y], None where nothing was fed.
        """
        slots_BKl = path_BKl2[..., 1]
        levels = slots_BKl.shape[2]
        if self.fed_depth == levels:
            return self._hidden_at(slots_BKl, active), None
        num_requests, device = len(path_BKl2), path_BKl2.device
        needed_BK = active_BK
        if ahead is not None:
            needed_BK = active_BK.index_put(ahead.places[:2], torch.ones((), dtype=torch.bool, device=device))
        b, k, depth = (needed_BK[..., None] & (slots_BKl < 0)).nonzero(as_tuple=True)
        place, fed_B = _places(b, num_requests)
        seen = self._fed_slots
        slots_BKl[b, k, depth] = seen + place

        own_Xl = slots_BKl[b, k]
        if len(b) > len(active[0]):
            later_Xl = torch.arange(own_Xl.shape[1], device=device) > depth[:, None]
            own_Xl = torch.where(later_Xl, own_Xl[:, :1], own_Xl)
        tokens_X = path_BKl2[b, k, depth, 0]
        slots_Y = None
        if ahead is not None:
            of_request, parent, _ = ahead.places
            place_Y, ahead_B = _places(of_request, num_requests)
            place_Y = place_Y + fed_B[of_request]
            slots_Y = seen + place_Y
            own_Yl = torch.cat([slots_BKl[of_request, parent], slots_Y[:, None]], dim=1)
            own_Xl = torch.cat([torch.cat([own_Xl, own_Xl[:, :1]], dim=1), own_Yl])
            tokens_X = torch.cat([tokens_X, ahead.tokens_Y])
            depth = torch.cat([depth, torch.full_like(of_request, levels)])
            b, place, fed_B = torch.cat([b, of_request]), torch.cat([place, place_Y]), fed_B + ahead_B
            self.fed_depth = levels + 1
        length = len(b) if num_requests == 1 else int(fed_B.max())
        self._fed_slots = seen + length
        visible_XS = torch.zeros(len(b), self._fed_slots, dtype=torch.bool, device=device)
        visible_XS.scatter_(1, own_Xl, True)

        def in_rows(values_X: Tensor, padding: int) -> Tensor:
            """One row a request, padded on the right."""
            if num_requests == 1:
                return values_X[None]
            rows = values_X.new_full((num_requests, length, *values_X.shape[1:]), padding)
            rows[b, place] = values_X
            return rows

        hidden_MBTD = self._model.extend(
            self._history,
            in_rows(tokens_X, self._model.vocabulary.pad),
            in_rows(depth, 0),
            in_rows(visible_XS, False),
        )
        self.passes += 1
        self.tokens_fed += len(b)
        self._run = (seen, hidden_MBTD)
        if num_requests == 1 and len(b) == len(active[0]):
            return hidden_MBTD[:, 0], slots_Y
        return self._hidden_at(slots_BKl, active), slots_Y

    def _hidden_at(self, slots_BKl: Tensor, active: tuple[Tensor, ...]) -> Tensor:
        """Of the last run, behind the last code of every active beam. Shape: float[M, A, D]."""
        assert self._run is not None, "something was fed"
        seen, hidden_MBTD = self._run
        return hidden_MBTD[:, active[0], slots_BKl[active[0], active[1], -1] - seen]


def _places(request_X: Tensor, num_requests: int) -> tuple[Tensor, Tensor]:
    """The place of each token among those of its request, int64[X], and how many each request has, int64[B].

    Args:
        request_X: in order.
    """
    place_X = torch.arange(len(request_X), device=request_X.device)
    if num_requests == 1:
        return place_X, place_X.new_full((1,), len(place_X))
    count_B = torch.bincount(request_X, minlength=num_requests)
    return place_X - (count_B.cumsum(0) - count_B)[request_X], count_B
