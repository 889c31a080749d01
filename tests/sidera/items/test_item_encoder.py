"""Item fields to SIDs."""

import numpy as np
import pytest
import torch

from sidera.embedding import EncoderSpec, TextEncoder
from sidera.errors import EmbeddingError, TokenizerError
from sidera.items.item_encoder import ItemEncoder
from sidera.tokenizers.rqvae import RqVae

ITEMS: list[dict[str, object]] = [
    {"item_id": "1", "title": "A red ball"},
    {"item_id": "2", "title": "A dictionary", "year": 1999},
]


@pytest.fixture(scope="module")
def text_encoder() -> TextEncoder:
    return TextEncoder(EncoderSpec())


def random_rqvae(dim: int) -> RqVae:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = RqVae(dim, (8, 8), latent_dim=4, hidden_sizes=[])
        for codebook in tokenizer.quantiser.codebooks:
            torch.nn.init.normal_(codebook)
    return tokenizer.eval().requires_grad_(False)


def test_items_get_the_vectors_of_their_texts_and_free_sids(text_encoder: TextEncoder) -> None:
    encoder = ItemEncoder(text_encoder, random_rqvae(384))
    vectors = encoder.vectors(ITEMS)
    np.testing.assert_array_equal(vectors, text_encoder.encode(["A red ball", "A dictionary. year: 1999"]))
    sids, moved = encoder.place(vectors, "new", np.empty((0, 2), dtype=np.int32))
    assert not moved[0]
    again, moved = encoder.place(vectors[:1], "new", sids)
    assert moved[0]
    assert again[0].tolist() not in sids.tolist()


def test_an_item_without_text_is_refused_by_its_id(text_encoder: TextEncoder) -> None:
    with pytest.raises(EmbeddingError, match="item '3' has no text"):
        ItemEncoder(text_encoder, random_rqvae(384)).vectors([*ITEMS, {"item_id": "3"}])


def test_a_tokenizer_of_another_encoder_is_refused(text_encoder: TextEncoder) -> None:
    with pytest.raises(TokenizerError, match="makes vectors of 384 dimensions, but the tokenizer takes 16"):
        ItemEncoder(text_encoder, random_rqvae(16))
