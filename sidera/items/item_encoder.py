"""Item fields to SIDs, with what a bundle holds: the encoder and the tokenizer. Does not know catalogs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from sidera.bundle import open_bundle
from sidera.embedding import TextEncoder
from sidera.errors import TokenizerError
from sidera.item_text import item_texts
from sidera.items.placement import place_new
from sidera.tokenizers import ItemTokenizer, load_tokenizer


class ItemEncoder:
    """Makes vectors of items, and finds SIDs for new ones.

    Shapes: N new item, M taken SID, D item vector dim, L level.
    """

    def __init__(self, text_encoder: TextEncoder, tokenizer: ItemTokenizer) -> None:
        """Join the two.

        Raises:
            TokenizerError: the tokenizer was fitted on vectors of another width.
        """
        if text_encoder.dim != tokenizer.dim:
            raise TokenizerError(
                f"encoder {text_encoder.spec.name!r} makes vectors of {text_encoder.dim} dimensions, but the tokenizer "
                f"takes {tokenizer.dim}; use the encoder that it was fitted with"
            )
        self.text_encoder = text_encoder
        self.tokenizer = tokenizer

    def vectors(self, items: Sequence[Mapping[str, object]]) -> np.ndarray:
        """The vectors of items given by their fields: float32[N, D].

        Raises:
            EmbeddingError: an item has no text, or a field that has none; the message names the item.
        """
        return self.text_encoder.encode(item_texts(items))

    def place(self, vectors_ND: np.ndarray, domain: str, taken_NL: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """SIDs for new items of a domain, seen in training or not, beside the taken ones.

        Returns:
            int32[N, L] SIDs and bool[N] moved, as :func:`sidera.items.placement.place_new` says.

        Raises:
            DomainFullError: there are fewer free SIDs than new items.
            TokenizerError: the vectors do not fit the tokenizer.
        """
        return place_new(self.tokenizer, vectors_ND, domain, taken_NL)


def load_item_encoder(path: Path, device: str = "auto") -> ItemEncoder:
    """The encoder and the tokenizer of a bundle, and nothing else of it.

    Args:
        device: where the encoder runs; ``auto`` takes a GPU where there is one.

    Raises:
        BundleError: a file is missing or differs from its digest.
        EmbeddingError: the encoder cannot be found, or is not the one that made the bundle.
        TokenizerError: the tokenizer cannot be loaded.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    bundle = open_bundle(path)
    encoder = TextEncoder.from_config(json.loads(bundle.path("embedder/config.json").read_text()), device)
    return ItemEncoder(encoder, load_tokenizer(bundle.folder("tokenizer")))
