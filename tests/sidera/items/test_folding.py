"""A folded catalog is the same catalog: nothing that a request sees changes, and later changes go on from it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sidera.beam_search import beam_search
from sidera.catalog import Catalog, CatalogItem, create_catalog
from sidera.errors import CatalogError
from sidera.items import folding
from tests.sidera.worlds import SIZES, Request, World, adapted_model, random_sids

DOMAINS = "abc"
SIDS = random_sids(np.random.default_rng(0), 24)
Step = tuple[str, list[tuple[str, int]]]


def item(domain: str, place: int, sid: int | None = None) -> CatalogItem:
    return CatalogItem(domain, str(place), SIDS[place if sid is None else sid], f"{domain} {place}")


def bundle() -> Catalog:
    return create_catalog([item(domain, place) for domain in "ab" for place in range(0, 20, 2)], SIZES)


one_step = st.tuples(
    st.sampled_from(["join", "leave", "hide", "move"]),
    st.lists(st.tuples(st.sampled_from(DOMAINS), st.integers(0, 22)), min_size=1, max_size=6, unique=True),
)
some_steps = st.lists(one_step, max_size=5)


def after(catalog: Catalog, steps: Sequence[Step]) -> Catalog:
    """The catalog after changes; what cannot be done is left out."""
    for kind, places in steps:
        version = catalog.version + 1
        known = [(domain, str(place)) for domain, place in places if catalog.find(domain, str(place)) is not None]
        if kind == "join":
            new = [item(*key) for key in places if (key[0], str(key[1])) not in known]
            free = [one for one in new if catalog.holder(one.domain, one.sid) is None]
            catalog = catalog.with_items(free, version)
        elif kind == "hide":
            catalog = catalog.with_hidden(known, version)
        elif kind == "leave":
            catalog = catalog.without_items(known, version)
        elif known and catalog.holder(known[0][0], SIDS[23]) is None:
            domain, item_id = known[0]
            catalog = catalog.with_changes(version, removed=known[:1], items=[item(domain, int(item_id), 23)])
    return catalog


def assert_same(one: Catalog, other: Catalog) -> None:
    """All that can be asked of the two; domains may stand in another order."""
    assert (one.version, len(one), set(one.domains)) == (other.version, len(other), set(other.domains))
    for domain in other.domains:
        index, expected = one.index(domain), other.index(domain)
        np.testing.assert_array_equal(index.number_of_leaf, expected.number_of_leaf)
        np.testing.assert_array_equal(one.sids(domain), other.sids(domain))
        numbers = np.asarray(expected.number_of_leaf)
        np.testing.assert_array_equal(one.leaves(numbers), np.arange(len(numbers)))
        np.testing.assert_array_equal(index.sids_of(np.arange(len(numbers))), other.sids(domain))
        np.testing.assert_array_equal(one.from_bundle(numbers), other.from_bundle(numbers))
        np.testing.assert_array_equal(one.bundle_numbers(domain), other.bundle_numbers(domain))
        np.testing.assert_array_equal(one.hidden_leaves(domain), other.hidden_leaves(domain))
        assert [one.item(number) for number in numbers.tolist()] == [other.item(number) for number in numbers.tolist()]
        np.testing.assert_array_equal(index.trie.sids(), expected.trie.sids())
    for domain in DOMAINS:
        for place in range(24):
            number = other.find(domain, str(place))
            assert one.find(domain, str(place)) == number
            holder = other.holder(domain, SIDS[place])
            assert one.holder(domain, SIDS[place]) == holder
    all_numbers = np.arange(10)
    assert ((one.leaves(all_numbers) < 0) == (other.leaves(all_numbers) < 0)).all()
    if one.domains == other.domains:
        for name in ("codes", "first_child", "leaf_begin"):
            for own, expected_array in zip(getattr(one.tables(), name), getattr(other.tables(), name), strict=True):
                assert own[:].tolist() == expected_array[:].tolist()


@settings(deadline=None, max_examples=60)
@given(some_steps, some_steps, some_steps)
def test_folding_changes_nothing_and_changes_that_come_meanwhile_and_later_go_on_from_it(
    first: list[Step], meanwhile: list[Step], later: list[Step]
) -> None:
    before = after(bundle(), first)
    plain = before.folded()
    assert_same(plain, before)
    assert plain.overlay == 0 or not len(before)
    changed = after(before, meanwhile)
    swapped = changed.moved(before, plain)
    assert_same(swapped, changed)
    assert_same(after(swapped, later), after(changed, later))
    again = swapped.folded()
    assert_same(after(again, later), after(changed, later))


@settings(deadline=None, max_examples=30)
@given(some_steps, some_steps)
def test_a_snapshot_of_another_past_over_the_same_tries_can_be_moved_too(first: list[Step], others: list[Step]) -> None:
    start = bundle()
    before, other = after(start, first), after(start, others)
    assert_same(other.moved(before, before.folded()), other)


def test_a_snapshot_over_other_tries_is_refused() -> None:
    before = after(bundle(), [("join", [("a", 1)])])
    with pytest.raises(CatalogError, match="read anew while it was folded; fold it again"):
        bundle().moved(before, before.folded())


def test_an_item_that_left_keeps_its_number_through_a_fold() -> None:
    start = bundle()
    number = start.find("a", "4")
    emptied = after(start, [("leave", [("a", place) for place in range(0, 20, 2)])]).folded()
    assert emptied.find("a", "4") is None
    back = after(emptied, [("join", [("a", 4)])])
    assert back.find("a", "4") == number
    assert back.domains == ("b", "a")


def test_a_catalog_without_any_item_stays_as_it_is() -> None:
    nothing = after(bundle(), [("leave", [(domain, place) for domain in "ab" for place in range(0, 20, 2)])])
    assert nothing.folded().overlay == nothing.overlay == 20


def test_items_that_were_deleted_stay_away_where_one_joins_while_a_catalog_without_items_is_folded() -> None:
    nothing = after(bundle(), [("leave", [(domain, place) for domain in "ab" for place in range(0, 20, 2)])])
    changed = after(nothing, [("join", [("a", 1)])])
    swapped = changed.moved(nothing, nothing.folded())
    assert len(swapped) == 1
    assert_same(swapped, changed)


def test_the_tries_are_read_in_pieces_and_a_pause_can_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folding, "PIECE", 3)
    before = after(bundle(), [("join", [("a", 1), ("c", 3), ("c", 5)]), ("leave", [("b", 2)])])
    pauses: list[int] = []
    assert_same(before.folded(lambda: pauses.append(1)), before)
    assert len(pauses) > len(before) // 3

    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        before.folded(stop)


def test_folded_tries_have_the_small_types_of_a_bundle_s() -> None:
    plain = after(bundle(), [("join", [("a", 1)])]).folded()
    trie = plain.index("a").trie
    assert {codes.dtype for codes in trie.codes} == {np.dtype(np.uint8)}
    assert {first.dtype for first in trie.first_child} == {np.dtype(np.int32)}
    assert np.shares_memory(plain.tables().codes[-1].values.numpy(), trie.codes[-1])  # type: ignore[attr-defined]


def test_a_search_finds_the_same_items_with_the_same_scores_after_a_fold(tmp_path: Path) -> None:
    model = adapted_model(tmp_path)
    sids = random_sids(np.random.default_rng(1), 90)
    films = [CatalogItem("films", str(place), sid) for place, sid in enumerate(sids)]
    books = [CatalogItem("books", str(place), sid) for place, sid in enumerate(sids[:40])]
    before = create_catalog([*films[:60], *books], SIZES).with_items(films[60:], 2)
    before = before.without_items([("films", str(place)) for place in range(5, 60, 7)], 3)
    plain = before.folded()
    assert (before.overlay, plain.overlay) == (38, 0)
    world = World(model, {domain: list(map(tuple, before.sids(domain).tolist())) for domain in ("books", "films")})
    requests = [
        Request("films", (("films", sids[0]), ("books", sids[2])), num_results=9, gamma=0.3),
        Request("books", (), num_results=40),
    ]
    batch = world.batch(requests)
    found, expected = (beam_search(model, catalog.tables(), batch, 50) for catalog in (plain, before))
    assert torch.equal(found.counts_B, expected.counts_B)
    assert torch.equal(found.leaves_BK, expected.leaves_BK)
    assert torch.equal(found.scores_BK, expected.scores_BK)
