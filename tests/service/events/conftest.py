"""Every test that asks for a database runs on SQLite and on a real PostgreSQL server."""

from collections.abc import Callable, Iterator

import pytest

from service.catalog.database import Database
from service.events.store import EventStore
from tests.service.catalog.conftest import database

__all__ = ["database", "opened", "store"]

Open = Callable[..., EventStore]


@pytest.fixture
def opened(database: str) -> Iterator[Open]:
    """Opens stores of one database; the argument is how many events of a user count."""
    databases: list[Database] = []

    def open_store(most: int = 100) -> EventStore:
        databases.append(Database(database))
        return EventStore(databases[-1], most)

    yield open_store
    for one in databases:
        one.close()


@pytest.fixture
def store(opened: Open) -> EventStore:
    return opened()
