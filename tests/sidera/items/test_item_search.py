"""Items are found by words as people type them, in the snapshot that serves, and nothing else is found."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidera.catalog import Catalog, CatalogItem, create_catalog
from sidera.errors import UnknownDomainError
from sidera.items.item_search import LiveItemSearch

TITLES = [
    "Star Wars",
    "Star Trek: First Contact",
    "The Godfather",
    "Amélie",
    "Toy Story",
    None,
    "千と千尋の神隠し",
    "Stars",
]


def item(number: int, title: str | None, domain: str = "drama") -> CatalogItem:
    return CatalogItem(domain, f"{domain}-{number}", (number // 4, number % 4), title, {})


def catalog() -> Catalog:
    return create_catalog(
        [item(number, title) for number, title in enumerate(TITLES)] + [item(0, "Star", "comedy")], (4, 4)
    )


def titles(search: LiveItemSearch, text: str, domain: str | None = "drama", most: int = 10) -> list[str | None]:
    return [found.title for found in search.find(text, most, domain)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("star w", ["Star Wars"]),
        ("wars star", ["Star Wars"]),
        ("toy", ["Toy Story"]),
        ("AMELIE", ["Amélie"]),
        ("godfahter", ["The Godfather"]),
        ("godfatter", ["The Godfather"]),
        ("goodfather", ["The Godfather"]),
        ("godfater", ["The Godfather"]),
        ("hodfather", ["The Godfather"]),
        ("gidfat", ["The Godfather"]),
        ("千尋", ["千と千尋の神隠し"]),
        ("zebra", []),
        ("toy zebra", []),
        ("!?", []),
        ("", []),
    ],
)
def test_words_find_titles_also_beginnings_and_with_one_mistake(text: str, found: list[str]) -> None:
    assert titles(LiveItemSearch(catalog()), text) == found


def test_a_word_as_it_was_typed_comes_before_a_longer_one_and_a_short_title_before_a_long_one() -> None:
    found = titles(LiveItemSearch(catalog()), "star")
    assert found == ["Star Wars", "Star Trek: First Contact", "Stars"]


def test_a_space_behind_the_last_word_ends_it() -> None:
    assert "Stars" not in titles(LiveItemSearch(catalog()), "star ", most=2)
    assert titles(LiveItemSearch(catalog()), "sto") == ["Toy Story"]
    assert titles(LiveItemSearch(catalog()), "sto ") == []


def test_mistakes_are_guessed_only_where_nothing_is_found_as_typed() -> None:
    search = LiveItemSearch(create_catalog([item(0, "Waters"), item(1, "Water"), item(2, "Later")], (4, 4)))
    assert titles(search, "water") == ["Water", "Waters"]
    assert titles(search, "wuter") == ["Waters", "Water"]


def test_an_id_is_found_whole_and_by_its_beginning() -> None:
    search = LiveItemSearch(catalog())
    assert [found.item_id for found in search.find("drama-5", 3)] == ["drama-5"]
    assert len(search.find("drama-", 20)) == len(TITLES)


def test_a_domain_keeps_the_others_out_and_an_unknown_one_is_refused() -> None:
    search = LiveItemSearch(catalog())
    assert titles(search, "star", "comedy") == ["Star"]
    assert titles(search, "star", None)[0] == "Star"
    with pytest.raises(UnknownDomainError):
        search.find("star", 3, "cinema")


def test_the_next_snapshot_finds_what_came_and_changed_and_not_what_went() -> None:
    search = LiveItemSearch(catalog())
    changed = catalog().with_changes(
        2,
        removed=[("drama", "drama-0")],
        items=[item(4, "Tin Toys"), item(9, "Star Born"), item(1, "Star Sign", "books")],
        hidden=[("drama", "drama-1")],
    )
    after = search.of_snapshot(changed)
    assert titles(after, "star") == ["Star Born", "Star Trek: First Contact", "Stars"]
    assert [found.hidden for found in after.find("trek", 3)] == [True]
    assert titles(after, "story") == []
    assert titles(after, "tin toy") == ["Tin Toys"]
    assert titles(after, "sign", "books") == ["Star Sign"]
    assert [found.sid for found in after.find("born", 1)] == [(2, 1)]
    assert titles(search, "star w") == ["Star Wars"], "the earlier snapshot is as it was"


def test_an_item_that_was_deleted_and_registered_again_is_found_once() -> None:
    gone = catalog().without_items([("drama", "drama-0")], 2)
    back = gone.with_items([item(0, "Star Wars")], 3)
    search = LiveItemSearch(catalog())
    assert titles(search.of_snapshot(gone), "star wars") == []
    assert titles(search.of_snapshot(back), "star wars") == ["Star Wars"]


@given(st.text(max_size=60))
def test_any_text_finds_no_more_than_asked_for_and_nothing_twice(text: str) -> None:
    found = LiveItemSearch(catalog()).find(text, 1)
    every = LiveItemSearch(catalog()).find(text, 100)
    assert found == every[:1]
    assert len({(item.domain, item.item_id) for item in every}) == len(every)
