"""The linear layers of a backbone: which there are, how wide they are, and how one is put in another's place.

``nn.Linear`` keeps its weight as (O, I), the ``Conv1D`` of GPT-2 as (I, O); both are linear layers here. The output
head is none of them: adapters and experts leave it alone.

Shapes: I and O width of a layer's input and output.
"""

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D


def sizes_of(layer: nn.Module) -> tuple[int, int] | None:
    """I and O of a linear layer; None for any other module."""
    if isinstance(layer, Conv1D):
        return layer.nx, layer.nf
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    return None


def linear_layers(backbone: PreTrainedModel) -> dict[str, nn.Module]:
    """Every linear layer but the output head, by its name in the backbone."""
    head = backbone.get_output_embeddings()
    return {
        name: layer
        for name, layer in backbone.named_modules()
        if isinstance(layer, (nn.Linear, Conv1D)) and layer is not head
    }


def decoder_layers(backbone: PreTrainedModel) -> tuple[str, nn.ModuleList] | None:
    """The name of a backbone's decoder layers in it, and the layers; None where no list has as many as it says."""
    count = backbone.config.get_text_config().num_hidden_layers
    stacks = ((name, part) for name, part in backbone.named_modules() if isinstance(part, nn.ModuleList))
    return next(((name, part) for name, part in stacks if len(part) == count), None)


def upper_half(backbone: PreTrainedModel) -> list[str]:
    """The linear layers of the decoder layers N/2..N-1 of N, by name; an odd N's middle one is among them."""
    found = decoder_layers(backbone)
    if found is None:
        return []
    stack, layers = found
    prefixes = tuple(f"{stack}.{number}." for number in range(len(layers) // 2, len(layers)))
    return [name for name in linear_layers(backbone) if name.startswith(prefixes)]


def replace_layer(backbone: nn.Module, name: str, layer: nn.Module) -> None:
    """Put ``layer`` where the module ``name`` is; names stay."""
    parent, _, child = name.rpartition(".")
    setattr(backbone.get_submodule(parent), child, layer)
