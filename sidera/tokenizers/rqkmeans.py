"""Residual k-means: item vectors are quantised without a learned encoder (QARM, arXiv 2411.11739). Inference only.

What is quantised are the item vectors' coordinates along the leading principal axes of the items that it was fitted on.
The other axes hold little that many items share: residuals along them drown what tells similar items apart, and on
text vectors a third to a quarter as many items collide without them. ``axes_Dd`` may also be the identity.

Shapes: N item, D item vector dim, d latent dim, L level, R rows of a chunk.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from sidera.tokenizers.base import check_vectors, config_fields
from sidera.tokenizers.residual import ResidualQuantiser, in_chunks
from sidera.tokenizers.residual_tokenizer import ResidualTokenizer


class RqKMeans(ResidualTokenizer):
    """A linear projection and the residual quantiser.

    Attributes:
        latent_dim: width of what is quantised.
        shift_D: the mean item vector.
        axes_Dd: orthonormal columns.
    """

    method: ClassVar[str] = "rqkmeans"
    shift_D: Tensor
    axes_Dd: Tensor

    def __init__(self, dim: int, codebook_sizes: Sequence[int], latent_dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.latent_dim = latent_dim
        self.quantiser = ResidualQuantiser(codebook_sizes, latent_dim)
        self.codebook_sizes = self.quantiser.codebook_sizes
        self.register_buffer("shift_D", torch.zeros(dim))
        self.register_buffer("axes_Dd", torch.eye(dim, latent_dim))

    def config(self) -> dict[str, Any]:
        """The sizes."""
        return {"dim": self.dim, "codebook_sizes": list(self.codebook_sizes), "latent_dim": self.latent_dim}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Build one of the given sizes.

        Raises:
            TokenizerError: a size is missing.
        """
        return cls(*config_fields(config, "dim", "codebook_sizes", "latent_dim"))

    @torch.inference_mode()
    def latents(self, vectors_ND: Tensor, domain: str) -> Tensor:
        """The coordinates along the axes, float32[N, d]; the same for every domain."""
        check_vectors(vectors_ND, self.dim)
        return in_chunks(lambda chunk_RD: (chunk_RD - self.shift_D) @ self.axes_Dd, vectors_ND.float())

    @torch.inference_mode()
    def reconstruct(self, codes_NL: Tensor) -> Tensor:
        """The chosen codes' sum, back in item vector space: float32[N, D]."""
        return in_chunks(lambda chunk_RL: self.quantised(chunk_RL) @ self.axes_Dd.T + self.shift_D, codes_NL)
