"""A tokenizer small enough to check by hand: the residual quantiser alone, on codebooks given."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from sidera.tokenizers.base import ItemTokenizer, check_vectors
from sidera.tokenizers.residual import ResidualQuantiser


class Plain(ItemTokenizer):
    """The residual quantiser alone, on codebooks given: a world small enough to check by hand."""

    method: ClassVar[str] = "plain"

    def __init__(self, codebooks: list[Tensor]) -> None:
        super().__init__()
        self.quantiser = ResidualQuantiser([len(book) for book in codebooks], codebooks[0].shape[1])
        for own, given_Vd in zip(self.quantiser.codebooks, codebooks, strict=True):
            own.data.copy_(given_Vd)
        self.codebook_sizes, self.dim = self.quantiser.codebook_sizes, self.quantiser.dim
        self.requires_grad_(False)

    def config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        raise TypeError("made for these tests; never stored, so never loaded")

    def latents(self, vectors_ND: Tensor, domain: str) -> Tensor:
        check_vectors(vectors_ND, self.dim)
        return vectors_ND

    def distances(self, latents_Nd: Tensor, prefix_Nl: Tensor) -> Tensor:
        return self.quantiser.distances(latents_Nd, prefix_Nl)

    def quantised(self, codes_NL: Tensor) -> Tensor:
        return self.quantiser.lookup(codes_NL)

    def reconstruct(self, codes_NL: Tensor) -> Tensor:
        return self.quantised(codes_NL)


def random_plain(sizes: tuple[int, ...], dim: int = 3, seed: int = 0) -> Plain:
    generator = torch.Generator().manual_seed(seed)
    return Plain([torch.randn(size, dim, generator=generator) / 2**level for level, size in enumerate(sizes)])


def random_vectors(items: int, dim: int = 3, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(items, dim)).astype(np.float32)


def nearest(tokenizer: Plain, vectors: np.ndarray) -> np.ndarray:
    return tokenizer.encode(torch.from_numpy(vectors), "a").numpy()


def squared_error(tokenizer: Plain, vectors: np.ndarray, sids: np.ndarray) -> np.ndarray:
    return np.asarray(np.square(vectors - tokenizer.reconstruct(torch.from_numpy(sids)).numpy()).sum(axis=1))
