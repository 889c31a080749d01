"""The residual quantiser that all tokenizers share, and arithmetic that treats every row alike.

Knows codebooks and latents; does not know how latents are made, nor how codebooks are fitted.

Residual levels l = 1..L with codebook C_l: r_0 = z, c_l = argmin ||r_{l-1} - C_l[c]||, r_l = r_{l-1} - C_l[c_l]
(RQ-VAE of TIGER, arXiv 2305.05065, section 3.1).

Shapes: N item, D dim, d latent dim, L level, l prefix length, V codebook size, R rows of one chunk.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from sidera.errors import TokenizerError

CHUNK_ROWS = 128
"""Rows of every matrix product of ``in_chunks``. Results may change by rounding when this changes."""


def in_chunks(function: Callable[..., Tensor], *inputs_N: Tensor) -> Tensor:
    """Apply a row-wise ``function`` so that a row's result never depends on the rows beside it.

    BLAS picks its kernel, and with it the order of summation, by the shape of the product; a row alone and the same row
    in a batch would differ in the last bits, and an argmin between two near codes could differ. So rows always travel
    in chunks of exactly ``CHUNK_ROWS``, the last padded with zeros, in freshly allocated (aligned) memory. That also
    bounds the memory of intermediate results.

    Args:
        function: tensors with R rows -> one tensor with R rows.
        inputs_N: tensors with N rows each.
    """
    rows = len(inputs_N[0])
    outputs = []
    for start in range(0, max(rows, 1), CHUNK_ROWS):
        chunk = []
        for tensor_N in inputs_N:
            part = tensor_N[start : start + CHUNK_ROWS]
            padded = part.new_zeros((CHUNK_ROWS, *part.shape[1:]))
            padded[: len(part)] = part
            chunk.append(padded)
        outputs.append(function(*chunk)[: max(0, min(CHUNK_ROWS, rows - start))])
    return torch.cat(outputs)


def squared_distances(residual_Nd: Tensor, codebook_Vd: Tensor, out_NV: Tensor | None = None) -> Tensor:
    """Squared Euclidean distance of every residual to every code: float[N, V], at least 0; into ``out_NV`` if given."""
    norms_N1 = residual_Nd.square().sum(dim=1, keepdim=True)
    norms_V = codebook_Vd.square().sum(dim=1)
    products_NV = torch.addmm(norms_V, residual_Nd, codebook_Vd.T, alpha=-2, out=out_NV)
    return products_NV.add_(norms_N1).clamp_min_(0)


def nearest_of(distances_NV: Tensor) -> Tensor:
    """The nearest code of every row, the lower one where two are equally near: int64[N].

    On a CPU by NumPy, whose ``argmin`` takes a fifteenth of the time of PyTorch's and breaks ties alike.
    """
    if distances_NV.device.type != "cpu":
        return distances_NV.argmin(dim=1)
    return torch.from_numpy(distances_NV.detach().numpy().argmin(axis=1))


class ResidualQuantiser(nn.Module):
    """L codebooks, applied one after the other to what the ones before left over.

    Attributes:
        codebooks: L parameters of shape [V_l, d].
    """

    def __init__(self, codebook_sizes: Sequence[int], dim: int) -> None:
        """Make codebooks of zeros.

        Raises:
            TokenizerError: no level, a codebook without codes, or more SIDs than can be counted.
        """
        super().__init__()
        if not codebook_sizes or min(codebook_sizes) < 1 or dim < 1:
            raise TokenizerError(f"codebook sizes {list(codebook_sizes)} of dimension {dim}: all must be at least 1")
        if math.prod(codebook_sizes) >= 2**62:
            raise TokenizerError(f"codebook sizes {list(codebook_sizes)} make more than 2**62 SIDs; use fewer levels")
        self.codebook_sizes = tuple(int(size) for size in codebook_sizes)
        self.dim = dim
        self.codebooks = nn.ParameterList(nn.Parameter(torch.zeros(size, dim)) for size in self.codebook_sizes)

    def residual(self, latents_Nd: Tensor, prefix_Nl: Tensor) -> Tensor:
        """What the first l codes leave of each latent: float32[N, d]."""
        residual_Nd = latents_Nd
        for level in range(prefix_Nl.shape[1]):
            residual_Nd = residual_Nd - self.codebooks[level][prefix_Nl[:, level].long()]
        return residual_Nd

    def distances(self, latents_Nd: Tensor, prefix_Nl: Tensor) -> Tensor:
        """Squared distance of each residual after its l codes to each code of the next level: float32[N, V]."""
        codebook_Vd = self.codebooks[prefix_Nl.shape[1]]

        def of_chunk(latents_Rd: Tensor, prefix_Rl: Tensor) -> Tensor:
            return squared_distances(self.residual(latents_Rd, prefix_Rl), codebook_Vd)

        return in_chunks(of_chunk, latents_Nd, prefix_Nl)

    def nearest_codes(self, latents_Nd: Tensor) -> Tensor:
        """The nearest code at each level, the lower one where two are equally near: int64[N, L].

        The codes of :meth:`distances` level by level, bit for bit, without keeping distances of more than one chunk.
        """

        # One buffer a level: the allocator would fetch and give back its pages with every chunk, at twice the time.
        books = [codebook_Vd.detach() for codebook_Vd in self.codebooks]
        buffers = [latents_Nd.new_empty((CHUNK_ROWS, len(book_Vd))) for book_Vd in books]

        def of_chunk(residual_Rd: Tensor) -> Tensor:
            codes = []
            for book_Vd, buffer_RV in zip(books, buffers, strict=True):
                codes.append(nearest_of(squared_distances(residual_Rd, book_Vd, buffer_RV)))
                residual_Rd = residual_Rd - book_Vd[codes[-1]]
            return torch.stack(codes, dim=1)

        return in_chunks(of_chunk, latents_Nd)

    def lookup(self, codes_NL: Tensor) -> Tensor:
        """The sum of the chosen codes' vectors, added in the order of levels: float32[N, d]."""
        total_Nd: Tensor = self.codebooks[0][codes_NL[:, 0].long()]
        for level in range(1, codes_NL.shape[1]):
            total_Nd = total_Nd + self.codebooks[level][codes_NL[:, level].long()]
        return total_Nd
