"""The catalog that serves and the only way to change it: gives SIDs, stores changes, swaps snapshots in.

Whatever is stored joins the bundle's catalog again at every start, and what other processes stored joins by
:meth:`LiveCatalog.refresh`. A change is acknowledged once it is stored and the snapshot that has it is in use. The
version of a snapshot is that of the database that it was made from: with the same bundle, the same version means the
same items. While the database does not answer, the snapshot serves on and nothing can be changed.
"""

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from structlog.typing import FilteringBoundLogger

from service.catalog.changing import Patch, Plan, Planner, TextVectors
from service.catalog.placing import NewItem, Placement, Placer, Vectors
from service.catalog.restoring import Restorer
from service.catalog.rows import CatalogStore, Sid, StoredCatalog
from service.catalog.state import Numbered, State, all_fields, following, step
from service.errors import ConflictError, DatabaseDownError, StaleCatalogError, StoreUnavailableError
from service.model import Model
from sidera.catalog import Catalog

__all__ = ["LiveCatalog", "NewItem", "Patch", "Placement", "Vectors"]

_ATTEMPTS = 30
"""How often a change is made when other processes keep changing the catalog in between."""
_WAIT_SECONDS = 0.1
"""The longest wait between two attempts."""

Result = TypeVar("Result")
PrepareSwap = Callable[[Numbered, Vectors, bool], Callable[[], None]]


@dataclass(frozen=True)
class LiveItem:
    """One item of a snapshot; ``fields`` are its title and all others."""

    sid: Sid
    moved: bool
    hidden: bool
    fields: Mapping[str, object]
    catalog_version: int


class LiveCatalog:
    """The current snapshot, and the only way to the next one. All methods may be called from any thread."""

    def __init__(
        self,
        model: Model,
        store: CatalogStore,
        prepare_swap: PrepareSwap,
        *,
        max_domains: int,
        log: FilteringBoundLogger,
    ) -> None:
        """``prepare_swap`` takes what :meth:`Model.stage` takes, and the numbering, and builds what a snapshot needs.

        What it returns puts the snapshot into use, and returns once it is.
        """
        self._store = store
        self._log = log
        self._prepare_swap = prepare_swap
        self._tokenizer = model.description.tokenizer_digest
        self._base = model.catalog
        self._placer = Placer(model)
        self._planner = Planner(self._base, self._placer, max_domains)
        self._restorer = Restorer(self._base, store, self._placer, self._tokenizer, log)
        self._state = State(self._base)
        self._lock = threading.Lock()

    @property
    def catalog(self) -> Catalog:
        """The snapshot in use; it never changes, the next one replaces it."""
        return self._state.catalog

    @property
    def numbered(self) -> Numbered:
        """The snapshot in use, with its numbering."""
        return self._state.numbered

    def restore(self) -> None:
        """Join everything that is stored to the bundle's catalog, and give SIDs to what has none under this tokenizer.

        Raises:
            ConflictError: other processes kept changing the catalog.
            StoreUnavailableError: the database does not answer.
        """
        with self._lock:
            self._retrying(lambda: None, self._restore)

    def refresh(self) -> bool:
        """Take over what other processes changed since the snapshot in use was made; says whether there was anything.

        Raises:
            ConflictError: other processes kept changing the catalog.
            StoreUnavailableError: the database does not answer.
        """
        with self._lock:
            if self._store.version() == self._state.stored_version:
                return False
            self._retrying(lambda: None, self._follow)
            return True

    def item(self, domain: str, item_id: str) -> "LiveItem":
        """What is known of an item.

        Raises:
            ItemNotFoundError: the catalog does not hold it.
        """
        state = self._state
        number = self._planner.number(state, domain, item_id)
        item = state.catalog.item(number)
        return LiveItem(
            state.catalog.sid(domain, number),
            (domain, item_id) in state.moved,
            state.catalog.is_hidden(number),
            all_fields(item),
            state.catalog.version,
        )

    def place(self, domain: str, items: Sequence[NewItem]) -> list[Placement]:
        """The SIDs that items have or would get now; nothing changes. New ones are placed one after another."""
        return self._planner.placements(self._state, domain, items, TextVectors(self._placer))

    def register(self, domain: str, items: Sequence[NewItem]) -> list[Placement]:
        """Make items part of the catalog; returns once the snapshot that holds them is in use.

        A known item keeps its SID; its fields are replaced if they differ. A deleted one comes back, with the SID that
        it had. The item ids are all different.

        Raises:
            DomainLimitError: the domain would be new, and there are as many as allowed.
            ConflictError: other processes kept changing the catalog.
            DatabaseDownError: the database does not answer.
        """
        vectors = TextVectors(self._placer)
        vectors.of(self._planner.to_encode(self._state, domain, items))  # it takes long, so others need not wait
        return self._changing(lambda: self._planner.registration(self._state, domain, items, vectors))

    def patch(self, domain: str, item_id: str, patch: Patch) -> Placement:
        """Change some fields of an item, hide it or show it; returns once the snapshot that has it so is in use.

        Raises:
            ItemNotFoundError: the catalog does not hold the item.
            ConflictError: other processes kept changing the catalog.
            DatabaseDownError: the database does not answer.
        """
        vectors = TextVectors(self._placer)
        item = self._planner.merged(self._state, domain, item_id, patch)
        vectors.of([item] if patch.retokenize else self._planner.to_encode(self._state, domain, [item]))
        return self._changing(lambda: self._planner.patching(self._state, domain, item_id, patch, vectors))

    def delete(self, domain: str, item_id: str) -> None:
        """Take an item out of the catalog, and out of every later bundle; returns once the snapshot in use lacks it.

        Its text and vector are forgotten. Its SID never becomes another item's. Deleting it again changes nothing.

        Raises:
            ItemNotFoundError: the catalog does not hold the item, and never did.
            ConflictError: other processes kept changing the catalog.
            DatabaseDownError: the database does not answer.
        """
        self._changing(lambda: (None, self._planner.deletion(self._state, domain, item_id)))

    @property
    def overlay(self) -> int:
        """How many leaves were added and removed since the bundle was written, or since the last fold."""
        return self._state.catalog.overlay

    def fold(self, check: Callable[[], None]) -> None:
        """Put plain tries of the snapshot in use in its place; items, SIDs, scores and the version stay.

        They are built beside it, so neither requests nor changes wait: what changes meanwhile is carried over.

        Args:
            check: called every few milliseconds; what it raises ends the fold, and nothing has changed.

        Raises:
            CatalogError: the catalog was read anew from the database meanwhile.
        """
        state = self._state
        before = state.catalog
        plain = before.folded(check)
        if plain.overlay == before.overlay:
            return
        swap = self._prepare_swap(Numbered(plain, state.numbering), {}, False)  # here the tries get onto the device
        with self._lock:
            state = self._state
            catalog = plain
            if state.catalog is not before:
                catalog = state.catalog.moved(before, plain)
                swap = self._prepare_swap(Numbered(catalog, state.numbering), {}, False)
            swap()
            self._state = replace(state, catalog=catalog)

    def _changing(self, plan: Callable[[], tuple[Result, Plan]]) -> Result:
        def change() -> Result:
            result, planned = plan()
            if planned.changes.items:
                self._apply(planned)
            return result

        try:
            with self._lock, self._store.turn():
                return self._retrying(change)
        except StoreUnavailableError as error:
            raise DatabaseDownError(
                "the database of registered items does not answer, so nothing can be changed; retry in a moment",
                retry_after=2,
            ) from error

    def _retrying(self, change: Callable[[], Result], read: Callable[[], None] | None = None) -> Result:
        """``read`` takes over what others changed; if it is given, before the first attempt too."""
        for attempt in range(_ATTEMPTS):
            try:
                if read is not None:
                    read()
                return change()
            except StaleCatalogError:
                read = read or self._follow
                time.sleep(random.uniform(0, min(0.01 * attempt, _WAIT_SECONDS)))
        raise ConflictError("other processes kept changing the catalog; send the request again", retry_after=1)

    def _apply(self, plan: Plan) -> None:
        """Store a change and put its snapshot into use. What can fail comes first: only the swap is left at the end."""
        state, changes = self._state, plan.changes
        version = max(state.catalog.version, state.stored_version) + 1
        found = step(self._base, state, StoredCatalog(version, tuple(changes.items)))
        after = following(self._base, state, found, version, version)
        joined = self._restorer.joined_vectors(after.catalog, found, plan.joining)
        swap = self._prepare_swap(after.numbered, joined, False)
        self._store.commit(changes, tokenizer=self._tokenizer, expected_version=state.stored_version, version=version)
        swap()
        self._state = after

    def _restore(self) -> None:
        self._take_over(State(self._base), whole=True)

    def _follow(self) -> None:
        if self._store.version() < self._state.stored_version:
            self._log.warning("the database went back to an older version; everything is read again")
            self._restore()
        else:
            self._take_over(self._state, whole=False)

    def _take_over(self, state: State, *, whole: bool) -> None:
        reading = self._restorer.read(state, whole=whole, above=self._state.catalog.version)
        after = reading.state
        swap, is_other = None, after.catalog is not self._state.catalog
        after = replace(after, numbering=self._state.numbering + (is_other and reading.anew))
        if is_other:
            swap = self._prepare_swap(after.numbered, reading.joined, reading.anew)
        if reading.changes.given:
            self._store.commit(
                reading.changes,
                tokenizer=self._tokenizer,
                expected_version=reading.read_version,
                version=after.stored_version,
            )
        if swap is not None:
            swap()
        self._state = after
