"""Reads what is stored into a snapshot: all of it at the start, what changed since later.

Stored items that have no SID under the bundle, or whose leaf the bundle has meanwhile taken, get free ones here, oldest
first, and vectors that another encoder made are made again.

Shapes: D item vector dim.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from structlog.typing import FilteringBoundLogger

from service.catalog.placing import NewItem, Placement, Placer, Vectors
from service.catalog.rows import CatalogStore, Changes, ItemVector, Key, StoredItem
from service.catalog.state import State, Step, following, settle, step
from sidera.catalog import Catalog


@dataclass(frozen=True)
class Reading:
    """What was read.

    Attributes:
        state: the state to be in use.
        changes: SIDs that were given, to be stored first; ``read_version`` is the version that they follow.
        joined: what :meth:`service.model.Model.stage` needs of items that joined; ``anew`` as it is meant there.
    """

    state: State
    changes: Changes
    read_version: int
    joined: Vectors
    anew: bool


class Restorer:
    """Reads the store for one bundle."""

    def __init__(
        self, base: Catalog, store: CatalogStore, placer: Placer, tokenizer: str, log: FilteringBoundLogger
    ) -> None:
        """``base`` is the bundle's catalog as it is, ``tokenizer`` the digest of its tokenizer."""
        self._base = base
        self._store = store
        self._placer = placer
        self._tokenizer = tokenizer
        self._log = log

    def read(self, state: State, *, whole: bool, above: int) -> Reading:
        """What the store makes of a state.

        Args:
            state: what to go on from.
            whole: read everything, not only what changed after the state's version.
            above: the version of the next snapshot is higher than this.
        """
        stored = self._store.load(self._tokenizer, -1 if whole else state.stored_version)
        if stored.version == 0 and above == self._base.version:
            return Reading(State(self._base), Changes(), 0, {}, True)
        found = step(self._base, state, stored)
        given, made = self._house(state, found)
        version = max(above + 1, stored.version + bool(given))
        after = following(self._base, state, found, version, version if given else stored.version)
        joined = self.joined_vectors(after.catalog, found, made, anew=whole)
        vectors: dict[Key, ItemVector | None] = {
            item.key: self._placer.stored(made[item.key]) for item in given if item.key in made
        }
        return Reading(after, Changes(vectors=vectors, given=given), stored.version, joined, whole)

    def joined_vectors(self, catalog: Catalog, found: Step, made: Vectors, anew: bool = False) -> Vectors:
        """The vectors under this encoder of items that joined in this step; with ``anew``, of all that it lacks.

        An item of the bundle that came back under the bundle's SID has the bundle's vector, as after a start.

        Args:
            made: vectors that need not be read.
        """
        keys = _joined_keys(catalog) if anew else {key for key in found.joined if not _is_as_in_bundle(catalog, key)}
        vectors = {key: made[key] for key in keys if key in made}
        stored = self._store.vectors(sorted(keys - vectors.keys()))
        return vectors | {key: own.vector_D for key, own in stored.items() if own.encoder == self._placer.encoder}

    def _house(self, state: State, found: Step) -> tuple[list[StoredItem], Vectors]:
        """Give the homeless leaves; returns those that got one, and vectors that had to be made."""
        given: list[StoredItem] = []
        made: dict[Key, npt.NDArray[np.float32]] = {}
        for domain in sorted({item.domain for item in found.homeless}):
            items = [item for item in found.homeless if item.domain == domain]
            vectors = self._stored_vectors(items, made)
            placements = self._placer.place(domain, vectors, state, beside=list(found.sids(domain)))
            for item, placed in zip(items, placements, strict=True):
                self._log_housed(item, placed)
                row = replace(item, sid=placed.sid, moved=placed.moved, retokenized=False)
                settle(found, row)
                if row.sid is not None:
                    given.append(row)
        return given, made

    def _stored_vectors(
        self, items: Sequence[StoredItem], made: dict[Key, npt.NDArray[np.float32]]
    ) -> list[npt.NDArray[np.float32]]:
        """Vectors under this encoder, float32[D] each; those that had to be made are added to ``made``."""
        stored = self._store.vectors([item.key for item in items])
        own: Mapping[Key, ItemVector] = {
            key: vector for key, vector in stored.items() if vector.encoder == self._placer.encoder
        }
        foreign = [item for item in items if item.key not in own]
        vectors = self._placer.vectors([NewItem(item.item_id, item.fields or {}) for item in foreign])
        made |= {item.key: vector_D for item, vector_D in zip(foreign, vectors, strict=True)}
        return [own[item.key].vector_D if item.key in own else made[item.key] for item in items]

    def _log_housed(self, item: StoredItem, placed: Placement) -> None:
        about = {"domain": item.domain, "item_id": item.item_id, "sid": placed.sid}
        if placed.sid is None:
            self._log.error("a registered item is left out: its domain has no free SID under this bundle", **about)
        elif item.sid is not None:
            self._log.warning(
                "a registered item got another SID: an item of the bundle has its own", **about, was=item.sid
            )
        else:
            self._log.info("a registered item got its SID under this tokenizer", **about)


def _is_as_in_bundle(catalog: Catalog, key: Key) -> bool:
    """Whether an item has the leaf that the bundle gave it."""
    number = catalog.find(*key)
    return number is not None and bool(catalog.from_bundle(np.array([number]))[0])


def _joined_keys(catalog: Catalog) -> set[Key]:
    """All items that do not have the leaf that the bundle gave them."""
    later = {number: item for domain in catalog.domains for number, item in catalog.later_items(domain).items()}
    if not later:
        return set()
    kept_X = catalog.from_bundle(np.fromiter(later, np.int64, len(later)))
    return {(item.domain, item.item_id) for item, kept in zip(later.values(), kept_X.tolist(), strict=True) if not kept}
