"""Which leaves may come back, per request: exclusions, hidden items and allow-lists as sorted lists of leaves.

Leaves lie in SID order, so "is anything allowed below this node" is the difference of two positions in a sorted list. A
filter decides what may be returned and never touches a score.

Shapes: B batch, F listed leaves (padded), X any number of boundaries.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_BEYOND = 2**62
"""A leaf behind all others: pads the lists."""


@dataclass(frozen=True)
class LeafFilter:
    """The allowed leaves of every request of a batch.

    Attributes:
        listed_BF: sorted leaves of each request, padded. Shape: int64[B, F].
        allows_B: whether the list names the allowed leaves, or the blocked ones. Shape: bool[B].
        any_allows: whether any request's list names the allowed ones.
    """

    listed_BF: Tensor
    allows_B: Tensor
    any_allows: bool

    @classmethod
    def build(
        cls,
        blocked: Sequence[npt.ArrayLike],
        allowed: Sequence[npt.ArrayLike | None] | None = None,
        device: torch.device | str = "cpu",
    ) -> "LeafFilter | None":
        """The filter of a batch; None when nothing is filtered.

        Args:
            blocked: leaves that must not come back, one list a request, in any order.
            allowed: the only leaves that may come back, one list a request; None: all of them.
        """
        allowed = allowed or [None] * len(blocked)
        listed = [
            np.unique(np.asarray(out, dtype=np.int64)) if only is None else np.setdiff1d(only, out).astype(np.int64)
            for out, only in zip(blocked, allowed, strict=True)
        ]
        allows = [only is not None for only in allowed]
        width = max((len(leaves) for leaves in listed), default=0)
        if width == 0 and not any(allows):
            return None
        listed_BF = np.full((len(listed), max(width, 1)), _BEYOND, dtype=np.int64)
        for row, leaves in enumerate(listed):
            listed_BF[row, : len(leaves)] = leaves
        return cls(torch.from_numpy(listed_BF).to(device), torch.tensor(allows, device=device), any(allows))

    def any_allowed(self, boundaries_BKX: Tensor) -> Tensor:
        """Whether each range between neighbouring boundaries holds an allowed leaf.

        Args:
            boundaries_BKX: non-decreasing leaves along the last axis. Shape: int64[B, K, X].

        Returns:
            bool[B, K, X - 1].
        """
        listed_BKX = torch.searchsorted(self.listed_BF, boundaries_BKX.flatten(1)).view_as(boundaries_BKX)
        inside_BKX = listed_BKX.diff(dim=-1)
        all_BKX = boundaries_BKX.diff(dim=-1)
        some_left_BKX = inside_BKX < all_BKX
        if not self.any_allows:
            return some_left_BKX
        return torch.where(self.allows_B[:, None, None], inside_BKX > 0, some_left_BKX)
