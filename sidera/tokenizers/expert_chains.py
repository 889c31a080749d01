"""Residual chains of codebooks, one chain for each of K experts, and arithmetic that treats every row alike.

Knows codebooks and which expert an item has; does not know routers.

Shapes: N item, d latent dim, K expert, l prefix length, V codebook size, M items of one expert, R rows of a chunk.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from sidera.tokenizers.residual import in_chunks, nearest_of, squared_distances


class ExpertChains(nn.Module):
    """The residual chains of K experts, which have codebooks of equal sizes.

    Attributes:
        codebooks: one parameter of shape [K, V, d] a level.
    """

    def __init__(self, experts: int, codebook_sizes: Sequence[int], dim: int) -> None:
        super().__init__()
        self.experts = experts
        self.codebook_sizes = tuple(int(size) for size in codebook_sizes)
        self.codebooks = nn.ParameterList(torch.zeros(experts, size, dim) for size in self.codebook_sizes)

    def vectors(self, level: int, expert_N: Tensor, codes_N: Tensor) -> Tensor:
        """The vectors of codes of a level, each in the codebook of its item's expert: float32[N, d]."""
        codebook_Vd: Tensor = self.codebooks[level].flatten(0, 1)
        return codebook_Vd[expert_N * self.codebook_sizes[level] + codes_N]

    def lookup(self, expert_N: Tensor, codes_Nl: Tensor) -> Tensor:
        """The sum of the chosen codes' vectors, added in the order of levels: float32[N, d]."""
        total_Nd = self.vectors(0, expert_N, codes_Nl[:, 0])
        for level in range(1, codes_Nl.shape[1]):
            total_Nd = total_Nd + self.vectors(level, expert_N, codes_Nl[:, level])
        return total_Nd

    def distances(self, latents_Nd: Tensor, expert_N: Tensor, prefix_Nl: Tensor) -> Tensor:
        """Squared distance of each residual to each code of the next level of its item's expert: float32[N, V]."""
        level = prefix_Nl.shape[1]
        residual_Nd = latents_Nd
        for before in range(level):
            residual_Nd = residual_Nd - self.vectors(before, expert_N, prefix_Nl[:, before])

        def of_expert(expert: int, rows_M: Tensor) -> Tensor:
            codebook_Vd = self.codebooks[level][expert]
            return in_chunks(lambda chunk_Rd: squared_distances(chunk_Rd, codebook_Vd), residual_Nd[rows_M])

        return self._by_expert(of_expert, expert_N, latents_Nd.new_empty((len(expert_N), self.codebook_sizes[level])))

    def nearest_codes(self, latents_Nd: Tensor, expert_N: Tensor) -> Tensor:
        """The nearest code at each level of each item's expert: int64[N, l]; as :meth:`distances`, bit for bit."""

        def of_expert(expert: int, rows_M: Tensor) -> Tensor:
            def of_chunk(residual_Rd: Tensor) -> Tensor:
                codes = []
                for codebook_KVd in self.codebooks:
                    codes.append(nearest_of(squared_distances(residual_Rd, codebook_KVd[expert])))
                    residual_Rd = residual_Rd - codebook_KVd[expert][codes[-1]]
                return torch.stack(codes, dim=1)

            return in_chunks(of_chunk, latents_Nd[rows_M])

        return self._by_expert(of_expert, expert_N, expert_N.new_empty((len(expert_N), len(self.codebook_sizes))))

    def _by_expert(self, function: Callable[[int, Tensor], Tensor], expert_N: Tensor, out_NX: Tensor) -> Tensor:
        """Fill rows of ``out_NX`` expert by expert, so that each row meets the codebooks of its own expert alone."""
        for expert in range(self.experts):
            rows_M = torch.nonzero(expert_N == expert).flatten()
            if len(rows_M):
                out_NX[rows_M] = function(expert, rows_M)
        return out_NX
