"""A bundle, verified and loaded: everything that serving or evaluating it needs."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from sidera.bundle import Bundle, open_bundle
from sidera.catalog import Catalog
from sidera.disk_arrays import open_tensor
from sidera.embedding import TextEncoder
from sidera.items.alike import Alike
from sidera.items.item_encoder import ItemEncoder
from sidera.items.neighbours import load_neighbours
from sidera.language_model import LanguageModel, load_backbone
from sidera.manifest import Manifest
from sidera.model.experts import load_experts
from sidera.model.self_test import check_backbone
from sidera.model.user_router import load_router
from sidera.model.vocabulary import Vocabulary
from sidera.model.weight_formats import WeightFormat, check_weight_format, dtype_of, to_int8, transpose_for_cpu
from sidera.recommender import Recommender
from sidera.tokenizers import ItemTokenizer, load_tokenizer


@dataclass(frozen=True)
class LoadedBundle:
    """What a bundle holds, in memory.

    Attributes:
        manifest: what it says of itself.
        recommender: answers queries.
        tokenizer: vector to SID.
        embedder: the encoder's settings and digest.
        samples: ``/recommend`` bodies to warm up with.
        alike: lets items join the neighbours; None where the bundle has none.
    """

    manifest: Manifest
    recommender: Recommender
    tokenizer: ItemTokenizer
    embedder: dict[str, Any]
    samples: tuple[dict[str, Any], ...]
    alike: Alike | None

    @cached_property
    def item_encoder(self) -> ItemEncoder:
        """Text to SID; the text encoder is loaded on first use.

        Raises:
            EmbeddingError: the encoder cannot be found, or is not the one that made the bundle.
        """
        return ItemEncoder(TextEncoder.from_config(self.embedder), self.tokenizer)


def load_bundle(
    path: Path | Bundle, device: str = "auto", weights: WeightFormat = "saved", history_cache_bytes: int = 0
) -> LoadedBundle:
    """Verify a bundle, load it and test that its backbone decodes rightly.

    Args:
        path: its folder; or the bundle, opened.
        device: where the language model runs; ``auto`` takes a GPU where there is one.
        weights: how its weights lie in memory, see :mod:`sidera.model.weight_formats`.
        history_cache_bytes: how much is kept of the histories that it reads; 0 keeps nothing.

    Raises:
        BundleError: a file is missing or differs from its digest.
        BackboneError: the backbone or the user router cannot be loaded, the backbone decodes wrongly, or it cannot
            have these weights.
        TokenizerError: the tokenizer cannot be loaded.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    check_weight_format(weights, device)
    bundle = path if isinstance(path, Bundle) else open_bundle(path)
    manifest = bundle.manifest
    settings = manifest.parts["language_model"]
    vocabulary = bundle_vocabulary(manifest)
    adapters = {name: bundle.folder(entry.adapter) for name, entry in manifest.domains.items() if entry.adapter}
    # A bundle of a release before routers does not say that it has none.
    router = None if settings.get("router") is None else load_router(bundle.path(settings["router"]))
    backbone = load_bundle_backbone(bundle, device, weights)
    model = LanguageModel(backbone, vocabulary, adapters, settings["gammas"], router)
    if weights == "int8":
        to_int8(backbone)
    transpose_for_cpu(backbone)
    model.join_layers()
    check_backbone(model, settings["max_history"])
    model.keep_histories(history_cache_bytes)
    catalog = Catalog.load(bundle.folder("catalog"), manifest.domains, manifest.codebook_sizes)
    listed = manifest.parts.get("neighbours")
    alike = None
    if listed is not None:
        stored_ND = open_tensor(bundle.path("catalog/vectors.safetensors"), "vectors")
        alike = Alike(load_neighbours(bundle.path(listed)), stored_ND)
    neighbours = None if alike is None else alike.neighbours
    return LoadedBundle(
        manifest=manifest,
        recommender=Recommender(model, catalog, settings["max_history"], settings["beam_width"], neighbours),
        tokenizer=load_tokenizer(bundle.folder("tokenizer")),
        embedder=json.loads(bundle.path("embedder/config.json").read_text()),
        samples=tuple(json.loads(bundle.path("samples/requests.json").read_text())),
        alike=alike,
    )


def bundle_vocabulary(manifest: Manifest) -> Vocabulary:
    """Which token stands for what in a bundle."""
    return Vocabulary(
        codebook_sizes=manifest.codebook_sizes,
        domains={name: entry.token for name, entry in manifest.domains.items()},
        base=manifest.parts["language_model"]["base_vocabulary"],
    )


def load_bundle_backbone(bundle: Bundle, device: str, weights: WeightFormat = "saved") -> PreTrainedModel:
    """The universal model of a bundle: its backbone, with its experts where it has any.

    Raises:
        BundleError: a file is missing or differs from its digest.
        BackboneError: backbone or experts cannot be loaded, or do not fit each other.
    """
    settings = bundle.manifest.parts["language_model"]
    backbone = load_backbone(bundle.folder("backbone"), device, dtype_of(weights))
    # A bundle of a release before experts does not say that it has none.
    if experts := settings.get("experts"):
        gates = settings["gates"]
        folders = [bundle.folder(expert) for expert in experts]
        load_experts(backbone, folders, None if gates is None else bundle.path(gates))
    return backbone
