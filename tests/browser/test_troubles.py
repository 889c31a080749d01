"""What the page does while the service is busy, away, locked or swapped, all of it real."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import Served, running, served, stand_in
from tests.service.bundles.stores import Loader, until, write_version
from tests.service.fakes import FakeModel, Gate, film, settings

Open = Callable[..., Page]
KEY = "a-key-of-some-length"
ANOTHER = "Another bundle serves now"
ASKS_ANOTHER_HOST = """() => new Promise((told) => {
    document.addEventListener("securitypolicyviolation", (event) => told(event.originalPolicy.split("; ").at(-1)));
    document.body.append(Object.assign(new Image(), { src: "http://127.0.0.1:9/x.png" }));
})"""
"""What forbids it: the last rule of the policy that the file names."""


def test_a_full_queue_is_told_and_asked_again(pages: Open, tmp_path: Path) -> None:
    model = stand_in(tmp_path / "bundle")
    with served(tmp_path, model, max_queue=1, max_rows=1) as address, ThreadPoolExecutor() as others:
        gate = Gate(model)
        recommend, metrics = (address.replace("playground/", path) for path in ("recommend", "metrics"))
        asked = [others.submit(httpx.post, recommend, json={"domain": "drama"}, timeout=30)]
        assert gate.entered.wait(20)
        asked.append(others.submit(httpx.post, recommend, json={"domain": "drama"}, timeout=30))
        until(lambda: 'sidera_queue_length{engine="recommend"} 1.0' in httpx.get(metrics).text)
        page = pages("about:blank")
        with page.expect_response("**/recommend") as refused:
            page.goto(address)
        assert refused.value.status == 429
        expect(page.get_by_role("alert")).to_contain_text("The service is busy")
        expect(page.get_by_role("alert")).to_contain_text("Next try in")
        gate.open()
        expect(page.locator("ol.results")).to_be_visible()
        assert [answer.result().status_code for answer in asked] == [200, 200]


def test_a_service_that_does_not_answer_is_shown_and_can_be_asked_again(pages: Open, address: str) -> None:
    page = pages(address)
    expect(page.locator("ol.results")).to_be_visible()
    page.route("**/recommend", lambda route: route.abort())
    page.get_by_label("Recommend from").select_option("drama")
    expect(page.get_by_role("alert")).to_contain_text("No answer")
    expect(page.locator("#state")).to_contain_text("no answer")
    page.unroute("**/recommend")
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("heading", name="Next in drama")).to_be_visible()
    expect(page.locator("#state")).to_contain_text("ready")


# Swaps


@pytest.fixture
def swapping(tmp_path: Path) -> Iterator[Served]:
    """A service on two bundles, the second of which lacks Film 0 and comedies, and knows Film 7."""
    for name, day in (("first", 2), ("second", 1)):
        write_version(tmp_path / "store", name, day)
    loader = Loader(make={"second": lambda: FakeModel([film(number) for number in (1, 2, 7)])})
    chosen = settings(bundle=None, bundle_store=tmp_path / "store", playground=True, admin_port=0)
    with running(chosen, loader, tmp_path / "items.db") as found:
        yield found


def swap(service: Served) -> str:
    """Make the second bundle serve; its version."""
    bundles = f"{service.admin}admin/bundles"
    assert httpx.post(f"{bundles}/activate", json={"version": "second"}).status_code == 202
    until(lambda: httpx.get(bundles).json()["swap"] is None)
    serving = httpx.get(bundles).json()["serving"]
    assert serving["name"] == "second"
    return str(serving["bundle_version"])


def show_them(page: Page, version: str) -> None:
    expect(page.get_by_text(ANOTHER)).to_be_visible()
    expect(page.locator("#served")).to_contain_text(version[:12])
    page.get_by_role("button", name="Show them").click()
    expect(page.get_by_text(ANOTHER)).to_have_count(0)


def test_another_bundle_is_told_and_what_is_gone_of_the_history_is_named(pages: Open, swapping: Served) -> None:
    page = pages(swapping.playground)
    page.get_by_label("Recommend from").select_option("drama")
    page.get_by_role("combobox", name="Add to the history").fill("drama-0")
    page.get_by_role("option", name="Film 0").click()
    expect(page.locator("ol.results .title", has_text="Film 1")).to_be_visible()
    version = swap(swapping)
    page.get_by_label("How many").fill("5")
    page.get_by_label("How many").press("Enter")
    show_them(page, version)
    expect(page.locator("ol.results .title")).to_have_text(["Film 1", "Film 2", "Film 7"])
    expect(page.get_by_text("Not in the catalog, so not read: Film 0.")).to_be_visible()
    expect(page.get_by_label("Recommend from")).not_to_contain_text("comedy")
    page.get_by_role("button", name="Remove Film 0").click()
    expect(page.get_by_text("not read")).to_have_count(0)
    page.get_by_role("combobox", name="Add to the history").fill("film")
    expect(page.get_by_role("listbox").get_by_role("option")).to_have_count(3)


def test_a_domain_that_is_gone_leads_to_those_that_there_are(pages: Open, swapping: Served) -> None:
    page = pages(swapping.playground)
    page.get_by_label("Recommend from").select_option("comedy")
    expect(page.get_by_role("heading", name="Next in comedy")).to_be_visible()
    version = swap(swapping)
    page.get_by_label("Leave out what is in the history").uncheck()
    expect(page.get_by_role("alert")).to_contain_text("comedy")
    show_them(page, version)
    expect(page.get_by_role("heading", name="Next in drama")).to_be_visible()


def test_a_page_where_nothing_is_done_learns_of_a_swap(pages: Open, swapping: Served) -> None:
    page = pages("about:blank")
    page.clock.install()
    page.goto(f"{swapping.playground}#codes")
    first = page.get_by_role("region", name="First code")
    expect(first).to_contain_text("Film 0")
    version = swap(swapping)
    page.clock.fast_forward(11_000)
    show_them(page, version)
    expect(first).not_to_contain_text("Film 0")
    expect(first).to_contain_text("Film 7")


# Keys


def test_a_locked_service_asks_for_a_key_and_keeps_it_in_memory(pages: Open, locked: str) -> None:
    page = pages(locked)
    give_key(page)
    page.get_by_text("The call behind this").click()
    assert "$SIDERA_KEY" in page.get_by_label("The call in curl").inner_text()
    assert page.evaluate("localStorage.length + sessionStorage.length + document.cookie.length") == 0
    page.reload()
    expect(page.get_by_label("API key")).to_be_visible()


def test_a_wrong_key_is_asked_for_again(pages: Open, locked: str) -> None:
    page = pages(locked)
    give_key(page, "another-key-of-some-length", fits=False)
    expect(page.get_by_label("API key")).to_be_visible()
    give_key(page)


def test_the_report_is_a_click_away(pages: Open, address: str) -> None:
    page = pages(address)
    page.get_by_role("link", name="Training report").click()
    expect(page.get_by_text("A report")).to_be_visible()


def test_where_keys_are_needed_the_report_is_saved_and_opens_without_the_service(
    pages: Open, browser: Browser, locked: str, tmp_path: Path
) -> None:
    page = pages(locked)
    give_key(page)
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save the training report").click()
    expect(page.get_by_text("it opens without the service")).to_be_visible()
    file = tmp_path / saved.value.suggested_filename
    assert file.suffix == ".html"
    saved.value.save_as(file)
    alone = browser.new_context(offline=True).new_page()
    alone.goto(file.as_uri())
    expect(alone.get_by_text("A report")).to_be_visible()
    assert alone.evaluate(ASKS_ANOTHER_HOST) == "img-src data:"
    alone.context.close()


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[str]:
    """The address of a page whose service lets nobody in without a key."""
    with served(tmp_path, api_keys=(KEY,)) as address:
        yield address


def give_key(page: Page, key: str = KEY, *, fits: bool = True) -> None:
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Use this key").click()
    if fits:
        expect(page.locator("ol.results")).to_be_visible()


def test_figures_that_the_admin_port_keeps_are_said_to_be_there(pages: Open, tmp_path: Path) -> None:
    with served(tmp_path, probes_on="admin") as address:
        page = pages(f"{address}#watch")
        expect(page.get_by_text("No figures here")).to_be_visible()
        expect(page.get_by_text("SIDERA_PROBES_ON")).to_be_visible()
