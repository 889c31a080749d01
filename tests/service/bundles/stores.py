"""Services on a bundle store whose versions are hollow: real folders with real manifests, served by stand-ins."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from service.app import create_admin_app, create_app
from service.catalog.store import SqlStore
from service.model import Model
from service.runtime import Runtime
from service.settings import Settings
from sidera.bundle import open_bundle
from sidera.bundle_writing import write_bundle
from sidera.manifest import BundleDetails, DomainEntry
from tests.service.fakes import FakeModel, settings


def write_version(store: Path, name: str, day: int, text: str = "{}") -> str:
    """Write a hollow bundle that was made on a day of January; its bundle version."""

    def fill(folder: Path) -> None:
        (folder / "report").mkdir()
        (folder / "report" / "metrics.json").write_text(text)

    details = BundleDetails(
        created=f"2026-01-{day:02}T00:00:00+00:00",
        config={},
        lineage={},
        metrics={},
        codebook_sizes=(4, 4),
        domains={"drama": DomainEntry(token=0)},
        parts={},
    )
    return write_bundle(store / name, fill=fill, details=details).bundle_version


@dataclass
class Loader:
    """Makes the stand-in of a version.

    Attributes:
        make: by name, what to serve; a plain stand-in where there is none.
        errors: by name, why a version cannot be loaded.
        loaded: the names, in the order of their loads.
        models: the latest stand-in of each name.
        held: names whose load waits until ``go`` is set.
    """

    make: Mapping[str, Callable[[], FakeModel]] = field(default_factory=dict)
    errors: dict[str, Exception] = field(default_factory=dict)
    loaded: list[str] = field(default_factory=list)
    models: dict[str, FakeModel] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    holding: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)

    def __call__(self, chosen: Settings) -> Model:
        assert chosen.bundle is not None
        name = chosen.bundle.name
        self.loaded.append(name)
        if name in self.held:
            self.holding.set()
            assert self.go.wait(20)
        if name in self.errors:
            raise self.errors[name]
        model = self.make.get(name, FakeModel)()
        version = open_bundle(chosen.bundle).manifest.bundle_version
        model.description = replace(model.description, bundle_version=version)
        self.models[name] = model
        return model


@dataclass
class Service:
    """A service, its public and its admin port."""

    public: TestClient
    admin: TestClient
    runtime: Runtime

    def overview(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.admin.get("/admin/bundles").json()
        return answer

    def states(self) -> dict[str, str]:
        return {version["name"]: version["state"] for version in self.overview()["versions"]}

    def serving(self) -> str:
        return str(self.overview()["serving"]["name"])

    def activate(self, version: str) -> None:
        """Swap a version in, or see it fail; returns once the swap is over."""
        response = self.admin.post("/admin/bundles/activate", json={"version": version})
        assert response.status_code == 202, response.text
        self.settled()

    def settled(self) -> None:
        until(lambda: self.overview()["swap"] is None)


def until(holds: Callable[[], object]) -> None:
    """Wait for something that another thread does."""
    begun = time.monotonic()
    while not holds():
        assert time.monotonic() - begun < 120
        time.sleep(0.005)


@contextmanager
def store_service(store: Path, load: Callable[[Settings], Model], **changes: Any) -> Iterator[Service]:
    """A service that is ready; its database lies beside the store."""
    outcomes: list[str | None] = []
    ready = threading.Event()

    def on_outcome(failure: str | None) -> None:
        outcomes.append(failure)
        ready.set()

    values = {"bundle": None, "bundle_store": store, "admin_port": 0} | changes
    app = create_app(
        settings(**values),
        load=load,
        store=lambda _: SqlStore(str(store.parent / "items.db")),
        on_outcome=on_outcome,
    )
    with (
        TestClient(app, raise_server_exceptions=False) as public,
        TestClient(create_admin_app(app), raise_server_exceptions=False) as admin,
    ):
        assert ready.wait(20)
        assert outcomes == [None], outcomes
        yield Service(public, admin, app.state.context.runtime)
