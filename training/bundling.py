"""Puts what was trained into a bundle."""

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from sidera.bundle import BundleDetails, DomainEntry, write_bundle
from sidera.catalog import Catalog
from sidera.manifest import Manifest
from sidera.tokenizers import ItemTokenizer, save_tokenizer
from sidera.vocabulary import Vocabulary
from training.config import TrainConfig


@dataclass(frozen=True)
class Trained:
    """Everything that goes into a bundle.

    Attributes:
        embedder: the encoder's settings and digest.
        backbone: a Hugging Face folder.
        adapters: the PEFT folder of each domain whose adapter has a share in the mixture.
        gammas: that share.
        vectors: item ids and vectors of each domain. Shape of the latter: float32[N, D].
        metrics: the evaluation's report.
        tokenization_report: a folder with figures and plots.
        lineage: digests of what the bundle was made from.
        samples: ``/recommend`` bodies to warm a service up with.
    """

    config: TrainConfig
    tokenizer: ItemTokenizer
    embedder: Mapping[str, Any]
    backbone: Path
    adapters: Mapping[str, Path]
    gammas: Mapping[str, float]
    catalog: Catalog
    vectors: Mapping[str, tuple[Sequence[str], npt.NDArray[np.float32]]]
    vocabulary: Vocabulary
    metrics: Mapping[str, Any]
    tokenization_report: Path
    lineage: Mapping[str, Any]
    samples: Sequence[Mapping[str, Any]]


def write_trained_bundle(path: Path, trained: Trained) -> Manifest:
    """Write a bundle, in place of one that is there.

    Raises:
        BundleError: it cannot be written there.
    """
    language_model = trained.config.language_model
    details = BundleDetails(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        config=json.loads(json.dumps(trained.config.digestible())),
        lineage={**trained.lineage, "commit": _commit()},
        metrics=trained.metrics,
        codebook_sizes=trained.vocabulary.codebook_sizes,
        domains={
            name: DomainEntry(token=row, adapter=f"adapters/domain-{name}" if name in trained.adapters else None)
            for name, row in trained.vocabulary.domains.items()
        },
        parts={
            "language_model": {
                "backbone": language_model.backbone,
                "base_vocabulary": trained.vocabulary.base,
                "max_history": language_model.max_history,
                "beam_width": language_model.beam_width,
                "gammas": {name: trained.gammas[name] for name in trained.adapters},
            }
        },
    )
    return write_bundle(path, fill=lambda folder: _fill(folder, trained), details=details)


def _fill(folder: Path, trained: Trained) -> None:
    for name in ("tokenizer", "embedder", "catalog", "samples", "report"):
        (folder / name).mkdir()
    save_tokenizer(trained.tokenizer, folder / "tokenizer")
    _write_json(folder / "embedder" / "config.json", dict(trained.embedder))
    shutil.copytree(trained.backbone, folder / "backbone")
    for name, adapter in trained.adapters.items():
        shutil.copytree(adapter, folder / "adapters" / f"domain-{name}")
    trained.catalog.save(folder / "catalog")
    _save_vectors(folder / "catalog" / "vectors.safetensors", trained)
    _write_json(folder / "samples" / "requests.json", list(trained.samples))
    _write_json(folder / "report" / "metrics.json", dict(trained.metrics))
    shutil.copytree(trained.tokenization_report, folder / "report", dirs_exist_ok=True)


def _save_vectors(path: Path, trained: Trained) -> None:
    """One row an item number."""
    dim = next(iter(trained.vectors.values()))[1].shape[1]
    by_number_ND = np.empty((len(trained.catalog), dim), dtype=np.float32)
    for domain, (item_ids, vectors_ND) in trained.vectors.items():
        for item_id, vector_D in zip(item_ids, vectors_ND, strict=True):
            by_number_ND[trained.catalog.find(domain, item_id)] = vector_D
    save_file({"vectors": by_number_ND}, path)


def _write_json(path: Path, document: object) -> None:
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False))


def _commit() -> str | None:
    """The commit of the code that trained, where it runs from a checkout."""
    checkout = Path(__file__).parents[1]
    if not (checkout / ".git").exists():
        return None
    try:
        asked = subprocess.run(
            ["git", "rev-parse", "HEAD"],  # noqa: S607
            cwd=checkout,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:  # no git on this machine
        return None
    return asked.stdout.strip() or None
