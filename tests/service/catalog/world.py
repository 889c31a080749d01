"""A database, and the services that are started on it one after another, or beside each other."""

import json
from collections.abc import Callable
from io import StringIO

from service.catalog.live import LiveCatalog, NewItem, Vectors
from service.catalog.state import Numbered
from service.catalog.store import SqlStore
from service.logs import make_logger
from tests.service.fakes import FakeModel


class World:
    """See the module."""

    def __init__(self, database: str) -> None:
        self.database = database
        self.logged = StringIO()
        self.stores: list[SqlStore] = []

    def start(self, model: FakeModel | None = None, store: SqlStore | None = None, max_domains: int = 9) -> LiveCatalog:
        """A service that is ready."""
        model = model or FakeModel()
        store = store or SqlStore(self.database)
        self.stores.append(store)

        def prepare_swap(snapshot: Numbered, vectors: Vectors, anew: bool) -> Callable[[], None]:
            return model.stage(snapshot.catalog, vectors, anew=anew)

        live = LiveCatalog(model, store, prepare_swap, max_domains=max_domains, log=make_logger("info", self.logged))
        live.restore()
        return live

    def events(self, level: str) -> list[dict[str, object]]:
        """What was logged at a level."""
        lines = [json.loads(line) for line in self.logged.getvalue().splitlines()]
        return [line for line in lines if line["level"] == level]


def new(item_id: str, title: str | None = None) -> NewItem:
    """An item with a title of its own."""
    return NewItem(item_id, {"title": title or f"Title of {item_id}"})


def sid_of(live: LiveCatalog, domain: str, item_id: str) -> tuple[int, ...]:
    """The SID of an item of the catalog."""
    number = live.catalog.find(domain, item_id)
    assert number is not None
    return live.catalog.item(number).sid
