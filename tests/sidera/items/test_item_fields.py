"""The fields of a domain are told with their frequent values, in the snapshot that serves."""

import itertools

import pytest

from sidera.catalog import Catalog, CatalogItem, create_catalog
from sidera.errors import UnknownDomainError
from sidera.items.item_fields import LONGEST_VALUE, MOST_FIELDS, MOST_VALUES, SAMPLED_ITEMS, domain_fields

SIDS = list(itertools.product(range(3), range(4)))


def item(number: int, **fields: object) -> CatalogItem:
    return CatalogItem("drama", f"drama-{number}", SIDS[number], f"Film {number}", fields)


def catalog(*fields: dict[str, object]) -> Catalog:
    return create_catalog([item(number, **own) for number, own in enumerate(fields)], (3, 4))


def test_values_are_counted_by_items_and_the_most_frequent_come_first() -> None:
    told = domain_fields(
        catalog({"genres": ["War", "Love"]}, {"genres": ["War", "War"], "brand": "A"}, {"genres": "Love"}, {}), "drama"
    )
    assert told.sampled == 4
    genres, brand = told.fields
    assert (genres.name, genres.items, genres.values) == ("genres", 3, (("Love", 2), ("War", 2)))
    assert (brand.name, brand.items, brand.values, brand.least) == ("brand", 1, (("A", 1),), None)


def test_numbers_come_with_their_range_and_true_is_not_one() -> None:
    told = domain_fields(catalog({"year": 1990}, {"year": 2001.5}, {"new": True}, {"new": 1}, {"new": True}), "drama")
    fields = {one.name: one for one in told.fields}
    assert (fields["year"].least, fields["year"].most) == (1990, 2001.5)
    assert fields["new"].values == ((True, 2), (1, 1))
    assert [type(value) for value, _ in fields["new"].values] == [bool, int]


def test_long_texts_and_objects_are_no_values() -> None:
    told = domain_fields(catalog({"text": "x" * (LONGEST_VALUE + 1), "size": {"width": 3}, "none": None}), "drama")
    assert [(one.name, one.items, one.values) for one in told.fields] == [("size", 1, ()), ("text", 1, ())]


def test_registered_changed_and_deleted_items_count() -> None:
    before = catalog({"genre": "War"}, {"genre": "Love"}, {"genre": "Crime"})
    after = before.with_changes(
        2, removed=[("drama", "drama-0")], items=[item(1, genre="Farce"), item(5, genre="Farce")]
    )
    [genre] = domain_fields(after, "drama").fields
    assert genre.values == (("Farce", 2), ("Crime", 1))


def test_what_is_told_is_bounded() -> None:
    count = SAMPLED_ITEMS + 500
    items = [
        CatalogItem("d", str(n), (n // 128, n % 128), None, {f"f{n % 40}": f"v{n % 7}", "all": n}) for n in range(count)
    ]
    told = domain_fields(create_catalog(items, (128, 128)), "d")
    assert (told.sampled, len(told.fields)) == (SAMPLED_ITEMS, MOST_FIELDS)
    assert told.fields[0].name == "all"
    assert len(told.fields[0].values) == MOST_VALUES


def test_an_unknown_domain_is_refused() -> None:
    with pytest.raises(UnknownDomainError):
        domain_fields(catalog({}), "cinema")
