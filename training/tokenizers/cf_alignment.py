"""The collaborative loss of LETTER (L_CF, arXiv 2405.07314): quantised against collaborative-filtering (CF) vectors.

Shapes: N item, B batch, d latent dim, C width of a domain's CF vectors.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class CfAlignment(nn.Module):
    """The collaborative loss of a batch: InfoNCE between quantised and CF vectors.

    A domain's CF vectors are a space of their own, so items are contrasted with items of their domain, and each domain
    has a rotation of the quantised vectors into its space, learned beside them: it turns axes that mean nothing and
    bends nothing, so the codes must follow. Cosines over a temperature stand for the paper's inner products: the length
    of a CF vector says how popular an item is, not what it is like.
    """

    domain_N: Tensor
    row_N: Tensor

    def __init__(self, latent_dim: int, cf: list[np.ndarray], temperature: float) -> None:
        """Take the CF vectors of all items.

        Args:
            latent_dim: width of the quantised vectors.
            cf: float[N, C] of each domain, rows of NaN for items without one, which take no part.
            temperature: by which cosines are divided.
        """
        super().__init__()
        self.temperature = temperature
        has = [np.isfinite(cf_NC).all(axis=1) for cf_NC in cf]
        domain_N = np.concatenate([np.where(has_N, domain, -1) for domain, has_N in enumerate(has)])
        row_N = np.concatenate([np.arange(len(cf_NC)) for cf_NC in cf])
        self.cf = [torch.from_numpy(np.array(cf_NC, dtype=np.float32)) for cf_NC in cf]
        self.domain_N = torch.from_numpy(domain_N)
        self.row_N = torch.from_numpy(row_N)
        self.rotations = nn.ModuleList(Rotation(latent_dim, cf_NC.shape[1]) for cf_NC in cf)

    def forward(self, numbers_B: Tensor, quantised_Bd: Tensor) -> Tensor:
        """The mean over the items that have a CF vector; 0 where none has.

        Args:
            numbers_B: the items', counted through all domains, one after the other.
            quantised_Bd: their quantised vectors.
        """
        domain_B, row_B = self.domain_N[numbers_B], self.row_N[numbers_B]
        total, counted = quantised_Bd.new_zeros(()), 0
        for domain in domain_B[domain_B >= 0].unique().tolist():
            own_B = domain_B == domain
            cf_Bc = self.cf[domain][row_B[own_B]]
            total = total + len(cf_Bc) * info_nce(self.rotations[domain](quantised_Bd[own_B]), cf_Bc, self.temperature)
            counted += len(cf_Bc)
        return total / max(counted, 1)


class Rotation(nn.Module):
    """A rotation from one width to another: padded with zeros to the larger one, turned, cut to the one wanted.

    It starts as the identity. Skew-symmetric matrices are what rotations are the exponentials of.
    """

    def __init__(self, width: int, width_out: int) -> None:
        super().__init__()
        self.width, self.width_out = width, width_out
        self.skew = nn.Parameter(torch.zeros(max(width, width_out), max(width, width_out)))

    def forward(self, vectors_Bd: Tensor) -> Tensor:
        """float[B, width] -> float[B, width_out]"""
        return vectors_Bd @ torch.matrix_exp(self.skew - self.skew.T)[: self.width, : self.width_out]


def info_nce(vectors_BC: Tensor, others_BC: Tensor, temperature: float) -> Tensor:
    """-mean_i log softmax_j(cos(vectors_i, others_j) / temperature) at j = i."""
    similarity_BB = F.normalize(vectors_BC, dim=1) @ F.normalize(others_BC, dim=1).T
    return F.cross_entropy(similarity_BB / temperature, torch.arange(len(vectors_BC)))
