"""Residual k-means: the item vectors themselves are quantised, without an encoder (QARM, arXiv 2411.11739).

Item vectors are shifted to mean 0 before they are quantised, and back after. k-means does not see a shift, but
float32 does: the distances of vectors far from the origin would drown in rounding.

Shapes: N item, D item vector dim, L level, l prefix length, V codebook size.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from sidera.errors import TokenizerError
from sidera.tokenizers.base import ItemTokenizer, check_vectors
from sidera.tokenizers.residual import ResidualQuantiser


class RqKMeans(ItemTokenizer):
    """The residual quantiser on shifted item vectors.

    Attributes:
        shift_D: the mean item vector.
    """

    method: ClassVar[str] = "rqkmeans"
    shift_D: Tensor

    def __init__(self, dim: int, codebook_sizes: Sequence[int]) -> None:
        super().__init__()
        self.dim = dim
        self.quantiser = ResidualQuantiser(codebook_sizes, dim)
        self.codebook_sizes = self.quantiser.codebook_sizes
        self.register_buffer("shift_D", torch.zeros(dim))

    def config(self) -> dict[str, Any]:
        """The sizes."""
        return {"dim": self.dim, "codebook_sizes": list(self.codebook_sizes)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Build one of the given sizes.

        Raises:
            TokenizerError: a size is missing.
        """
        try:
            return cls(config["dim"], config["codebook_sizes"])
        except KeyError as error:
            raise TokenizerError(f"the tokenizer config has no field {error}") from None

    @torch.inference_mode()
    def latents(self, vectors_ND: Tensor, domain: str) -> Tensor:
        """The shifted vectors, float32[N, D]; the same for every domain."""
        check_vectors(vectors_ND, self.dim)
        return vectors_ND.float() - self.shift_D

    @torch.inference_mode()
    def distances(self, latents_Nd: Tensor, prefix_Nl: Tensor) -> Tensor:
        """Squared distances of the residuals to the codes of the next level: float32[N, V]."""
        return self.quantiser.distances(latents_Nd, prefix_Nl)

    @torch.inference_mode()
    def nearest_codes(self, latents_Nd: Tensor) -> Tensor:
        """The nearest code at each level: int64[N, L]."""
        return self.quantiser.nearest_codes(latents_Nd)

    @torch.inference_mode()
    def quantised(self, codes_NL: Tensor) -> Tensor:
        """The chosen codes' sum: float32[N, D]."""
        return self.quantiser.lookup(codes_NL)

    @torch.inference_mode()
    def reconstruct(self, codes_NL: Tensor) -> Tensor:
        """The chosen codes' sum, in item vector space: float32[N, D]."""
        return self.quantised(codes_NL) + self.shift_D
