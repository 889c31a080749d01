"""Tiny pretrained backbones on disk, as somebody else's ``save_pretrained`` leaves them, and sequences to train on."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from sidera.model.vocabulary import Vocabulary
from sidera.progress_bars import no_progress_bars
from tests.sidera.worlds import random_backbone
from training.sequences import TrainingSequences

ROWS = 50
"""Tokens of their own."""


def write_backbone(folder: Path, kind: str = "llama", **changes: Any) -> PreTrainedModel:
    """Write a model with the sampling settings that base models come with; embedding and head share their rows."""
    settings = {"vocab_size": ROWS, "tie_word_embeddings": True, "initializer_range": 0.3, "pad_token_id": 2} | changes
    settings |= {"max_position_embeddings": 128} | ({"n_positions": 128} if kind == "gpt2" else {})
    backbone = random_backbone(kind, **settings)
    with no_progress_bars():
        backbone.save_pretrained(folder)
    sampling = {"do_sample": True, "temperature": 0.6, "top_k": 2, "top_p": 0.5, "eos_token_id": 1}
    (folder / "generation_config.json").write_text(json.dumps(sampling))
    return backbone


def write_tokenizer(folder: Path, tokens: dict[str, int]) -> None:
    """Put a tokenizer of whole words beside a model."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel(tokens, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]").save_pretrained(folder)


def random_sequences(vocabulary: Vocabulary, lengths: tuple[int, ...] = (1, 7, 3, 2, 5, 4)) -> TrainingSequences:
    """Users of two domains who take any item; most events are targets."""
    random = np.random.default_rng(0)
    total = sum(lengths)
    return TrainingSequences(
        random.integers(0, 2, size=total).astype(np.int32),
        np.stack([random.integers(size, size=total) for size in vocabulary.codebook_sizes], axis=1).astype(np.int32),
        random.random(total) < 0.7,
        np.cumsum([0, *lengths]),
    )
