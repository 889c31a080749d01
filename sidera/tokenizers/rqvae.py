"""RQ-VAE: an autoencoder whose latent is residually quantised (TIGER, NeurIPS 2023, arXiv 2305.05065). Inference only.

Item vectors are shifted and scaled to mean 0 and mean squared component 1 before the encoder, and back after the
decoder: components of normalised text vectors are tiny, and losses and k-means would be too.

Shapes: N item, D item vector dim, d latent dim, L level, R rows of a chunk.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from sidera.tokenizers.base import ItemTokenizer, check_vectors, config_fields
from sidera.tokenizers.residual import ResidualQuantiser, in_chunks
from sidera.tokenizers.residual_tokenizer import ResidualTokenizer


def multilayer_perceptron(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers between the given widths, with ReLU between them and none at the end."""
    layers: list[nn.Module] = []
    for index, (width_in, width_out) in enumerate(itertools.pairwise(sizes)):
        if index:
            layers.append(nn.ReLU())
        layers.append(nn.Linear(width_in, width_out))
    return nn.Sequential(*layers)


class Autoencoder(ItemTokenizer):
    """Encoder and decoder around any quantiser.

    Attributes:
        latent_dim: width of what is quantised.
        hidden_sizes: widths of the encoder's hidden layers; the decoder's are the same, reversed.
        shift_D, scale: the mean item vector, and the root mean square of a component around it.
    """

    shift_D: Tensor
    scale: Tensor

    def __init__(self, dim: int, latent_dim: int, hidden_sizes: Sequence[int]) -> None:
        super().__init__()
        self.dim = dim
        self.latent_dim = latent_dim
        self.hidden_sizes = tuple(hidden_sizes)
        self.encoder = multilayer_perceptron([dim, *hidden_sizes, latent_dim])
        self.decoder = multilayer_perceptron([latent_dim, *reversed(self.hidden_sizes), dim])
        self.register_buffer("shift_D", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(()))

    def standardise(self, vectors_ND: Tensor) -> Tensor:
        """Item vectors as the encoder takes them."""
        return (vectors_ND - self.shift_D) / self.scale


class RqVae(ResidualTokenizer, Autoencoder):
    """Encoder, residual quantiser, decoder."""

    method: ClassVar[str] = "rqvae"

    def __init__(self, dim: int, codebook_sizes: Sequence[int], latent_dim: int, hidden_sizes: Sequence[int]) -> None:
        super().__init__(dim, latent_dim, hidden_sizes)
        self.quantiser = ResidualQuantiser(codebook_sizes, latent_dim)
        self.codebook_sizes = self.quantiser.codebook_sizes

    def config(self) -> dict[str, Any]:
        """The sizes."""
        return {
            "dim": self.dim,
            "codebook_sizes": list(self.codebook_sizes),
            "latent_dim": self.latent_dim,
            "hidden_sizes": list(self.hidden_sizes),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Build one of the given sizes.

        Raises:
            TokenizerError: a size is missing.
        """
        return cls(*config_fields(config, "dim", "codebook_sizes", "latent_dim", "hidden_sizes"))

    @torch.inference_mode()
    def latents(self, vectors_ND: Tensor, domain: str) -> Tensor:
        """The encoder's output, float32[N, d]; the same for every domain."""
        check_vectors(vectors_ND, self.dim)
        return in_chunks(lambda chunk_RD: self.encoder(self.standardise(chunk_RD)), vectors_ND.float())

    @torch.inference_mode()
    def reconstruct(self, codes_NL: Tensor) -> Tensor:
        """The decoder's output of the chosen codes' sum, in item vector space: float32[N, D]."""
        return in_chunks(
            lambda chunk_RL: self.decoder(self.quantiser.lookup(chunk_RL)) * self.scale + self.shift_D, codes_NL
        )
