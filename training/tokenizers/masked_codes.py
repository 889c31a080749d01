"""Masked-token modelling over codes: the loss L_MTM of GenCDR's tokenizer (arXiv 2511.08006), and its context model.

Some levels of each item's codes are hidden, and a small Transformer predicts them from the others, so that the levels
of a SID say something about one another. Codes as integers have no gradient; here each enters as its codebook vector,
through which a gradient reaches the codebook and, straight through, the encoder. Only the fit needs any of it.

Shapes: B batch, L level, V codebook size, d latent dim, W width of the context model.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH = 64
"""Of the context model, with heads of 16 and a feed-forward layer of twice the width."""

LAYERS = 1
"""Of the context model: four levels are a short sequence."""


class MaskedCodes(nn.Module):
    """The context model and its loss."""

    def __init__(self, codebook_sizes: Sequence[int], latent_dim: int) -> None:
        super().__init__()
        self.input = nn.Linear(latent_dim, WIDTH)
        self.hidden_W = nn.Parameter(torch.randn(WIDTH) * 0.02)
        self.position_LW = nn.Parameter(torch.randn(len(codebook_sizes), WIDTH) * 0.02)
        layer = nn.TransformerEncoderLayer(
            WIDTH, WIDTH // 16, 2 * WIDTH, dropout=0.0, batch_first=True, norm_first=True
        )
        self.context = nn.TransformerEncoder(layer, LAYERS, norm=nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.outputs = nn.ModuleList(nn.Linear(WIDTH, size) for size in codebook_sizes)

    def forward(self, codes: Sequence[Tensor], vectors_BLd: Tensor, masked_BL: Tensor) -> Tensor:
        """The mean cross-entropy of the masked codes, in nats.

        Args:
            codes: int64[B] of each level.
            vectors_BLd: what the codes stand for, as :func:`code_vectors` gives it.
            masked_BL: bool, which of them the model does not see.
        """
        embedded_BLW = torch.where(masked_BL[:, :, None], self.hidden_W, self.input(vectors_BLd))
        context_BLW = self.context(embedded_BLW + self.position_LW)
        total = vectors_BLd.new_zeros(())
        for level, (codes_B, output) in enumerate(zip(codes, self.outputs, strict=True)):
            masked_B = masked_BL[:, level]
            total = total + F.cross_entropy(output(context_BLW[masked_B, level]), codes_B[masked_B], reduction="sum")
        return total / masked_BL.sum()


def code_vectors(codes: Sequence[Tensor], codebooks: Sequence[Tensor], straight_through_Bd: Tensor) -> Tensor:
    """The chosen codes' vectors, with a gradient to them and to the latents: float[B, L, d].

    A level's residual is the latent less what is constant for its gradient, so that a gradient straight through to the
    residual is one to the latent.

    Args:
        codes: int64[B] of each level.
        codebooks: float[V, d] of each level.
        straight_through_Bd: of the quantiser: a gradient on it reaches the latents.
    """
    zero_Bd = straight_through_Bd - straight_through_Bd.detach()
    return torch.stack(
        [F.embedding(codes_B, codebook_Vd) + zero_Bd for codes_B, codebook_Vd in zip(codes, codebooks, strict=True)],
        dim=1,
    )


def draw_masks(items: int, levels: int, share: float, generator: torch.Generator) -> Tensor:
    """Hide each level with probability ``share``, but at least one and at most all but one of an item: bool[B, L]."""
    draws_BL = torch.rand(items, levels, generator=generator)
    masked_BL = draws_BL < share
    masked_BL.scatter_(1, draws_BL.argmin(dim=1, keepdim=True), True)
    masked_BL.scatter_(1, draws_BL.argmax(dim=1, keepdim=True), False)
    return masked_BL
