"""Tries: built, stored, looked up and laid side by side."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidera.errors import CatalogError, DuplicateItemError
from sidera.trie import Trie, build_trie, tables_of
from tests.sidera.worlds import SIZES, Sid

one_sid = st.tuples(*[st.integers(0, size - 1) for size in SIZES])
some_sids = st.lists(one_sid, min_size=1, max_size=60, unique=True)


def trie_of(sids: list[Sid]) -> Trie:
    return build_trie(np.array(sids), SIZES)[0]


@given(some_sids)
def test_leaves_are_the_sids_in_order_and_know_their_rows(sids: list[Sid]) -> None:
    trie, row_of_leaf = build_trie(np.array(sids), SIZES)
    assert trie.sids().tolist() == sorted(map(list, sids))
    assert trie.sids().dtype == np.int32
    assert [sids[row] for row in row_of_leaf.tolist()] == sorted(sids)
    assert (trie.num_levels, trie.num_leaves) == (len(SIZES), len(sids))


@given(some_sids, st.data())
def test_the_sids_of_some_leaves_are_those_of_all_leaves(sids: list[Sid], data: st.DataObject) -> None:
    trie = trie_of(sids)
    leaves = data.draw(st.lists(st.integers(0, len(sids) - 1), max_size=20))
    assert trie.sids_of(np.array(leaves, dtype=np.int64)).tolist() == [list(sorted(sids)[leaf]) for leaf in leaves]


@given(some_sids)
def test_nodes_are_the_prefixes_in_order_and_own_their_children(sids: list[Sid]) -> None:
    trie = trie_of(sids)
    for level in range(len(SIZES)):
        parents = sorted({sid[:level] for sid in sids})
        prefixes = sorted({sid[: level + 1] for sid in sids})
        assert trie.codes[level].tolist() == [prefix[-1] for prefix in prefixes]
        for node, parent in enumerate(parents):
            begin, end = trie.first_child[level][node : node + 2].tolist()
            assert prefixes[begin:end] == [prefix for prefix in prefixes if prefix[:level] == parent]


@given(some_sids)
def test_a_stored_trie_comes_back(sids: list[Sid]) -> None:
    trie = trie_of(sids)
    again = Trie.from_arrays(trie.arrays(), SIZES)
    assert again.arrays().keys() == trie.arrays().keys()
    for name, array in trie.arrays().items():
        np.testing.assert_array_equal(again.arrays()[name], array)
        assert array.dtype == (np.int32 if name.startswith("first_child") else np.uint8)


def test_a_stored_trie_with_a_missing_array_is_refused() -> None:
    arrays = trie_of([(0, 1, 2)]).arrays()
    del arrays["first_child.1"]
    with pytest.raises(CatalogError, match=r"lacks 'first_child\.1'"):
        Trie.from_arrays(arrays, SIZES)


SIX: list[Sid] = [(0, 0, 0), (0, 0, 3), (0, 2, 1), (1, 1, 1), (1, 3, 0), (4, 0, 5)]


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("first_child.0", [0, 2]),
        ("first_child.0", [1, 3]),
        ("first_child.1", [0, 2, 2, 5]),
        ("first_child.1", [0, 4, 2, 5]),
        ("first_child.1", [0, 2, 4, 5, 5]),
        ("first_child.2", [0, 2, 3, 4, 5, 7]),
        ("codes.3", [0, 3, 1, 1, 0]),
        ("codes.3", [3, 0, 1, 1, 0, 5]),
        ("codes.3", [3, 3, 1, 1, 0, 5]),
        ("codes.1", [0, 4, 1]),
        ("codes.1", [-1, 1, 4]),
        ("codes.1", [0, 1, 5]),
    ],
)
def test_a_stored_trie_that_is_none_is_refused(name: str, changed: list[int]) -> None:
    arrays = trie_of(SIX).arrays()
    assert Trie.from_arrays(arrays, SIZES).num_leaves == 6
    with pytest.raises(CatalogError, match="export the bundle again"):
        Trie.from_arrays(arrays | {name: np.array(changed, dtype=np.int32)}, SIZES)


@given(some_sids, st.data())
def test_a_sid_that_occurs_twice_is_refused_with_both_rows(sids: list[Sid], data: st.DataObject) -> None:
    row = data.draw(st.integers(0, len(sids) - 1))
    with pytest.raises(DuplicateItemError, match=f"rows {row} and {len(sids)} share the SID"):
        trie_of([*sids, sids[row]])


@pytest.mark.parametrize(("code", "level"), [(5, 0), (4, 1), (6, 2), (-1, 1), (2**31 + 1, 2), (2**32, 0)])
def test_a_code_that_its_level_has_not_is_refused_with_its_row(code: int, level: int) -> None:
    sid = [0, 0, 0]
    sid[level] = code
    with pytest.raises(
        CatalogError, match=rf"row 1: code {code} at level {level + 1} is outside 0\.\.{SIZES[level] - 1}"
    ):
        build_trie(np.array([[1, 1, 1], sid]), SIZES)


@pytest.mark.parametrize("shape", [(2, 2), (2, 4), (3,), (0, 3), (0, 0)])
def test_sids_of_a_wrong_length_and_no_sids_at_all_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(CatalogError):
        build_trie(np.zeros(shape, dtype=np.int32), SIZES)


@given(st.lists(some_sids, min_size=1, max_size=4))
def test_tries_side_by_side_keep_their_prefixes_and_leaves_apart(domains: list[list[Sid]]) -> None:
    tables = tables_of([trie_of(sids) for sids in domains])
    everything = [(root, *sid) for root, sids in enumerate(domains) for sid in sorted(sids)]
    assert (tables.num_levels, tables.num_leaves, tables.device.type) == (len(SIZES), len(everything), "cpu")
    ancestors = tables.ancestors(torch.arange(len(everything))).tolist()
    for level in range(len(SIZES) + 1):
        prefixes = sorted({sid[: level + 1] for sid in everything})
        assert [prefixes[nodes[level]] for nodes in ancestors] == [sid[: level + 1] for sid in everything]
        begins = [next(leaf for leaf, sid in enumerate(everything) if sid[: level + 1] == p) for p in prefixes]
        assert tables.leaf_begin[level][:].tolist() == [*begins, len(everything)]
        if level == 0:
            continue
        assert tables.codes[level - 1][:].tolist() == [prefix[-1] for prefix in prefixes]
        parents = sorted({sid[:level] for sid in everything})
        firsts = [next(node for node, prefix in enumerate(prefixes) if prefix[:level] == p) for p in parents]
        assert tables.first_child[level - 1][:].tolist() == [*firsts, len(prefixes)]
