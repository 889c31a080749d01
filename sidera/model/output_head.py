"""The output head, a slice of its rows at a time: nothing multiplies a whole vocabulary.

Shapes: X any leading dims, D hidden width, V tokens that are scored.
"""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sidera.model.vocabulary import Vocabulary


def code_logits(
    backbone: PreTrainedModel, vocabulary: Vocabulary, hidden_XD: Tensor, level: int, weight_VD: Tensor | None = None
) -> Tensor:
    """The slice of the output head that scores the codes of one level (0-based). Shape: float32[..., V].

    Args:
        weight_VD: the level's rows of the head, where training keeps them elsewhere; default: the head's own.
    """
    return token_logits(backbone, hidden_XD, vocabulary.first_code(level), vocabulary.codebook_sizes[level], weight_VD)


def token_logits(
    backbone: PreTrainedModel, hidden_XD: Tensor, first: int, count: int, weight_VD: Tensor | None = None
) -> Tensor:
    """What the output head gives to ``count`` tokens from ``first`` on. Shape: float32[..., V].

    It is multiplied in float32, whatever the weights are: bfloat16 would tell few scores apart.

    Args:
        weight_VD: these tokens' rows of the head, where training keeps them elsewhere; default: the head's own.
    """
    head: nn.Linear = backbone.get_output_embeddings()
    rows = slice(first, first + count)
    weight_VD = head.weight[rows] if weight_VD is None else weight_VD
    bias = getattr(head, "bias", None)
    bias_V = None if bias is None else bias[rows].float()
    logits = torch.nn.functional.linear(hidden_XD.float(), weight_VD.float(), bias_V).float()
    config = backbone.config.get_text_config()
    scale = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
    if scale != 1.0:
        logits = logits * scale
    soft_cap = getattr(config, "final_logit_softcapping", None)
    return logits if soft_cap is None else soft_cap * torch.tanh(logits / soft_cap)
