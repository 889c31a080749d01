"""Remembers the numbers of items: the same few thousand are asked for again and again."""

import weakref
from collections.abc import Sequence

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
        return self.of_all(catalog, [(domain, item_id)])[0]

    def of_all(self, catalog: Catalog, keys: Sequence[tuple[str, str]]) -> list[int | None]:
        """The numbers of items by domain and id, None of those that the catalog does not hold."""
        if self._catalog is None or self._catalog() is not catalog or len(self._numbers) >= self._most:
            self._catalog, self._numbers = weakref.ref(catalog), {}
        known = self._numbers
        for key in set(keys).difference(known):
            known[key] = catalog.find(*key)
        return [known[key] for key in keys]
