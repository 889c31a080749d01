"""Which leaves may come back, per request: what a request blocks, and the sets that requests share.

Leaves lie in SID order, so "is anything allowed below this node" is a difference of two counts. A shared set (a filter
on items' fields, the hidden items of a domain) lists the leaves that it allows, or those that it blocks, whichever are
fewer, and lies in a batch once however many requests name it. A filter decides what may be returned and never touches a
score.

All lists of a batch are one sorted array of keys: place of the list times stride, plus the leaf. So a list needs no
padding, and the leaves of a list before a boundary are one binary search.

Shapes: B batch, F keys of all lists, K beams, X any number of boundaries.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

LeafArray = npt.NDArray[np.int64]

_STRIDE = 2**40
"""More than there are leaves."""


@dataclass(frozen=True)
class LeafSet:
    """A set of leaves.

    Attributes:
        listed: sorted, each once. Shape: int64[any].
        allows: whether the listed leaves are the set, or all others.
    """

    listed: LeafArray
    allows: bool = True

    @classmethod
    def of(cls, leaves: npt.ArrayLike) -> "LeafSet":
        """The set of these leaves, in any order."""
        return cls(np.unique(np.asarray(leaves, dtype=np.int64)))

    @classmethod
    def of_mask(cls, mask_N: npt.NDArray[np.bool_], first_leaf: int) -> "LeafSet":
        """The leaves of one domain where a mask is true, listed or, where they are most of it, left out of the list.

        The set is meant for requests of this domain: it says nothing of the leaves of others.

        Args:
            mask_N: in the domain's leaf order. Shape: bool[N].
            first_leaf: the domain's first leaf in the tables.
        """
        allows = 2 * int(np.count_nonzero(mask_N)) <= len(mask_N)
        return cls(np.flatnonzero(mask_N if allows else ~mask_N).astype(np.int64) + first_leaf, allows)

    def contains(self, leaves: LeafArray) -> npt.NDArray[np.bool_]:
        """Which of these leaves are in the set."""
        place = np.searchsorted(self.listed, leaves)
        inside = np.searchsorted(self.listed, leaves, side="right") > place
        return inside if self.allows else ~inside


@dataclass(frozen=True)
class LeafFilter:
    """The allowed leaves of every request of a batch.

    Attributes:
        keys_F: the leaves of all lists, as keys, sorted. Shape: int64[F].
        own_B: the smallest key that each request's own list of blocked leaves may hold. Shape: int64[B].
        shared_B: the same of the shared set that it names, of an empty list where it names none. None: no request names
            one. Shape: int64[B].
        allows_B: whether the shared set lists what is allowed. Shape: bool[B].
    """

    keys_F: Tensor
    own_B: Tensor
    shared_B: Tensor | None
    allows_B: Tensor

    @classmethod
    def build(
        cls,
        blocked: Sequence[npt.ArrayLike],
        allowed: Sequence[LeafSet | None] | None = None,
        device: torch.device | str = "cpu",
    ) -> "LeafFilter | None":
        """The filter of a batch; None when nothing is filtered.

        Args:
            blocked: leaves that must not come back, one list a request, in any order.
            allowed: the only leaves that may come back, one set a request; None: all of them. A set that several
                requests share is the same object.
        """
        allowed = allowed or [None] * len(blocked)
        lists: list[LeafArray] = []
        own, shared = [], []
        place_of: dict[int, int] = {}
        for leaves, only in zip(blocked, allowed, strict=True):
            out = np.unique(np.asarray(leaves, dtype=np.int64))
            if only is None:
                shared.append(-1)
            else:
                if id(only) not in place_of:
                    place_of[id(only)] = len(lists)
                    lists.append(only.listed)
                shared.append(place_of[id(only)])
                out = out[only.contains(out)]
            own.append(len(lists))
            lists.append(out)
        if not place_of and not any(len(listed) for listed in lists):
            return None
        keys_F = np.concatenate([listed + place * _STRIDE for place, listed in enumerate(lists)])
        names_none = len(lists)
        shared_B = torch.tensor([names_none if place < 0 else place for place in shared], device=device) * _STRIDE
        return cls(
            keys_F=torch.from_numpy(keys_F).to(device),
            own_B=torch.tensor(own, device=device) * _STRIDE,
            shared_B=shared_B if place_of else None,
            allows_B=torch.tensor([only is not None and only.allows for only in allowed], device=device),
        )

    def any_allowed(self, boundaries_BKX: Tensor) -> Tensor:
        """Whether each range between neighbouring boundaries holds an allowed leaf.

        Args:
            boundaries_BKX: non-decreasing leaves along the last axis. Shape: int[B, K, X].

        Returns:
            bool[B, K, X - 1].
        """
        blocked_BKX = self._listed_before(self.own_B, boundaries_BKX).diff(dim=-1)
        kept_BKX = boundaries_BKX.diff(dim=-1)
        if self.shared_B is not None:
            listed_BKX = self._listed_before(self.shared_B, boundaries_BKX).diff(dim=-1)
            kept_BKX = torch.where(self.allows_B[:, None, None], listed_BKX, kept_BKX - listed_BKX)
        return blocked_BKX < kept_BKX

    def _listed_before(self, least_key_B: Tensor, boundaries_BKX: Tensor) -> Tensor:
        """The leaves of a list before each boundary, and those of all lists before it. Shape: int64[B, K, X]."""
        return torch.searchsorted(self.keys_F, boundaries_BKX + least_key_B[:, None, None])
