"""What is read of a catalog beside recommending: items by words, nodes of the tries, fields, a map, stored users.

All of it is computed in one thread of its own, one view after another, so the engines and the event loop are not held
up and so many open pages cost no more than one. What is kept of a bundle (the index of words above all) is made when it
is first asked for, and let go with the bundle.
"""

import asyncio
import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from service.bundles.generation import Generation
from service.errors import ForbiddenError, NotFoundError, NotReadyError, QueueFullError
from service.settings import Settings
from sidera.bundle import Bundle, open_bundle
from sidera.catalog import Catalog
from sidera.errors import BundleError, CatalogError
from sidera.explain.code_words import WordCounts
from sidera.items.code_map import ItemMap, NearItem, item_map, near_items
from sidera.items.item_fields import DomainFields, domain_fields
from sidera.items.item_search import FoundItem, LiveItemSearch
from sidera.items.trie_nodes import TrieNode, domain_words, trie_node

USERS_FILE = "samples/evaluation_users.json"
REPORT_FOLDER = "report"
_MOST_WAITING = 64
_PATIENCE_SECONDS = 1.0
"""How long a request waits for the index of words before it is told to come again."""

View = TypeVar("View")


@dataclass
class _Kept:
    """What is kept of one bundle while it serves."""

    index: "Future[LiveItemSearch] | None" = None
    search: LiveItemSearch | None = None
    words: dict[str, tuple[int, WordCounts]] = field(default_factory=dict)
    fields: dict[str, tuple[int, DomainFields]] = field(default_factory=dict)
    map: tuple[int, ItemMap] | None = None


class CatalogViews:
    """The views of one service."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="views")
        self._waiting = 0
        self._kept: WeakKeyDictionary[Generation, _Kept] = WeakKeyDictionary()

    def stop(self) -> None:
        """End the thread; what waits is dropped."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def find(self, running: Generation, text: str, most: int, domain: str | None) -> tuple[list[FoundItem], int]:
        """The items that a text finds, and the version of the catalog that they are of.

        Raises:
            ForbiddenError: the catalog is larger than the index may be.
            NotReadyError: the index is being made.
            QueueFullError: too many views wait.
            UnknownDomainError: the catalog does not hold the domain.
        """
        kept = self._kept_of(running)
        if kept.search is None:
            kept.search = await self._index(running, kept)

        def found() -> tuple[list[FoundItem], int]:
            assert kept.search is not None
            kept.search = kept.search.of_snapshot(running.catalog.catalog)
            return kept.search.find(text, most, domain), kept.search.catalog.version

        return await self._run(found)

    async def node(self, running: Generation, domain: str, prefix: tuple[int, ...]) -> tuple[TrieNode, int]:
        """A node of a domain's trie, and the version of the catalog that it is of.

        Raises:
            UnknownDomainError: the catalog does not hold the domain.
            CatalogError: no item's SID begins so.
            QueueFullError: too many views wait.
        """
        kept = self._kept_of(running)

        def read() -> tuple[TrieNode, int]:
            catalog = running.catalog.catalog
            version, words = kept.words.get(domain, (None, None))
            if words is None or version != catalog.version:
                words = domain_words(catalog, domain)
                kept.words[domain] = catalog.version, words
            return trie_node(catalog, domain, prefix, words), catalog.version

        return await self._run(read)

    async def fields(self, running: Generation, domain: str) -> tuple[DomainFields, int]:
        """The fields of a domain's items, and the version of the catalog that they are of.

        Raises:
            UnknownDomainError: the catalog does not hold the domain.
            QueueFullError: too many views wait.
        """
        kept = self._kept_of(running)

        def read() -> tuple[DomainFields, int]:
            catalog = running.catalog.catalog
            version, told = kept.fields.get(domain, (None, None))
            if told is None or version != catalog.version:
                told = domain_fields(catalog, domain)
                kept.fields[domain] = catalog.version, told
            return told, catalog.version

        return await self._run(read)

    async def map(self, running: Generation) -> tuple[ItemMap, Catalog]:
        """The map of the items, made once for each version of the catalog, and the catalog that it is of.

        Raises:
            QueueFullError: too many views wait.
        """
        kept = self._kept_of(running)

        def read() -> tuple[ItemMap, Catalog]:
            catalog = running.catalog.catalog
            if kept.map is None or kept.map[0] != catalog.version:
                kept.map = catalog.version, item_map(catalog, running.code_vectors)
            return kept.map[1], catalog

        return await self._run(read)

    async def near(
        self, running: Generation, sids: Sequence[Sequence[int]], most: int, without: str | None
    ) -> tuple[list[list[NearItem]], int]:
        """The items near each SID, and the version of the catalog that they are of.

        Raises:
            CatalogError: a SID has another number of codes, or a code that there is not.
            QueueFullError: too many views wait.
        """

        def read() -> tuple[list[list[NearItem]], int]:
            catalog = running.catalog.catalog
            sizes = catalog.codebook_sizes
            for row, sid in enumerate(sids):
                if len(sid) != len(sizes) or any(code >= size for code, size in zip(sid, sizes, strict=True)):
                    raise CatalogError(
                        f"row {row} is no semantic ID of this bundle: it has {len(sizes)} codes, each below "
                        f"the size of its codebook: {', '.join(map(str, sizes))}"
                    )
            sids_SL = np.array(sids, dtype=np.int32)
            return near_items(catalog, sids_SL, most, running.code_vectors, without), catalog.version

        return await self._run(read)

    async def users(self, running: Generation) -> list[dict[str, Any]]:
        """The evaluation users that came with the bundle; none where it has none.

        Raises:
            NotFoundError: the bundle is not in its folder any more.
            QueueFullError: too many views wait.
        """

        def read() -> list[dict[str, Any]]:
            bundle = self._bundle(running)
            if bundle is None or USERS_FILE not in bundle.manifest.files:
                return []
            users: list[dict[str, Any]] = json.loads(_verified(bundle, USERS_FILE))
            return users

        return await self._run(read)

    async def report(self, running: Generation) -> str | None:
        """The training report of the bundle, one HTML page; None where it has none.

        Raises:
            NotFoundError: the bundle is not in its folder any more.
            QueueFullError: too many views wait.
        """

        def read() -> str | None:
            bundle = self._bundle(running)
            names = sorted(bundle.manifest.files) if bundle is not None else []
            pages = [name for name in names if name.startswith(f"{REPORT_FOLDER}/") and name.endswith(".html")]
            return _verified(bundle, pages[0]) if bundle is not None and pages else None

        return await self._run(read)

    async def _run(self, work: Callable[[], View]) -> View:
        if self._waiting >= _MOST_WAITING:
            raise QueueFullError("too many searches wait; retry in a moment", retry_after=1)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            self._waiting -= 1

    async def _index(self, running: Generation, kept: _Kept) -> LiveItemSearch:
        if kept.index is None or (kept.index.done() and kept.index.exception() is not None):
            items, most = len(running.catalog.catalog), self._settings.max_search_items
            if items > most:
                raise ForbiddenError(
                    f"the catalog has {items} items, and the words of at most {most} are kept "
                    "(SIDERA_MAX_SEARCH_ITEMS); raise it where memory allows"
                )
            kept.index = Future()
            making = threading.Thread(
                target=_make, args=(kept.index, running.catalog.catalog), name="search-index", daemon=True
            )
            making.start()
        waiting = asyncio.wrap_future(kept.index)
        done, _ = await asyncio.wait({waiting}, timeout=_PATIENCE_SECONDS)
        if not done:
            raise NotReadyError("the index of words is being made; retry in a moment", retry_after=1)
        return waiting.result()

    def _kept_of(self, running: Generation) -> _Kept:
        return self._kept.setdefault(running, _Kept())

    def _bundle(self, running: Generation) -> Bundle | None:
        """The folder that serves; None where the service does not run on one."""
        store, folder = self._settings.bundle_store, self._settings.bundle
        path = folder if store is None else store / running.name
        if path is None or not Path(path).is_dir():
            return None
        try:
            bundle = open_bundle(path)
        except BundleError as error:
            raise NotFoundError(
                "the bundle's folder cannot be read any more; the log of the service says why"
            ) from error
        return bundle if bundle.manifest.bundle_version == running.description.bundle_version else None


def _make(index: "Future[LiveItemSearch]", catalog: Catalog) -> None:
    try:
        index.set_result(LiveItemSearch(catalog))
    except Exception as error:
        index.set_exception(error)


def _verified(bundle: Bundle, name: str) -> str:
    """The text of a file whose digest matches.

    Raises:
        NotFoundError: it does not.
    """
    try:
        return bundle.path(name).read_text(encoding="utf-8")
    except BundleError as error:
        raise NotFoundError(f"the bundle's {name} is damaged or gone; write the bundle again") from error
