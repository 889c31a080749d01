"""SASRec and its loss, the full softmax: self-attention over a user's items (Kang and McAuley, arXiv 1808.09781).

Changes that later work found to matter: cross-entropy over all items of the domain instead of one sampled negative
(Klenitskiy and Vasilev, arXiv 2309.07602), at all positions of a sequence at once; normalisation before each block and
of the embeddings, so that the item table can start small.
The softmax goes over a few rows at a time and makes its gradient on the way, so that the scores of a batch never lie
in memory. Input and output share one item table. Sequences are padded on the right; positions count from the oldest.

Shapes: B sequences, T positions, D width, N targets, I items of the domain, K places.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from training.progress import track

_ROWS_AT_ONCE = 256
"""Histories that are ranked together."""

_INITIAL_STD = 0.02
"""Of both tables: what is learned of a rare item is soon larger than where it began."""

_SOFTMAX_ROWS = 64
"""Training targets whose scores over all items lie in memory together: few enough for a processor's cache."""


@dataclass(frozen=True)
class SasRecConfig:
    """Settings of one model and its training.

    Attributes:
        width: of the embeddings, D; a multiple of ``heads``.
        layers: transformer blocks.
        heads: of the attention.
        dropout: on embeddings, attention weights and the outputs of each block.
        max_length: items of a history that are read, the newest ones.
        learning_rate: of Adam, constant.
        weight_decay: decoupled, on matrices that are no embeddings.
        batch_tokens: positions of a batch, padding included.
        epochs: at most.
        patience: epochs without a better validation NDCG@10 after which training ends.
    """

    width: int = 64
    layers: int = 2
    heads: int = 2
    dropout: float = 0.5
    max_length: int = 50
    learning_rate: float = 0.001
    weight_decay: float = 0.0
    batch_tokens: int = 1024
    epochs: int = 200
    patience: int = 5

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}; choose one that is")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; choose a share of at least 0 and below 1")


class SasRec(nn.Module):
    """History -> hidden states; row I of the item table stands for padding."""

    def __init__(self, num_items: int, config: SasRecConfig) -> None:
        super().__init__()
        self.num_items = num_items
        self.max_length = config.max_length
        self.item = nn.Embedding(num_items + 1, config.width)
        self.position = nn.Embedding(config.max_length, config.width)
        self.norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)
        block = nn.TransformerEncoderLayer(
            config.width,
            config.heads,
            dim_feedforward=4 * config.width,
            dropout=config.dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.blocks = nn.TransformerEncoder(
            block, config.layers, norm=nn.LayerNorm(config.width), enable_nested_tensor=False
        )
        for table in (self.item, self.position):
            nn.init.normal_(table.weight, std=_INITIAL_STD)

    def forward(self, items_BT: Tensor) -> Tensor:
        """The hidden state behind each item of sequences padded on the right, float32[B, T, D]."""
        length = items_BT.shape[1]
        hidden_BTD = self.norm(self.item(items_BT) + self.position.weight[:length])
        mask_TT = nn.Transformer.generate_square_subsequent_mask(length, device=items_BT.device)
        states_BTD: Tensor = self.blocks(self.dropout(hidden_BTD), mask=mask_TT, is_causal=True)
        return states_BTD

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.item.weight.device

    @property
    def table_ID(self) -> Tensor:  # noqa: N802
        """The item vectors that score hidden states; padding has none. Shape: float32[I, D]."""
        return self.item.weight[: self.num_items]

    @torch.no_grad()
    def top(self, histories: Sequence[Sequence[int]], places: int, label: str) -> npt.NDArray[np.int32]:
        """The best items, best first, that are not in the history, int32[N, K], -1 behind the last.

        All items of a history are left out; the newest ``max_length`` are read. An empty history is read as padding.
        """
        self.eval()
        top_NK = np.full((len(histories), places), -1, dtype=np.int32)
        order = sorted(range(len(histories)), key=lambda row: len(histories[row]))
        with track(label, len(order)) as advance:
            for begin in range(0, len(order), _ROWS_AT_ONCE):
                rows = order[begin : begin + _ROWS_AT_ONCE]
                own = [histories[row][-self.max_length :] or [self.num_items] for row in rows]
                last_B = torch.tensor([len(items) - 1 for items in own])
                items_BT = padded(own, self.num_items).to(self.device)
                hidden_BD = self(items_BT)[torch.arange(len(own)), last_B]
                score_BI = hidden_BD @ self.table_ID.T
                seen = [(place, item) for place, row in enumerate(rows) for item in histories[row]]
                if seen:
                    place_X, item_X = torch.tensor(seen).unbind(1)
                    score_BI[place_X, item_X] = -math.inf
                best = score_BI.topk(min(places, self.num_items), dim=1)
                found_BK = torch.where(best.values > -math.inf, best.indices, -1)
                top_NK[rows, : found_BK.shape[1]] = found_BK.cpu().numpy()
                advance(len(rows))
        return top_NK


class FullCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of ``hidden_ND @ table_ID.T`` against ``target_N``; its gradients are made on the way."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, table_ID: Tensor, target_N: Tensor) -> Tensor:
        grad_hidden_ND = torch.empty_like(hidden_ND)
        grad_table_ID = torch.zeros_like(table_ID)
        total = hidden_ND.new_zeros(())
        at_once = _SOFTMAX_ROWS if hidden_ND.device.type == "cpu" else len(target_N)
        for begin in range(0, len(target_N), at_once):
            rows = slice(begin, begin + at_once)
            hidden_RD, target_R1 = hidden_ND[rows], target_N[rows, None]
            score_RI = hidden_RD @ table_ID.T
            score_RI -= score_RI.amax(dim=1, keepdim=True)
            own_R1 = score_RI.gather(1, target_R1)
            sum_R1 = score_RI.exp_().sum(dim=1, keepdim=True)
            total += (sum_R1.log() - own_R1).sum()
            error_RI = score_RI.div_(sum_R1)
            error_RI.scatter_add_(1, target_R1, error_RI.new_full(target_R1.shape, -1.0))
            grad_hidden_ND[rows] = error_RI @ table_ID
            grad_table_ID.addmm_(error_RI.T, hidden_RD)
        ctx.save_for_backward(grad_hidden_ND / len(target_N), grad_table_ID / len(target_N))
        return total / len(target_N)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_hidden_ND, grad_table_ID = ctx.saved_tensors
        return grad[0] * grad_hidden_ND, grad[0] * grad_table_ID, None


def padded(rows: Sequence[Sequence[int]], padding: int) -> Tensor:
    """int64[B, T], padded on the right."""
    return nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=padding)
