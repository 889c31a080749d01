"""A service on a stand-in for a bundle, and engines alone."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.engine import Engine, EngineLimits
from service.job_queue import Cost, one_each
from tests.service.engines import Build, Doubler, Recorder
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


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def doubler() -> Iterator[Doubler]:
    doubler = Doubler()
    yield doubler
    doubler.go.set()


@pytest.fixture
def build(recorder: Recorder, doubler: Doubler) -> Iterator[Build]:
    engines: list[Engine[int, int]] = []

    def make(
        queue_rows: int = 100,
        batch_work: int = 4,
        queue_work: int = 1000,
        cost: Callable[[int], Cost] = one_each,
        **limits: Any,
    ) -> Engine[int, int]:
        bounds = EngineLimits(queue_rows, queue_work, batch_work, **limits)
        engines.append(Engine("test", doubler, limits=bounds, observer=recorder, cost=cost))
        engines[-1].start()
        return engines[-1]

    yield make
    doubler.go.set()
    for engine in engines:
        engine.stop()
