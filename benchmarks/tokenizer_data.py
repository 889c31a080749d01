"""The items that tokenizers are measured on: vectors of domains that the fits see, and of domains that they do not.

Knows data folders and encoders; does not know methods.

Shapes: N item, D item vector dim.
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save

from benchmarks.tokenizer_store import digest_of, say
from sidera.embedding import EncoderSpec, TextEncoder, embedder_identity
from sidera.files import write_atomically
from training.collaborative import CfSource, CfVectors, cf_files_digest, cf_vectors
from training.data import Dataset, read_dataset
from training.errors import ConfigError, DataError
from training.split import split_events
from training.tokenizers.common import TokenizerConfig, held_out
from training.vectors import item_vectors

Vectors = Mapping[str, np.ndarray]
"""float32[N, D] of each domain, in the order of the domains' names."""


@dataclass(frozen=True)
class FirstItems:
    """The first items of a domain, as ``item_vectors`` reads them."""

    name: str
    item_ids: tuple[str, ...]
    fields: tuple[Mapping[str, object], ...]


@dataclass(frozen=True, eq=False)
class BenchItems:
    """What is measured.

    Attributes:
        seen: vectors of the domains that are fitted on.
        unseen: vectors of the domains that no fit sees.
        seen_digest, digest: of the seen domains' files and the encoder; of all.
        dataset: the seen domains.
        work: collaborative vectors are kept in its folder ``collaborative``.
        most: of each domain only its first so many items count; None: all.
    """

    seen: Vectors
    unseen: Vectors
    seen_digest: str
    digest: str
    dataset: Dataset
    work: Path
    most: int | None

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return int(next(iter(self.seen.values())).shape[1])

    def held_out(self, config: TokenizerConfig) -> dict[str, np.ndarray]:
        """bool[N] of each seen domain: the items that a fit with these settings does not see."""
        sizes = [len(vectors_ND) for vectors_ND in self.seen.values()]
        held_out_N = held_out(sum(sizes), config.validation_share, config.seed)
        return dict(zip(self.seen, np.split(held_out_N, np.cumsum(sizes)[:-1]), strict=True))

    def fitted_mean(self, config: TokenizerConfig) -> np.ndarray:
        """The mean vector float64[D] of the items that a fit with these settings may see."""
        held_out_by_domain = self.held_out(config)
        total_D, items = np.zeros(self.dim), 0
        for name, vectors_ND in self.seen.items():
            fitted_N = ~held_out_by_domain[name]
            total_D += vectors_ND[fitted_N].sum(axis=0, dtype=np.float64)
            items += int(fitted_N.sum())
        return total_D / max(items, 1)

    def cf(self, source: CfSource | None) -> tuple[CfVectors, float]:
        """Collaborative vectors of the seen domains, made once, and the seconds that took; none where none are used."""
        if source is None:
            return {}, 0.0
        files = cf_files_digest(source, list(self.seen))
        digest = digest_of({"data": self.dataset.digest, "source": dataclasses.asdict(source), "files": files})
        path = self.work / "collaborative" / f"{digest[:16]}.safetensors"
        if not path.is_file():
            say("collaborative vectors")
            begun = time.perf_counter()
            made = cf_vectors(self.dataset, split_events(self.dataset), source)
            seconds = time.perf_counter() - begun
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, save(made, metadata={"seconds": repr(seconds)}))
        with safe_open(path, framework="numpy") as file:
            vectors = {name: file.get_tensor(name)[: self.most] for name in self.seen}
            return vectors, float(file.metadata()["seconds"])


def read_bench_items(
    folder: Path,
    seen: Sequence[str],
    unseen: Sequence[str],
    encoder: EncoderSpec,
    vectors: Path,
    work: Path,
    most: int | None = None,
) -> BenchItems:
    """Read the domains and their items' vectors, computed where ``vectors`` does not hold them yet.

    Raises:
        ConfigError: no domain to fit on, or a domain is asked for twice.
        DataError: a file is not as it must be, or an item has no text.
        EmbeddingError: the encoder cannot be used.
    """
    asked = [*seen, *unseen]
    twice = sorted({name for name in asked if asked.count(name) > 1})
    if twice:
        raise ConfigError(
            f"domain {twice[0]!r} is asked for twice; a domain is either seen (--domains) or not (--unseen)"
        )
    if not seen:
        raise ConfigError("there are no domains to fit on; name at least one with --domains")
    text_encoder = TextEncoder(encoder, "cuda" if torch.cuda.is_available() else "cpu")
    parts: list[Vectors] = []
    datasets = []
    for names in (sorted(seen), sorted(unseen)):
        made = {}
        datasets.append(read_dataset(folder, names) if names else Dataset((), (), ""))
        for domain in datasets[-1].domains:
            first = FirstItems(domain.name, domain.item_ids[:most], domain.fields[:most])
            say(f"vectors of {domain.name}, {len(first.item_ids):,} of {len(domain.item_ids):,} items")
            made[domain.name] = item_vectors(first, text_encoder, vectors)
            without = int(np.isnan(made[domain.name]).any(axis=1).sum())
            if without:
                raise DataError(f"{folder / domain.name}: {without:,} items have no text; leave them out of the items")
        parts.append(made)
    seen_digest = digest_of({"data": datasets[0].digest, "encoder": embedder_identity(text_encoder), "most": most})
    digest = digest_of({"seen": seen_digest, "unseen": datasets[1].digest})
    return BenchItems(parts[0], parts[1], seen_digest, digest, datasets[0], work, most)
