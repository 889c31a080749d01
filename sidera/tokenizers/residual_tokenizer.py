"""What tokenizers share whose SIDs are the codes of one residual quantiser.

Knows the quantiser; does not know how latents are made, nor what becomes of them behind it.

Shapes: N item, d latent dim, L level, l prefix length, V codebook size.
"""

import torch
from torch import Tensor

from sidera.tokenizers.base import ItemTokenizer
from sidera.tokenizers.residual import ResidualQuantiser


class ResidualTokenizer(ItemTokenizer):
    """A tokenizer whose latents one residual quantiser codes.

    Attributes:
        quantiser: of width d.
    """

    quantiser: ResidualQuantiser

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
