"""Probability of leaves that is known before a search begins: a sorted list of leaves a request, and what all share.

The leaves below a node are one contiguous range, so the mass of any prefix is the difference of two cumulative sums.
Beam search adds it to the language model's mass; this module knows neither items nor where the numbers come from.

Shapes: B batch, S listed leaves (padded), N leaves of all domains, X boundaries, K rows of these.
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
class KnownMass:
    """What is known of the leaves of every request of a batch.

    Attributes:
        leaves_BS: sorted leaves of each request, padded. Shape: int64[B, S].
        below_BS: the listed mass before each of them, and behind the last. Shape: float64[B, S + 1].
        shared_below_N: of the distribution that all requests share, the mass before each leaf, and behind the last; it
            sums to 1 within every domain. None: there is none. Shape: float64[N + 1].
        shared_weight_B: the share of it in each request. Shape: float64[B].
        rest_B: what is left of 1: the weight of the distributions that the search computes. Shape: float64[B].
    """

    leaves_BS: Tensor
    below_BS: Tensor
    shared_below_N: Tensor | None
    shared_weight_B: Tensor
    rest_B: Tensor

    @classmethod
    def build(
        cls,
        leaves: Sequence[npt.NDArray[np.integer]],
        masses: Sequence[npt.NDArray[np.floating]],
        shared_weights: Sequence[float],
        shared_below_N: Tensor | None = None,
        device: torch.device | str = "cpu",
    ) -> "KnownMass | None":
        """What is known of a batch; None where nothing is.

        Args:
            leaves: of each request the leaves that are listed, each once, in any order.
            masses: their masses, not below 0; with the shared weight no more than 1.
            shared_weights: of each request; 0 where there is no shared distribution.
        """
        if not any(len(listed) for listed in leaves) and not any(shared_weights):
            return None
        width = max(len(listed) for listed in leaves)
        leaves_BS = np.full((len(leaves), width), _BEYOND, dtype=np.int64)
        below_BS = np.zeros((len(leaves), width + 1))
        for row, (listed, mass) in enumerate(zip(leaves, masses, strict=True)):
            order, count = listed.argsort(), len(listed)
            leaves_BS[row, :count] = listed[order]
            mass[order].cumsum(out=below_BS[row, 1 : count + 1])
            below_BS[row, count + 1 :] = below_BS[row, count]
        shared_B = np.asarray(shared_weights, dtype=np.float64)
        rest_B = np.maximum(1.0 - shared_B - below_BS[:, -1], 0.0)
        return cls(
            torch.from_numpy(leaves_BS).to(device),
            torch.from_numpy(below_BS).to(device),
            shared_below_N,
            torch.from_numpy(shared_B).to(device),
            torch.from_numpy(rest_B).to(device),
        )

    @property
    def log_rest_B(self) -> Tensor:  # noqa: N802
        """Log-weight of what the search computes; -inf where nothing is left to it. Shape: float32[B]."""
        return self.rest_B.log().float()

    def log_mass(self, leaves_BKX: Tensor) -> Tensor:
        """The known mass between each two boundaries of a row, which count leaves; -inf where there is none.

        Returns:
            float32[B, K, X - 1].
        """
        boundary_BX = leaves_BKX.flatten(1)
        below_BX = self.below_BS.gather(1, torch.searchsorted(self.leaves_BS, boundary_BX))
        if self.shared_below_N is not None:
            below_BX.addcmul_(self.shared_weight_B[:, None], self.shared_below_N.take(boundary_BX))
        below_BKX = below_BX.view_as(leaves_BKX)
        return (below_BKX[..., 1:] - below_BKX[..., :-1]).clamp_min_(0.0).float().log_()
