"""One training of the quality benchmark: the real pipeline, its time and tokens by step, and scores without neighbours.

A run lies in a folder of its own: ``bundle``, ``bundle.work`` with the pipeline's stages, and what is measured of it.

Shapes: I items of a domain, D item vector dim.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.quality_clock import StageClock
from sidera.bundle import open_bundle
from sidera.disk_arrays import open_tensor
from sidera.loading import bundle_vocabulary, load_bundle
from sidera.manifest import Manifest
from sidera.recommender import Recommender
from training.config import TrainConfig
from training.data import Dataset, read_dataset
from training.evaluation import evaluate
from training.language_model import Phase
from training.pipeline import train
from training.sequences import TrainingSequences, training_sequences
from training.split import Part, hold_out, split_events
from training.stages import stage

Say = Callable[[str], None]

_SHARED_STAGES = ("vectors", "vectors-without-text", "tokenizer", "backbone")
"""What a run may take over from another one: the stages before the language model. Digests decide whether it fits."""


@dataclass(frozen=True)
class QualityRun:
    """A run that is whole.

    Attributes:
        home: its folder.
        config: what it was trained with.
        manifest: of its bundle; ``metrics`` is the test report of what is served.
        seconds: of the pipeline, by step, over all starts.
        training: by step of the language model: epochs trained and kept, targets, and tokens of histories
            that were read, padding included.
    """

    home: Path
    config: TrainConfig
    manifest: Manifest
    seconds: dict[str, float]
    training: dict[str, dict[str, int]]

    @property
    def bundle(self) -> Path:
        """The bundle's folder."""
        return Path(self.config.out)

    @property
    def work(self) -> Path:
        """The folder of the pipeline's stages."""
        return work_of(self.config)

    def dataset(self) -> Dataset:
        """The data that it was trained and tested on."""
        return _dataset(self.config)

    def as_dict(self) -> dict[str, Any]:
        """What a reader wants to know of it, as JSON."""
        return {
            "config": self.config.digestible(),
            "bundle": self.manifest.bundle_version,
            "seconds": self.seconds,
            "training": self.training,
            "test": self.manifest.metrics,
        }


def train_run(home: Path, config: TrainConfig, say: Say, like: QualityRun | None = None) -> QualityRun:
    """Train what is not trained yet.

    Args:
        config: its ``out`` is ignored: the bundle goes into ``home``.
        like: a run whose vectors, tokenizer and checked backbone are taken over, as far as their inputs are the same.

    Raises:
        SideraError, TrainingError: as ``training.pipeline.train``.
    """
    home.mkdir(parents=True, exist_ok=True)
    config = replace(config, out=str(home / "bundle"))
    if like is not None:
        _take_over(like.work, work_of(config))
    key = hashlib.sha256(json.dumps(config.digestible(), sort_keys=True).encode()).hexdigest()
    with StageClock(home / "seconds.json", key) as clock:

        def told(sentence: str) -> None:
            clock.told(sentence)
            say(sentence)

        manifest = train(config, told)
    with stage(home, "training", {"bundle": manifest.bundle_version}) as counted:
        path = counted.folder / "training.json"
        if not counted.done:
            path.write_text(json.dumps(_training(config, manifest)))
        training = json.loads(path.read_text())
    return QualityRun(home, config, manifest, clock.seconds, training)


def language_model_report(run: QualityRun) -> dict[str, Any]:
    """The test report of the language model without neighbours, as ``training.evaluation.evaluate`` gives it."""
    with stage(run.home, "language-model-alone", {"bundle": run.manifest.bundle_version}) as made:
        path = made.folder / "report.json"
        if not made.done:
            dataset = run.dataset()
            served = load_bundle(run.bundle, run.config.device).recommender
            vectors = _vectors(run.bundle, served, dataset)
            alone = without_neighbours(served)
            config, events = run.config, split_events(dataset)
            report = evaluate(alone, dataset.domains, events, vectors, Part.TEST, config.seed, config.test_targets)
            path.write_text(json.dumps(report, indent=1))
        told: dict[str, Any] = json.loads(path.read_text())
    return told


def without_neighbours(served: Recommender) -> Recommender:
    """The same language model and catalog, with nothing mixed in."""
    return Recommender(served.model, served.catalog, served.max_history, served.beam_width)


def work_of(config: TrainConfig) -> Path:
    """Where the pipeline keeps its stages."""
    return Path(config.out + ".work")


def _dataset(config: TrainConfig) -> Dataset:
    forget = None if config.forget is None else Path(config.forget)
    return read_dataset(Path(config.data), config.domains or None, config.min_interactions, forget)


def _take_over(source: Path, work: Path) -> None:
    """Copy stages that are not there yet; one that turns out to have other inputs is made anew by the pipeline."""
    for name in _SHARED_STAGES:
        if (source / name).is_dir() and not (work / name).exists():
            half = work / f"{name}.copying"
            shutil.rmtree(half, ignore_errors=True)
            shutil.copytree(source / name, half)
            half.rename(work / name)


def _vectors(bundle: Path, served: Recommender, dataset: Dataset) -> list[npt.NDArray[np.float32]]:
    """The bundle's vectors of each domain's items, float32[I, D]."""
    stored_ND = open_tensor(open_bundle(bundle).path("catalog/vectors.safetensors"), "vectors")
    vectors = []
    for domain in dataset.domains:
        number_I = np.array([served.catalog.find(domain.name, item_id) for item_id in domain.item_ids], dtype=np.int64)
        vectors.append(stored_ND[number_I])
    return vectors


def _training(config: TrainConfig, manifest: Manifest) -> dict[str, dict[str, int]]:
    """What each step of the language model's training read, over all its epochs."""
    dataset = _dataset(config)
    names = [domain.name for domain in dataset.domains]
    events, model = split_events(dataset), config.language_model
    if model.router_share:
        events = hold_out(events, model.router_share, model.router.most, config.seed)
    work = work_of(config)
    sids = [np.load(work / "tokenizer" / f"{name}.npy", allow_pickle=False) for name in names]
    phase = Phase(training_sequences(events, sids), bundle_vocabulary(manifest), tuple(names), model, config.seed)
    steps = {"universal": _read(phase, phase.sequences, model.universal.batch_tokens, work / "universal")}
    for row, name in enumerate(names):
        folder = work / f"adapter-{name}"
        if model.domain is not None and folder.is_dir():
            own = phase.sequences.only_targets_of(row)
            steps[f"adapter {name}"] = _read(phase, own, model.domain.optimizer.batch_tokens, folder)
    return steps


def _read(phase: Phase, sequences: TrainingSequences, batch_tokens: int, folder: Path) -> dict[str, int]:
    report = json.loads((folder / "training.json").read_text())
    found = {"epochs": len(report["scores"]), "kept_epoch": report["best_epoch"] + 1, "tokens": 0, "targets": 0}
    batches_of = phase.batches(sequences, batch_tokens)
    for epoch in range(found["epochs"]):
        for batch in batches_of(epoch):
            found["tokens"] += batch.num_tokens
            found["targets"] += batch.weight
    return found
