"""Collaborative-filtering (CF) vectors of items: fitted on the events of the train part, or brought by the user.

Knows events and item ids; does not know texts or how a tokenizer uses the vectors. The vectors of a domain are a space
of their own; an item without a vector has a row of NaN.

Shapes: E events, U user, N item, C width of a domain's CF vectors, L level, Q query items, K neighbours.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from sidera.files import write_atomically
from training.data import Dataset, DomainData
from training.errors import DataError, StageError
from training.progress import track
from training.split import Events, Part

_QUERIES = 16
"""Items whose neighbours are looked for at a time: memory holds so many rows of similarities to all items."""

KEPT_NAME = "collaborative.safetensors"
"""The file of fitted vectors."""

CfVectors = Mapping[str, npt.NDArray[np.float32]]
"""float32[N, C] per domain, in the order of its items."""


@dataclass(frozen=True)
class CfSource:
    """Where the CF vectors come from.

    Attributes:
        folder: holds ``<domain>.parquet`` with columns ``item_id`` and ``vector``; None: they are fitted.
        dim: width of fitted vectors.
        iterations: of alternating least squares.
        regularization: weight of the squared factors.
        confidence: weight of an event beside the weight 1 of every (user, item) without one.
        seed: of the start.
    """

    folder: str | None
    dim: int
    iterations: int
    regularization: float
    confidence: float
    seed: int


def cf_vectors(
    dataset: Dataset, events: Events, source: CfSource, folder: Path | None = None
) -> dict[str, npt.NDArray[np.float32]]:
    """The CF vectors of all domains, fitted or read.

    Fitted ones are a function of a domain's own train events and the settings: not of other domains, nor of the number
    of threads. But their last bits are those of the processor's kernels for matrix products.

    Args:
        dataset: the domains.
        events: of all domains, split.
        source: where the vectors come from.
        folder: fitted ones are kept there, and read back for the same events and settings: what was begun with them
            goes on with them on any machine that has the folder.

    Raises:
        DataError: a file that the user brought is missing, or something in it is not as it must be.
        StageError: what is kept in the folder cannot be read.
    """
    if source.folder is not None:
        return {
            domain.name: _read(Path(source.folder) / f"{domain.name}.parquet", domain.item_ids)
            for domain in dataset.domains
        }
    taken = {domain.name: _train_matrix(events, number, domain) for number, domain in enumerate(dataset.domains)}
    digest = _fit_digest(taken, source)
    kept = None if folder is None else _kept(folder / KEPT_NAME, digest)
    if kept is not None:
        return kept
    vectors = {}
    with track("collaborative vectors", source.iterations * len(taken)) as advance:
        for name, events_UN in taken.items():
            vectors[name] = _item_factors(events_UN, source, advance)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / KEPT_NAME, save(vectors, metadata={"digest": digest}))
    return vectors


def cf_files_digest(source: CfSource | None, names: Sequence[str]) -> str | None:
    """sha256 (hex) over the files that the user brought; None where there are none, or one is missing."""
    if source is None or source.folder is None:
        return None
    digest = hashlib.sha256()
    for name in sorted(names):
        path = Path(source.folder) / f"{name}.parquet"
        if not path.is_file():
            return None
        content = path.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _kept(path: Path, digest: str) -> dict[str, npt.NDArray[np.float32]] | None:
    """The vectors in a file that were fitted with what the digest is of; None where there are none."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            if file.metadata()["digest"] != digest:
                return None
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    except (OSError, KeyError, TypeError, SafetensorError) as error:
        raise StageError(f"{path} cannot be read ({error}); delete it") from error


def _train_matrix(events: Events, number: int, domain: DomainData) -> csr_matrix:
    """How often which user took which item of a domain in the train part: float32[U, N].

    Users are numbered in the order in which the domain's file names them: their numbers in the dataset depend on the
    other domains, and the start of the fit on a user's number.
    """
    own_E = np.flatnonzero((events.part_E == Part.TRAIN) & (events.domain_E == number))
    own_E = own_E[np.argsort(events.row_E[own_E])]
    users = pa.array(events.user_E[own_E]).dictionary_encode()
    ones_E = np.ones(len(own_E), dtype=np.float32)
    places = users.indices.to_numpy(), events.item_E[own_E]
    return csr_matrix((ones_E, places), shape=(len(users.dictionary), len(domain.item_ids)))


def _fit_digest(taken: Mapping[str, csr_matrix], source: CfSource) -> str:
    """sha256 (hex) of all that fitted vectors depend on."""
    digest = hashlib.sha256(json.dumps(dataclasses.asdict(source), sort_keys=True).encode())
    for name, events_UN in sorted(taken.items()):
        digest.update(f"\0{name}\0{events_UN.shape}\0".encode())
        for array in (events_UN.indptr, events_UN.indices, events_UN.data):
            digest.update(array.tobytes())
    return digest.hexdigest()


def _item_factors(events_UN: csr_matrix, source: CfSource, advance: Callable[..., None]) -> npt.NDArray[np.float32]:
    """Item factors float32[N, C] of alternating least squares (Hu, Koren and Volinsky, ICDM 2008)."""
    from implicit.cpu.als import AlternatingLeastSquares

    items = events_UN.shape[1]
    if not events_UN.nnz:
        advance(source.iterations)
        return np.full((items, source.dim), np.nan, dtype=np.float32)
    # The library shares rows out to threads itself; threads of BLAS below those slow it down, and it warns of them.
    with threadpool_limits(1, "blas"):
        model = AlternatingLeastSquares(
            factors=source.dim,
            iterations=source.iterations,
            regularization=source.regularization,
            alpha=source.confidence,
            random_state=source.seed,
        )
        model.fit(events_UN, show_progress=False, callback=lambda *_: advance(1))
    factors_NC = np.array(model.item_factors, dtype=np.float32)
    factors_NC[np.bincount(events_UN.indices, minlength=items) == 0] = np.nan
    return factors_NC


def _read(path: Path, item_ids: Sequence[str]) -> npt.NDArray[np.float32]:
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; write the domain's columns item_id and vector there")
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read ({error}); write it as parquet") from error
    missing = sorted({"item_id", "vector"} - set(table.column_names))
    if missing:
        raise DataError(f"{path}: column {missing[0]!r} is missing; write the columns item_id and vector")
    ids = table.column("item_id").to_pylist()
    lists = table.column("vector").combine_chunks()
    if not (
        pa.types.is_list(lists.type) or pa.types.is_fixed_size_list(lists.type) or pa.types.is_large_list(lists.type)
    ):
        raise DataError(f"{path}: column 'vector' holds {lists.type}; write lists of numbers")
    number_of = {item_id: number for number, item_id in enumerate(item_ids)}
    seen: set[str] = set()
    for row, item_id in enumerate(ids):
        if item_id not in number_of:
            raise DataError(
                f"{path}: row {row}: item {item_id!r} is not in items.jsonl; write vectors of its items only"
            )
        if item_id in seen:
            raise DataError(f"{path}: row {row}: item {item_id!r} has a vector already; write one vector an item")
        seen.add(item_id)
    widths = pc.list_value_length(lists).unique().to_pylist()
    if len(widths) != 1 or not widths[0]:
        raise DataError(
            f"{path}: the vectors' widths are {sorted(map(str, widths))}; write vectors of one width above 0"
        )
    vectors_QC = np.asarray(lists.flatten(), dtype=np.float32).reshape(len(ids), widths[0])
    bad = np.flatnonzero(~np.isfinite(vectors_QC).all(axis=1))
    if len(bad):
        raise DataError(f"{path}: row {bad[0]}: the vector of item {ids[bad[0]]!r} holds NaN or infinity; leave it out")
    vectors_NC = np.full((len(item_ids), widths[0]), np.nan, dtype=np.float32)
    vectors_NC[[number_of[item_id] for item_id in ids]] = vectors_QC
    return vectors_NC


def shared_prefixes(
    cf_NC: npt.NDArray[np.float32],
    codes_NL: npt.NDArray[np.integer[Any]],
    query_N: npt.NDArray[np.bool_],
    neighbours: int = 10,
    most: int = 1000,
) -> dict[str, Any] | None:
    """How often an item shares its first codes with its nearest items by CF vectors (cosine), and by chance.

    Args:
        cf_NC: CF vectors of one domain.
        codes_NL: the nearest codes of its items.
        query_N: the items asked about, those without a CF vector aside; at most ``most`` of them, evenly spread.
        neighbours: nearest items of each.
        most: see ``query_N``.

    Returns:
        ``neighbours`` and ``chance``: for each prefix length the share of pairs that share the prefix, among an item
        and its neighbours, and among an item and any other. None where there is nothing to compare.
    """
    known = np.flatnonzero(np.isfinite(cf_NC).all(axis=1))
    asked = np.flatnonzero(query_N[known])
    if not len(asked) or len(known) < 2:
        return None
    asked = asked[np.linspace(0, len(asked) - 1, min(most, len(asked))).astype(np.int64)]
    directions_NC = cf_NC[known] / np.maximum(np.linalg.norm(cf_NC[known], axis=1, keepdims=True), 1e-12)
    count = min(neighbours, len(known) - 1)
    known_NL = codes_NL[known]
    near_L, any_L = np.zeros(known_NL.shape[1]), np.zeros(known_NL.shape[1])
    for part in np.array_split(asked, -(-len(asked) // _QUERIES)):
        similarity_QN = directions_NC[part] @ directions_NC.T
        similarity_QN[np.arange(len(part)), part] = -np.inf
        nearest_QK = np.argsort(-similarity_QN, axis=1, kind="stable")[:, :count]
        same_QN = np.ones(similarity_QN.shape, dtype=bool)
        for level, codes_N in enumerate(known_NL.T):
            same_QN &= codes_N[part][:, None] == codes_N[None, :]
            near_L[level] += np.take_along_axis(same_QN, nearest_QK, axis=1).sum()
            any_L[level] += same_QN.sum() - len(part)
    return {
        "items": len(asked),
        "neighbours": (near_L / (len(asked) * count)).tolist(),
        "chance": (any_L / (len(asked) * (len(known) - 1))).tolist(),
    }
