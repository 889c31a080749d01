"""Changed tries: whatever came and went, they read as tries built anew."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sidera.beam_search import beam_search
from sidera.errors import DuplicateItemError
from sidera.items.trie_overlay import changed_tables, changes_of
from sidera.trie import Trie, TrieTables, build_trie, side_by_side, tables_of
from tests.sidera.worlds import SIZES, Request, Sid, World, adapted_model, random_sids

Rooted = tuple[int, ...]
"""A root and the SID below it."""

one_sid = st.tuples(*[st.integers(0, size - 1) for size in SIZES])
some_sids = st.lists(one_sid, min_size=1, max_size=30, unique=True)


def base_of(domains: Sequence[Sequence[Sid]]) -> Trie:
    return side_by_side([build_trie(np.array(sids), SIZES)[0] for sids in domains])


def changed(base: Trie, removed: Sequence[int], added: Sequence[Rooted]) -> TrieTables:
    rooted = np.array(sorted(added), dtype=np.int64).reshape(-1, len(SIZES) + 1)
    changes = changes_of(base, np.array(sorted(removed), dtype=np.int64), rooted[:, 1:], rooted[:, 0])
    return changed_tables(tables_of([base]), changes)


def anew(rooted: Sequence[Rooted]) -> TrieTables:
    roots = sorted({sid[0] for sid in rooted})
    return tables_of([build_trie(np.array([sid[1:] for sid in rooted if sid[0] == root]), SIZES)[0] for root in roots])


def assert_same(one: TrieTables, other: TrieTables) -> None:
    assert (one.num_levels, one.num_leaves, one.device) == (other.num_levels, other.num_leaves, other.device)
    for name in ("codes", "first_child", "leaf_begin"):
        for own, expected in zip(getattr(one, name), getattr(other, name), strict=True):
            assert len(own) == len(expected)
            assert own[:].tolist() == expected[:].tolist()
            places = torch.arange(len(own)).flip(0)
            assert own[places].tolist() == expected[places].tolist()
            assert own[places].dtype == torch.int64
            assert own[places[:, None].expand(-1, 2)].tolist() == expected[places[:, None].expand(-1, 2)].tolist()
    leaves = torch.arange(one.num_leaves)
    assert one.ancestors(leaves).tolist() == other.ancestors(leaves).tolist()


@settings(deadline=None)
@given(st.lists(some_sids, min_size=1, max_size=3), st.data())
def test_changed_tries_are_those_built_anew(domains: list[list[Sid]], data: st.DataObject) -> None:
    held: list[Rooted] = [(root, *sid) for root, sids in enumerate(domains) for sid in sorted(sids)]
    removed = data.draw(st.sets(st.integers(0, len(held) - 1)))
    kept = [sid for leaf, sid in enumerate(held) if leaf not in removed]
    roots = st.integers(0, len(domains) + 1)
    free = st.tuples(roots, *[st.integers(0, size - 1) for size in SIZES]).filter(lambda sid: sid not in kept)
    added = data.draw(st.lists(free, min_size=0 if kept else 1, max_size=20, unique=True))
    assert_same(changed(base_of(domains), sorted(removed), added), anew([*kept, *added]))


def test_a_removed_sid_may_be_added_again_and_changes_nothing() -> None:
    held: list[Sid] = [(0, 0, 0), (0, 0, 3), (0, 2, 1), (4, 0, 5)]
    everything = [(0, *sid) for sid in held]
    assert_same(changed(base_of([held]), range(4), everything), anew(everything))


@pytest.mark.parametrize("added", [[(0, 0, 0, 3)], [(0, 1, 1, 1), (0, 1, 1, 1)], [(1, 1, 1, 1), (1, 1, 1, 1)]])
def test_a_sid_that_a_leaf_has_or_that_comes_twice_is_refused(added: list[Rooted]) -> None:
    base = base_of([[(0, 0, 0), (0, 0, 3)]])
    with pytest.raises(DuplicateItemError, match=rf"share the SID \({', '.join(map(str, added[0][1:]))}\)"):
        changed(base, [0], added)


def test_what_nothing_was_changed_in_is_as_it_was() -> None:
    domains: list[list[Sid]] = [random_sids(np.random.default_rng(0), 20), [(1, 1, 1)]]
    assert_same(changed(base_of(domains), [], []), tables_of([base_of(domains)]))


def test_a_search_in_changed_tries_finds_what_it_finds_in_those_built_anew(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    model = adapted_model(tmp_path_factory.mktemp("adapters"))
    rng = np.random.default_rng(1)
    sids = {"films": random_sids(rng, 70), "books": random_sids(rng, 60)}
    before = {domain: own[:1] + own[20:] for domain, own in sids.items()}  # a whole branch comes
    gone = {"films": before["films"][30:41], "books": before["books"][-9:]}
    after = {domain: [sid for sid in own if sid not in gone[domain]] for domain, own in sids.items()}
    roots = {"films": 0, "books": 1}
    held = [(roots[domain], *sid) for domain, own in before.items() for sid in own]
    removed = [held.index((roots[domain], *sid)) for domain, own in gone.items() for sid in own]
    added = [(roots[domain], *sid) for domain, own in after.items() for sid in own if sid not in before[domain]]
    tables = changed(base_of(list(before.values())), removed, added)
    world = World(model, after)
    history = (("films", after["films"][3]), ("books", after["books"][5]))
    blocked = frozenset(after["films"][:9])
    known = ((after["books"][2], 0.2), (after["books"][40], 0.1))
    requests = [
        Request("films", history, num_results=8, gamma=0.3, blocked=blocked),
        Request("books", history, num_results=5, gamma=0.5, known=known, shared=0.25),
        Request("films", (), num_results=50, allowed=frozenset(after["films"][10:30])),
    ]
    batch = world.batch(requests)
    for width in (50, 60):
        found, expected = beam_search(model, tables, batch, width), beam_search(model, world.tables, batch, width)
        assert found.counts_B.tolist() == expected.counts_B.tolist() == [8, 5, 20]
        for row, count in enumerate(found.counts_B.tolist()):
            assert found.leaves_BK[row, :count].tolist() == expected.leaves_BK[row, :count].tolist()
            assert found.scores_BK[row, :count].tolist() == expected.scores_BK[row, :count].tolist()
        assert found.certified_B.tolist() == expected.certified_B.tolist()
