"""Backbones that start from nothing: small Qwen-type decoders that train and serve on CPUs."""

from dataclasses import dataclass

from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from sidera.vocabulary import Vocabulary
from training.errors import ConfigError

_SCRATCH = "scratch:"


@dataclass(frozen=True)
class Shape:
    """Widths and depth of a decoder."""

    width: int
    feed_forward: int
    layers: int
    heads: int


PRESETS = {
    "tiny": Shape(width=128, feed_forward=384, layers=3, heads=4),
    "small": Shape(width=256, feed_forward=768, layers=6, heads=4),
}
"""The backbones named ``scratch:<preset>``; about 0.6 and 5 million weights beside the embedding."""


def shape_of(name: str) -> Shape:
    """The shape of a backbone named ``scratch:<preset>``.

    Raises:
        ConfigError: there is no such preset.
    """
    preset = PRESETS.get(name.removeprefix(_SCRATCH))
    if not name.startswith(_SCRATCH) or preset is None:
        known = ", ".join(_SCRATCH + preset for preset in PRESETS)
        raise ConfigError(f"language_model.backbone: {name!r} is not known; use one of {known}")
    return preset


def new_backbone(name: str, vocabulary: Vocabulary, max_tokens: int) -> PreTrainedModel:
    """A backbone with random weights; embedding and output head share theirs.

    Args:
        name: ``scratch:tiny`` or ``scratch:small``.
        max_tokens: the longest sequence it must read.

    Raises:
        ConfigError: there is no such preset.
    """
    preset = shape_of(name)
    config = Qwen2Config(
        vocab_size=vocabulary.size,
        hidden_size=preset.width,
        intermediate_size=preset.feed_forward,
        num_hidden_layers=preset.layers,
        num_attention_heads=preset.heads,
        num_key_value_heads=preset.heads,
        max_position_embeddings=max_tokens,
        tie_word_embeddings=True,
        pad_token_id=vocabulary.pad,
        bos_token_id=None,
        eos_token_id=None,
    )
    return Qwen2ForCausalLM(config)
