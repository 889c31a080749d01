"""Items are changed, hidden and deleted while the service runs; all of it survives a restart and another bundle."""

from collections.abc import Mapping

import pytest

from service.catalog.live import LiveCatalog, NewItem, Patch, Placement
from service.catalog.store import SqlStore
from service.errors import DatabaseDownError, InvalidRequestError, ItemNotFoundError
from sidera.recommender import Query
from tests.postgres import Postgres
from tests.service.catalog.world import World, new, sid_of
from tests.service.fakes import SIDS, FakeModel, bundle_items, film


def fields_of(live: LiveCatalog, domain: str, item_id: str) -> dict[str, object]:
    number = live.catalog.find(domain, item_id)
    assert number is not None
    item = live.catalog.item(number)
    return {"title": item.title, **item.fields}


def is_hidden(live: LiveCatalog, domain: str, item_id: str) -> bool:
    number = live.catalog.find(domain, item_id)
    assert number is not None
    return live.catalog.is_hidden(number)


def other_bundle(tokenizer: str = "tokenizer-b") -> FakeModel:
    """The same items at other SIDs, of another tokenizer."""
    return FakeModel([film(n, sid=SIDS[15 - n]) for n in range(6)], tokenizer=tokenizer)


# Changing fields


@pytest.mark.parametrize("item_id", ["drama-2", "x"])
def test_a_patch_replaces_what_it_names_removes_what_is_null_and_keeps_the_rest_and_the_sid(
    world: World, item_id: str
) -> None:
    live = world.start()
    live.register("drama", [NewItem("x", {"title": "X", "categories": ["Film"]})])
    sid = sid_of(live, "drama", item_id)
    placement = live.patch("drama", item_id, Patch({"title": "New", "year": 1952, "categories": None}))
    assert placement == Placement(sid, placement.moved, registered=True)
    for catalog in (live, world.start()):
        assert fields_of(catalog, "drama", item_id) == {"title": "New", "year": 1952}
        assert sid_of(catalog, "drama", item_id) == sid


@pytest.mark.parametrize("patch", [Patch({"title": "Film 2"}), Patch({"brand": None}), Patch(hidden=False)])
def test_a_patch_that_changes_nothing_makes_no_version_and_encodes_nothing(world: World, patch: Patch) -> None:
    model = FakeModel()
    live = world.start(model)
    before = live.catalog
    live.patch("drama", "drama-2", patch)
    assert live.catalog is before
    assert model.encoded == []


def test_an_item_that_the_catalog_does_not_hold_cannot_be_changed(world: World) -> None:
    live = world.start()
    for domain, item_id in (("drama", "x"), ("western", "drama-2")):
        with pytest.raises(ItemNotFoundError):
            live.patch(domain, item_id, Patch({"title": "New"}))
        with pytest.raises(ItemNotFoundError):
            live.delete(domain, item_id)


def test_fields_that_the_caller_refuses_change_nothing(world: World) -> None:
    def check(fields: Mapping[str, object]) -> None:
        assert fields == {"categories": ["Film"]}
        raise InvalidRequestError("no")

    live = world.start()
    before = live.catalog
    with pytest.raises(InvalidRequestError):
        live.patch("drama", "drama-2", Patch({"title": None}, check=check))
    assert live.catalog is before


def test_retokenizing_gives_the_leaf_that_is_nearest_to_the_text_and_no_other_item_ever_gets_the_old_one(
    world: World,
) -> None:
    live = world.start()
    live.register("drama", [new("x")])
    old = sid_of(live, "drama", "x")
    title = next(t for t in map(str, range(99)) if live.place("drama", [new("y", t)])[0].sid not in (old, None))
    expected = live.place("drama", [new("y", title)])[0]
    placement = live.patch("drama", "x", Patch({"title": title}, retokenize=True))
    assert (placement.sid, placement.moved) == (expected.sid, expected.moved)
    for catalog in (live, world.start()):
        assert sid_of(catalog, "drama", "x") == placement.sid
    live.register("drama", [new(f"n{n}") for n in range(12)])
    assert live.catalog.size("drama") == 6 + 1 + 8, "one of the sixteen leaves is nobody's any more"
    assert old not in {tuple(sid) for sid in live.catalog.sids("drama").tolist()}


def test_a_bundles_item_that_was_retokenized_keeps_its_new_sid_under_this_tokenizer(world: World) -> None:
    live = world.start()
    title = next(t for t in map(str, range(99)) if not live.place("drama", [new("x", t)])[0].moved)
    live.patch("drama", "drama-2", Patch({"title": title, "categories": None}, retokenize=True))
    new_sid = sid_of(live, "drama", "drama-2")
    assert new_sid != SIDS[2]
    assert sid_of(world.start(), "drama", "drama-2") == new_sid
    assert sid_of(world.start(other_bundle()), "drama", "drama-2") == SIDS[13]
    without = world.start(FakeModel([film(n) for n in range(6) if n != 2]))
    assert sid_of(without, "drama", "drama-2") == new_sid
    without.register("drama", [new(f"n{n}") for n in range(12)])
    assert SIDS[2] not in {tuple(sid) for sid in without.catalog.sids("drama").tolist()}


def test_an_item_that_is_retokenized_after_it_was_folded_into_a_bundle_keeps_its_new_sid_under_that_bundle(
    world: World,
) -> None:
    """A replica that serves the bundle of before makes the change; another one has swapped the folded one in."""
    live = world.start()
    live.register("drama", [new("drama-9")])
    folded_sid = sid_of(live, "drama", "drama-9")
    folded = world.start(FakeModel([*bundle_items(), film(9, sid=folded_sid)]))
    assert sid_of(folded, "drama", "drama-9") == folded_sid
    title = next(t for t in map(str, range(99)) if live.place("drama", [new("y", t)])[0].sid != folded_sid)
    placed = live.patch("drama", "drama-9", Patch({"title": title}, retokenize=True))
    assert placed.sid != folded_sid
    folded.refresh()
    started = world.start(FakeModel([*bundle_items(), film(9, sid=folded_sid)]))
    assert sid_of(folded, "drama", "drama-9") == sid_of(started, "drama", "drama-9") == placed.sid
    folded.register("drama", [new(f"n{n}") for n in range(12)])
    assert folded_sid not in {tuple(sid) for sid in folded.catalog.sids("drama").tolist()}


def test_retokenizing_the_same_text_where_its_leaf_is_nearest_changes_nothing(world: World) -> None:
    live = world.start()
    title = next(t for t in map(str, range(99)) if not live.place("drama", [new("x", t)])[0].moved)
    live.register("drama", [new("x", title)])
    before = live.catalog
    live.patch("drama", "x", Patch(retokenize=True))
    assert live.catalog is before


def test_the_model_gets_the_new_vector_of_a_retokenized_item(world: World) -> None:
    model = FakeModel()
    live = world.start(model)
    live.register("drama", [new("x"), new("y")])
    live.patch("drama", "x", Patch({"title": "Another"}, retokenize=True))
    title = next(t for t in map(str, range(99)) if not live.place("drama", [new("z", t)])[0].moved)
    live.patch("drama", "drama-2", Patch({"title": title, "categories": None}, retokenize=True))
    expected = {("drama", "x"): "Another", ("drama", "y"): "Title of y", ("drama", "drama-2"): title}
    again = FakeModel()
    world.start(again)
    for joined in (model.joined, again.joined):
        assert set(joined) == set(expected)
        for key, title in expected.items():
            assert joined[key].tolist() == model.vectors([{"title": title}])[0].tolist()


# Hiding


@pytest.mark.parametrize("item_id", ["drama-2", "x"])
def test_a_hidden_item_stays_hidden_until_it_is_shown(world: World, item_id: str) -> None:
    live = world.start()
    live.register("drama", [new("x")])
    live.patch("drama", item_id, Patch(hidden=True))
    for catalog in (live, world.start(), world.start(other_bundle())):
        assert is_hidden(catalog, "drama", item_id)
    live.refresh()
    live.register("drama", [new(item_id, "Other text")])
    assert is_hidden(live, "drama", item_id)
    live.patch("drama", item_id, Patch(hidden=False))
    for catalog in (live, world.start()):
        assert not is_hidden(catalog, "drama", item_id)


def test_hiding_an_item_of_the_bundle_keeps_its_text_as_the_bundle_has_it(world: World) -> None:
    world.start().patch("drama", "drama-2", Patch(hidden=True))
    renamed = [film(n) for n in range(2)] + [film(2).__class__("drama", "drama-2", SIDS[2], "Renamed", {})]
    again = world.start(FakeModel(renamed))
    assert fields_of(again, "drama", "drama-2") == {"title": "Renamed"}
    gone = world.start(FakeModel([film(n) for n in range(2)]))
    assert gone.catalog.find("drama", "drama-2") is None


# Deleting


@pytest.mark.parametrize("item_id", ["drama-2", "x"])
def test_a_deleted_item_is_gone_after_a_restart_and_under_every_later_bundle(world: World, item_id: str) -> None:
    live = world.start()
    live.register("drama", [new("x")])
    live.delete("drama", item_id)
    for catalog in (live, world.start(), world.start(other_bundle()), world.start(FakeModel(bundle_items()))):
        assert catalog.catalog.find("drama", item_id) is None
    assert live.catalog.size("drama") == 6


@pytest.mark.parametrize("item_id", ["drama-2", "x"])
def test_deleting_again_changes_nothing(world: World, item_id: str) -> None:
    live = world.start()
    live.register("drama", [new("x")])
    live.delete("drama", item_id)
    before = live.catalog
    live.delete("drama", item_id)
    assert live.catalog is before
    again = world.start()
    before = again.catalog
    again.delete("drama", item_id)
    assert again.catalog is before


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("item_id", ["drama-2", "x"])
def test_no_other_item_gets_the_sid_of_a_deleted_one_and_it_has_it_again_when_it_comes_back(
    world: World, item_id: str, restart: bool
) -> None:
    live = world.start()
    live.register("drama", [new("x")])
    sid = sid_of(live, "drama", item_id)
    live.delete("drama", item_id)
    if restart:
        live = world.start()
    placements = live.register("drama", [new(f"n{n}") for n in range(12)])
    assert [placement.registered for placement in placements] == [True] * 9 + [False] * 3
    assert sid not in {placement.sid for placement in placements}
    [foreseen] = live.place("drama", [new(item_id)])
    [back] = live.register("drama", [new(item_id)])
    assert (foreseen.sid, foreseen.registered, back.sid, back.registered) == (sid, False, sid, True)
    for catalog in (live, world.start()):
        assert sid_of(catalog, "drama", item_id) == sid
        assert fields_of(catalog, "drama", item_id) == {"title": f"Title of {item_id}"}


def test_the_sid_of_a_deleted_item_stays_taken_under_a_bundle_that_lacks_it(world: World) -> None:
    world.start().delete("drama", "drama-2")
    without = world.start(FakeModel([film(n) for n in range(6) if n != 2]))
    without.register("drama", [new(f"n{n}") for n in range(12)])
    assert SIDS[2] not in {tuple(sid) for sid in without.catalog.sids("drama").tolist()}


def test_the_text_and_the_vector_of_a_deleted_item_are_forgotten(world: World) -> None:
    live = world.start()
    live.register("drama", [new("x", "A secret")])
    live.delete("drama", "x")
    store = SqlStore(world.database)
    [row] = store.load("tokenizer-a").items
    assert (row.item_id, row.fields, row.deleted) == ("x", None, True)
    assert store.vectors([row.key]) == {}
    store.close()


def test_a_domain_whose_last_item_is_deleted_is_gone_and_comes_back_with_the_next_one(world: World) -> None:
    live = world.start()
    live.register("western", [new("w")])
    live.delete("western", "w")
    assert list(live.catalog.domains) == ["comedy", "drama"]
    live.register("western", [new("v")])
    assert list(live.catalog.domains) == ["comedy", "drama", "western"]


def test_an_item_that_is_left_out_for_want_of_room_can_be_deleted(world: World) -> None:
    world.start().register("drama", [new("x")])
    full = world.start(FakeModel([film(n) for n in range(16)], tokenizer="tokenizer-b"))
    full.delete("drama", "x")
    assert world.start().catalog.find("drama", "x") is None


def test_the_model_is_told_of_a_deleted_item_that_comes_back_and_of_no_other_one_again(world: World) -> None:
    model = FakeModel()
    live = world.start(model)
    live.register("drama", [new("x"), new("y")])
    live.delete("drama", "x")
    assert set(model.joined) == {("drama", "x"), ("drama", "y")}
    model.joined.clear()
    live.register("drama", [new("x", "Other")])
    assert set(model.joined) == {("drama", "x")}
    assert model.joined["drama", "x"].tolist() == model.vectors([{"title": "Other"}])[0].tolist()


# Other processes


def test_every_kind_of_change_reaches_another_process_that_asks(world: World) -> None:
    one, other_model = world.start(), FakeModel()
    one.register("drama", [new("x"), new("y")])
    other = world.start(other_model)
    other_model.encoded.clear()
    assert not other.refresh()

    one.register("western", [new("w")])
    assert other.refresh()
    assert sid_of(other, "western", "w") == sid_of(one, "western", "w")
    one.patch("drama", "x", Patch({"title": "New"}, hidden=True))
    title = next(t for t in map(str, range(99)) if not one.place("drama", [new("z", t)])[0].moved)
    one.patch("drama", "drama-1", Patch({"title": title, "categories": None}, retokenize=True))
    one.delete("drama", "drama-2")
    one.delete("drama", "y")
    assert other.refresh()
    assert fields_of(other, "drama", "x") == {"title": "New"}
    assert is_hidden(other, "drama", "x")
    assert sid_of(other, "drama", "drama-1") == sid_of(one, "drama", "drama-1") != SIDS[1]
    assert other.catalog.find("drama", "drama-2") is other.catalog.find("drama", "y") is None
    one.register("drama", [new("y")])
    one.register("drama", [new("drama-2")])
    assert other.refresh()
    assert sid_of(other, "drama", "drama-2") == SIDS[2]
    assert sid_of(other, "drama", "y") == sid_of(one, "drama", "y")

    assert other.catalog.version == one.catalog.version
    assert other.catalog.sids("drama").tolist() == one.catalog.sids("drama").tolist()
    own_vectors = {("western", "w"), *(("drama", item_id) for item_id in ("x", "y", "drama-1"))}
    assert set(other_model.joined) == own_vectors, "an item that is back at its place in the bundle has the bundle's"
    assert other_model.encoded == []
    assert not other.refresh()


def test_what_others_changed_is_seen_by_the_next_change_of_this_process(world: World) -> None:
    one, other = world.start(), world.start()
    one.delete("drama", "drama-2")
    other.register("drama", [new("x")])
    assert other.catalog.find("drama", "drama-2") is None
    one.patch("drama", "drama-1", Patch(hidden=True))
    assert one.catalog.find("drama", "x") is not None
    assert other.refresh()
    assert is_hidden(other, "drama", "drama-1")


def test_a_deletion_wins_over_a_patch_from_a_process_that_did_not_know_of_it(world: World) -> None:
    one, other = world.start(), world.start()
    one.delete("drama", "drama-2")
    with pytest.raises(ItemNotFoundError):
        other.patch("drama", "drama-2", Patch({"title": "New"}))
    assert other.catalog.find("drama", "drama-2") is None


def test_processes_with_bundles_of_two_tokenizers_share_all_items(world: World) -> None:
    one, two = world.start(), world.start(other_bundle())
    one.register("drama", [new("x")])
    assert two.refresh()
    assert sid_of(two, "drama", "x") not in SIDS[10:]
    assert one.refresh(), "the other one gave the item a SID under its tokenizer"
    assert one.catalog.version == two.catalog.version
    assert not two.refresh()
    assert sid_of(world.start(other_bundle()), "drama", "x") == sid_of(two, "drama", "x")


def test_processes_with_two_bundles_of_one_tokenizer_settle_on_a_sid_that_is_free_in_both(world: World) -> None:
    one = world.start()
    one.register("drama", [new("x")])
    taken = sid_of(one, "drama", "x")
    two = world.start(FakeModel([*bundle_items(), film(9, sid=taken)]))
    assert one.refresh()
    assert sid_of(one, "drama", "x") == sid_of(two, "drama", "x") != taken
    assert not two.refresh()


def test_a_database_that_went_back_to_an_older_version_is_read_anew(world: World) -> None:
    live = world.start()
    live.register("drama", [new("x")])
    store = SqlStore(world.database)
    with store._database.writing() as connection:
        connection.exec_driver_sql("DELETE FROM item_sids")
        connection.exec_driver_sql("DELETE FROM catalog_items")
        connection.exec_driver_sql("UPDATE catalog_state SET catalog_version = 1")
    store.close()
    version = live.catalog.version
    assert live.refresh()
    assert live.catalog.find("drama", "x") is None
    assert live.catalog.version > version
    assert len(world.events("warning")) == 1
    live.register("drama", [new("y")])
    assert world.start().catalog.find("drama", "y") is not None


def test_the_snapshot_serves_on_while_the_database_is_down_and_changes_are_refused_until_it_is_back(
    postgres: Postgres,
) -> None:
    world = World(postgres.new_database())
    model = FakeModel()
    live = world.start(model)
    live.register("drama", [new("x")])
    postgres.disconnect(world.database)
    for change in (
        lambda: live.register("drama", [new("y")]),
        lambda: live.patch("drama", "x", Patch(hidden=True)),
        lambda: live.delete("drama", "x"),
    ):
        with pytest.raises(DatabaseDownError) as refused:
            change()
        assert refused.value.retryable
    assert live.place("drama", [new("x")])[0].registered
    assert live.place("drama", [new("y")])[0].sid is not None
    assert "x" in [item.item_id for item in model.recommend([Query("drama", num_results=9)])[0].items]
    postgres.let_in(world.database)
    live.delete("drama", "x")
    assert live.catalog.find("drama", "x") is None
    for store in world.stores:
        store.close()
    postgres.drop(world.database)
