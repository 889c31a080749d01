"""A real browser on a real server, whose model is a stand-in."""

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from service.app import create_app
from service.catalog.store import SqlStore
from service.model import Model
from service.serving import Serving, listen
from service.settings import Settings
from sidera.explain.item_explanation import CodeProbability, HistoryEffect, ItemExplanation, OtherCode, Parts
from tests.service.fakes import FakeModel, bundle_items, film, settings
from tests.service.playground.bundles import bundle_with_users

MARKUP = "<img src=x onerror=document.title='harmed'>"
"""The title of drama-6."""
_CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The Chromium of this machine; where there is none, the test is skipped, but fails in a continuous integration."""
    found = next(filter(None, map(shutil.which, _CHROMIUM)), None)
    if found is None and "CI" not in os.environ:
        pytest.skip("no Chromium is installed; install Debian's package chromium")
    assert found is not None, "install Debian's package chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass(frozen=True)
class Served:
    """Where a ready service listens.

    Attributes:
        origin: of the public port; ends with a slash.
        admin: of the admin port.
    """

    origin: str
    admin: str

    @property
    def playground(self) -> str:
        """The address of the page."""
        return f"{self.origin}playground/"


@contextmanager
def running(chosen: Settings, load: Callable[[Settings], Model], database: Path) -> Iterator[Served]:
    """A ready service on two free ports."""
    ready, failures = threading.Event(), list[str]()

    def create(chosen: Any, *, on_outcome: Any, settle: Any) -> Any:
        def told(failure: str | None) -> None:
            failures.extend([] if failure is None else [failure])
            ready.set()

        return create_app(
            chosen,
            load=load,
            store=lambda _: SqlStore(str(database)),
            on_outcome=told,
            settle=lambda: None,
        )

    public, admin = (listen("127.0.0.1", 0, "") for _ in range(2))
    serving = Serving(chosen, public, admin, create=create)
    thread = threading.Thread(target=serving.run)
    thread.start()
    try:
        assert ready.wait(30)
        assert not failures, failures
        yield Served(*(f"http://127.0.0.1:{listener.getsockname()[1]}/" for listener in (public, admin)))
    finally:
        serving.stop()
        thread.join(30)


def stand_in(folder: Path) -> FakeModel:
    """What serves the bundle that is written into the folder; it explains what it recommends."""
    description = bundle_with_users(folder).description
    strange = film(6)
    items = [*bundle_items(), type(strange)(strange.domain, strange.item_id, strange.sid, MARKUP, strange.fields)]
    model = FakeModel(items)
    model.description = description
    model.explanation = ItemExplanation(
        (CodeProbability(0, 0.5, 0.6, (OtherCode(3, 0.2, 0.3),)), CodeProbability(0, 0.25, 0.4)),
        0.4,
        Parts(0.1, 0.05, 0.0, 0.01),
        (HistoryEffect(0, "drama", "drama-3", 0.7),),
    )
    return model


@contextmanager
def served(folder: Path, model: FakeModel | None = None, **changes: Any) -> Iterator[str]:
    """The address of the playground of a ready service."""
    model = model or stand_in(folder / "bundle")
    chosen = settings(bundle=folder / "bundle", playground=True, admin_port=0, **changes)
    with running(chosen, lambda _: model, folder / "items.db") as found:
        yield found.playground


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(tmp_path_factory.mktemp("served")) as address:
        yield address


@pytest.fixture
def pages(browser: Browser) -> Iterator[Any]:
    """Opens pages; each must stay free of errors, those of the content-security policy included."""
    with ExitStack() as stack:
        said: list[str] = []

        def open_page(address: str, **context: Any) -> Page:
            made = browser.new_context(reduced_motion="reduce", **context)
            stack.callback(made.close)
            page = made.new_page()
            page.set_default_timeout(20_000)
            page.on("pageerror", lambda error: said.append(str(error)))
            page.on("console", lambda message: said.append(message.text) if _is_wrong(message) else None)
            page.goto(address)
            return page

        yield open_page
        assert said == []


def _is_wrong(message: Any) -> bool:
    return message.type == "error" and "Failed to load resource" not in message.text  # a refused request is shown
