"""A real browser on a real server, whose model is a stand-in."""

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from service.app import create_app
from service.catalog.store import SqlStore
from service.serving import Serving, listen
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


@contextmanager
def served(folder: Path, **changes: Any) -> Iterator[str]:
    """The address of the playground of a ready service."""
    model = bundle_with_users(folder / "bundle")
    description = model.description
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
    ready, failures = threading.Event(), list[str]()

    def create(chosen: Any, *, on_outcome: Any, settle: Any) -> Any:
        def told(failure: str | None) -> None:
            failures.extend([] if failure is None else [failure])
            ready.set()

        return create_app(
            chosen,
            load=lambda _: model,
            store=lambda _: SqlStore(str(folder / "items.db")),
            on_outcome=told,
            settle=lambda: None,
        )

    listener = listen("127.0.0.1", 0, "")
    chosen = settings(bundle=folder / "bundle", playground=True, **changes)
    serving = Serving(chosen, listener, create=create)
    thread = threading.Thread(target=serving.run)
    thread.start()
    try:
        assert ready.wait(30)
        assert not failures, failures
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/playground/"
    finally:
        serving.stop()
        thread.join(30)


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
