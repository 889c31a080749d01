"""Parameters of one tokenizer with an expert per domain beside a tokenizer of its own for every domain.

Counted from modules that are really built, and never fitted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from sidera.tokenizers.rqvae import RqVae
from sidera.tokenizers.unitok import UniTok


@dataclass(frozen=True)
class ParameterCounts:
    """Of both sides.

    Attributes:
        together: of one UniTok with an expert per domain and a shared expert.
        apart: of one RQ-VAE with the same layers per domain, all of them.
    """

    together: int
    apart: int

    @property
    def ratio(self) -> float:
        """How many times fewer parameters the one tokenizer has."""
        return self.apart / self.together


def count_parameters(
    dim: int, domains: int, codebook_sizes: Sequence[int], latent_dim: int, hidden_sizes: Sequence[int]
) -> ParameterCounts:
    """Build one UniTok of ``domains`` experts, and one RQ-VAE, whose parameters count ``domains`` times.

    The shared expert has as many levels as the domain experts: the most that it may have.

    Args:
        dim: width of the item vectors.
    """
    experts = [f"domain-{number}" for number in range(domains)]
    together = UniTok(dim, codebook_sizes, latent_dim, hidden_sizes, experts)
    apart = RqVae(dim, codebook_sizes, latent_dim, hidden_sizes)
    return ParameterCounts(_parameters(together), domains * _parameters(apart))


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
