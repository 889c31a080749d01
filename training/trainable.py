"""What trains in each phase, counted: a weight too many or too few is refused before the first step.

Phase 1 trains all weights of a scratch backbone, and of a pretrained one the experts, their gates and the new token
rows. Phase 2 trains the two matrices of every adapted layer.
"""

from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel

from sidera.model.experts import ExpertShape, add_experts
from sidera.model.linear_layers import linear_layers, sizes_of
from sidera.model.vocabulary import Vocabulary
from training.backbones import is_scratch
from training.errors import StageError
from training.model_config import LanguageModelConfig
from training.new_rows import NewRows


def prepare_universal(backbone: PreTrainedModel, config: LanguageModelConfig, vocabulary: Vocabulary) -> NewRows | None:
    """Make ready what phase 1 trains: experts are added, and of a pretrained backbone all else is frozen.

    Returns:
        The token rows of a pretrained backbone that train; None for a scratch one, which trains as a whole.

    Raises:
        StageError: other weights would train than belong to phase 1.
    """
    settings = config.universal_experts
    if settings is not None:
        shape = ExpertShape(settings.count, settings.rank, settings.alpha, settings.gate == "learned")
        add_experts(backbone, shape, settings.dropout)
    if is_scratch(config.backbone):
        return None
    for name, weight in backbone.named_parameters():
        weight.requires_grad_(".universal_experts." in name)
    rows = NewRows(backbone, vocabulary.base, vocabulary.size)
    expected = sum(weight.numel() for weight in rows.parameters())
    if settings is not None:
        gates = settings.count if settings.gate == "learned" else 0
        sizes = [sizes_of(layer) or (0, 0) for layer in linear_layers(backbone).values()]
        expected += sum(settings.count * settings.rank * (i + o) + gates * i for i, o in sizes)
    check_trainable("universal", nn.ModuleList([backbone, rows]), expected)
    return rows


def adapter_size(backbone: nn.Module, rank: int) -> int:
    """Weights of the domain adapter that ``peft`` has put on a backbone."""
    layers = [layer.base_layer for layer in backbone.modules() if isinstance(layer, LoraLayer)]
    return sum(rank * sum(sizes_of(layer) or (0, 0)) for layer in layers)


def check_trainable(label: str, model: nn.Module, expected: int) -> None:
    """Refuse a phase that would train more or fewer weights than belong to it.

    Raises:
        StageError: the numbers differ, or nothing would train.
    """
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    if trained != expected or expected == 0:
        raise StageError(
            f"{label}: {trained} weights would train where {expected} belong to this phase; "
            "use a backbone with linear layers that peft can adapt"
        )
