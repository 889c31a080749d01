"""What the tests of all packages share: a small made-up world, and a real bundle that the real pipeline made of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import tiny
from tests.postgres import Postgres, running_postgres
from training.config import load_config
from training.pipeline import train


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of three small domains whose users they share. Read only."""
    return tiny.write_data(tmp_path_factory.mktemp("tiny") / "data")


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random encoder of 16 dimensions that knows the words of ``tiny_data``. Read only."""
    return tiny.write_encoder(tmp_path_factory.mktemp("tiny") / "encoder")


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path, tiny_encoder: Path) -> Path:
    """A bundle trained for a moment on ``tiny_data``; its stages lie in ``bundle.work`` beside it. Read only."""
    folder = tmp_path_factory.mktemp("tiny") / "run"
    folder.mkdir()
    out = folder / "bundle"
    config = tiny.write_config(folder / "config.yaml", tiny.config_of(tiny_data, out, tiny_encoder))
    train(load_config(config), lambda sentence: None)
    return out


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server, started when the first test asks for it."""
    with running_postgres() as server:
        yield server
