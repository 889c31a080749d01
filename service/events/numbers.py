"""Remembers the numbers of items: the same few thousand are asked for again and again."""

import weakref

from sidera.catalog import Catalog

_MOST = 50_000


class ItemNumbers:
    """Looks an item up once a snapshot, and keeps none of them alive. Not thread-safe."""

    def __init__(self, most: int = _MOST) -> None:
        """``most`` items are remembered; where there are more, all are looked up again."""
        self._most = most
        self._catalog: weakref.ref[Catalog] | None = None
        self._numbers: dict[tuple[str, str], int | None] = {}

    def of(self, catalog: Catalog, domain: str, item_id: str) -> int | None:
        """The number of an item, None if the catalog does not hold it."""
        if self._catalog is None or self._catalog() is not catalog or len(self._numbers) >= self._most:
            self._catalog, self._numbers = weakref.ref(catalog), {}
        key = domain, item_id
        if key not in self._numbers:
            self._numbers[key] = catalog.find(domain, item_id)
        return self._numbers[key]
