"""The loss of both phases: every code of every target, and the tasks of text alignment.

Shapes: B rows of a batch, W items of a window, T tokens of a row, L levels, D hidden width, V codes of a level or
tokens of the backbone's own, X targets.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from sidera.model.output_head import code_logits, token_logits
from sidera.model.vocabulary import Vocabulary
from training.new_rows import NewRows
from training.sequences import SequenceBatch
from training.siblings import Siblings
from training.text_alignment import TitleBatch

_TITLE_TOKENS_AT_ONCE = 512
"""Scores of so many title tokens over a whole vocabulary lie in memory together."""


class CodeLoss(nn.Module):
    """Cross-entropy of every code of every target, over the codes of its level or over the siblings that exist.

    The mean is over all codes of all targets in both cases. A code without siblings is certain and counts as the 0 that
    it is: L times the loss over siblings is then minus the mean log-probability of an item, as decoding gives it,
    whatever the catalog; and the loss of a batch is the mean of its parts' by their targets.

    Args:
        backbone: its hidden states predict the codes.
        vocabulary: where the codes lie.
        dropout: of the embedded tokens and of the last hidden states, while training. Not of the attention weights:
            that takes the fused attention kernel away, and with it half of the speed on CPUs.
        label_smoothing: share of the probability that goes to all codes that compete.
        rows: token rows that train while the others of the backbone do not.
        siblings: which codes compete; None: all of the level.
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        vocabulary: Vocabulary,
        dropout: float,
        label_smoothing: float,
        rows: NewRows | None = None,
        siblings: Siblings | None = None,
    ) -> None:
        super().__init__()
        self.rows = rows
        self.siblings = siblings
        self.backbone = backbone
        self.vocabulary = vocabulary
        self.dropout = nn.Dropout(dropout)
        self.label_smoothing = label_smoothing

    def forward(self, batch: SequenceBatch | TitleBatch) -> Tensor:
        """The mean over all codes of all targets, or over all tokens of titles. Shape: float32[]."""
        device = self.backbone.device
        if isinstance(batch, TitleBatch):
            return self._of_titles(batch)
        # Nothing is predicted from a window's last code, so it is not read; for short windows that is much of the time.
        hidden_BTD = self._hidden(batch.tokens_BWX.flatten(1)[:, :-1].to(device))
        target_BW = batch.target_BW.to(device)
        step = self.vocabulary.tokens_per_item
        hidden_LXD = [hidden_BTD[:, level::step][target_BW] for level in range(self.vocabulary.num_levels)]
        domain_X, codes_XL = batch.domain_BW.to(device)[target_BW], batch.codes_BWL.to(device)[target_BW]
        return self._of_codes(hidden_LXD, domain_X, codes_XL)

    def _hidden(self, tokens_BT: Tensor) -> Tensor:
        embedding = self.backbone.get_input_embeddings()
        rows = self.rows
        embedded_BTD = self.dropout(embedding(tokens_BT) if rows is None else rows.embed(embedding, tokens_BT))
        hidden_BTD: Tensor = self.backbone.base_model(inputs_embeds=embedded_BTD, use_cache=False).last_hidden_state
        return hidden_BTD

    def _of_codes(self, hidden_LXD: Sequence[Tensor], domain_X: Tensor, codes_XL: Tensor) -> Tensor:
        siblings = self.siblings
        parent_XL = None if siblings is None else siblings.parents(domain_X, codes_XL)
        losses = []
        for level, hidden_XD in enumerate(hidden_LXD):
            code_X = codes_XL[:, level]
            if siblings is None or parent_XL is None:
                logits_XV = self._code_logits(hidden_XD, level)
                losses.append(nn.functional.cross_entropy(logits_XV, code_X, label_smoothing=self.label_smoothing))
                continue
            open_X = siblings.has_siblings(level, parent_XL[:, level])
            logits_XV = self._code_logits(hidden_XD[open_X], level)
            parent_X, code_X = parent_XL[:, level][open_X], code_X[open_X]
            losses_X = siblings.losses(level, logits_XV, parent_X, code_X, self.label_smoothing)
            losses.append(losses_X.sum() / len(codes_XL))
        return torch.stack(losses).mean()

    def _code_logits(self, hidden_XD: Tensor, level: int) -> Tensor:
        first, size = self.vocabulary.first_code(level), self.vocabulary.codebook_sizes[level]
        head_VD = None if self.rows is None else self.rows.head_rows(first, size)
        return code_logits(self.backbone, self.vocabulary, self.dropout(hidden_XD), level, head_VD)

    def _of_titles(self, batch: TitleBatch) -> Tensor:
        device = self.backbone.device
        hidden_BTD = self._hidden(batch.tokens_BT[:, :-1].to(device))
        if batch.task == "title to SID":
            place_BL = batch.code_places_BL.to(device)
            row_B = torch.arange(len(place_BL), device=device)
            hidden_LXD = [hidden_BTD[row_B, place_B] for place_B in place_BL.T]
            return self._of_codes(hidden_LXD, batch.domain_B.to(device), batch.codes_BL.to(device))
        is_title_BT = batch.is_title_BT.to(device)
        token_X = batch.tokens_BT.to(device)[is_title_BT]
        hidden_XD = self.dropout(hidden_BTD[is_title_BT[:, 1:]])
        pieces = zip(hidden_XD.split(_TITLE_TOKENS_AT_ONCE), token_X.split(_TITLE_TOKENS_AT_ONCE), strict=True)
        losses = [
            checkpoint(self._of_title_tokens, piece_XD, tokens, use_reentrant=False, preserve_rng_state=False)
            for piece_XD, tokens in pieces
        ]
        loss = torch.stack(losses).sum() / len(token_X)
        # DDP wants every weight that trains to take part in every loss.
        unused = None if self.rows is None else self.rows.head_rows(self.vocabulary.base, 1)
        return loss if unused is None else loss + 0.0 * unused.sum()

    def _of_title_tokens(self, hidden_XD: Tensor, token_X: Tensor) -> Tensor:
        logits_XV = token_logits(self.backbone, hidden_XD, 0, self.vocabulary.base)
        return nn.functional.cross_entropy(logits_XV, token_X, reduction="sum")
