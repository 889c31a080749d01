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

from sidera.bundle_writing import write_bundle
from sidera.catalog import Catalog
from sidera.errors import CatalogError
from sidera.manifest import BundleDetails, DomainEntry, Manifest
from sidera.model.experts import expert_files
from sidera.model.vocabulary import Vocabulary
from sidera.tokenizers import ItemTokenizer, save_tokenizer
from training.config import TrainConfig

ROUTER_FILE = "adapters/router.safetensors"
NEIGHBOURS_FILE = "catalog/neighbours.safetensors"

_STOCK_USE = "sidera bundle export writes a transformers folder, over which peft loads the adapters of the domains"
_GATED_USE = "the experts' learned gates run in sidera alone; train with experts.gate: average to export the model"
"""How others can use the language model, by what its experts are."""


@dataclass(frozen=True)
class Trained:
    """Everything that goes into a bundle.

    Attributes:
        embedder: the encoder's settings and digest.
        backbone: a Hugging Face folder.
        experts: the folder of the universal experts; empty or missing where there are none.
        adapters: the PEFT folder of each domain whose adapter has a share in the mixture.
        gammas: that share.
        router: the file of the user router, which decides the share in its domains; None where there is none.
        neighbours: the file of what is mixed with the language model; None where nothing is.
        vectors: item ids and vectors of each domain. Shape of the latter: float32[N, D].
        metrics: the evaluation's report.
        tokenization_report: a folder with figures and plots.
        lineage: digests of what the bundle was made from.
        samples: ``/recommend`` bodies to warm a service up with.
        evaluation_users: a few users to look at, as ``domain``, ``history`` and ``target``, which training did not see.
    """

    config: TrainConfig
    tokenizer: ItemTokenizer
    embedder: Mapping[str, Any]
    backbone: Path
    experts: Path
    adapters: Mapping[str, Path]
    gammas: Mapping[str, float]
    router: Path | None
    neighbours: Path | None
    catalog: Catalog
    vectors: Mapping[str, tuple[Sequence[str], npt.NDArray[np.float32]]]
    vocabulary: Vocabulary
    metrics: Mapping[str, Any]
    tokenization_report: Path
    lineage: Mapping[str, Any]
    samples: Sequence[Mapping[str, Any]]
    evaluation_users: Sequence[Mapping[str, Any]] = ()


def write_trained_bundle(path: Path, trained: Trained) -> Manifest:
    """Write a bundle, in place of one that is there.

    Raises:
        BundleError: it cannot be written there.
        CatalogError: a vector is given for an item that the catalog does not hold.
    """
    language_model = trained.config.language_model
    experts, gates = expert_files(trained.experts)
    details = BundleDetails(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        config=json.loads(json.dumps(trained.config.digestible())),
        lineage={**trained.lineage, "commit": commit_of_code()},
        metrics=trained.metrics,
        codebook_sizes=trained.vocabulary.codebook_sizes,
        domains={
            name: DomainEntry(token=row, adapter=f"adapters/domain-{name}" if name in trained.adapters else None)
            for name, row in trained.vocabulary.domains.items()
        },
        parts={
            "language_model": {
                "backbone": _backbone_name(language_model.backbone),
                "base_vocabulary": trained.vocabulary.base,
                "experts": [f"adapters/{expert.name}" for expert in experts],
                "gates": None if gates is None else f"adapters/{gates.name}",
                "stock_use": _STOCK_USE if gates is None else _GATED_USE,
                "max_history": language_model.max_history,
                "beam_width": language_model.beam_width,
                "gammas": {name: trained.gammas[name] for name in trained.adapters},
                "router": None if trained.router is None else ROUTER_FILE,
            },
            "neighbours": None if trained.neighbours is None else NEIGHBOURS_FILE,
        },
    )
    return write_bundle(path, fill=lambda folder: _fill(folder, trained), details=details)


def _fill(folder: Path, trained: Trained) -> None:
    for name in ("tokenizer", "embedder", "catalog", "samples", "report"):
        (folder / name).mkdir()
    save_tokenizer(trained.tokenizer, folder / "tokenizer")
    _write_json(folder / "embedder" / "config.json", dict(trained.embedder))
    shutil.copytree(trained.backbone, folder / "backbone")
    experts, gates = expert_files(trained.experts)
    for expert in experts:
        shutil.copytree(expert, folder / "adapters" / expert.name)
    if gates is not None:
        shutil.copyfile(gates, folder / "adapters" / gates.name)
    for name, adapter in trained.adapters.items():
        shutil.copytree(adapter, folder / "adapters" / f"domain-{name}")
    if trained.router is not None:
        shutil.copyfile(trained.router, folder / ROUTER_FILE)
    trained.catalog.save(folder / "catalog")
    if trained.neighbours is not None:
        shutil.copyfile(trained.neighbours, folder / NEIGHBOURS_FILE)
    save_vectors(folder / "catalog" / "vectors.safetensors", trained.catalog, trained.vectors)
    _write_json(folder / "samples" / "requests.json", list(trained.samples))
    _write_json(folder / "samples" / "evaluation_users.json", list(trained.evaluation_users))
    _write_json(folder / "report" / "metrics.json", dict(trained.metrics))
    shutil.copytree(trained.tokenization_report, folder / "report", dirs_exist_ok=True)


def save_vectors(
    path: Path, catalog: Catalog, vectors: Mapping[str, tuple[Sequence[str], npt.NDArray[np.float32]]]
) -> None:
    """One row an item number, as a safetensors file of one tensor, ``vectors``: float32[items, D].

    Written row by row where each belongs, since a library's writer wants all rows in memory. The format is eight bytes
    of the header's length (little endian), the header as JSON padded to eight bytes, and the tensor's bytes.
    """
    dim = next(iter(vectors.values()))[1].shape[1]
    items, row_bytes = len(catalog), 4 * dim
    about = {"vectors": {"dtype": "F32", "shape": [items, dim], "data_offsets": [0, items * row_bytes]}}
    header = json.dumps(about).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb", buffering=0) as file:
        begin = file.write(len(header).to_bytes(8, "little")) + file.write(header)
        file.truncate(begin + items * row_bytes)
        for domain, (item_ids, vectors_ND) in vectors.items():
            rows_ND = np.asarray(vectors_ND, dtype="<f4")
            for item_id, row_D in zip(item_ids, rows_ND, strict=True):
                number = catalog.find(domain, item_id)
                if number is None:
                    raise CatalogError(f"item {item_id!r} of {domain!r} has a vector but is not in the catalog")
                file.seek(begin + number * row_bytes)
                file.write(row_D.tobytes())


def _backbone_name(name: str) -> str:
    """What a reader calls the backbone: of a folder its last name, not its place on this machine."""
    return Path(name).name if Path(name).is_dir() else name


def _write_json(path: Path, document: object) -> None:
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False))


def commit_of_code() -> str | None:
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
