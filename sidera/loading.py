"""A bundle, verified and loaded: everything that serving or evaluating it needs."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from sidera.bundle import open_bundle
from sidera.catalog import Catalog
from sidera.embedding import TextEncoder
from sidera.item_encoder import ItemEncoder
from sidera.language_model import LanguageModel, load_backbone
from sidera.manifest import Manifest
from sidera.recommender import Recommender
from sidera.self_test import check_backbone
from sidera.tokenizers import ItemTokenizer, load_tokenizer
from sidera.vocabulary import Vocabulary


@dataclass(frozen=True)
class LoadedBundle:
    """What a bundle holds, in memory.

    Attributes:
        manifest: what it says of itself.
        recommender: answers queries.
        tokenizer: vector to SID.
        embedder: the encoder's settings and digest.
        samples: ``/recommend`` bodies to warm up with.
    """

    manifest: Manifest
    recommender: Recommender
    tokenizer: ItemTokenizer
    embedder: dict[str, Any]
    samples: tuple[dict[str, Any], ...]

    @cached_property
    def item_encoder(self) -> ItemEncoder:
        """Text to SID; the text encoder is loaded on first use.

        Raises:
            EmbeddingError: the encoder cannot be found, or is not the one that made the bundle.
        """
        return ItemEncoder(TextEncoder.from_config(self.embedder), self.tokenizer)


def load_bundle(path: Path, device: str = "auto") -> LoadedBundle:
    """Verify a bundle, load it and test that its backbone decodes rightly.

    Args:
        device: where the language model runs; ``auto`` takes a GPU where there is one.

    Raises:
        BundleError: a file is missing or differs from its digest.
        BackboneError: the backbone cannot be loaded, or decodes wrongly.
        TokenizerError: the tokenizer cannot be loaded.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    bundle = open_bundle(path)
    manifest = bundle.manifest
    settings = manifest.parts["language_model"]
    vocabulary = Vocabulary(
        codebook_sizes=manifest.codebook_sizes,
        domains={name: entry.token for name, entry in manifest.domains.items()},
        base=settings["base_vocabulary"],
    )
    adapters = {name: bundle.folder(entry.adapter) for name, entry in manifest.domains.items() if entry.adapter}
    model = LanguageModel(load_backbone(bundle.folder("backbone"), device), vocabulary, adapters, settings["gammas"])
    check_backbone(model, settings["max_history"])
    catalog = Catalog.load(bundle.folder("catalog"), manifest.domains, manifest.codebook_sizes)
    return LoadedBundle(
        manifest=manifest,
        recommender=Recommender(model, catalog, settings["max_history"], settings["beam_width"]),
        tokenizer=load_tokenizer(bundle.folder("tokenizer")),
        embedder=json.loads(bundle.path("embedder/config.json").read_text()),
        samples=tuple(json.loads(bundle.path("samples/requests.json").read_text())),
    )
