"""Backbones that start from nothing: small Qwen-type decoders that train and serve on CPUs."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from sidera.language_model import load_backbone
from sidera.model.experts import expert_files, load_experts, plain_weights, save_experts
from sidera.model.vocabulary import Vocabulary
from sidera.progress_bars import no_progress_bars
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
    "base": Shape(width=512, feed_forward=1536, layers=8, heads=8),
}
"""The backbones named ``scratch:<preset>``; about 0.6, 5 and 27 million weights beside the embedding."""


def is_scratch(name: str) -> bool:
    """Whether a backbone's name is ``scratch:<preset>``; any other one names a pretrained backbone."""
    return name.startswith(_SCRATCH)


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
        name: ``scratch:tiny``, ``scratch:small`` or ``scratch:base``.
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


def load_universal(folder: Path, device: torch.device | str = "cpu") -> PreTrainedModel:
    """The universal model that a stage left in ``folder``: ``backbone/``, and ``experts/`` where it has experts.

    Raises:
        BackboneError: backbone or experts cannot be loaded, or do not fit each other.
    """
    backbone = load_backbone(folder / "backbone", device)
    experts, gates = expert_files(folder / "experts")
    if experts:
        load_experts(backbone, experts, gates)
    return backbone


def save_universal(backbone: PreTrainedModel, folder: Path) -> None:
    """Write what :func:`load_universal` reads; ``backbone/`` is a stock folder without sampling settings."""
    with no_progress_bars():
        backbone.save_pretrained(folder / "backbone", state_dict=plain_weights(backbone))
    (folder / "backbone" / "generation_config.json").unlink(missing_ok=True)
    save_experts(backbone, folder / "experts")
