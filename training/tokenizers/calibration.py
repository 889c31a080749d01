"""UniTok's calibration (arXiv 2511.12922): how telling codes are of items, about equally in all domains.

HSIC of few samples measures how few they are, so calibration has batches of its own with equally many items of every
domain.

Shapes: N item, D item vector dim, d latent dim, K domain, n items of a domain.
"""

from collections.abc import Callable

import torch
from torch import Tensor

_FEWEST_CALIBRATED = 64
"""A domain with fewer items to fit on takes no part in calibration: HSIC of few samples tells how few they are."""


def calibration_loss(
    inputs_KnD: Tensor, z_hat_Knd: Tensor, measure: Callable[[Tensor, Tensor], Tensor], beta: float
) -> Tensor:
    """L_MI = Var_k[HSIC_k] - beta mean_k[HSIC_k] between vectors and what their codes stand for.

    Args:
        inputs_KnD: item vectors.
        z_hat_Knd: what they are quantised to, with gradient.
        measure: HSIC, or another measure of dependence: [K, n, D], [K, n, d] -> [K].
        beta: what the mean weighs beside the variance.
    """
    dependence_K = measure(inputs_KnD, z_hat_Knd)
    return dependence_K.var(correction=0) - beta * dependence_K.mean()


class DomainBatches:
    """Batches of equally many items of each domain, which pass over a domain's items in a new order every epoch.

    Attributes:
        domains: int64[n] the items of each domain that takes part: those with at least 64.
        items: n of each in a batch.
    """

    def __init__(self, domain_N: Tensor, domains: int, items: int) -> None:
        own = [torch.nonzero(domain_N == domain).flatten() for domain in range(domains)]
        self.domains = [own_n for own_n in own if len(own_n) >= _FEWEST_CALIBRATED]
        self.items = min([items, *map(len, self.domains)])
        self.start_epoch()

    def start_epoch(self) -> None:
        """Begin anew."""
        self._orders: list[Tensor] = []
        self._step = 0

    def next(self, generator: torch.Generator) -> Tensor:
        """The next items, no item twice: int64[K, n]."""
        if not self._orders:
            self._orders = [own_n[torch.randperm(len(own_n), generator=generator)] for own_n in self.domains]
        places_n = self._step * self.items + torch.arange(self.items)
        self._step += 1
        return torch.stack([order_n[places_n % len(order_n)] for order_n in self._orders])
