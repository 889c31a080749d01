"""What a person does on the playground, in a real browser."""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect

import service.playground
from benchmarks.playground import load_once
from tests.browser.conftest import MARKUP

Open = Callable[..., Page]
STATIC = Path(service.playground.__file__).parent / "static"
READY = {
    "Try it": "ol.results",
    "Why": "svg[role=img]",
    "Codes": ".entries button",
    "New domain": "form",
    "Watch": "table",
}
"""What each view shows once it is there."""
VIEWS = tuple(READY)
TALLEST_BUTTON = "Math.max(...[...document.querySelectorAll('.acts button')].map((one) => one.offsetHeight))"


def go_to(page: Page, view: str) -> None:
    page.get_by_role("link", name=view, exact=True).click()
    expect(page.get_by_role("link", name=view, exact=True)).to_have_attribute("aria-current", "page")


def found_items(page: Page) -> Locator:
    return page.get_by_role("listbox", name="Found items").get_by_role("option")


def results(page: Page) -> list[str]:
    expect(page.locator("ol.results")).to_be_visible()
    return page.locator("ol.results .title").all_inner_texts()


def test_a_history_is_put_together_and_taken_apart_by_keyboard_alone(pages: Open, address: str) -> None:
    page = pages(address)
    page.get_by_label("Recommend from").focus()
    page.keyboard.press("d")
    expect(page.get_by_role("heading", name="Next in drama")).to_be_visible()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    expect(page.get_by_role("combobox", name="Add to the history")).to_be_focused()
    page.keyboard.type("film 1")
    expect(found_items(page).first).to_contain_text("Film 1")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    expect(found_items(page).nth(1)).to_have_attribute("aria-selected", "true")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    expect(page.locator("ol.history li")).to_have_count(1)
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Remove Film 1")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_text("No history yet")).to_be_visible()


def test_an_item_is_moved_by_keyboard_alone_as_far_as_it_goes(pages: Open, address: str) -> None:
    page = pages(address)
    for number in range(3):
        page.get_by_role("combobox", name="Add to the history").fill(f"drama-{number}")
        found_items(page).first.click()
        expect(page.locator("ol.history li")).to_have_count(number + 1)
    page.get_by_role("button", name="Move Film 0 down").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Move Film 0 down")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Move Film 0 up")).to_be_focused()
    with page.expect_request("**/recommend") as sent:
        page.keyboard.press("Enter")
    body = sent.value.post_data_json
    assert body is not None
    assert [item["item_id"] for item in body["history"]] == ["drama-1", "drama-0", "drama-2"]


def test_what_is_in_the_history_changes_what_comes_next(pages: Open, address: str) -> None:
    page = pages(address)
    page.get_by_label("Recommend from").select_option("drama")
    expect(page.get_by_role("heading", name="Next in drama")).to_be_visible()
    assert "Film 0" in results(page)
    page.get_by_role("combobox", name="Add to the history").fill("drama-0")
    found_items(page).first.click()
    expect(page.locator("ol.results .title", has_text="Film 0")).to_have_count(0)
    page.get_by_label("Leave out what is in the history").uncheck()
    expect(page.locator("ol.results .title", has_text="Film 0")).to_have_count(1)
    page.get_by_role("button", name="Clear").click()
    expect(page.get_by_text("No history yet")).to_be_visible()


def sent_by(page: Page, act: Callable[[], None]) -> dict[str, Any]:
    """The body of the request for recommendations that an act leads to."""
    with page.expect_request("**/recommend") as sent:
        act()
    body = sent.value.post_data_json
    assert isinstance(body, dict)
    return body


def test_filters_and_exclusions_are_controls(pages: Open, address: str) -> None:
    page = pages(address)
    page.get_by_label("Recommend from").select_option("drama")
    expect(page.get_by_role("heading", name="Next in drama")).to_be_visible()
    expect(page.locator("main")).to_contain_text("catalog version")
    page.get_by_text("Filters and exclusions").click()
    expect(page.get_by_label("Field", exact=True)).to_contain_text("categories (7 of 7)")
    body = sent_by(page, page.get_by_role("button", name="Add filter").click)
    assert body["filters"] == {"categories": ["Film"]}
    expect(page.get_by_role("list", name="Filters in use")).to_contain_text("categories: Film")
    body = sent_by(page, page.get_by_role("button", name="Leave out Film 0").click)
    assert body["exclude"] == ["drama-0"]
    expect(page.locator("ol.results .title", has_text="Film 0")).to_have_count(0)
    expect(page.get_by_text("Filters and exclusions (2)")).to_be_visible()
    body = sent_by(page, page.get_by_role("button", name="Let Film 0 come back").click)
    assert "exclude" not in body
    body = sent_by(page, page.get_by_role("button", name="Remove the filter categories").click)
    assert "filters" not in body
    expect(page.locator("ol.results .title", has_text="Film 0")).to_have_count(1)


def test_a_range_of_numbers_is_a_filter(pages: Open, address: str) -> None:
    page = pages("about:blank")
    year = {"name": "year", "items": 6, "values": [{"value": 1990, "items": 6}], "min": 1990, "max": 2001}
    told = {"domain": "drama", "sampled_items": 7, "fields": [year], "catalog_version": 1}
    page.route("**/fields", lambda route: route.fulfill(json=told))
    page.route("**/recommend", lambda route: route.fulfill(status=422, json={"error": {"code": "x", "message": "No"}}))
    page.goto(address)
    page.get_by_text("Filters and exclusions").click()
    page.get_by_label("at least").fill("1995")
    body = sent_by(page, page.get_by_role("button", name="Add filter").click)
    assert body["filters"] == {"year": {"min": 1995}}
    expect(page.get_by_role("list", name="Filters in use")).to_contain_text("year: at least 1995")


def test_the_root_leads_to_the_page_and_no_request_leaves_the_origin(pages: Open, address: str) -> None:
    page = pages("about:blank")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    origin = address.removesuffix("playground/")
    page.goto(origin)
    expect(page.locator("ol.results")).to_be_visible()
    assert page.url == address
    for view in VIEWS:
        go_to(page, view)
        page.locator(READY[view]).first.wait_for()
    assert len(asked) > 10
    assert all(url.startswith(origin) for url in asked)


def test_a_measured_load_counts_every_file_and_ends_with_recommendations(browser: Browser, address: str) -> None:
    load = load_once(browser, address.removesuffix("/playground/"))
    assert load.elsewhere == 0
    assert (
        load.requests >= len(list(STATIC.iterdir())) + 3
    )  # and what serves, recommendations, whether there is a report
    assert load.bytes_moved > sum(path.stat().st_size for path in STATIC.iterdir())
    assert 0 < load.usable_ms <= load.recommended_ms


def test_a_random_user_shows_where_the_held_back_item_came(pages: Open, address: str) -> None:
    page = pages(address)
    page.get_by_role("button", name="Random user").click()
    expect(page.locator(".reveal")).to_contain_text("This user took Film 1 next")
    expect(page.locator(".reveal")).to_contain_text("It is at place 2")
    expect(page.locator("li.target .title")).to_have_text("Film 1")


def test_a_title_with_markup_is_shown_as_text(pages: Open, address: str) -> None:
    page = pages(address)
    page.get_by_label("Recommend from").select_option("drama")
    expect(page.locator("ol.results .title", has_text="onerror")).to_have_text(MARKUP)
    go_to(page, "Codes")
    expect(page.get_by_text("onerror").first).to_be_visible()
    assert page.locator("main img").count() == 0
    assert "harmed" not in page.title()


def test_why_shows_codes_parts_history_and_the_search(pages: Open, address: str) -> None:
    page = pages(address)
    page.get_by_role("button", name="Random user").click()
    expect(page.locator(".reveal")).to_be_visible()
    page.get_by_role("button", name="Why Film 1").click()
    expect(page.get_by_role("heading", name="Film 1")).to_be_visible()
    main = page.locator("main")
    for told in (
        "60 %",
        "share of 40 %",
        "27 %",
        "35 %",
        "items that followed those of the history",
        "+0.70",
        "Film 3",
    ):
        expect(main).to_contain_text(told)
    expect(page.get_by_role("img", name=re.compile("the way to Film 1 is 0, 1"))).to_be_visible()
    expect(main.locator("svg text", has_text="3  24 %, pruned")).to_have_count(1)
    page.get_by_role("button", name="1. Film 0").click()
    expect(page.get_by_role("heading", name="Film 0")).to_be_visible()


def test_codes_are_opened_level_by_level_and_at_an_item(pages: Open, address: str) -> None:
    page = pages(f"{address}#codes")
    page.get_by_label("Domain").select_option("drama")
    expect(page.get_by_role("region", name="First code")).to_contain_text("7 items")
    page.get_by_role("region", name="First code").get_by_role("button").first.click()
    expect(page.get_by_role("region", name="Below 0")).to_contain_text("4 items")
    page.get_by_role("combobox", name="Go to an item").fill("film 5")
    found_items(page).first.click()
    expect(page.get_by_role("region", name="Below 1")).to_be_visible()
    expect(page.get_by_role("region", name="Below 1").locator('[aria-pressed="true"]')).to_contain_text("Film 5")


def test_the_tree_of_codes_is_zoomed_into_and_out_of(pages: Open, address: str) -> None:
    page = pages(f"{address}#codes")
    page.get_by_label("Domain").select_option("drama")
    strips = page.locator(".strip")
    expect(strips).to_have_count(1)
    strips.first.locator(".cell").first.click()
    expect(page.get_by_role("region", name="Below 0")).to_contain_text("4 items")
    expect(strips).to_have_count(2)
    expect(strips.nth(1).locator(".cell")).to_have_count(4)
    page.get_by_role("button", name="All items").click()
    expect(strips).to_have_count(1)
    expect(page.get_by_role("region", name="Below 0")).to_have_count(0)


def test_the_codes_of_two_items_are_compared_side_by_side(pages: Open, address: str) -> None:
    page = pages(f"{address}#codes")
    for label, text in (("First item", "film 1"), ("Second item", "film 5")):
        page.get_by_role("combobox", name=label).fill(text)
        found_items(page).filter(has_text="drama").first.click()
    compared = page.get_by_role("region", name="Compare two items")
    expect(compared).to_contain_text("They differ from the first code on")
    expect(compared.get_by_role("row", name=re.compile("^2 1.* 1.* yes, but behind others"))).to_be_visible()
    page.get_by_role("combobox", name="Second item").fill("film 2")
    found_items(page).filter(has_text="drama").first.click()
    expect(compared).to_contain_text("They begin with the same code of 2: 0")


def test_the_map_tells_an_item_by_keyboard_and_by_pointer(pages: Open, address: str) -> None:
    page = pages(f"{address}#codes")
    region = page.get_by_role("region", name="Map of items")
    region.get_by_label("List the items of").select_option(label="drama (7)")
    region.get_by_role("button", name="Film 5").focus()
    page.keyboard.press("Enter")
    expect(region.get_by_role("status")).to_contain_text("Film 5, drama, 1 · 1")
    drawn = page.request.get(address.replace("playground/", "map")).json()["items"]
    item = next(one for one in drawn if one["item_id"] == "drama-3")
    canvas = region.get_by_role("img")
    box = canvas.bounding_box()
    assert box is not None
    at = [
        (side + 1) / 2 * (length - 24) + 12 for side, length in ((item["x"], box["width"]), (-item["y"], box["height"]))
    ]
    canvas.hover(position={"x": at[0], "y": at[1]})
    expect(region.get_by_role("status")).to_contain_text("Film 3, drama, 0 · 3")
    region.get_by_label("Colour by").select_option("First code")
    region.get_by_label("List the items of").select_option(label="Code 1 (3)")
    expect(region.locator(".entries button")).to_have_count(3)
    region.get_by_role("button", name="Show its place").click()
    expect(page.get_by_role("region", name="Below 0").locator('[aria-pressed="true"]')).to_contain_text("Film 3")


def test_a_new_domain_is_registered_recommended_and_deleted(pages: Open, address: str) -> None:
    page = pages(f"{address}#new")
    page.get_by_label("Name of the domain").fill("maps")
    page.get_by_label("Items", exact=True).fill("An Atlas | Maps\nA Globe")
    page.get_by_role("button", name="Only show their IDs").click()
    expect(page.get_by_role("heading", name="Would get")).to_be_visible()
    expect(page.get_by_role("row", name=re.compile("An Atlas.*% alike"))).to_be_visible()
    page.get_by_role("button", name="Register").click()
    expect(page.get_by_role("heading", name="Next in maps")).to_be_visible()
    assert sorted(results(page)) == ["A Globe", "An Atlas"]
    page.get_by_role("button", name="Delete what was registered").click()
    expect(page.get_by_text("The items are out of the catalog")).to_be_visible()
    go_to(page, "Try it")
    expect(page.get_by_label("Recommend from")).not_to_contain_text("maps")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "items.jsonl",
            '{"item_id": "7", "title": "A, B", "categories": ["Maps", "Sea"], "year": 1990}\n{"title": "C"}\n',
        ),
        (
            "items.json",
            '[{"item_id": 7, "title": "A, B", "categories": ["Maps", "Sea"], "year": 1990}, {"title": "C"}]',
        ),
        ("items.csv", '\ufeffitem_id,Title,categories,year\r\n7,"A, B",Maps;Sea,1990\r\n,C,,\r\n'),
    ],
)
def test_items_of_a_file_are_read_as_json_lines_or_csv(pages: Open, address: str, name: str, text: str) -> None:
    page = pages(f"{address}#new")
    page.get_by_label("Or a file of them").set_input_files({"name": name, "mimeType": "", "buffer": text.encode()})
    with page.expect_request("**/tokenize") as sent:
        page.get_by_role("button", name="Only show their IDs").click()
    body = sent.value.post_data_json
    assert body is not None
    assert body["items"] == [
        {"item_id": "7", "title": "A, B", "categories": ["Maps", "Sea"], "year": 1990},
        {"item_id": "c-2", "title": "C"},
    ]
    expect(page.get_by_role("heading", name="Would get")).to_be_visible()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"title": "A"}\n{"title"', "Line 2 is no JSON"),
        ('title,year\n"A,1990', "quote of the CSV is never closed"),
        ("title,year\nA,1,2", "Row 2 of the CSV has 3 fields"),
        ("[3]", "Item 1 is no JSON object"),
    ],
)
def test_items_that_cannot_be_read_are_told_with_their_place(pages: Open, address: str, text: str, said: str) -> None:
    page = pages(f"{address}#new")
    page.get_by_label("Items", exact=True).fill(text)
    page.get_by_role("button", name="Only show their IDs").click()
    expect(page.get_by_role("alert")).to_contain_text(said)


def test_watch_shows_what_the_service_does(pages: Open, address: str) -> None:
    page = pages(f"{address}#watch")
    expect(page.get_by_role("heading", name="Recommendations")).to_be_visible()
    expect(page.get_by_role("img", name="Recommendations, over time")).to_be_visible()
    for told in ("rqvae, codebooks of 4, 4", "Batch size", "Cache hits", "99 %:", "rows in queues"):
        expect(page.locator("main")).to_contain_text(told)


def test_the_call_to_copy_is_the_one_that_was_made(pages: Open, address: str) -> None:
    page = pages(address)
    expect(page.locator("ol.results")).to_be_visible()
    with page.expect_request("**/recommend") as sent:
        page.get_by_role("button", name="Random user").click()
    expect(page.locator(".reveal")).to_be_visible()
    page.get_by_text("The call behind this").click()
    words = shlex.split(page.get_by_label("The call in curl").inner_text().replace("\\\n", " "))
    assert words[2] == sent.value.url == address.replace("playground/", "recommend")
    assert json.loads(words[-1]) == sent.value.post_data_json
    compile(page.get_by_label("The call in Python").inner_text(), "copied", "exec")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_view_is_accessible_and_fits_a_phone(pages: Open, address: str, scheme: str) -> None:
    page = pages(address, color_scheme=scheme, viewport={"width": 360, "height": 740})
    page.get_by_role("button", name="Random user").click()
    expect(page.locator(".reveal")).to_be_visible()
    axe = Axe()
    for view in VIEWS:
        go_to(page, view)
        page.locator(READY[view]).first.wait_for()
        if view == "Try it":
            assert page.evaluate(TALLEST_BUTTON) < 48, "a button of a recommendation is broken into lines"
            page.get_by_text("Filters and exclusions").click()
            page.get_by_role("button", name="Add filter").click()
        if view == "Codes":
            for label, text in (("First item", "film 1"), ("Second item", "film 5")):
                page.get_by_role("combobox", name=label).fill(text)
                found_items(page).first.click()
            page.get_by_role("group", name="Codes side by side").wait_for()
        if view == "New domain":
            page.get_by_role("button", name="Only show their IDs").click()
            page.locator(".near").first.wait_for()
        found = axe.run(page, options={"resultTypes": ["violations"]})
        assert found.violations_count == 0, f"{view}: {found.generate_report()}"
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), view
        assert not re.search(r"\bnull\b|undefined|NaN|\[object", page.locator("body").inner_text()), view
