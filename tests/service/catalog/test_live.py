"""Registered items join the bundle's catalog, at once and at every start."""

import threading

import pytest

from service.catalog.live import NewItem, Placement
from service.catalog.rows import Changes
from service.catalog.store import SqlStore
from service.errors import ConflictError, DomainLimitError, StaleCatalogError
from tests.service.catalog.world import World, new, sid_of
from tests.service.fakes import SIDS, FakeModel, bundle_items, film


def test_placing_changes_nothing_and_says_what_registering_gives(world: World) -> None:
    live = world.start()
    before = live.catalog
    foreseen = live.place("drama", [new("x"), new("y")])
    assert live.catalog is before
    assert [placement.registered for placement in foreseen] == [False, False]
    registered = live.register("drama", [new("x"), new("y")])
    assert [(p.sid, p.moved) for p in registered] == [(p.sid, p.moved) for p in foreseen]
    assert [placement.registered for placement in registered] == [True, True]


def test_a_registered_item_is_in_the_next_snapshot_and_the_old_one_stays_as_it_was(world: World) -> None:
    live = world.start()
    before = live.catalog
    [placement] = live.register("drama", [new("x")])
    assert before.find("drama", "x") is None
    assert live.catalog.version == before.version + 1
    assert sid_of(live, "drama", "x") == placement.sid


def test_registering_the_same_text_again_changes_nothing(world: World) -> None:
    live = world.start()
    first = live.register("drama", [new("x")])
    snapshot = live.catalog
    assert live.register("drama", [new("x")]) == first
    assert live.catalog is snapshot


def test_registering_an_item_as_the_bundle_holds_it_changes_nothing(world: World) -> None:
    live = world.start()
    snapshot = live.catalog
    same = NewItem("drama-2", {"title": "Film 2", "categories": ["Film"]})
    assert live.register("drama", [same]) == [Placement(SIDS[2], moved=False, registered=True)]
    assert live.catalog is snapshot


@pytest.mark.parametrize("item_id", ["drama-2", "x"])
def test_changed_text_replaces_title_and_fields_and_keeps_the_sid(world: World, item_id: str) -> None:
    live = world.start()
    live.register("drama", [new("x")])
    sid = sid_of(live, "drama", item_id)
    [placement] = live.register("drama", [NewItem(item_id, {"title": "New title", "year": 1999})])
    assert placement.sid == sid
    again = world.start()
    for catalog in (live.catalog, again.catalog):
        number = catalog.find("drama", item_id)
        assert number is not None
        item = catalog.item(number)
        assert (item.sid, item.title, dict(item.fields)) == (sid, "New title", {"year": 1999})


def test_registered_items_survive_a_restart_with_version_and_sids(world: World) -> None:
    live = world.start()
    live.register("drama", [new("x"), new("y")])
    live.register("western", [new("w")])
    again = world.start()
    assert again.catalog.version == live.catalog.version == 3
    assert again.catalog.domains == ("comedy", "drama", "western")
    for domain, item_id in (("drama", "x"), ("drama", "y"), ("western", "w")):
        assert sid_of(again, domain, item_id) == sid_of(live, domain, item_id)
    assert again.register("drama", [new("x")]) == live.register("drama", [new("x")])


def test_a_restart_encodes_nothing_that_it_has_sids_for(world: World) -> None:
    world.start().register("drama", [new("x")])
    model = FakeModel()
    world.start(model)
    assert model.encoded == []


def test_a_bundle_with_another_tokenizer_places_all_registered_items_anew_and_going_back_finds_the_old_sids(
    world: World,
) -> None:
    first = world.start()
    first.register("drama", [new("x"), new("y")])
    other_model = FakeModel([film(n, sid=SIDS[15 - n]) for n in range(6)], tokenizer="tokenizer-b")
    other = world.start(other_model)
    assert other.catalog.version == first.catalog.version + 1
    assert {sid_of(other, "drama", "x"), sid_of(other, "drama", "y")}.isdisjoint(SIDS[10:])
    assert other_model.encoded == [], "the stored vectors are of the same encoder"
    back = world.start()
    assert sid_of(back, "drama", "x") == sid_of(first, "drama", "x")
    assert sid_of(back, "drama", "y") == sid_of(first, "drama", "y")
    assert back.catalog.version == other.catalog.version


def test_a_bundle_with_another_encoder_encodes_registered_items_anew_once(world: World) -> None:
    world.start().register("drama", [new("x")])
    model = FakeModel(tokenizer="tokenizer-b", encoder="encoder-b")
    world.start(model)
    assert model.encoded == ["Title of x"]
    again = FakeModel(tokenizer="tokenizer-c", encoder="encoder-b")
    world.start(again)
    assert again.encoded == []


def test_a_registered_item_that_the_bundle_meanwhile_holds_gets_the_bundles_sid(world: World) -> None:
    live = world.start()
    live.register("drama", [new("drama-6", "My title")])
    own = sid_of(live, "drama", "drama-6")
    bundle_sid = next(sid for sid in reversed(SIDS) if sid != own)
    again = world.start(FakeModel([*bundle_items(), film(6, sid=bundle_sid)]))
    assert sid_of(again, "drama", "drama-6") == bundle_sid
    number = again.catalog.find("drama", "drama-6")
    assert number is not None
    assert again.catalog.item(number).title == "My title"


def test_the_sid_that_such_an_item_had_is_kept_for_going_back(world: World) -> None:
    live = world.start()
    live.register("drama", [new("drama-6")])
    own = sid_of(live, "drama", "drama-6")
    bundle_sid = next(sid for sid in reversed(SIDS) if sid != own)
    later = world.start(FakeModel([*bundle_items(), film(6, sid=bundle_sid)]))
    for n in range(8):
        later.register("drama", [new(f"n{n}")])
    assert own not in {sid_of(later, "drama", f"n{n}") for n in range(8)}
    assert sid_of(world.start(), "drama", "drama-6") == own


def test_a_registered_item_whose_leaf_the_bundle_meanwhile_took_moves_with_a_warning(world: World) -> None:
    live = world.start()
    live.register("drama", [new("x"), new("y")])
    lost, kept = sid_of(live, "drama", "x"), sid_of(live, "drama", "y")
    again = world.start(FakeModel([*bundle_items(), film(9, sid=lost)]))
    assert sid_of(again, "drama", "drama-9") == lost
    assert sid_of(again, "drama", "y") == kept
    assert sid_of(again, "drama", "x") not in (lost, kept)
    [warning] = world.events("warning")
    assert (warning["item_id"], warning["was"]) == ("x", list(lost))
    once_more = world.start(FakeModel([*bundle_items(), film(9, sid=lost)]))
    assert sid_of(once_more, "drama", "x") == sid_of(again, "drama", "x")
    assert len(world.events("warning")) == 1


def test_items_that_find_no_free_sid_have_none_while_the_others_go_on(world: World) -> None:
    live = world.start()
    placements = live.register("drama", [new(f"n{n}") for n in range(12)])
    assert [placement.registered for placement in placements] == [True] * 10 + [False] * 2
    assert [placement.sid for placement in placements[10:]] == [None, None]
    assert live.catalog.size("drama") == 16
    assert [placement.sid for placement in live.place("drama", [new("late")])] == [None]


def test_a_registered_item_without_room_under_the_next_bundle_is_left_out_with_an_error_in_the_log(
    world: World,
) -> None:
    world.start().register("drama", [new("x")])
    full = world.start(FakeModel([film(n) for n in range(16)], tokenizer="tokenizer-b"))
    assert full.catalog.find("drama", "x") is None
    assert [event["item_id"] for event in world.events("error")] == ["x"]
    assert world.start().catalog.find("drama", "x") is not None


def test_the_version_never_goes_back_even_if_nothing_that_is_registered_fits(world: World) -> None:
    live = world.start()
    for n in range(3):
        live.register("drama", [new(f"n{n}")])
    full = world.start(FakeModel([film(n) for n in range(16)], tokenizer="tokenizer-b"))
    full.register("western", [new("w")])
    assert full.catalog.version > live.catalog.version


def test_no_more_domains_are_created_than_allowed(world: World) -> None:
    live = world.start(max_domains=3)
    live.register("western", [new("w")])
    with pytest.raises(DomainLimitError):
        live.register("noir", [new("n")])
    live.register("western", [new("w2")])
    assert live.catalog.domains == ("comedy", "drama", "western")


def test_two_services_on_one_database_never_give_one_sid_twice(world: World) -> None:
    one, other = world.start(), world.start()
    one.register("drama", [new("x", "Same text")])
    other.register("drama", [new("y", "Same text")])
    assert sid_of(other, "drama", "x") == sid_of(one, "drama", "x") != sid_of(other, "drama", "y")
    one.register("drama", [new("z", "Same text")])
    assert len({sid_of(one, "drama", item_id) for item_id in "xyz"}) == 3
    assert one.catalog.version == 4


def test_concurrent_registrations_are_all_kept(world: World) -> None:
    live = world.start()
    threads = [threading.Thread(target=live.register, args=("drama", [new(f"n{n}")])) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert live.catalog.version == 9
    assert len({sid_of(live, "drama", f"n{n}") for n in range(8)}) == 8
    assert live.catalog.size("drama") == 14
    assert world.start().catalog.size("drama") == 14


class AlwaysStale(SqlStore):
    """Another process is always faster."""

    def commit(self, changes: Changes, *, tokenizer: str, expected_version: int, version: int) -> None:
        raise StaleCatalogError("always")


def test_a_catalog_that_others_keep_changing_is_a_conflict_that_can_be_retried(world: World) -> None:
    live = world.start(store=AlwaysStale(world.database))
    with pytest.raises(ConflictError) as conflict:
        live.register("drama", [new("x")])
    assert conflict.value.retryable
    assert live.catalog.find("drama", "x") is None


def test_a_change_that_cannot_be_stored_is_not_served(world: World) -> None:
    class Broken(SqlStore):
        def commit(self, changes: Changes, *, tokenizer: str, expected_version: int, version: int) -> None:
            raise OSError("disk full")

    live = world.start(store=Broken(world.database))
    before = live.catalog
    with pytest.raises(OSError, match="disk full"):
        live.register("drama", [new("x")])
    assert live.catalog is before


def test_the_model_is_told_the_vectors_of_all_that_joined_and_of_nothing_else(world: World) -> None:
    first = FakeModel()
    live = world.start(first)
    live.register("drama", [new("x"), new("drama-2", "Another title")])
    live.register("poems", [new("y")])
    live.place("drama", [new("z")])
    assert set(first.joined) == {("drama", "x"), ("poems", "y")}
    again = FakeModel()
    world.start(again)
    assert set(again.joined) == set(first.joined)
    for key, vector_D in first.joined.items():
        assert again.joined[key].tolist() == vector_D.tolist()


def test_vectors_of_another_encoder_are_made_again_or_left_out(world: World) -> None:
    world.start().register("drama", [new("x")])
    kept = FakeModel(encoder="encoder-b")
    world.start(kept)
    assert kept.joined == {}
    placed_anew = FakeModel(tokenizer="tokenizer-b", encoder="encoder-b")
    world.start(placed_anew)
    assert placed_anew.joined["drama", "x"].tolist() == placed_anew.vectors([{"title": "Title of x"}])[0].tolist()
