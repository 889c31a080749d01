"""What the decoding benchmark measures: a bundle that it trains or is given, a pretrained backbone, and histories.

The bundle comes from the real pipeline: ``scratch:small`` over four levels of 256 codes, a few epochs, kept in the
benchmark's work folder and resumed there. The pretrained backbone gets new rows and recommends from the same catalog;
how long it takes does not depend on what its rows have learned.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import torch

from benchmarks.quality_config import joint_config
from benchmarks.quality_sample import write_sample
from benchmarks.samples import load_bench
from sidera.errors import BackboneError, BundleError
from sidera.language_model import LanguageModel
from sidera.loading import load_bundle
from sidera.model.vocabulary import Vocabulary
from sidera.model.weight_formats import transpose_for_cpu
from sidera.recommender import Query, Recommender
from training.pipeline import train
from training.pretrained import find_pretrained, load_pretrained

Input = TypeVar("Input")
Output = TypeVar("Output")

LEVELS = (256, 256, 256, 256)
MAX_HISTORY = 60
"""Above the longest history that is measured, so that none is cut."""
_QUICK_USERS = 60


@dataclass(frozen=True)
class Subject:
    """A model over a catalog, and what to ask it.

    Attributes:
        recommender: as the service has it.
        domain: of all queries.
        real: the histories of the evaluation's targets, in a random order that is the same in every run.
    """

    recommender: Recommender
    domain: str
    real: Sequence[tuple[tuple[str, str], ...]]

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return self.recommender.model.device

    def queries(self, count: int, length: int, beams: int, results: int) -> list[Query]:
        """Queries with histories of exactly ``length`` items: the newest ones of real histories that have so many.

        They repeat where there are fewer than ``count``. Where no history is that long, several are joined.

        Raises:
            BundleError: the recommender reads fewer items, or the histories have fewer in all.
        """
        if length > self.recommender.max_history:
            raise BundleError(
                f"the bundle reads {self.recommender.max_history} items, {length} are to be measured; "
                f"train one with language_model.max_history: {MAX_HISTORY}"
            )
        chosen = [history[-length:] for history in self.real if len(history) >= length]
        if not chosen:
            joined = tuple(chain.from_iterable(self.real))
            chosen = [joined[begin : begin + length] for begin in range(0, len(joined) - length + 1, length)]
        if not chosen:
            raise BundleError(f"the histories of {self.domain!r} have fewer than {length} items in all; give more data")
        found = (chosen[place % len(chosen)] for place in range(count))
        return [Query(self.domain, history, results, beam_width=beams) for history in found]

    def batches(self, count: int, size: int, length: int, beams: int, results: int | None = None) -> list[list[Query]]:
        """``count`` batches of such queries; without ``results`` each asks for as many as it has beams."""
        queries = iter(self.queries(count * size, length, beams, results or beams))
        return [list(islice(queries, size)) for _ in range(count)]


def train_bundle(data: Path, domain: str, home: Path, epochs: int, device: str, say: Callable[[str], None]) -> Path:
    """The bundle of one domain; what is done already is kept.

    Args:
        home: the folder of all steps.

    Returns:
        The bundle's folder.

    Raises:
        SideraError, TrainingError: as ``training.pipeline.train``.
    """
    once = {"epochs": 1}
    given: Mapping[str, Any] = {
        "data": str(data),
        "domains": [domain],
        "device": device,
        "test_targets": 500,
        "tokenizer": {"method": "rqkmeans", "codebook_sizes": list(LEVELS)},
        "language_model": {
            "backbone": "scratch:small",
            "max_history": MAX_HISTORY,
            "validation_targets": 100,
            "universal": {"epochs": epochs, "learning_rate": 0.002, "batch_tokens": 4096},
            "domain": {"optimizer": once},
        },
    }
    config = joint_config(None, given, home)
    train(config, say)
    return Path(config.out)


def quick_data(data: Path, domain: str, home: Path) -> Path:
    """A few users of a domain, as a data folder in ``home``.

    Raises:
        DataError: the data cannot be read, or nobody has 3 events in the domain.
    """
    return write_sample(data, (domain,), _QUICK_USERS, home / "data")


def load_subject(bundle: Path, data: Path, domain: str, device: str) -> tuple[Subject, str]:
    """A bundle, loaded, and its version.

    Args:
        data: what it was trained on; only histories are read.

    Raises:
        BundleError: there is no bundle, or it does not hold the domain.
        DataError: the data cannot be read.
    """
    bench = load_bench(bundle, data)
    recommender = bench.loaded.recommender if device == "cpu" else load_bundle(bundle, device).recommender
    if domain not in recommender.catalog.domains:
        known = ", ".join(recommender.catalog.domains)
        raise BundleError(f"{bundle}: the bundle has no domain {domain!r}; choose one of {known} with --domain")
    real = [
        tuple(entry for entry in query.history if entry[0] == domain)
        for query in bench.queries
        if query.domain == domain
    ]
    return Subject(recommender, domain, real), bench.loaded.manifest.bundle_version


def pretrained_subject(trained: Subject, folder: Path) -> Subject:
    """The same catalog and histories, read by a pretrained backbone with new rows.

    Raises:
        ConfigError: the folder holds no causal model.
        BackboneError: its context is too short for the histories.
    """
    found = find_pretrained(str(folder))
    old = trained.recommender
    vocabulary = Vocabulary(old.model.vocabulary.codebook_sizes, {trained.domain: 0}, base=found.rows)
    model = LanguageModel(load_pretrained(found, vocabulary, str(trained.device), seed=0), vocabulary)
    transpose_for_cpu(model.backbone)
    model.join_layers()
    longest = old.max_history * vocabulary.tokens_per_item
    if longest > model.max_tokens:
        raise BackboneError(f"{folder}: it reads {model.max_tokens} tokens, {longest} are needed; give another one")
    return Subject(Recommender(model, old.catalog, old.max_history, old.beam_width), trained.domain, trained.real)


def synchronised(call: Callable[[Input], Output], device: torch.device) -> Callable[[Input], Output]:
    """The same, which returns only when the device has finished."""
    if device.type != "cuda":
        return call

    def finished(value: Input) -> Output:
        result = call(value)
        torch.cuda.synchronize(device)
        return result

    return finished
