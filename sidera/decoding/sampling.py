"""Items drawn without replacement in one beam search: stochastic beam search (Kool et al., arXiv 1903.06059).

A leaf's log-probability plus Gumbel noise, sorted, is a draw without replacement (the Gumbel-top-k trick). The noise is
made from the top down: a node has the largest perturbed log-probability of the leaves below it, and its children get
theirs under the condition that their maximum is just that (section 4.1 and appendix B of the paper). So the k nodes
that lead a level hold the k leaves that lead all leaves.

The noise of a node is a function of the seed and the node's codes alone, so a request draws the same items in every
batch, at every beam width and in every snapshot in which their probabilities are the same.

Shapes: B batch, K beams, C children.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sidera.errors import SearchError

_NEVER = float("-inf")
_STEP = -0x61C8864680B583EB
_FIRST, _SECOND = -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15
"""The constants of splitmix64 (Steele et al., OOPSLA 2014) as signed integers."""


@dataclass(frozen=True)
class Sampling:
    """How the items of one request are drawn.

    Attributes:
        seed: the same seed draws the same items. From 0 to 2**63 - 1.
        temperature: each code is drawn from its probabilities, given the codes before it, to the power of
            1 / temperature: 1 draws items by their probabilities, less is bolder, more is wilder.
    """

    seed: int
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise SearchError(f"the seed {self.seed} is outside 0..2**63 - 1; give one within")
        if not 0.01 <= self.temperature <= 100:
            raise SearchError(f"the temperature {self.temperature} is outside 0.01..100; 1 draws by probability")


@dataclass(frozen=True)
class Draws:
    """The noise of some nodes; tensors of one shape.

    Attributes:
        state: what the noise of a node, and of all below it, is made of. int64.
        log_chance: log-probability of the node under the distribution that is drawn from. float64.
        perturbed: the largest perturbed ``log_chance`` of the leaves below. float64.
    """

    state: Tensor
    log_chance: Tensor
    perturbed: Tensor

    def at(self, index_BK: Tensor) -> "Draws":
        """Those of some children. Shape of each: [B, K]."""
        return Draws(*(x.flatten(1).gather(1, index_BK) for x in (self.state, self.log_chance, self.perturbed)))


@dataclass(frozen=True)
class Sampler:
    """Which requests of a batch draw their items, and how.

    Attributes:
        draws_B: Shape: bool[B].
        seeds_B: Shape: int64[B].
        temperature_B: Shape: float64[B].
    """

    draws_B: Tensor
    seeds_B: Tensor
    temperature_B: Tensor

    @classmethod
    def build(cls, settings: Sequence[Sampling | None], device: torch.device | str = "cpu") -> "Sampler | None":
        """The sampler of a batch; None where no request draws."""
        if not any(settings):
            return None
        return cls(
            torch.tensor([one is not None for one in settings], device=device),
            torch.tensor([0 if one is None else one.seed for one in settings], device=device),
            torch.tensor([1.0 if one is None else one.temperature for one in settings], device=device).double(),
        )

    def root(self) -> Draws:
        """Where every request begins: a maximum of 0 favours no leaf. Shape of each: [B, 1]."""
        nothing_B1 = torch.zeros_like(self.temperature_B)[:, None]
        return Draws(_scrambled(self.seeds_B + _STEP)[:, None], nothing_B1, nothing_B1)

    def children(self, draws_BK: Draws, scores_BKC: Tensor, codes_BKC: Tensor) -> Draws:
        """The noise of all children of the beams.

        Args:
            scores_BKC: log-probabilities under the mixture, unfiltered; -inf where there is no child.
        """
        cooled_BKC = scores_BKC.double() / self.temperature_B[:, None, None]
        chance_BKC = torch.where(scores_BKC == _NEVER, _NEVER, cooled_BKC.log_softmax(dim=2))
        log_chance_BKC = draws_BK.log_chance[..., None] + chance_BKC
        state_BKC = _scrambled(draws_BK.state[..., None] + (codes_BKC + 1) * _STEP)
        free_BKC = log_chance_BKC - torch.log(-torch.log(_uniform(state_BKC)))
        most_BK1 = free_BKC.amax(dim=2, keepdim=True)
        parent_BK1 = draws_BK.perturbed[..., None]
        below_BKC = parent_BK1 - free_BKC + _log1mexp(free_BKC - most_BK1)
        perturbed_BKC = parent_BK1 - below_BKC.clamp_min(0) - torch.log1p(torch.exp(-below_BKC.abs()))
        perturbed_BKC = torch.where(log_chance_BKC == _NEVER, _NEVER, perturbed_BKC)
        return Draws(state_BKC, log_chance_BKC, perturbed_BKC)

    def rank(self, draws_BKC: Draws, scores_BKC: Tensor) -> Tensor:
        """What children are compared by: perturbed where items are drawn, else their scores. Shape: float64[B, K, C].

        Args:
            scores_BKC: -inf where a child must not go on.
        """
        rank_BKC = torch.where(self.draws_B[:, None, None], draws_BKC.perturbed, scores_BKC.double())
        return torch.where(scores_BKC == _NEVER, _NEVER, rank_BKC)


def _scrambled(state: Tensor) -> Tensor:
    """The finaliser of splitmix64: a bijection of 64-bit integers that looks random."""
    for bits, factor in ((30, _FIRST), (27, _SECOND)):
        state = (state ^ _shifted(state, bits)) * factor
    return state.bitwise_xor(_shifted(state, 31))


def _shifted(state: Tensor, bits: int) -> Tensor:
    """Shift right without the sign."""
    return (state >> bits).bitwise_and(2 ** (64 - bits) - 1)


def _uniform(state: Tensor) -> Tensor:
    """Uniform numbers inside (0, 1), float64."""
    return (_shifted(state, 12).double() + 0.5) / 2**52


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) of x at most 0; -inf at 0."""
    return torch.where(x > -math.log(2), torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x)))
