"""Residual k-means: item vectors are quantised without a learned encoder (QARM, arXiv 2411.11739). Inference only.

What is quantised are the item vectors' coordinates along the leading principal axes of the items that it was fitted on.
The other axes hold little that many items share: residuals along them drown what tells similar items apart, and on
text vectors a third to a quarter as many items collide without them. ``axes_Dd`` may also be the identity.

Shapes: N item, D item vector dim, d latent dim, L level, l prefix length, V codebook size.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from sidera.errors import TokenizerError
from sidera.tokenizers.base import ItemTokenizer, check_vectors
from sidera.tokenizers.residual import ResidualQuantiser, in_chunks


class RqKMeans(ItemTokenizer):
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
        try:
            return cls(config["dim"], config["codebook_sizes"], config["latent_dim"])
        except KeyError as error:
            raise TokenizerError(f"the tokenizer config has no field {error}") from None

    @torch.inference_mode()
    def latents(self, vectors_ND: Tensor, domain: str) -> Tensor:
        """The coordinates along the axes, float32[N, d]; the same for every domain."""
        check_vectors(vectors_ND, self.dim)
        return in_chunks(lambda chunk_RD: (chunk_RD - self.shift_D) @ self.axes_Dd, vectors_ND.float())

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
        """The chosen codes' sum: float32[N, d]."""
        return self.quantiser.lookup(codes_NL)

    @torch.inference_mode()
    def reconstruct(self, codes_NL: Tensor) -> Tensor:
        """The chosen codes' sum, back in item vector space: float32[N, D]."""
        return in_chunks(lambda chunk_RL: self.quantised(chunk_RL) @ self.axes_Dd.T + self.shift_D, codes_NL)
