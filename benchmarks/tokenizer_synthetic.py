"""Made-up item vectors, any number of them, in clusters of clusters; written to disk part by part.

Shapes: R row of a part, D item vector dim, C cluster.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.tokenizer_store import say
from training.errors import StageError
from training.progress import track

_ROWS = 65_536
_CLUSTERS = (512, 8192)
_WEIGHTS = (1.0, 0.7, 0.5)
_SPARE = 2**28
"""Bytes that are left free."""


@dataclass(frozen=True)
class SyntheticVectors:
    """Which vectors: the same for the same numbers.

    Attributes:
        items: how many.
        dim: their width.
        seed: of every draw.
    """

    items: int
    dim: int
    seed: int = 0

    @property
    def bytes(self) -> int:
        """How many bytes float32 vectors take."""
        return 4 * self.items * self.dim

    def path(self, folder: Path) -> Path:
        """Where they lie."""
        return folder / f"vectors-{self.items}x{self.dim}-seed{self.seed}.npy"

    def parts(self) -> list[tuple[int, int]]:
        """First row of each part and the row after its last one."""
        return [(start, min(start + _ROWS, self.items)) for start in range(0, self.items, _ROWS)]

    def part(self, start: int, end: int) -> np.ndarray:
        """float32[R, D] of length 1: a coarse cluster's centre + a fine one's + noise, each drawn for itself."""
        random = np.random.default_rng([self.seed, 1, start])
        vectors_RD = _WEIGHTS[-1] * random.standard_normal((end - start, self.dim), dtype=np.float32)
        for level, (clusters, weight) in enumerate(zip(_CLUSTERS, _WEIGHTS, strict=False)):
            centres = np.random.default_rng([self.seed, 2, level])
            centres_CD = centres.standard_normal((clusters, self.dim), dtype=np.float32)
            vectors_RD += weight * centres_CD[random.integers(0, clusters, end - start)]
        vectors_RD /= np.linalg.norm(vectors_RD, axis=1, keepdims=True)
        return vectors_RD


def write_vectors(vectors: SyntheticVectors, folder: Path) -> Path:
    """Write the vectors as an .npy file, unless they lie there already.

    Raises:
        StageError: the disk has no room for them.
    """
    path = vectors.path(folder)
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    free = shutil.disk_usage(folder).free
    if free < vectors.bytes + _SPARE:
        raise StageError(
            f"{folder} has {free / 2**30:.1f} GiB free, but {vectors.items:,} vectors of {vectors.dim} dimensions take "
            f"{(vectors.bytes + _SPARE) / 2**30:.1f} GiB; make room, give another --work, or ask for fewer --items"
        )
    say(f"{vectors.items:,} made-up vectors")
    with track("made-up vectors", vectors.items) as advance:
        for start, end in vectors.parts():
            # Opened anew for each part: pages that were written do not count as this process's memory for long.
            mode = "r+" if start else "w+"
            shape = (vectors.items, vectors.dim)
            file_ND = np.lib.format.open_memmap(partial, mode, np.float32, None if start else shape)
            file_ND[start:end] = vectors.part(start, end)
            file_ND.flush()
            advance(end - start)
    partial.replace(path)
    return path
