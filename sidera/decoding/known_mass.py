"""Probability of leaves that is known before a search begins: a sorted list of leaves a request, and what all share.

The leaves below a node are one contiguous range, so the mass of any prefix is the difference of two cumulative sums.
Beam search adds it to the language model's mass; this module knows neither items nor where the numbers come from.

Where the leaves are few, all sums lie there for every request and are looked up; else those of the listed leaves are
searched. Both give the same bits.

Shapes: B batch, S listed leaves (padded), N leaves of all domains, X boundaries, K rows of these.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Leaves = Sequence[npt.NDArray[np.integer]]
"""Of each request the leaves that are listed, each once, in any order."""

Masses = Sequence[npt.NDArray[np.floating]]
"""Of each of them."""

_BEYOND = 2**62
"""A leaf behind all others: pads the lists."""

_FEW_SUMS = 2**17
"""Sums that are made for a batch in less time than its boundaries are searched."""


@dataclass(frozen=True)
class ListedSums:
    """The mass below a leaf, by the listed leaves.

    Attributes:
        leaves_BS: sorted leaves of each request, padded. Shape: int64[B, S].
        below_BS: the listed mass before each of them, and behind the last. Shape: float64[B, S + 1].
        shared_below_N: of the distribution that all requests share, the mass before each leaf, and behind the last; it
            sums to 1 within every domain. None: there is none. Shape: float64[N + 1].
        shared_weight_B: the share of it in each request. Shape: float64[B].
    """

    leaves_BS: Tensor
    below_BS: Tensor
    shared_below_N: Tensor | None
    shared_weight_B: Tensor

    @classmethod
    def of(cls, leaves: Leaves, masses: Masses, shared_weight_B: Tensor, shared_below_N: Tensor | None) -> "ListedSums":
        """Those of the leaves that each request lists, and their masses."""
        width = max(len(listed) for listed in leaves)
        leaves_BS = np.full((len(leaves), width), _BEYOND, dtype=np.int64)
        below_BS = np.zeros((len(leaves), width + 1))
        for row, (listed, mass) in enumerate(zip(leaves, masses, strict=True)):
            order, count = listed.argsort(), len(listed)
            leaves_BS[row, :count] = listed[order]
            mass[order].cumsum(out=below_BS[row, 1 : count + 1])
            below_BS[row, count + 1 :] = below_BS[row, count]
        device = shared_weight_B.device
        sorted_leaves, below = torch.from_numpy(leaves_BS).to(device), torch.from_numpy(below_BS).to(device)
        return cls(sorted_leaves, below, shared_below_N, shared_weight_B)

    def before(self, boundary_BX: Tensor) -> Tensor:
        """The mass before some leaves. Shape: float64[B, X]."""
        below_BX = self.below_BS.gather(1, torch.searchsorted(self.leaves_BS, boundary_BX))
        if self.shared_below_N is not None:
            below_BX.addcmul_(self.shared_weight_B[:, None], self.shared_below_N.take(boundary_BX))
        return below_BX


@dataclass(frozen=True)
class AllSums:
    """The mass below every leaf, and behind the last: ``below_BN``, float64[B, N + 1]."""

    below_BN: Tensor

    @classmethod
    def of(cls, leaves: Leaves, masses: Masses, shared_weight_B: Tensor, shared_below_N: Tensor) -> "AllSums":
        """Those of the leaves that each request lists, and their masses."""
        below_BN = np.zeros((len(leaves), len(shared_below_N)))
        for below_N, listed, mass in zip(below_BN, leaves, masses, strict=True):
            below_N[listed + 1] = mass
        below = torch.from_numpy(below_BN.cumsum(axis=1)).to(shared_weight_B.device)
        return cls(below.addcmul_(shared_weight_B[:, None], shared_below_N))

    def before(self, boundary_BX: Tensor) -> Tensor:
        """The mass before some leaves. Shape: float64[B, X]."""
        return self.below_BN.gather(1, boundary_BX)


@dataclass(frozen=True)
class KnownMass:
    """What is known of the leaves of every request of a batch.

    Attributes:
        sums: the mass before each leaf.
        rest_B: what is left of 1: the weight of the distributions that the search computes. Shape: float64[B].
    """

    sums: ListedSums | AllSums
    rest_B: Tensor

    @classmethod
    def build(
        cls,
        leaves: Leaves,
        masses: Masses,
        shared_weights: Sequence[float],
        shared_below_N: Tensor | None = None,
        device: torch.device | str = "cpu",
    ) -> "KnownMass | None":
        """What is known of a batch; None where nothing is.

        Args:
            leaves: of each request the leaves that are listed, each once, in any order.
            masses: their masses, not below 0; with the shared weight no more than 1.
            shared_weights: of each request; 0 where there is no shared distribution.
            shared_below_N: of that distribution, the mass before each leaf, and behind the last; it sums to 1 within
                every domain. None: there is none. Shape: float64[N + 1].
        """
        if not any(len(listed) for listed in leaves) and not any(shared_weights):
            return None
        shared_B = torch.tensor(shared_weights, dtype=torch.float64, device=device)
        listed_B = torch.tensor([float(mass.sum()) for mass in masses], dtype=torch.float64, device=device)
        sums: ListedSums | AllSums
        if shared_below_N is not None and len(leaves) * len(shared_below_N) <= _FEW_SUMS:
            sums = AllSums.of(leaves, masses, shared_B, shared_below_N)
        else:
            sums = ListedSums.of(leaves, masses, shared_B, shared_below_N)
        return cls(sums, (1.0 - shared_B - listed_B).clamp_min_(0.0))

    @property
    def log_rest_B(self) -> Tensor:  # noqa: N802
        """Log-weight of what the search computes; -inf where nothing is left to it. Shape: float32[B]."""
        return self.rest_B.log().float()

    def log_mass(self, leaves_BKX: Tensor) -> Tensor:
        """The known mass between each two boundaries of a row, which count leaves; -inf where there is none.

        Returns:
            float32[B, K, X - 1].
        """
        below_BKX = self.sums.before(leaves_BKX.flatten(1)).view_as(leaves_BKX)
        return (below_BKX[..., 1:] - below_BKX[..., :-1]).clamp_min_(0.0).float().log_()
