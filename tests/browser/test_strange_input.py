"""Whatever is typed, pasted or uploaded: the page stays whole, and says in words what is wrong."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import FilePayload, Page, expect

from tests.browser.conftest import served

Open = Callable[..., Page]
PHONE = {"width": 360, "height": 740}
STRANGE = {
    "long": "W" * 5_000,
    "right to left": "كتاب البحر \u202e txet",
    "emoji": "📚👩‍👩‍👧‍👦" * 60,
    "marks": "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚" * 40,
    "markup": "<img src=x onerror=document.title='harmed'><script>document.title='harmed'</script>",
    "control signs": "a\u0000b\u0007c\u2028d",
    "a path": "../../admin/bundles?x=1#y",
}


def is_whole(page: Page) -> None:
    """Nothing is wider than the window, and nothing was run."""
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert "harmed" not in page.title()
    assert page.locator("main img, main script").count() == 0


@pytest.mark.parametrize("kind", STRANGE)
def test_a_strange_text_is_searched_for_and_tokenized_like_any_other(pages: Open, address: str, kind: str) -> None:
    page = pages(address, viewport=PHONE)
    with page.expect_response("**/search") as answer:
        page.get_by_role("combobox", name="Add to the history").fill(STRANGE[kind])
    assert answer.value.status == 200
    expect(page.get_by_role("listbox")).to_be_visible()
    is_whole(page)
    page.get_by_role("link", name="New domain", exact=True).click()
    page.get_by_label("Items", exact=True).fill(f"{STRANGE[kind]} | {STRANGE[kind][:50]}, Sea")
    page.get_by_role("button", name="Only show their IDs").click()
    expect(page.get_by_role("heading", name="Would get")).to_be_visible()
    expect(page.locator("td.sid")).to_have_count(1)
    is_whole(page)


@pytest.mark.parametrize("kind", ["right to left", "emoji", "markup", "a path"])
def test_a_domain_of_any_name_is_registered_or_refused_in_words(pages: Open, address: str, kind: str) -> None:
    page = pages(f"{address}#new", viewport=PHONE)
    page.get_by_label("Name of the domain").fill(STRANGE[kind][:40])
    page.get_by_label("Items", exact=True).fill("An Atlas\nA Globe")
    with page.expect_response("**/tokenize") as answer:
        page.get_by_role("button", name="Register").click()
    if answer.value.ok:
        expect(page.get_by_role("heading", name="Next in")).to_be_visible()
        is_whole(page)
        page.get_by_role("button", name="Delete what was registered").click()
        expect(page.get_by_text("The items are out of the catalog")).to_be_visible()
    else:
        expect(page.get_by_role("alert")).to_contain_text(answer.value.json()["error"]["message"])
    is_whole(page)


def test_more_lines_than_a_request_takes_are_counted_and_not_sent(pages: Open, address: str) -> None:
    page = pages(f"{address}#new")
    lines = ["item_id,title,categories", *(f'{row},"Book, no. {row}",Sea;Maps' for row in range(10_000))]
    file = FilePayload(name="books.csv", mimeType="text/csv", buffer="\n".join(lines).encode())
    page.get_by_label("Or a file of them").set_input_files(file)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.get_by_role("button", name="Only show their IDs").click()
    expect(page.get_by_text("Too many at once")).to_be_visible()
    expect(page.get_by_text("These are 10,000 items, and one request takes 256")).to_be_visible()
    assert not [url for url in asked if url.endswith("tokenize")]


def test_as_many_lines_as_a_request_takes_are_placed_with_an_answer_each(pages: Open, address: str) -> None:
    page = pages(f"{address}#new", viewport=PHONE)
    lines = [json.dumps({"item_id": f"b{row}", "title": f"Book no. {row}"}) for row in range(256)]
    page.get_by_label("Items", exact=True).fill("\n".join(lines))
    page.get_by_role("button", name="Only show their IDs").click()
    expect(page.get_by_role("heading", name="Would get")).to_be_visible()
    expect(page.locator("td.sid, td:has(.badge.bad)")).to_have_count(256)
    is_whole(page)


def test_a_file_that_no_request_may_carry_is_refused_before_it_is_read(pages: Open, tmp_path: Path) -> None:
    with served(tmp_path, max_body_bytes=2_000) as address:
        page = pages(f"{address}#new")
        file = FilePayload(name="books.txt", mimeType="", buffer=b"A Book\n" * 1_000)
        page.get_by_label("Or a file of them").set_input_files(file)
        expect(page.get_by_text("The file is too large")).to_be_visible()
        expect(page.get_by_label("Items", exact=True)).not_to_have_value("A Book")


@pytest.mark.parametrize(("text", "kept"), [("-5", "1"), ("1e9", "100"), ("", "10"), ("2.4", "2")])
def test_any_number_of_results_becomes_one_that_may_be_asked_for(
    pages: Open, address: str, text: str, kept: str
) -> None:
    page = pages(address)
    number = page.get_by_label("How many")
    number.fill(text)
    number.press("Enter")
    number.blur()
    expect(number).to_have_value(kept)
    expect(page.locator("ol.results")).to_be_visible()


def test_a_key_that_no_request_can_carry_is_told(pages: Open, tmp_path: Path) -> None:
    with served(tmp_path, api_keys=("a-key-of-some-length",)) as address:
        page = pages(address)
        page.get_by_label("API key").fill("clé 🔑")
        page.get_by_role("button", name="Use this key").click()
        expect(page.get_by_text("A key has letters, digits and signs of ASCII alone.")).to_be_visible()
        expect(page.get_by_label("API key")).to_be_focused()
