"""Registered items on top of a bundle's catalog: gives them SIDs, stores them, swaps snapshots in.

Whatever is stored joins the bundle's catalog again at every start. The bundle's own SIDs always win: a stored item that
the bundle meanwhile holds keeps only its fields, and one whose leaf the bundle meanwhile took moves to a free leaf.

Shapes: N item, D item vector dim, L level.
"""

import math
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from structlog.typing import FilteringBoundLogger

from service.errors import ConflictError, DomainLimitError, StaleCatalogError
from service.model import Model
from service.store import CatalogStore, Changes, ItemVector, StoredItem
from sidera.catalog import Catalog, CatalogItem

_ATTEMPTS = 5
"""How often a change is made when other processes keep changing the catalog in between."""

Result = TypeVar("Result")
Sid = tuple[int, ...]
Key = tuple[str, str]
Vectors = Mapping[Key, npt.NDArray[np.float32]]


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


@dataclass(frozen=True)
class _State:
    """A snapshot in use, and what the store says beyond it.

    Attributes:
        stored_version: the version of the store that the snapshot was made from.
        moved: registered items that did not get their nearest leaf.
        reserved: per domain, SIDs that the store keeps for items which have another one in this bundle.
    """

    catalog: Catalog
    stored_version: int
    moved: frozenset[Key]
    reserved: Mapping[str, Sequence[Sid]]


class LiveCatalog:
    """The current snapshot, and the only way to the next one. All methods may be called from any thread."""

    def __init__(
        self,
        model: Model,
        store: CatalogStore,
        prepare_swap: Callable[[Catalog, Vectors, bool], Callable[[], None]],
        *,
        max_domains: int,
        log: FilteringBoundLogger,
    ) -> None:
        """``prepare_swap`` takes what :meth:`Model.stage` takes and builds what a snapshot needs.

        What it returns puts the snapshot into use, and returns once it is.
        """
        self._model = model
        self._store = store
        self._prepare_swap = prepare_swap
        self._max_domains = max_domains
        self._log = log
        self._tokenizer = model.description.tokenizer_digest
        self._base = model.catalog
        self._state = _State(self._base, 0, frozenset(), {})
        self._lock = threading.Lock()

    @property
    def catalog(self) -> Catalog:
        """The snapshot in use; it never changes, the next one replaces it."""
        return self._state.catalog

    def restore(self) -> None:
        """Join everything that is stored to the bundle's catalog, and give SIDs to what has none under this tokenizer.

        Raises:
            ConflictError: other processes kept changing the catalog.
        """
        with self._lock:
            self._retrying(lambda: None, stale=True)

    def place(self, domain: str, items: Sequence[NewItem]) -> list[Placement]:
        """The SIDs that items have or would get now; nothing changes. New ones are placed one after another."""
        with self._lock:
            known = [self._known(domain, item.item_id) for item in items]
            new = [item for item, placement in zip(items, known, strict=True) if placement is None]
            placed = iter(self._free_leaves(domain, self._vectors(new)))
            return [next(placed) if placement is None else placement for placement in known]

    def register(self, domain: str, items: Sequence[NewItem]) -> list[Placement]:
        """Make items part of the catalog; returns once the snapshot that holds them is in use.

        A known item keeps its SID; its fields are replaced if they differ. The item ids are all different.

        Raises:
            DomainLimitError: the domain would be new, and there are as many as allowed.
            ConflictError: other processes kept changing the catalog.
        """
        with self._lock:
            return self._retrying(lambda: self._register(domain, items), stale=False)

    def _retrying(self, change: Callable[[], Result], *, stale: bool) -> Result:
        for _ in range(_ATTEMPTS):
            try:
                if stale:
                    self._restore()
                return change()
            except StaleCatalogError:
                stale = True
        raise ConflictError("other processes kept changing the catalog; send the request again", retry_after=1)

    # Registering

    def _register(self, domain: str, items: Sequence[NewItem]) -> list[Placement]:
        state = self._state
        if domain not in state.catalog.domains and len(state.catalog.domains) >= self._max_domains:
            raise DomainLimitError(
                f"domain {domain!r} would be new, and at most {self._max_domains} are allowed; "
                "use a known one, or raise SIDERA_MAX_DOMAINS"
            )
        known = {item.item_id: self._known(domain, item.item_id) for item in items}
        new = [item for item in items if known[item.item_id] is None]
        changed = [item for item in items if known[item.item_id] is not None and self._differs(domain, item)]
        vectors_ND = self._vectors(new + changed)
        placed = dict(
            zip([item.item_id for item in new], self._free_leaves(domain, vectors_ND[: len(new)]), strict=True)
        )

        written = [item for item in new if placed[item.item_id].sid is not None] + changed
        rows = [self._stored_item(domain, item, placed.get(item.item_id)) for item in written]
        if rows:
            vector_of = {item.item_id: vector_D for item, vector_D in zip(new + changed, vectors_ND, strict=True)}
            version = max(state.catalog.version, state.stored_version) + 1
            catalog = state.catalog.with_items([_catalog_item(row) for row in rows], version)
            changes = Changes(
                items=rows,
                vectors=[self._item_vector(vector_of[row.item_id]) for row in rows],
                sids=[row for row in rows if row.sid is not None],
            )
            moved = state.moved | {(row.domain, row.item_id) for row in rows if row.moved}
            joined = {(domain, item.item_id): vector_of[item.item_id] for item in written if item not in changed}
            swap = self._prepare_swap(catalog, joined, False)
            self._commit_and_swap(changes, _State(catalog, version, moved, state.reserved), state.stored_version, swap)
        found = {item_id: replace(place, registered=place.sid is not None) for item_id, place in placed.items()}
        return [known[item.item_id] or found[item.item_id] for item in items]

    def _commit_and_swap(
        self, changes: Changes, state: _State, expected_version: int, swap: Callable[[], None]
    ) -> None:
        """Store a change and put its snapshot into use. What can fail came before: only the swap is left then."""
        self._store.commit(
            changes, tokenizer=self._tokenizer, expected_version=expected_version, version=state.stored_version
        )
        swap()
        self._state = state

    def _known(self, domain: str, item_id: str) -> Placement | None:
        catalog = self._state.catalog
        number = catalog.find(domain, item_id)
        if number is None:
            return None
        return Placement(catalog.item(number).sid, (domain, item_id) in self._state.moved, registered=True)

    def _differs(self, domain: str, item: NewItem) -> bool:
        catalog = self._state.catalog
        number = catalog.find(domain, item.item_id)
        return number is None or _all_fields(catalog.item(number)) != dict(item.fields)

    def _stored_item(self, domain: str, item: NewItem, placed: Placement | None) -> StoredItem:
        if placed is None:
            return StoredItem(domain, item.item_id, item.fields)
        return StoredItem(domain, item.item_id, item.fields, placed.sid, placed.moved)

    # Restoring

    def _restore(self) -> None:
        stored = self._store.load(self._tokenizer)
        base = self._base
        if not stored.items:
            self._state = _State(base, stored.version, frozenset(), {})
            return
        taken = {
            domain: set(map(tuple, base.sids(domain).tolist())) for domain in _domains(stored.items) & set(base.domains)
        }
        kept: list[StoredItem] = []
        homeless: list[StoredItem] = []
        reserved: dict[str, list[Sid]] = defaultdict(list)
        for item in stored.items:
            if base.find(item.domain, item.item_id) is not None:
                if item.sid is not None:
                    reserved[item.domain].append(item.sid)
                kept.append(replace(item, sid=None, moved=False))
            elif item.sid is not None and item.sid not in taken.get(item.domain, ()):
                kept.append(item)
            else:
                homeless.append(item)
        housed, changes = self._house(homeless, kept, reserved)
        rows = kept + housed
        version = max(base.version + 1, stored.version) if not housed else max(base.version, stored.version) + 1
        catalog = base.with_items([_catalog_item(row) for row in rows], version) if rows else base
        moved = frozenset((row.domain, row.item_id) for row in rows if row.moved)
        swap = self._prepare_swap(catalog, self._joined(rows, changes), True)
        if housed:
            self._commit_and_swap(changes, _State(catalog, version, moved, reserved), stored.version, swap)
        else:
            swap()
            self._state = _State(catalog, stored.version, moved, reserved)

    def _house(
        self, homeless: Sequence[StoredItem], kept: Sequence[StoredItem], reserved: Mapping[str, Sequence[Sid]]
    ) -> tuple[list[StoredItem], Changes]:
        """Find leaves for stored items that have none under this bundle, oldest first."""
        housed: list[StoredItem] = []
        again: list[tuple[StoredItem, ItemVector]] = []
        for domain in sorted(_domains(homeless)):
            items = [item for item in homeless if item.domain == domain]
            vectors, encoded = self._stored_vectors(items)
            again += encoded
            beside = [item.sid for item in kept if item.domain == domain and item.sid is not None]
            taken_NL = self._taken(self._base, domain, [*beside, *reserved.get(domain, ())])
            for item, placed in zip(items, self._place_beside(domain, vectors, taken_NL), strict=True):
                self._log_housed(item, placed)
                if placed.sid is not None:
                    housed.append(replace(item, sid=placed.sid, moved=placed.moved))
        return housed, Changes([item for item, _ in again], [vector for _, vector in again], housed)

    def _joined(self, rows: Sequence[StoredItem], changes: Changes) -> Vectors:
        """The vectors under this bundle's encoder of stored items that the bundle does not hold."""
        joined = [(row.domain, row.item_id) for row in rows if row.sid is not None]
        found = dict(zip(joined, self._store.vectors(joined), strict=True))
        found |= {(item.domain, item.item_id): made for item, made in zip(changes.items, changes.vectors, strict=True)}
        encoder = self._model.description.encoder_digest
        return {key: found[key].vector_D for key in joined if found[key].encoder == encoder}

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

    def _stored_vectors(
        self, items: Sequence[StoredItem]
    ) -> tuple[npt.NDArray[np.float32], list[tuple[StoredItem, ItemVector]]]:
        """Vectors under this bundle's encoder, float32[N, D], and those that had to be made again."""
        found = self._store.vectors([(item.domain, item.item_id) for item in items])
        encoder = self._model.description.encoder_digest
        foreign = [row for row, vector in enumerate(found) if vector.encoder != encoder]
        made_ND = self._vectors([NewItem(items[row].item_id, items[row].fields) for row in foreign])
        again = [(items[row], self._item_vector(vector_D)) for row, vector_D in zip(foreign, made_ND, strict=True)]
        for row, (_, vector) in zip(foreign, again, strict=True):
            found[row] = vector
        return np.stack([vector.vector_D for vector in found]), again

    # Placing

    def _vectors(self, items: Sequence[NewItem]) -> npt.NDArray[np.float32]:
        if not items:
            return np.empty((0, 0), dtype=np.float32)
        return self._model.vectors([{"item_id": item.item_id, **item.fields} for item in items])

    def _item_vector(self, vector_D: npt.NDArray[np.float32]) -> ItemVector:
        return ItemVector(self._model.description.encoder_digest, vector_D)

    def _free_leaves(self, domain: str, vectors_ND: npt.NDArray[np.float32]) -> list[Placement]:
        state = self._state
        return self._place_beside(
            domain, vectors_ND, self._taken(state.catalog, domain, state.reserved.get(domain, ()))
        )

    def _taken(self, catalog: Catalog, domain: str, others: Iterable[Sid]) -> npt.NDArray[np.int32]:
        levels = len(catalog.codebook_sizes)
        others_ML = np.array(list(others), dtype=np.int32).reshape(-1, levels)
        if domain not in catalog.domains:
            return others_ML
        if not len(others_ML):  # in SID order already: sorting millions would take seconds
            return catalog.sids(domain)
        return np.unique(np.concatenate([catalog.sids(domain), others_ML]), axis=0)

    def _place_beside(
        self, domain: str, vectors_ND: npt.NDArray[np.float32], taken_NL: npt.NDArray[np.int32]
    ) -> list[Placement]:
        """Free leaves for as many as there are; the rest gets none."""
        room = max(0, math.prod(self._base.codebook_sizes) - len(taken_NL))
        fitting_ND = vectors_ND[:room]
        placements = [Placement(None, moved=False, registered=False)] * (len(vectors_ND) - len(fitting_ND))
        if not len(fitting_ND):
            return placements
        sids_NL, moved_N = self._model.place(fitting_ND, domain, taken_NL)
        placed = [
            Placement(tuple(sid), moved=moved, registered=False)
            for sid, moved in zip(sids_NL.tolist(), moved_N.tolist(), strict=True)
        ]
        return placed + placements


def _domains(items: Iterable[StoredItem]) -> set[str]:
    return {item.domain for item in items}


def _catalog_item(item: StoredItem) -> CatalogItem:
    title = item.fields.get("title")
    rest = {name: value for name, value in item.fields.items() if name != "title"}
    return CatalogItem(item.domain, item.item_id, item.sid or (), str(title) if title is not None else None, rest)


def _all_fields(item: CatalogItem) -> dict[str, object]:
    fields = {"title": item.title, **item.fields}
    return {name: value for name, value in fields.items() if name != "item_id" and value is not None}
