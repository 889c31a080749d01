"""Item vectors of a domain, computed once and kept on disk in shards.

A shard is a safetensors file of the vectors of up to ``SHARD_TEXTS`` different texts. Its header holds the digest of
those texts and of the encoder, so file and digest are written as one; after a kill, shards whose digest matches are
read and the others computed. Does not know tokenizers.

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

from sidera.embedding import TextEncoder, embedder_config, item_texts
from sidera.errors import EmbeddingError
from sidera.files import write_atomically
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

    Items with the same text share one vector, bit for bit.

    Args:
        domain: name, item ids and fields.
        encoder: makes the vectors.
        folder: where the shards of all domains lie; old shards of other texts or encoders are replaced.

    Returns:
        float32[N, D], in the order of the items.

    Raises:
        DataError: an item has no text, or a field that has none; the message names domain and item.
    """
    try:
        texts = item_texts(domain.fields, domain.item_ids)
    except EmbeddingError as error:
        raise DataError(f"domain {domain.name!r}: {error}") from error
    number: dict[str, int] = {}
    text_N = np.fromiter((number.setdefault(text, len(number)) for text in texts), dtype=np.int64, count=len(texts))
    distinct = list(number)
    home = folder / check_domain_name(domain.name)
    home.mkdir(parents=True, exist_ok=True)
    vectors_UD = np.empty((len(distinct), encoder.dim), dtype=np.float32)
    kept = set()
    with track(f"vectors of {domain.name}", len(distinct)) as advance:
        for start in range(0, len(distinct), SHARD_TEXTS):
            shard = distinct[start : start + SHARD_TEXTS]
            path = home / f"shard-{start // SHARD_TEXTS:05d}.safetensors"
            kept.add(path.name)
            vectors_UD[start : start + len(shard)] = _shard(path, shard, encoder, advance)
    for path in home.glob("shard-*.safetensors"):
        if path.name not in kept:
            path.unlink()
    return vectors_UD[text_N]


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
    config = {name: value for name, value in embedder_config(encoder).items() if name != "name"}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for text in texts:
        content = text.encode()
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()
