"""Universal and domain distribution mixed, against the universal one alone, with adapters on all layers or on half.

How long it takes does not depend on what an adapter has learned, so the adapters hold random weights; their rank is the
product's default.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import PreTrainedModel

from benchmarks.decoding_ratios import universal_batch
from benchmarks.decoding_scope import Scope
from benchmarks.decoding_subject import Subject, synchronised
from benchmarks.harness import Figure, Ratio, ratio_figures, time_ratio
from sidera.beam_search import SearchBatch, SearchResult, beam_search
from sidera.language_model import LanguageModel
from sidera.model.linear_layers import linear_layers, sizes_of, upper_half
from sidera.model.peft_folders import LoraAdapter, write_peft_folder
from sidera.model.weight_formats import transpose_for_cpu
from training.model_config import AdapterConfig
from training.progress import track

MOST = 2.0
MOST_UPPER_HALF = 1.6
_GAMMA = 0.5
_SPREAD = 0.01
"""Of the random weights: small, so that the scores stay those of a language model."""


def write_random_adapter(backbone: PreTrainedModel, names: list[str], folder: Path) -> None:
    """A PEFT folder of an adapter on these layers, with random weights."""
    shape = AdapterConfig()
    generator = torch.Generator().manual_seed(0)
    layers = {}
    for name in names:
        size_in, size_out = sizes_of(backbone.get_submodule(name)) or (0, 0)
        down_rI = torch.randn(shape.rank, size_in, generator=generator) * _SPREAD
        layers[name] = (down_rI, torch.randn(size_out, shape.rank, generator=generator) * _SPREAD)
    write_peft_folder(folder, LoraAdapter(layers, shape.rank, shape.alpha, shape.alpha / shape.rank), False)


def measure_mixture(
    subject: Subject, plain: Callable[[], PreTrainedModel], scope: Scope, name: str
) -> dict[str, Figure]:
    """Both against the universal distribution of a backbone without adapters.

    Args:
        plain: loads the backbone, without adapters.
    """
    backbone = plain()
    vocabulary = subject.recommender.model.vocabulary
    alone = _as_served(LanguageModel(plain(), vocabulary))
    kinds = {"all": (list(linear_layers(backbone)), MOST), "upper_half": (upper_half(backbone), MOST_UPPER_HALF)}
    figures: dict[str, Figure] = {}
    for kind, (names, most) in kinds.items():
        with TemporaryDirectory() as folder:
            write_random_adapter(backbone, names, Path(folder) / "domain")
            adapters = {subject.domain: Path(folder) / "domain"}
            mixed = _as_served(LanguageModel(plain(), vocabulary, adapters, {subject.domain: _GAMMA}))
        figures |= ratio_figures(f"{name}_{kind}", _ratios(subject, mixed, alone, scope, kind), most=most)
    return figures


def _as_served(model: LanguageModel) -> LanguageModel:
    """With its weights laid out as a loaded bundle has them."""
    transpose_for_cpu(model.backbone)
    model.join_layers()
    return model


def _ratios(subject: Subject, mixed: LanguageModel, alone: LanguageModel, scope: Scope, kind: str) -> dict[str, Ratio]:
    ratios: dict[str, Ratio] = {}
    shapes = scope.shapes(scope.batches)
    with track(f"mixture against universal alone, adapters: {kind}", len(shapes)) as advance:
        for shape in shapes:
            rounds = scope.rounds_of(shape.batch, scope.rounds)
            queries = subject.batches(rounds, shape.batch, shape.length, shape.beams)
            ratios[str(shape)] = time_ratio(
                _searching(subject, mixed, shape.beams),
                _searching(subject, alone, shape.beams),
                [universal_batch(subject, batch) for batch in queries],
                warm_up=3 if shape.batch == 1 else 1,
            )
            advance()
    return ratios


def _searching(subject: Subject, model: LanguageModel, beams: int) -> Callable[[SearchBatch], SearchResult]:
    """Beam search with a model's own mixture, finished when it returns."""

    def search(batch: SearchBatch) -> SearchResult:
        mixture = model.mixture([subject.domain] * len(batch.lengths_B))
        return beam_search(model, subject.recommender.tables, replace(batch, mixture=mixture), beams)

    return synchronised(search, subject.device)
