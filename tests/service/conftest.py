"""A service on a stand-in for a bundle."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.service.fakes import FakeModel, serving

Serve = Callable[..., TestClient]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start services on one database; the arguments are those of ``serving``."""
    with ExitStack() as stack:
        yield lambda model=None, **changes: stack.enter_context(serving(tmp_path / "items.db", model, **changes))


@pytest.fixture
def model() -> FakeModel:
    return FakeModel()


@pytest.fixture
def client(serve: Serve, model: FakeModel) -> TestClient:
    return serve(model)
