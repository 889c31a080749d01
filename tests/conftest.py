"""What the tests of all packages share: a small made-up world, and a real bundle that the real pipeline made of it."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tests import tiny
from tests.parallel import GroupScheduling, groups_first
from tests.postgres import Postgres, running_postgres
from training.config import load_config
from training.pipeline import train


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The same order in one process as in several."""
    groups_first(items)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> GroupScheduling:
    """Whatever ``--dist`` says."""
    return GroupScheduling(config, log)


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder of this run, filled by the first of its processes that asks for it; the others wait until it is there.

    Args:
        make: fills the folder that it is given, which is there and empty.
    """
    base = factory.getbasetemp()
    run = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, finished = run / "shared" / name, run / "shared" / f"{name}.finished"
    folder.parent.mkdir(exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not finished.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            finished.touch()
    return folder


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of three small domains whose users they share. Read only."""
    return made_once(tmp_path_factory, "data", tiny.write_data)


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random encoder of 16 dimensions that knows the words of ``tiny_data``. Read only."""
    return made_once(tmp_path_factory, "encoder", tiny.write_encoder)


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path, tiny_encoder: Path) -> Path:
    """A bundle trained for a moment on ``tiny_data``; its stages lie in ``bundle.work`` beside it. Read only."""

    def make(folder: Path) -> None:
        document = tiny.config_of(tiny_data, folder / "bundle", tiny_encoder)
        train(load_config(tiny.write_config(folder / "config.yaml", document)), lambda sentence: None)

    return made_once(tmp_path_factory, "run", make) / "bundle"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server, started when the first test asks for it."""
    with running_postgres() as server:
        yield server
