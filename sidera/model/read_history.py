"""What reading a history leaves behind, for the tokens of a search to go on from.

Shapes: B batch, P places of a history.
"""

from dataclasses import dataclass

from torch import Tensor
from transformers import Cache


@dataclass
class ReadHistory:
    """What ``prefill`` leaves behind: the keys and values of the history, and of the search's tokens as they come.

    Attributes:
        cache: of every layer; rows are M * B, distribution first, or B in the layers that all distributions share.
        lengths_B: tokens of each history; positions of the search go on from there.
        in_history_BP: which places of ``cache`` hold a token of the history, not padding. Shape: bool[B, P].
        adapters_B: the adapter of each request's domain distribution, None where only the universal one is used.
        num_distributions: M.
        shared: whether the layers that all distributions share keep one row a request, not one a distribution.
    """

    cache: Cache
    lengths_B: Tensor
    in_history_BP: Tensor
    adapters_B: Tensor | None
    num_distributions: int
    shared: bool

    @property
    def padded_length(self) -> int:
        """P."""
        return self.in_history_BP.shape[1]
