"""Item vectors of a domain, computed once and kept on disk in shards.

A shard is a safetensors file of the vectors of up to ``SHARD_TEXTS`` different texts. Its header holds the digest of
those texts and of the encoder, so file and digest are written as one; after a kill, shards whose digest matches are
read and the others computed. The vectors of the items then lie in one file, ``vectors.npy``, of which memory holds
what is being read or written. Does not know tokenizers.

Shapes: N item, U different text, D dim.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from sidera.disk_arrays import release
from sidera.embedding import TextEncoder, embedder_identity
from sidera.errors import EmbeddingError
from sidera.files import write_atomically
from sidera.item_text import item_texts
from sidera.names import check_domain_name
from training.errors import DataError
from training.progress import track

SHARD_TEXTS = 2048


class DomainItems(Protocol):
    """What is read of a domain."""

    @property
    def name(self) -> str: ...

    @property
    def item_ids(self) -> tuple[str, ...]: ...

    @property
    def fields(self) -> tuple[Mapping[str, object], ...]: ...


def item_vectors(domain: DomainItems, encoder: TextEncoder, folder: Path) -> np.ndarray:
    """The vector of every item of a domain, computed or read from ``folder / domain.name``.

    Items with the same text share one vector, bit for bit; an item without text has a row of NaN.

    Args:
        domain: name, item ids and fields.
        encoder: makes the vectors.
        folder: where the shards of all domains lie; old shards of other texts or encoders are replaced.

    Returns:
        float32[N, D], in the order of the items: an array on disk, which may be written to.

    Raises:
        DataError: an item has a field that has no text; the message names domain and item.
    """
    try:
        texts = item_texts(domain.fields, domain.item_ids, blank=True)
    except EmbeddingError as error:
        raise DataError(f"domain {domain.name!r}: {error}") from error
    number = {text: row for row, text in enumerate(dict.fromkeys(filter(None, texts)))}
    text_N = np.fromiter((number.get(text, -1) for text in texts), dtype=np.int64, count=len(texts))
    distinct = list(number)
    home = folder / check_domain_name(domain.name)
    home.mkdir(parents=True, exist_ok=True)
    order_N = np.argsort(text_N, kind="stable")
    begins = np.searchsorted(text_N[order_N], np.arange(0, len(distinct) + SHARD_TEXTS, SHARD_TEXTS))
    file = home / "vectors.npy"
    file.unlink(missing_ok=True)  # a new file, so that an array on the old one never changes
    vectors_ND: np.ndarray = np.lib.format.open_memmap(file, "w+", np.float32, (len(texts), encoder.dim))
    vectors_ND[order_N[: begins[0]]] = np.nan
    kept = set()
    with track(f"vectors of {domain.name}", len(distinct)) as advance:
        for start in range(0, len(distinct), SHARD_TEXTS):
            shard = distinct[start : start + SHARD_TEXTS]
            path = home / f"shard-{start // SHARD_TEXTS:05d}.safetensors"
            kept.add(path.name)
            rows_M = order_N[begins[start // SHARD_TEXTS] : begins[start // SHARD_TEXTS + 1]]
            vectors_ND[rows_M] = _shard(path, shard, encoder, advance)[text_N[rows_M] - start]
            release(vectors_ND)
    for path in home.glob("shard-*.safetensors"):
        if path.name not in kept:
            path.unlink()
    return vectors_ND


def _shard(path: Path, texts: Sequence[str], encoder: TextEncoder, advance: Callable[[int], None]) -> np.ndarray:
    wanted = _digest(texts, encoder)
    stored = _read(path, wanted)
    if stored is not None:
        advance(len(texts))
        return stored
    vectors = encoder.encode(texts, on_batch=advance)
    write_atomically(path, save({"vectors": vectors}, metadata={"digest": wanted}))
    return vectors


def _read(path: Path, wanted: str) -> np.ndarray | None:
    """The shard's vectors, or None where there is no whole shard of this digest."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            if (file.metadata() or {}).get("digest") != wanted:
                return None
            return np.asarray(file.get_tensor("vectors"))
    except SafetensorError:
        return None


def _digest(texts: Sequence[str], encoder: TextEncoder) -> str:
    """sha256 (hex) over the texts, the encoder's files and how it pools; the encoder's name does not matter."""
    digest = hashlib.sha256(json.dumps(embedder_identity(encoder), sort_keys=True).encode())
    for text in texts:
        content = text.encode()
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()
