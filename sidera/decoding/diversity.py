"""At most n items of a prefix: the greedy list over the ranking, skipping items whose prefix already has n.

In the search, of the children that compete for beams the n best of every prefix come first, and the others fill what is
left. So no beam is wasted, nothing that fits is dropped, and a search with as many beams as results are asked for finds
that many whenever the cap leaves so many: a beam has an item below it, and the first n beams of a prefix count. At the
last level the others fall away.

Shapes: B batch, X candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sidera.errors import SearchError


@dataclass(frozen=True)
class Diversity:
    """How many items of one prefix an answer may hold.

    Attributes:
        max_per_prefix: at least 1.
        prefix_length: codes of the prefix, from 1 to the number of levels (where it changes nothing).
    """

    max_per_prefix: int
    prefix_length: int = 1

    def __post_init__(self) -> None:
        if self.max_per_prefix < 1:
            raise SearchError(f"max_per_prefix is {self.max_per_prefix}; at least 1 item of a prefix must be allowed")
        if self.prefix_length < 1:
            raise SearchError(f"prefix_length is {self.prefix_length}; a prefix has at least 1 code")

    def check(self, num_levels: int) -> None:
        """Refuse a prefix that is longer than a SID.

        Raises:
            SearchError: it is.
        """
        if self.prefix_length > num_levels:
            raise SearchError(f"prefix_length is {self.prefix_length} and a SID has {num_levels} codes; take fewer")


@dataclass(frozen=True)
class PrefixCaps:
    """The caps of a batch.

    Attributes:
        most_B: how many items a prefix may have. Shape: int64[B].
        length_B: how long a prefix is. Shape: int64[B].
    """

    most_B: Tensor
    length_B: Tensor

    @classmethod
    def build(
        cls, settings: Sequence[Diversity | None], num_levels: int, device: torch.device | str = "cpu"
    ) -> "PrefixCaps | None":
        """The caps of a batch; None where no request has one.

        Raises:
            SearchError: a prefix is longer than a SID.
        """
        if not any(settings):
            return None
        for one in settings:
            if one is not None:
                one.check(num_levels)
        return cls(
            torch.tensor([1 if one is None else one.max_per_prefix for one in settings], device=device),
            torch.tensor([num_levels if one is None else one.prefix_length for one in settings], device=device),
        )

    def prefixes(self, level: int, parents_BX: Tensor | None, nodes_BX: Tensor) -> Tensor:
        """The node that stands for each candidate's prefix; a prefix that is not complete is the candidate itself.

        Args:
            level: codes that the candidates have, at least 1.
            parents_BX: what this gave for their parents.
            nodes_BX: the candidates. Shape: int64[B, X].
        """
        if parents_BX is None:
            return nodes_BX
        return torch.where(self.length_B[:, None] < level, parents_BX, nodes_BX)

    def beyond(self, order_BX: Tensor, prefix_BX: Tensor) -> Tensor:
        """Which candidates have so many better ones of their prefix that the cap leaves no room. Shape: bool[B, X].

        Args:
            order_BX: the candidates' places, best first. Shape: int64[B, X].
            prefix_BX: the prefix of each candidate. Shape: int64[B, X].
        """
        ranked_BX = prefix_BX.gather(1, order_BX)
        grouped_BX = ranked_BX.argsort(dim=1, stable=True)
        own_BX = ranked_BX.gather(1, grouped_BX)
        place_X = torch.arange(own_BX.shape[1], device=own_BX.device)
        begins_BX = torch.ones_like(own_BX, dtype=torch.bool)
        begins_BX[:, 1:] = own_BX[:, 1:] != own_BX[:, :-1]
        better_BX = place_X - torch.where(begins_BX, place_X, 0).cummax(dim=1).values
        beyond_BX = better_BX >= self.most_B[:, None]
        candidate_BX = order_BX.gather(1, grouped_BX)
        return torch.zeros_like(beyond_BX).scatter_(1, candidate_BX, beyond_BX)
