"""A node of a trie tells what lies below each of its codes, in the snapshot that serves."""

import itertools

import pytest

from sidera.catalog import Catalog, CatalogItem, create_catalog
from sidera.errors import CatalogError, UnknownDomainError
from sidera.items.trie_nodes import SAMPLED_ITEMS, prefix_ranges, trie_node

SIDS = list(itertools.product(range(3), range(4)))


def item(number: int, domain: str = "drama") -> CatalogItem:
    sid = SIDS[number]
    return CatalogItem(
        domain, f"{domain}-{number}", sid, f"{('War', 'Love', 'Crime')[sid[0]]} {number}", {"genres": ["Film"]}
    )


def catalog() -> Catalog:
    return create_catalog([item(n, domain) for domain in ("comedy", "drama") for n in (0, 1, 2, 4, 5, 8, 9)], (3, 4))


def test_the_root_tells_codes_sizes_words_and_examples() -> None:
    root = trie_node(catalog(), "drama", ())
    assert root.items == 7
    assert [(child.code, child.items) for child in root.children] == [(0, 3), (1, 2), (2, 2)]
    assert [child.words for child in root.children] == [("war",), ("love",), ("crime",)]
    assert [one.item_id for one in root.children[0].examples] == ["drama-0", "drama-1", "drama-2"]


def test_a_prefix_tells_what_lies_below_it() -> None:
    node = trie_node(catalog(), "drama", (2,))
    assert [(child.code, child.examples[0].title) for child in node.children] == [(0, "Crime 8"), (1, "Crime 9")]


def test_registered_and_deleted_items_count() -> None:
    changed = catalog().with_changes(2, removed=[("drama", "drama-8"), ("drama", "drama-9")], items=[item(3)])
    root = trie_node(changed, "drama", ())
    assert [(child.code, child.items) for child in root.children] == [(0, 4), (1, 2)]
    assert trie_node(changed, "drama", (0,)).children[3].examples[0].title == "War 3"
    assert [child.items for child in trie_node(changed, "comedy", ()).children] == [3, 2, 2]
    with pytest.raises(CatalogError, match="begins with 2"):
        trie_node(changed, "drama", (2,))


@pytest.mark.parametrize(
    ("prefix", "said"), [((7,), "begins with 7"), ((0, 3), "whole semantic ID"), ((-1,), "with -1")]
)
def test_a_prefix_of_no_item_is_refused(prefix: tuple[int, ...], said: str) -> None:
    with pytest.raises(CatalogError, match=said):
        trie_node(catalog(), "drama", prefix)


def test_an_unknown_domain_is_refused() -> None:
    with pytest.raises(UnknownDomainError):
        trie_node(catalog(), "cinema", ())


def test_large_nodes_are_sampled_and_their_sizes_exact() -> None:
    count = 3 * SAMPLED_ITEMS
    items = [CatalogItem("d", str(n), (n // 128, n % 128), f"Title {n}", {}) for n in range(count)]
    root = trie_node(create_catalog(items, (128, 128)), "d", ())
    assert root.items == count
    assert {child.items for child in root.children} == {128}


def test_the_ranges_of_a_sid_narrow_code_by_code_as_long_as_items_begin_so() -> None:
    changed = catalog().with_changes(2, removed=[("drama", "drama-0")], items=[item(3)])
    assert prefix_ranges(changed, "drama", (1, 1)) == [(0, 7), (3, 5), (4, 5)]
    assert prefix_ranges(changed, "drama", (2, 3)) == [(0, 7), (5, 7)]
    assert prefix_ranges(changed, "comedy", (9, 0)) == [(0, 7)]
