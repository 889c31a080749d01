"""Catalogs: what is found, what is stored, and what the next snapshot changes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidera.catalog import Catalog, CatalogItem, create_catalog
from sidera.errors import CatalogError, DuplicateItemError, UnknownDomainError
from tests.sidera.catalogs import assert_holds, made_up
from tests.sidera.worlds import SIZES, random_sids

STRANGE_IDS = [
    *("a b", " ", "\x1f", "b\x1fc", "ß", "日本語", "😀", "a/b", "../x", "'\"", "\n", "0", "films\x1fa"),
    "x" * 100_000,
    "\u00e9",
    "e\u0301",
]


@pytest.fixture
def items() -> list[CatalogItem]:
    return [*made_up("films", 20), *made_up("books", 30, seed=1), CatalogItem("one-item", "it", (4, 3, 5))]


def test_a_catalog_says_the_same_of_an_item_whichever_way_one_asks(items: list[CatalogItem]) -> None:
    catalog = create_catalog(items, SIZES)
    assert_holds(catalog, items)
    assert (catalog.version, catalog.codebook_sizes) == (1, SIZES)


def test_a_catalog_that_was_saved_and_loaded_says_the_same(items: list[CatalogItem], tmp_path: Path) -> None:
    catalog = create_catalog(items, SIZES)
    catalog.save(tmp_path)
    again = Catalog.load(tmp_path, ["books", "films", "one-item"], SIZES, version=7)
    assert_holds(again, items)
    assert again.version == 7
    numbers = [catalog.find(item.domain, item.item_id) for item in items]
    assert [again.find(item.domain, item.item_id) for item in items] == numbers


def test_numbers_do_not_depend_on_the_order_of_the_items(items: list[CatalogItem]) -> None:
    one, other = create_catalog(items, SIZES), create_catalog(items[::-1], SIZES)
    for item in items:
        assert one.find(item.domain, item.item_id) == other.find(item.domain, item.item_id)


def test_what_a_catalog_does_not_hold_is_not_found(items: list[CatalogItem]) -> None:
    catalog = create_catalog(items, SIZES)
    for domain, item_id in [("films", "20"), ("films", ""), ("songs", "1"), ("", "1"), ("films", "it")]:
        assert catalog.find(domain, item_id) is None
    for ask in (catalog.size, catalog.index, catalog.sids):
        with pytest.raises(UnknownDomainError, match="no domain 'songs'; the domains are books, films, one-item"):
            ask("songs")


# Strange ids


def test_an_id_is_never_found_by_another_one(items: list[CatalogItem]) -> None:
    catalog = create_catalog([*items, CatalogItem("films", "b\x1fc", (4, 3, 5))], SIZES)
    assert catalog.find("films", "b\x1fc") is not None
    for domain, item_id in [
        ("films\x1fb", "c"),
        ("films", "1\0"),
        ("films", "1\0x"),
        ("films\x1f1\0", "x"),
        ("films", "\ud800"),
        ("\ud800", "1"),
        ("films", "1 "),
        ("films", "b\x1fc\x1f"),
    ]:
        assert catalog.find(domain, item_id) is None


def test_strange_ids_are_kept_as_they_are(tmp_path: Path) -> None:
    strange = [
        CatalogItem("films", item_id, sid)
        for item_id, sid in zip(STRANGE_IDS, random_sids(np.random.default_rng(0), 16), strict=True)
    ]
    assert len({item.item_id for item in strange}) == 16
    catalog = create_catalog(strange[:8], SIZES)
    catalog.save(tmp_path)
    assert_holds(Catalog.load(tmp_path, ["films"], SIZES), strange[:8])
    assert_holds(catalog.with_items(strange[8:], 2), strange)
    assert_holds(create_catalog(strange, SIZES), strange)


@pytest.mark.parametrize("item_id", ["", "\0", "a\0b", "\ud800", "a\udfff"])
def test_an_id_that_the_dictionary_cannot_hold_is_refused(item_id: str, items: list[CatalogItem]) -> None:
    bad = CatalogItem("films", item_id, (4, 3, 5))
    with pytest.raises(CatalogError, match="is not allowed"):
        create_catalog([*items, bad], SIZES)
    with pytest.raises(CatalogError, match="is not allowed"):
        create_catalog(items, SIZES).with_items([bad], 2)


@pytest.mark.parametrize("domain", ["", "a b", "../x", "a\x1fb", "-a", "ä", "x" * 65])
def test_a_domain_that_cannot_name_a_file_is_refused(domain: str, items: list[CatalogItem]) -> None:
    bad = CatalogItem(domain, "1", (4, 3, 5))
    with pytest.raises(CatalogError, match="domain name"):
        create_catalog([*items, bad], SIZES)
    with pytest.raises(CatalogError, match="domain name"):
        create_catalog(items, SIZES).with_items([bad], 2)


# Items that do not fit


def test_items_that_share_an_id_or_a_sid_are_refused_within_a_domain_alone() -> None:
    item = CatalogItem("films", "1", (1, 1, 1))
    with pytest.raises(DuplicateItemError, match="item id occurs twice"):
        create_catalog([item, replace(item, sid=(1, 1, 2))], SIZES)
    with pytest.raises(DuplicateItemError, match=r"SID \(1, 1, 1\)"):
        create_catalog([item, replace(item, item_id="2")], SIZES)
    assert_holds(create_catalog([item, replace(item, domain="books")], SIZES), [item, replace(item, domain="books")])


@pytest.mark.parametrize("sid", [(), (1, 1), (1, 1, 1, 1), (5, 0, 0), (0, 0, -1), (2**32, 0, 0)])
def test_a_sid_that_does_not_fit_the_codebooks_is_refused(sid: tuple[int, ...], items: list[CatalogItem]) -> None:
    for domain in ("films", "new"):
        bad = CatalogItem(domain, "bad", sid)
        with pytest.raises(CatalogError, match="encode"):
            create_catalog([*items, bad], SIZES)
        with pytest.raises(CatalogError, match="encode"):
            create_catalog(items, SIZES).with_items([bad], 2)


def test_a_catalog_of_nothing_is_refused() -> None:
    with pytest.raises(CatalogError, match="at least one item"):
        create_catalog([], SIZES)


# The next snapshot


def test_new_items_and_domains_join_and_the_old_snapshot_stays_as_it_is(items: list[CatalogItem]) -> None:
    catalog = create_catalog(items[:-6], SIZES)
    before = [catalog.find(item.domain, item.item_id) for item in items[:-6]]
    new = [*items[-6:], *made_up("songs", 3, seed=5)]
    later = catalog.with_items(new, 5)
    assert_holds(catalog, items[:-6])
    assert_holds(later, [*items[:-6], *new])
    assert (catalog.version, later.version) == (1, 5)
    assert [later.find(item.domain, item.item_id) for item in items[:-6]] == before
    numbers = [later.find(item.domain, item.item_id) for item in new]
    assert numbers == list(range(len(catalog), len(later)))
    assert_holds(later.with_items([], 6), [*items[:-6], *new])


def test_a_known_item_gets_a_new_title_and_fields_and_keeps_its_sid(items: list[CatalogItem]) -> None:
    catalog = create_catalog(items, SIZES).with_items([CatalogItem("films", "new", (4, 3, 5), "New")], 2)
    changed = [
        CatalogItem("films", "3", (0, 0, 0), "Another title", {"year": 1}),
        CatalogItem("films", "new", (0, 0, 0), None, {"brand": "x"}),
    ]
    later = catalog.with_items(changed, 3)
    for item in changed:
        number = catalog.find(item.domain, item.item_id)
        assert number is not None
        assert later.find(item.domain, item.item_id) == number
        assert later.item(number) == replace(item, sid=catalog.item(number).sid)
        assert later.name(number) == (item.item_id, item.title)
        assert catalog.item(number).title in ("Title 3", None, "New")
        assert catalog.item(number) != later.item(number)
        assert later.with_items([CatalogItem("songs", "1", (4, 3, 5))], 4).item(number) == later.item(number)
    np.testing.assert_array_equal(later.sids("films"), catalog.sids("films"))
    assert len(later) == len(catalog)


def test_a_sid_that_is_taken_and_an_item_that_comes_twice_are_refused(items: list[CatalogItem]) -> None:
    catalog = create_catalog(items, SIZES)
    with pytest.raises(DuplicateItemError, match="share the SID"):
        catalog.with_items([CatalogItem("films", "new", items[0].sid)], 2)
    with pytest.raises(DuplicateItemError, match="share the SID"):
        catalog.with_items([CatalogItem("songs", "a", (0, 0, 0)), CatalogItem("songs", "b", (0, 0, 0))], 2)
    with pytest.raises(DuplicateItemError, match="item 'a' of 'songs' is given twice"):
        catalog.with_items([CatalogItem("songs", "a", (0, 0, 0)), CatalogItem("songs", "a", (0, 0, 1))], 2)
    assert_holds(catalog, items)


@pytest.mark.parametrize("version", [0, 1, 2])
def test_versions_only_increase(version: int, items: list[CatalogItem]) -> None:
    with pytest.raises(CatalogError, match=f"version {version} does not follow 2"):
        create_catalog(items, SIZES, version=2).with_items([], version)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 40)), max_size=8), max_size=5))
def test_joining_items_in_steps_is_as_joining_them_at_once(steps: list[list[tuple[str, int]]]) -> None:
    sids = random_sids(np.random.default_rng(0), 41)
    held = {("a", "first"): CatalogItem("a", "first", (4, 3, 5) if (4, 3, 5) not in sids else (4, 3, 4))}
    catalog = create_catalog(list(held.values()), SIZES)
    for step, places in enumerate(steps, start=2):
        new = [CatalogItem(domain, str(place), sids[place], f"{step}") for domain, place in dict.fromkeys(places)]
        catalog = catalog.with_items(new, step)
        held |= {(item.domain, item.item_id): item for item in new}
        assert_holds(catalog, list(held.values()))


# Removing and hiding


def test_removed_items_are_gone_and_the_others_keep_their_numbers(items: list[CatalogItem]) -> None:
    catalog = create_catalog(items, SIZES)
    gone = [*items[3:9], items[-1]]
    kept = [item for item in items if item not in gone]
    numbers = [catalog.find(item.domain, item.item_id) for item in kept]
    later = catalog.without_items([(item.domain, item.item_id) for item in gone], 2)
    assert_holds(later, kept)
    assert_holds(catalog, items)
    assert [later.find(item.domain, item.item_id) for item in kept] == numbers
    removed = np.array([catalog.find(item.domain, item.item_id) for item in gone])
    assert later.leaves(removed).tolist() == [-1] * 7
    assert [later.find(item.domain, item.item_id) for item in gone] == [None] * 7
    with pytest.raises(UnknownDomainError, match=r"the domains are books, films$"):
        later.index("one-item")
    assert_holds(later.without_items([], 3), kept)


def test_a_removed_item_comes_back_under_its_number_with_another_sid(items: list[CatalogItem]) -> None:
    new = CatalogItem("songs", "s", (1, 1, 1))
    catalog = create_catalog(items, SIZES).with_items([new], 2)
    gone = [new, items[4], items[-1]]
    numbers = [catalog.find(item.domain, item.item_id) for item in gone]
    without = catalog.without_items([(item.domain, item.item_id) for item in gone], 3)
    free = [(2, 2, 2), next(sid for sid in random_sids(np.random.default_rng(9), 120) if not is_taken(items, sid))]
    back = [replace(gone[0], sid=free[0]), replace(gone[1], sid=free[1], title="Back"), gone[2]]
    again = without.with_items(back, 4)
    assert_holds(again, [item for item in items if item not in gone] + back)
    assert [again.find(item.domain, item.item_id) for item in back] == numbers
    stays = again.find(items[0].domain, items[0].item_id)
    assert again.from_bundle(np.array([*numbers, stays])).tolist() == [False, False, True, True]
    fresh = CatalogItem("songs", "fresh", (3, 3, 3))
    assert again.with_items([fresh], 5).find("songs", "fresh") == len(items) + 1


def test_a_sid_that_no_item_has_has_no_holder(items: list[CatalogItem]) -> None:
    catalog = create_catalog(items, SIZES)
    free = next(sid for sid in np.ndindex(*SIZES) if not is_taken(items, sid))
    assert catalog.holder("films", free) is catalog.holder("nowhere", items[0].sid) is None


def test_several_changes_at_once_are_as_one_after_another(items: list[CatalogItem]) -> None:
    catalog = create_catalog(items, SIZES)
    free = next(sid for sid in np.ndindex(*SIZES) if not is_taken(items, sid))
    moved = replace(items[0], sid=free)
    before = catalog.with_hidden([("films", "3")], 2)
    at_once = before.with_changes(
        3,
        removed=[("films", "0"), ("films", "1")],
        items=[moved, replace(items[2], title="New")],
        hidden=[("films", "0")],
        shown=[("films", "3")],
    )
    in_steps = before.without_items([("films", "0"), ("films", "1")], 3)
    in_steps = in_steps.with_items([moved, replace(items[2], title="New")], 4)
    in_steps = in_steps.with_hidden([("films", "0")], 5).with_hidden([("films", "3")], 6, hidden=False)
    expected = [moved, replace(items[2], title="New"), *items[3:]]
    for changed in (at_once, in_steps):
        assert_holds(changed, expected)
        hidden = [item.item_id for item in expected if changed.is_hidden(changed.find(item.domain, item.item_id) or 0)]
        assert hidden == ["0"]
    with pytest.raises(CatalogError):
        at_once.with_changes(3)


def is_taken(items: Sequence[CatalogItem], sid: tuple[int, ...]) -> bool:
    return any(item.sid == sid for item in items)


def test_hidden_items_stay_in_the_tries_and_are_listed_until_they_are_shown(items: list[CatalogItem]) -> None:
    catalog = create_catalog(items, SIZES)
    hidden = [items[2], items[7], items[30]]
    keys = [(item.domain, item.item_id) for item in hidden]
    later = catalog.with_hidden(keys, 2)
    assert_holds(later, items)
    films = sorted(item.sid for item in items if item.domain == "films")
    assert later.hidden_leaves("films").tolist() == sorted(films.index(item.sid) for item in hidden[:2])
    assert len(later.hidden_leaves("books")) == 1
    assert catalog.hidden_leaves("films").tolist() == later.hidden_leaves("one-item").tolist() == []
    before = CatalogItem("films", "before", (0, 0, 0))
    films = sorted([*films, before.sid])
    grown = later.with_items([before], 3)
    assert grown.hidden_leaves("films").tolist() == sorted(films.index(item.sid) for item in hidden[:2])
    assert len(grown.with_hidden(keys[1:], 4, hidden=False).hidden_leaves("films")) == 1
    gone = grown.without_items(keys[:1], 4)
    assert len(gone.hidden_leaves("films")) == 1
    assert len(gone.with_items([hidden[0]], 5).hidden_leaves("films")) == 1
    with pytest.raises(UnknownDomainError):
        later.hidden_leaves("songs")


def test_what_the_catalog_does_not_hold_cannot_be_removed_or_hidden(items: list[CatalogItem]) -> None:
    catalog = create_catalog(items, SIZES)
    for change in (catalog.without_items, catalog.with_hidden):
        with pytest.raises(CatalogError, match="there is no item 'x' in domain 'films'"):
            change([("films", "0"), ("films", "x")], 2)
        with pytest.raises(CatalogError, match="versions only increase"):
            change([("films", "0")], 1)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.booleans(), st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 30)), max_size=8))))
def test_items_that_come_and_go_in_any_order_leave_the_catalog_of_those_that_stayed(
    steps: list[tuple[bool, list[tuple[str, int]]]],
) -> None:
    sids = random_sids(np.random.default_rng(0), 31)
    held = {("a", str(place)): CatalogItem("a", str(place), sids[place], "bundle") for place in range(0, 31, 2)}
    catalog = create_catalog(list(held.values()), SIZES)
    numbers = {key: catalog.find(*key) for key in held}
    for version, (joins, places) in enumerate(steps, start=2):
        keys = [(domain, str(place)) for domain, place in dict.fromkeys(places)]
        if joins:
            new = [CatalogItem(domain, item_id, sids[int(item_id)], f"{version}") for domain, item_id in keys]
            catalog = catalog.with_items(new, version)
            held |= {(item.domain, item.item_id): item for item in new}
        else:
            keys = [key for key in keys if key in held]
            catalog = catalog.without_items(keys, version)
            held = {key: item for key, item in held.items() if key not in keys}
        assert_holds(catalog, list(held.values()))
        numbers |= {key: numbers.get(key, catalog.find(*key)) for key in held}
        assert {key: catalog.find(*key) for key in held} == {key: numbers[key] for key in held}


# Files


def test_a_changed_catalog_is_not_written(items: list[CatalogItem], tmp_path: Path) -> None:
    catalog = create_catalog(items, SIZES)
    for changed in (catalog.with_items(made_up("songs", 1), 2), catalog.with_items(items[:1], 2)):
        with pytest.raises(CatalogError, match="changed catalog cannot be written"):
            changed.save(tmp_path)
