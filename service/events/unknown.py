"""Which users had events of items that the catalog does not hold, so that these are counted once it does.

Bounded by pairs of item and user: where there are more, the items that were missed first are let go, and their events
count when all are counted anew. Knows neither the database nor the recommender.
"""

from collections import OrderedDict
from collections.abc import Iterable

from sidera.catalog import Catalog

Key = tuple[str, str]
"""Domain and item id."""

_MOST_PAIRS = 200_000


class UnknownItems:
    """See the module. Not thread-safe."""

    def __init__(self, most: int = _MOST_PAIRS) -> None:
        """``most`` pairs of item and user are kept."""
        self._most = most
        self._users: OrderedDict[Key, set[str]] = OrderedDict()
        self._pairs = 0

    def add(self, key: Key, user_id: str) -> None:
        """A user had an event of an item that is not there."""
        users = self._users.setdefault(key, set())
        self._pairs += user_id not in users
        users.add(user_id)
        while self._pairs > self._most:
            _, gone = self._users.popitem(last=False)
            self._pairs -= len(gone)

    def found_in(self, catalog: Catalog) -> list[Key]:
        """Those that a catalog holds."""
        return [key for key in self._users if catalog.find(*key) is not None]

    def users_of(self, keys: Iterable[Key]) -> set[str]:
        """Who had events of these."""
        return set().union(*(self._users[key] for key in keys))

    def drop(self, keys: Iterable[Key]) -> None:
        """These are known now."""
        for key in keys:
            self._pairs -= len(self._users.pop(key, ()))

    def forget(self, user_id: str) -> None:
        """A user was deleted."""
        for users in self._users.values():
            self._pairs -= user_id in users
            users.discard(user_id)
