"""Vectors and free SIDs of items, by the model of one bundle.

A SID that any item of a domain has or once had under the tokenizer is never given to another one.

Shapes: N item, M taken SID, D item vector dim, L level.
"""

import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from service.catalog.rows import ItemVector, Key, Sid
from service.catalog.state import State
from service.item_model import Description
from sidera.catalog import Catalog

Vectors = Mapping[Key, npt.NDArray[np.float32]]
"""float32[D] by domain and item id."""


@dataclass(frozen=True)
class NewItem:
    """An item as its sender described it; it has text."""

    item_id: str
    fields: Mapping[str, object]


@dataclass(frozen=True)
class Placement:
    """Where an item is, or would be. ``sid`` is None when its domain has no free leaf."""

    sid: Sid | None
    moved: bool
    registered: bool


class ItemModel(Protocol):
    """What is asked of a bundle for its items; see :class:`service.model.Model`."""

    @property
    def description(self) -> Description:
        """What is served."""

    @property
    def catalog(self) -> Catalog:
        """The bundle's catalog as it is."""

    def vectors(self, items: Sequence[Mapping[str, object]]) -> npt.NDArray[np.float32]:
        """The vectors of items given by their fields: float32[N, D]."""

    def place(
        self, vectors_ND: npt.NDArray[np.float32], domain: str, taken_NL: npt.NDArray[np.int32]
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        """Free SIDs for new items, int32[N, L], and whether another item had the nearest one, bool[N]."""


class Placer:
    """Encodes and places. Its methods may be called from any thread; the model does one thing at a time."""

    def __init__(self, model: ItemModel) -> None:
        self._model = model
        self._base = model.catalog
        self._lock = threading.Lock()
        self.encoder = model.description.encoder_digest

    def vectors(self, items: Sequence[NewItem]) -> list[npt.NDArray[np.float32]]:
        """The vector of each item: float32[D]."""
        if not items:
            return []
        with self._lock:
            return list(self._model.vectors([{"item_id": item.item_id, **item.fields} for item in items]))

    def stored(self, vector_D: npt.NDArray[np.float32]) -> ItemVector:
        """A vector of this encoder, as the database keeps it."""
        return ItemVector(self.encoder, vector_D)

    def place(
        self,
        domain: str,
        vectors: Sequence[npt.NDArray[np.float32]],
        state: State,
        beside: Iterable[Sid] = (),
        without: Sid | None = None,
    ) -> list[Placement]:
        """Free SIDs for as many items as there are; the rest gets none. They are placed one after another.

        Args:
            state: whose SIDs, past ones included, are taken.
            beside: more taken SIDs.
            without: a SID that is free all the same: that of the item itself.
        """
        taken_ML = self._taken(domain, [*state.taken(domain), *beside], without)
        room = max(0, math.prod(self._base.codebook_sizes) - len(taken_ML))
        fitting = vectors[:room]
        none = [Placement(None, moved=False, registered=False)] * (len(vectors) - len(fitting))
        if not fitting:
            return none
        with self._lock:
            sids_NL, moved_N = self._model.place(np.stack(fitting), domain, taken_ML)
        placed = [
            Placement(tuple(sid), moved=moved, registered=False)
            for sid, moved in zip(sids_NL.tolist(), moved_N.tolist(), strict=True)
        ]
        return placed + none

    def _taken(self, domain: str, others: Iterable[Sid], without: Sid | None) -> npt.NDArray[np.int32]:
        """The SIDs of the bundle, also of its items that were deleted, and others, in SID order. Shape: int32[M, L]."""
        return merged_sids(self._base, domain, set(others) - {without}, without)


def merged_sids(base: Catalog, domain: str, others: Iterable[Sid], without: Sid | None) -> npt.NDArray[np.int32]:
    """SIDs of a catalog's domain and others in SID order, each once, without one.

    The catalog's are in order already: sorting millions would take seconds.
    """
    sizes = base.codebook_sizes
    weights_L = np.array([math.prod(sizes[level + 1 :]) for level in range(len(sizes))], dtype=np.int64)
    others_ML = np.array(sorted(others), dtype=np.int32).reshape(-1, len(sizes))
    if domain not in base.domains:
        return others_ML
    sids_NL = base.sids(domain)
    if not len(others_ML) and without is None:
        return sids_NL
    key_N, key_M = sids_NL @ weights_L, others_ML @ weights_L
    if without is not None:
        kept_N = key_N != int(np.array(without, dtype=np.int64) @ weights_L)
        sids_NL, key_N = sids_NL[kept_N], key_N[kept_N]
    place_M = key_N.searchsorted(key_M)
    new_M = (
        (place_M == len(key_N)) | (key_N[np.minimum(place_M, len(key_N) - 1)] != key_M) if len(key_N) else place_M == 0
    )
    return np.insert(sids_NL, place_M[new_M], others_ML[new_M], axis=0)
