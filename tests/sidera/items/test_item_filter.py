"""Which leaves pass conditions on fields, against reading every item of the catalog."""

from collections.abc import Callable
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidera.catalog import Catalog, CatalogItem, create_catalog
from sidera.decoding.leaf_filter import LeafSet
from sidera.errors import FilterError, SearchError
from sidera.items.conditions import conditions_of
from sidera.items.item_filter import BundleColumns, ItemFilter
from tests.sidera.worlds import SIZES, random_sids

COLOURS = ("red", "green", "blue")


def fields_of(rng: np.random.Generator) -> dict[str, Any]:
    fields: dict[str, Any] = {"price": round(float(rng.uniform(0, 50)), 1), "box": {"height": 3}}
    if rng.random() < 0.8:
        fields["colour"] = str(rng.choice(COLOURS))
    if rng.random() < 0.5:
        fields["tags"] = rng.choice(["new", "sale", "big"], size=rng.integers(0, 3)).tolist()
    return fields


def make_catalog(seed: int = 0) -> Catalog:
    rng = np.random.default_rng(seed)
    return create_catalog(
        [
            CatalogItem(domain, f"{domain}-{place}", sid, None, fields_of(rng))
            for domain, count in (("films", 50), ("books", 30))
            for place, sid in enumerate(random_sids(rng, count))
        ],
        SIZES,
    )


FIRST = {"films": 0, "books": 50}


def members(leaves: LeafSet | None, catalog: Catalog, domain: str, first: dict[str, int] = FIRST) -> set[str]:
    """The ids of a set of leaves."""
    numbers = np.asarray(catalog.index(domain).number_of_leaf)
    own = np.arange(len(numbers), dtype=np.int64) + first[domain]
    inside = np.ones(len(own), dtype=bool) if leaves is None else leaves.contains(own)
    return {catalog.name(number)[0] for number in numbers[inside].tolist()}


def naive(catalog: Catalog, domain: str, passes: Callable[[dict[str, Any]], bool]) -> set[str]:
    items = [catalog.item(number) for number in np.asarray(catalog.index(domain).number_of_leaf).tolist()]
    return {item.item_id for item in items if passes(dict(item.fields))}


wanted_colours = st.lists(st.sampled_from([*COLOURS, "pink"]), min_size=1, max_size=3)
wanted_tags = st.sampled_from(["new", "sale", "none"])
prices = st.tuples(st.integers(0, 50), st.integers(0, 50)).map(sorted)


@settings(deadline=None)
@given(
    st.none() | wanted_colours,
    st.none() | wanted_tags,
    st.none() | prices,
    st.none() | st.frozensets(st.integers(0, 60), max_size=20),
    st.sampled_from(["films", "books"]),
)
def test_the_leaves_are_those_of_the_items_that_meet_all_conditions(
    colours: list[str] | None,
    tag: str | None,
    price: list[int] | None,
    only: frozenset[int] | None,
    domain: str,
) -> None:
    catalog = make_catalog()
    asked: dict[str, Any] = {}
    if colours is not None:
        asked["colour"] = colours
    if tag is not None:
        asked["tags"] = tag
    if price is not None:
        asked["price"] = {"min": price[0], "max": price[1]}
    ids = None if only is None else frozenset(f"{domain}-{place}" for place in only)
    found = ItemFilter(catalog, FIRST).allowed(domain, conditions_of(asked), ids)

    def passes(fields: dict[str, Any]) -> bool:
        return (
            (colours is None or fields.get("colour") in colours)
            and (tag is None or tag in fields.get("tags", []))
            and (price is None or price[0] <= fields["price"] <= price[1])
        )

    expected = naive(catalog, domain, passes)
    assert members(found, catalog, domain) == (expected if ids is None else expected & ids)
    assert (found is None) == (not asked and ids is None)


def test_items_that_were_added_or_changed_later_are_found_by_what_they_are_now() -> None:
    catalog = make_catalog()
    filters = ItemFilter(catalog, FIRST)
    red = conditions_of({"colour": "red"})
    before = members(filters.allowed("films", red), catalog, "films")
    taken = {tuple(sid) for sid in catalog.sids("films").tolist()}
    free = next(sid for sid in random_sids(np.random.default_rng(1), 120) if sid not in taken)
    gone = min(before)
    changes = [
        CatalogItem("films", "later", free, None, {"colour": "red"}),
        CatalogItem("films", gone, (), None, {"colour": "blue"}),
        CatalogItem("plays", "p", (0, 0, 0), None, {"colour": "red"}),
    ]
    later = catalog.with_items(changes, 2)
    first = {"films": 0, "books": 51, "plays": 81}
    grown = ItemFilter(later, first, filters.columns)
    assert grown.columns is filters.columns
    assert members(grown.allowed("films", red), later, "films", first) == before - {gone} | {"later"}
    assert members(grown.allowed("plays", red), later, "plays", first) == {"p"}
    assert members(filters.allowed("films", red), catalog, "films") == before
    books = naive(catalog, "books", lambda fields: fields.get("colour") == "red")
    assert members(grown.allowed("books", red), later, "books", first) == books


def test_removed_and_hidden_items_are_in_no_set_until_they_are_back() -> None:
    catalog = make_catalog()
    filters = ItemFilter(catalog, FIRST)
    red = conditions_of({"colour": "red"})
    before = members(filters.allowed("films", red), catalog, "films")
    gone, hidden, *_ = sorted(before)
    changed = catalog.without_items([("films", gone)], 2).with_hidden([("films", hidden)], 3)
    first = {"films": 0, "books": 49}
    later = ItemFilter(changed, first, filters.columns)
    everything = {changed.name(number)[0] for number in changed.index("films").number_of_leaf.tolist()}
    assert members(later.allowed("films", red), changed, "films", first) == before - {gone, hidden}
    assert members(later.allowed("films"), changed, "films", first) == everything - {hidden}
    both = frozenset([gone, hidden, min(everything - {hidden})])
    assert members(later.allowed("films", (), both), changed, "films", first) == both - {gone, hidden}
    number = catalog.find("films", gone)
    assert number is not None
    back = CatalogItem("films", gone, catalog.sid("films", number), None, {"colour": "red"})
    again = changed.with_items([back], 4).with_hidden([("films", hidden)], 5, hidden=False)
    assert members(ItemFilter(again, FIRST, filters.columns).allowed("films", red), again, "films") == before


def test_columns_that_were_not_asked_for_longest_go_when_all_take_too_much() -> None:
    catalog = make_catalog()
    columns = BundleColumns(catalog)
    sizes = {field: columns.column("films", field).num_bytes for field in ("price", "colour", "tags")}
    assert columns.num_bytes == sum(sizes.values())
    assert sizes["price"] > 50 * 8
    tight = BundleColumns(catalog, sizes["price"] + max(sizes["colour"], sizes["tags"]))
    price, colour = tight.column("films", "price"), tight.column("films", "colour")
    assert tight.column("films", "price") is price
    tight.column("films", "tags")
    assert tight.num_bytes == sizes["price"] + sizes["tags"] <= tight.most_bytes
    assert tight.column("films", "price") is price
    assert tight.column("films", "colour") is not colour, "it went, and is read again"


def test_the_column_asked_for_last_stays_however_large_it_is() -> None:
    columns = BundleColumns(make_catalog(), most_bytes=0)
    price = columns.column("films", "price")
    assert columns.column("films", "price") is price
    columns.column("films", "tags")
    assert columns.num_bytes == columns.column("films", "tags").num_bytes


def test_columns_of_another_bundle_are_not_used() -> None:
    columns = BundleColumns(make_catalog(0))
    other = make_catalog(1)
    filters = ItemFilter(other, FIRST, columns)
    assert filters.columns is not columns
    expected = naive(other, "films", lambda fields: fields.get("colour") == "red")
    assert members(filters.allowed("films", conditions_of({"colour": "red"})), other, "films") == expected


def test_requests_with_the_same_conditions_share_one_set_and_few_are_kept() -> None:
    filters = ItemFilter(make_catalog(), FIRST)
    price = conditions_of({"price": {"max": 10}})
    first = filters.allowed("films", price)
    assert filters.allowed("films", conditions_of({"price": {"max": 10}})) is first
    assert filters.allowed("books", price) is not first
    for most in range(100):
        filters.allowed("films", conditions_of({"price": {"max": 100 + most}}))
    assert len(filters._sets) < 100
    assert filters.allowed("films", price) is not first


def test_sets_that_list_many_leaves_are_not_all_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidera.items.item_filter._KEPT_LEAVES", 30)
    catalog = make_catalog()
    filters = ItemFilter(catalog, FIRST)
    for most in range(20, 30):
        asked = conditions_of({"price": {"max": most}})
        expected = naive(catalog, "films", lambda fields, most=most: fields["price"] <= most)  # type: ignore[misc]
        assert members(filters.allowed("films", asked), catalog, "films") == expected
        assert filters.allowed("films", asked) is filters.allowed("films", asked)
    assert len(filters._sets) < 3


def test_a_set_lists_what_is_allowed_or_what_is_not_whichever_are_fewer() -> None:
    filters = ItemFilter(make_catalog(), FIRST)
    few = filters.allowed("films", conditions_of({"price": {"max": 5}}))
    most = filters.allowed("films", conditions_of({"price": {"min": 5.1}}))
    assert few is not None
    assert most is not None
    assert (few.allows, most.allows) == (True, False)
    assert few.listed.tolist() == most.listed.tolist()


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ({"color": "red"}, "no item has the field 'color' of 'films'"),
        ({"colour": {"min": 1}}, "the field 'colour' of 'films' holds no numbers"),
        ({"box": "big"}, "the field 'box' of 'films' holds objects"),
    ],
)
def test_a_condition_that_no_item_can_meet_by_its_kind_is_refused(asked: dict[str, Any], problem: str) -> None:
    with pytest.raises(SearchError, match=problem):
        ItemFilter(make_catalog(), FIRST).allowed("films", conditions_of(asked))


def test_a_value_that_no_item_has_allows_nothing() -> None:
    catalog = make_catalog()
    filters = ItemFilter(catalog, FIRST)
    assert members(filters.allowed("films", conditions_of({"colour": "pink"})), catalog, "films") == set()
    assert members(filters.allowed("films", (), frozenset()), catalog, "films") == set()


def test_a_field_that_no_item_has_is_looked_for_once_however_many_such_fields_are_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    catalog = make_catalog()
    reads: list[str] = []
    inner = BundleColumns._texts

    def counted(columns: BundleColumns, numbers: Any) -> Any:
        reads.append("read")
        return inner(columns, numbers)

    monkeypatch.setattr(BundleColumns, "_texts", counted)
    item_filter = ItemFilter(catalog, FIRST)
    for field in ("size", "weight", "size"):
        with pytest.raises(FilterError, match="no item has the field") as error:
            item_filter.allowed("films", conditions_of({field: 1}))
        assert error.value.field == field
    assert reads == ["read"]


def test_a_column_is_built_once_and_holds_up_only_those_that_need_it(monkeypatch: pytest.MonkeyPatch) -> None:
    item_filter = ItemFilter(make_catalog(), FIRST)
    item_filter.allowed("films", conditions_of({"price": {"min": 1}}))
    entered, go = Event(), Event()
    built: list[str] = []
    inner = BundleColumns._build

    def slow(columns: BundleColumns, domain: str, field: str) -> Any:
        built.append(field)
        entered.set()
        assert go.wait(20)
        return inner(columns, domain, field)

    monkeypatch.setattr(BundleColumns, "_build", slow)
    found: list[LeafSet | None] = []
    threads = [
        Thread(target=lambda: found.append(item_filter.allowed("films", conditions_of({"colour": "red"}))))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    assert entered.wait(20)
    assert item_filter.allowed("films", conditions_of({"price": {"min": 2}})) is not None
    assert found == []
    go.set()
    for thread in threads:
        thread.join(20)
    assert built == ["colour"]
    assert len(found) == 3
    assert found[0] is not None
    assert all(one is found[0] for one in found), "requests with the same conditions share one set"
