"""Every test that asks for a database runs on SQLite and on a real PostgreSQL server."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.postgres import Postgres
from tests.service.catalog.world import World


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A path or URL of a database that nobody used before."""
    if request.param == "sqlite":
        yield str(tmp_path / "items.db")
        return
    server: Postgres = request.getfixturevalue("postgres")
    url = server.new_database()
    yield url
    server.drop(url)


@pytest.fixture
def world(database: str) -> Iterator[World]:
    world = World(database)
    yield world
    for store in world.stores:
        store.close()
