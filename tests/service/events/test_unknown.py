"""Events of items that are not there yet take a bounded part of memory, and a deleted user none."""

from service.events.unknown import UnknownItems
from sidera.catalog import create_catalog
from tests.service.fakes import SIZES, bundle_items, film

EARLY, LATE = ("drama", "drama-7"), ("drama", "drama-8")


def test_the_items_that_were_missed_first_are_let_go_however_many_users_had_them() -> None:
    unknown = UnknownItems(most=3)
    for user_id in ("anna", "ben", "anna", "eve"):
        unknown.add(EARLY, user_id)
    assert unknown.users_of([EARLY]) == {"anna", "ben", "eve"}
    unknown.add(LATE, "anna")
    catalog = create_catalog([*bundle_items(), film(7), film(8)], SIZES)
    assert unknown.found_in(catalog) == [LATE]
    for user_id in ("ben", "eve"):
        unknown.add(LATE, user_id)
    assert unknown.users_of(unknown.found_in(catalog)) == {"anna", "ben", "eve"}


def test_a_deleted_user_is_kept_nowhere_and_takes_no_place() -> None:
    unknown = UnknownItems(most=2)
    unknown.add(EARLY, "anna")
    unknown.add(LATE, "eve")
    unknown.forget("eve")
    unknown.add(LATE, "ben")
    assert (unknown.users_of([EARLY]), unknown.users_of([LATE])) == ({"anna"}, {"ben"})


def test_an_item_that_is_known_takes_no_place() -> None:
    unknown = UnknownItems(most=1)
    unknown.add(EARLY, "anna")
    unknown.drop([EARLY])
    unknown.add(LATE, "ben")
    assert unknown.users_of([LATE]) == {"ben"}
