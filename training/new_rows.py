"""Token rows that train while all other rows of a pretrained backbone stay as they are, bit for bit.

``peft`` has ``trainable_token_indices`` for this. Its rows lie beside the weight and are merged into a copy of the
whole matrix at every use, and a slice of the output head would not see them. Here the rows are a parameter that shares
the memory of the backbone's own rows: what the optimizer writes is in the backbone at once, so validation, the
self-test and saving need no merge, and the optimizer keeps state for these rows alone.

Shapes: N rows that train, D hidden width.
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel


class NewRows(nn.Module):
    """The rows ``first <= token < last`` of a backbone's embedding, and of its output head where it has its own.

    Args:
        backbone: its embedding and head no longer train. Must stay on its device.
        with_head: whether the head's rows train too; those of domain tokens are never scored.
    """

    def __init__(self, backbone: PreTrainedModel, first: int, last: int, with_head: bool = True) -> None:
        super().__init__()
        self.first, self.last = first, last
        layer = backbone.get_input_embeddings()
        # The padding row would be looked for among the rows that train, and one of them would get no gradient.
        setattr(layer, "padding_idx", None)  # noqa: B010
        embedding = _frozen(layer)
        head = _frozen(backbone.get_output_embeddings())
        self.embed_rows_ND = nn.Parameter(embedding.data[first:last])
        self.head_embed_rows_ND: nn.Parameter | None = None
        if with_head and head is not embedding:
            self.head_embed_rows_ND = nn.Parameter(head.data[first:last])
        self._with_head = with_head

    def embed(self, embedding: nn.Module, tokens_BT: Tensor) -> Tensor:
        """What the embedding gives, with a gradient for the rows that train. Shape: float[B, T, D]."""
        trains_BT = (tokens_BT >= self.first) & (tokens_BT < self.last)
        place_BT = (tokens_BT - self.first).clamp(0, self.last - self.first - 1)
        new_BTD: Tensor = functional_call(embedding, {"weight": self.embed_rows_ND}, (place_BT,))
        return torch.where(trains_BT[..., None], new_BTD, embedding(tokens_BT))

    def head_rows(self, first: int, count: int) -> Tensor | None:
        """So many rows of the head from token ``first`` on; None where the head does not train. Shape: float[N, D]."""
        if not self._with_head:
            return None
        rows_ND = self.embed_rows_ND if self.head_embed_rows_ND is None else self.head_embed_rows_ND
        return rows_ND[first - self.first : first - self.first + count]


def _frozen(module: nn.Module) -> Tensor:
    """The weight of an embedding or a head, which no longer trains."""
    weight = module.get_parameter("weight")
    weight.requires_grad_(False)
    return weight
