"""How strongly two sets of vectors of the same items depend on each other: HSIC, and CKA, its normalised form.

Kernels are Gaussian, with the median distance for bandwidth. Both measures grow as samples shrink, dependent or not
(about as 1/n), so compare them between samples of equal size only. A single sample says nothing and is refused.

Shapes: N item of a sample, D and E dims; ``...`` any number of samples at once.
"""

import torch
from torch import Tensor

_ROUNDING = 1e-6
"""Of two squared lengths, the share below which their difference is rounding in single precision."""


def squared_pair_distances(vectors_ND: Tensor) -> Tensor:
    """Squared Euclidean distance of each two rows: float[..., N, N]."""
    centred_ND = vectors_ND - vectors_ND.mean(dim=-2, keepdim=True).detach()
    norms_N = centred_ND.square().sum(dim=-1)
    sums_NN = norms_N[..., :, None] + norms_N[..., None, :]
    distances_NN = sums_NN - 2 * (centred_ND @ centred_ND.transpose(-1, -2))
    return torch.where(distances_NN > _ROUNDING * sums_NN, distances_NN, torch.zeros_like(distances_NN))


def median_bandwidth(distances_NN: Tensor) -> Tensor:
    """sigma^2: the median squared distance of two different rows: float[..., 1, 1], without gradient.

    The mean, where more than half of the pairs are equal; 1 where all are.
    """
    size = distances_NN.shape[-1]
    row_P, column_P = torch.triu_indices(size, size, offset=1, device=distances_NN.device)
    pairs_P = distances_NN.detach()[..., row_P, column_P]
    bandwidth = pairs_P.median(dim=-1).values
    bandwidth = torch.where(bandwidth > 0, bandwidth, pairs_P.mean(dim=-1))
    return torch.where(bandwidth > 0, bandwidth, torch.ones_like(bandwidth))[..., None, None]


def gaussian_kernel(vectors_ND: Tensor) -> Tensor:
    """exp(-||x - y||^2 / (2 sigma^2)) of each two rows: float[..., N, N]; the gradient takes sigma for a constant.

    Raises:
        ValueError: there are less than two rows.
    """
    if vectors_ND.shape[-2] < 2:
        raise ValueError(
            f"samples of shape {list(vectors_ND.shape)} hold {vectors_ND.shape[-2]} items; give at least 2"
        )
    distances_NN = squared_pair_distances(vectors_ND)
    return (distances_NN / (-2 * median_bandwidth(distances_NN))).exp()


def hsic(x_ND: Tensor, y_NE: Tensor) -> Tensor:
    """The Hilbert-Schmidt independence criterion Tr(U H V H) / (N - 1)^2: float[...].

    U and V are the kernels of both sides, H = I - 1/N centres them (Gretton et al., ALT 2005, eq. 9; UniTok, arXiv
    2511.12922). 0 for independent sides, up to about 1/N.

    Args:
        x_ND: float[..., N, D], one side of each sample.
        y_NE: float[..., N, E], the other side of the same items.

    Raises:
        ValueError: a sample has less than two items.
    """
    return _hsic_of_kernels(gaussian_kernel(x_ND), gaussian_kernel(y_NE))


def cka(x_ND: Tensor, y_NE: Tensor) -> Tensor:
    """Centred kernel alignment HSIC(x, y) / sqrt(HSIC(x, x) HSIC(y, y)): float[...] from 0 to 1 (arXiv 1905.00414).

    1 where both sides have the same distances up to a factor; 0 where a side does not vary.

    Raises:
        ValueError: a sample has less than two items.
    """
    kernel_x_NN, kernel_y_NN = gaussian_kernel(x_ND), gaussian_kernel(y_NE)
    squared = _hsic_of_kernels(kernel_x_NN, kernel_x_NN) * _hsic_of_kernels(kernel_y_NN, kernel_y_NN)
    varies = squared > torch.finfo(squared.dtype).tiny
    length = torch.where(varies, squared, torch.ones_like(squared)).sqrt()
    return torch.where(varies, _hsic_of_kernels(kernel_x_NN, kernel_y_NN) / length, torch.zeros_like(length))


def _hsic_of_kernels(kernel_x_NN: Tensor, kernel_y_NN: Tensor) -> Tensor:
    items = kernel_x_NN.shape[-1]
    rows_1N = kernel_x_NN.mean(dim=-2, keepdim=True)
    columns_N1 = kernel_x_NN.mean(dim=-1, keepdim=True)
    centred_NN = kernel_x_NN - rows_1N - columns_N1 + kernel_x_NN.mean(dim=(-1, -2), keepdim=True)
    return (centred_NN * kernel_y_NN).sum(dim=(-1, -2)) / (items - 1) ** 2
