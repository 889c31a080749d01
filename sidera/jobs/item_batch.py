"""Vectors and SIDs of all items of a parquet file: ``sidera embed``.

The same steps as ``sidera.jobs.batch``, kept in ``<out>.parts`` and gone on from after a kill: items are checked and
cut into parts of ``ITEMS_A_PART``; each part's vectors go into a file of their own, here or by the workers of a Ray
cluster; then all items of the domain get their SIDs together, since no two may have the same.

The file has a column ``item_id`` (text, each once) and the fields of the items, as ``items.jsonl`` has them. ``out``
has a row an item, in the order of the file:

* ``item_id``: text;
* ``vector``: list of D float32, by the bundle's encoder;
* ``sid``: list of L int32: the item's own where the bundle holds the item; else a free one, as a service gives it.

Shapes: N items, M of them new to the bundle, D item vector dim, L levels.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sidera.bundle import open_bundle
from sidera.catalog import Catalog
from sidera.digests import sync_file, sync_folder
from sidera.errors import BatchError, CatalogError
from sidera.item_text import item_texts
from sidera.items.assignment import assign_sids
from sidera.items.item_encoder import ItemEncoder, load_item_encoder
from sidera.jobs.batch import JOB_KEY, work_folder
from sidera.jobs.batch_part import rows_of
from sidera.jobs.histories import part_path
from sidera.names import check_domain_name
from sidera.progress import Advance, track

ITEMS_A_PART = 1024
"""What a kill costs at most, and how often progress is told."""

_KNOWN = b"sidera.known_items"


@dataclass(frozen=True)
class EmbedConfig:
    """What is asked for the items.

    Attributes:
        domain: theirs; one that the bundle holds, or a new one.
        device: where the encoder runs.
    """

    domain: str
    device: str = "auto"

    def __post_init__(self) -> None:
        try:
            check_domain_name(self.domain)
        except CatalogError as error:
            raise BatchError(str(error)) from error


@dataclass(frozen=True)
class Embedded:
    """How many items were written, and how many of them the bundle holds."""

    items: int
    known: int


Embedder = Callable[[Path, EmbedConfig, Path, Path, Sequence[int], Advance], None]
"""``embed(bundle, config, items, vectors, parts, advance)``: makes the vectors of parts of one folder in another."""


def embed_file(bundle: Path, items: Path, out: Path, config: EmbedConfig, embed: Embedder | None = None) -> Embedded:
    """Make vectors and SIDs of all items of a file and write ``out``; go on where an earlier start stopped.

    Args:
        embed: who makes the parts' vectors; None: this process, one part after the other.

    Raises:
        BundleError: the bundle cannot be read.
        BatchError: the items cannot be read, or ``out`` is there already.
        EmbeddingError: an item has no text, or the bundle's encoder is not to be had here.
        DomainFullError: the domain has fewer free SIDs than new items.
    """
    job = _job(bundle, items, config)
    if out.exists():
        return _finished(out, job)
    out.parent.mkdir(parents=True, exist_ok=True)
    work = work_folder(out, job)
    cut, vectors = work / "items", work / "vectors"
    parts = _parts(items, work, cut)
    vectors.mkdir(exist_ok=True)
    missing = [number for number in range(parts) if not part_path(vectors, number).exists()]
    if missing:
        with track("vectors (items)", sum(rows_of(part_path(cut, number)) for number in missing)) as advance:
            (embed or embed_here)(bundle, config, cut, vectors, missing, advance)
    return _join(bundle, config, [part_path(vectors, number) for number in range(parts)], out, job, work)


def embed_here(
    bundle: Path, config: EmbedConfig, items: Path, vectors: Path, parts: Sequence[int], advance: Advance
) -> None:
    """Make the vectors of parts in this process."""
    encoder = load_item_encoder(bundle, config.device)
    for number in parts:
        embed_part(encoder, part_path(items, number), part_path(vectors, number))
        advance(rows_of(part_path(items, number)))


def embed_part(encoder: ItemEncoder, items: Path, vectors: Path) -> None:
    """Make the vectors of one part; its file appears whole or not at all."""
    table = pq.read_table(items)
    vectors_ND = encoder.vectors(table.to_pylist())
    partial = vectors.with_suffix(".partial")
    pq.write_table(pa.table({"item_id": table["item_id"], "vector": _lists(vectors_ND)}), partial)
    sync_file(partial)
    partial.replace(vectors)


def sentence(embedded: Embedded, out: Path) -> str:
    """What a person should know of a finished file."""
    new = embedded.items - embedded.known
    return (
        f"{embedded.items:,} items are in {out}: {embedded.known:,} with the SIDs that they have in the bundle, "
        f"{new:,} with new ones."
    )


def _job(bundle: Path, items: Path, config: EmbedConfig) -> str:
    """A digest of all that the rows depend on; of the items their file's name, size and time."""
    manifest = open_bundle(bundle).manifest
    _opened(items)
    stat = items.stat()
    told = [manifest.bundle_version, str(items.resolve()), stat.st_size, stat.st_mtime_ns, config.domain]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _opened(items: Path) -> Any:
    """The parquet file, whose columns can be those of items."""
    try:
        file = pq.ParquetFile(items)
    except (OSError, pa.ArrowException) as error:
        raise BatchError(f"{items}: the file cannot be read as parquet ({error}); give a parquet file") from error
    names = file.schema_arrow.names
    if "item_id" not in names or len(names) < 2:
        raise BatchError(
            f"{items}: the columns are {', '.join(names)}; give item_id and at least one text field, such as title"
        )
    kind = file.schema_arrow.field("item_id").type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise BatchError(f"{items}: item_id is of type {kind}; write it as text")
    return file


def _finished(out: Path, job: str) -> Embedded:
    """What a file says that an earlier start wrote for the same job.

    Raises:
        BatchError: it is something else.
    """
    try:
        metadata, rows = pq.read_schema(out).metadata or {}, rows_of(out)
    except (pa.ArrowException, OSError):
        metadata, rows = {}, 0
    if metadata.get(JOB_KEY, b"").decode() != job:
        raise BatchError(f"{out}: the file exists and holds something else; delete it or give another --out")
    return Embedded(rows, int(metadata[_KNOWN]))


def _parts(items: Path, work: Path, cut: Path) -> int:
    """Check the items and cut them into parts in ``cut``, unless that is done; how many parts."""
    if not cut.exists():
        partial = work / "items.partial"
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir()
        seen: set[str] = set()
        with track("read items (rows)", rows_of(items)) as advance:
            for number, table in enumerate(_tables(_opened(items))):
                _check(items, table, seen)
                pq.write_table(table, part_path(partial, number))
                advance(table.num_rows)
        if not seen:
            raise BatchError(f"{items}: the file holds no item; write a row an item")
        sync_folder(partial)
        partial.rename(cut)
    return sum(1 for _ in cut.glob("part-*.parquet"))


def _tables(file: Any) -> Iterator[Any]:
    """The rows of a file, so many at once, whatever its row groups."""
    waiting: list[Any] = []
    for batch in file.iter_batches(batch_size=ITEMS_A_PART):
        waiting.append(batch)
        if sum(len(rows) for rows in waiting) >= ITEMS_A_PART:
            table = pa.Table.from_batches(waiting)
            yield table.slice(0, ITEMS_A_PART)
            waiting = table.slice(ITEMS_A_PART).to_batches()
    if sum(len(rows) for rows in waiting):
        yield pa.Table.from_batches(waiting)


def _check(items: Path, table: Any, seen: set[str]) -> None:
    """Refuse an item without id or text, or with another one's id.

    Raises:
        BatchError, EmbeddingError: row and reason.
    """
    rows = table.to_pylist()
    for fields in rows:
        item_id = fields["item_id"]
        if not item_id:
            raise BatchError(f"{items}: row {len(seen) + 1} has no item_id; give every item one")
        if item_id in seen:
            raise BatchError(f"{items}: row {len(seen) + 1}: there are two items {item_id[:80]!r}; keep one of them")
        seen.add(item_id)
    item_texts(rows)


def _join(bundle: Path, config: EmbedConfig, parts: Sequence[Path], out: Path, job: str, work: Path) -> Embedded:
    """Give SIDs, write all parts into one file, put it in its place, and remove the steps."""
    item_ids = [
        item_id for path in parts for item_id in pq.read_table(path, columns=["item_id"])["item_id"].to_pylist()
    ]
    encoder = load_item_encoder(bundle, config.device)
    width = encoder.text_encoder.dim
    vectors_ND = np.lib.format.open_memmap(work / "vectors.npy", "w+", np.float32, (len(item_ids), width))
    begin = 0
    for path in parts:
        rows_ND = pq.read_table(path, columns=["vector"])["vector"].combine_chunks().flatten().to_numpy()
        end = begin + len(rows_ND) // width
        vectors_ND[begin:end] = rows_ND.reshape(-1, width)
        begin = end
    sids_NL, known = _sids(bundle, config.domain, encoder, item_ids, vectors_ND)
    partial, begin = work / "whole.parquet", 0
    kinds = [("vector", pa.list_(pa.float32(), width)), ("sid", pa.list_(pa.int32(), sids_NL.shape[1]))]
    schema = pa.schema([("item_id", pa.string()), *kinds], metadata={JOB_KEY: job, _KNOWN: str(known)})
    with pq.ParquetWriter(partial, schema) as writer:
        for begin in range(0, len(item_ids), ITEMS_A_PART):
            rows = slice(begin, begin + ITEMS_A_PART)
            columns = [pa.array(item_ids[rows], pa.string()), _lists(vectors_ND[rows]), _lists(sids_NL[rows])]
            writer.write_table(pa.table(columns, schema=schema))
    sync_file(partial)
    partial.replace(out)
    sync_folder(out.parent)
    shutil.rmtree(work)
    return Embedded(len(item_ids), known)


def _sids(
    path: Path, domain: str, encoder: ItemEncoder, item_ids: Sequence[str], vectors_ND: np.ndarray
) -> tuple[np.ndarray, int]:
    """The SIDs of all items, int32[N, L], and how many of them the bundle holds."""
    bundle = open_bundle(path)
    if domain not in bundle.manifest.domains:
        return assign_sids(encoder.tokenizer, vectors_ND, domain)[0], 0
    catalog = Catalog.load(bundle.folder("catalog"), bundle.manifest.domains, bundle.manifest.codebook_sizes)
    found = [catalog.find(domain, item_id) for item_id in item_ids]
    new_M = np.array([row for row, number in enumerate(found) if number is None], dtype=np.int64)
    sids_NL = np.empty((len(item_ids), len(catalog.codebook_sizes)), dtype=np.int32)
    known = [(row, number) for row, number in enumerate(found) if number is not None]
    if known:
        sids_NL[[row for row, _ in known]] = catalog.sids_of(domain, [number for _, number in known])
    if len(new_M):
        sids_NL[new_M], _ = encoder.place(np.asarray(vectors_ND[new_M]), domain, catalog.sids(domain))
    return sids_NL, len(known)


def _lists(rows_NX: np.ndarray) -> Any:
    """A column of lists, a row of the array each."""
    flat = np.ascontiguousarray(rows_NX).ravel()
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), rows_NX.shape[1])
