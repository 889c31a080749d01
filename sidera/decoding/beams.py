"""The beams of a search, and which of their children become the next ones.

Shapes: M mixed distributions, B batch, K beams, C children, X candidates (the children of all beams of a request), l
levels walked so far.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sidera.decoding.diversity import PrefixCaps
from sidera.decoding.sampling import Draws
from sidera.trie import NodeArray

NEVER = float("-inf")


@dataclass(frozen=True)
class Beams:
    """The beams of all requests after l levels. A dead beam (score -inf) keeps its place; nothing comes of it.

    Attributes:
        nodes_BK: where each beam stands.
        scores_BK: its log-probability under the mixture.
        rank_BK: what it is compared by: its score, or its perturbed log-probability where items are drawn.
        log_mass_MBK: its log-probability under each distribution, unmixed.
        path_BKl2: for each code of its prefix the token, and the token's slot: its place among the search's tokens, -1
            while it has not been fed.
        draws: their noise; None where no request draws.
        prefix_BK: the node that stands for each one's prefix; None where no request caps prefixes, and at the root.
    """

    nodes_BK: Tensor
    scores_BK: Tensor
    rank_BK: Tensor
    log_mass_MBK: Tensor
    path_BKl2: Tensor
    draws: Draws | None = None
    prefix_BK: Tensor | None = None


@dataclass(frozen=True)
class Children:
    """All children of the beams, side by side; rank -inf where there is none or it must not go on.

    Attributes:
        slots_BX: where the token of each one lies among the search's tokens, -1 while it has not been fed; None where
            none has.
    """

    nodes_BX: Tensor
    scores_BX: Tensor
    rank_BX: Tensor
    log_mass_MBX: Tensor
    draws: Draws | None
    prefix_BX: Tensor | None
    slots_BX: Tensor | None = None

    def beyond(self, caps: PrefixCaps, order_BX: Tensor) -> Tensor:
        """Which of them the caps leave no room for; ``order_BX`` are their places, best first. Shape: bool[B, X]."""
        assert self.prefix_BX is not None
        return caps.beyond(order_BX, self.prefix_BX)

    def capped(self, caps: PrefixCaps) -> "Children":
        """Those that the caps leave room for; the others must not go on."""
        beyond_BX = self.beyond(caps, in_order(self.rank_BX, self.nodes_BX))
        return replace(
            self,
            scores_BX=self.scores_BX.masked_fill(beyond_BX, NEVER),
            rank_BX=self.rank_BX.masked_fill(beyond_BX, NEVER),
        )

    def chosen(self, beams: Beams, index_BK: Tensor, codes: NodeArray, first_code: int) -> Beams:
        """These children as beams.

        Args:
            beams: their parents.
            codes: of every node of their level.
            first_code: the token of code 0 of it.
        """
        nodes_BK = self.nodes_BX.gather(1, index_BK)
        slots_BK = torch.full_like(nodes_BK, -1) if self.slots_BX is None else self.slots_BX.gather(1, index_BK)
        added_BK2 = torch.stack([codes[nodes_BK] + first_code, slots_BK], dim=2)
        path_BKl2 = added_BK2[:, :, None]
        if beams.path_BKl2.shape[2]:
            width_C = self.nodes_BX.shape[1] // beams.nodes_BK.shape[1]
            rows_BK = torch.arange(len(index_BK), device=index_BK.device)[:, None]
            path_BKl2 = torch.cat([beams.path_BKl2[rows_BK, index_BK // width_C], path_BKl2], dim=2)
        scores_BK = self.scores_BX.gather(1, index_BK)
        return Beams(
            nodes_BK=nodes_BK,
            scores_BK=scores_BK,
            rank_BK=scores_BK if self.draws is None else self.rank_BX.gather(1, index_BK),
            log_mass_MBK=self.log_mass_MBX.gather(2, index_BK.expand(len(self.log_mass_MBX), -1, -1)),
            path_BKl2=path_BKl2,
            draws=None if self.draws is None else self.draws.at(index_BK),
            prefix_BK=None if self.prefix_BX is None else self.prefix_BX.gather(1, index_BK),
        )


def in_order(rank_BX: Tensor, nodes_BX: Tensor) -> Tensor:
    """The candidates' places, best first; of equal ones the first in SID order first. Shape: int64[B, X]."""
    by_node_BX = nodes_BX.argsort(dim=1)
    by_rank_BX = rank_BX.gather(1, by_node_BX).argsort(dim=1, descending=True, stable=True)
    return by_node_BX.gather(1, by_rank_BX)


def best_children(rank_BX: Tensor, nodes_BX: Tensor, beam_width: int) -> tuple[Tensor, Tensor]:
    """Which candidates go on, int64[B, K], and the rank of the best one left behind, float[B].

    ``topk`` chooses among equals as it likes; where they stand on both sides of the cut, the first in SID order go on.
    """
    best_BK, index_BK = rank_BX.topk(min(beam_width + 1, rank_BX.shape[1]), dim=1)
    if best_BK.shape[1] <= beam_width:
        return index_BK, torch.full_like(best_BK[:, 0], NEVER)
    best_cut_B = best_BK[:, beam_width]
    if bool(((best_BK[:, beam_width - 1] == best_cut_B) & (best_cut_B > NEVER)).any()):
        index_BK = in_order(rank_BX, nodes_BX)
    return index_BK[:, :beam_width], best_cut_B


def best_of_every_prefix(children: Children, caps: PrefixCaps, beam_width: int) -> tuple[Tensor, Tensor]:
    """The same where prefixes are capped: those that the cap leaves room for go first."""
    rank_BX = children.rank_BX
    order_BX = in_order(rank_BX, children.nodes_BX)
    tier_BX = torch.where(rank_BX == NEVER, 2, children.beyond(caps, order_BX).long()).gather(1, order_BX)
    index_BK = order_BX.gather(1, tier_BX.argsort(dim=1, stable=True))[:, :beam_width]
    return index_BK, rank_BX.scatter(1, index_BK, NEVER).amax(dim=1)
