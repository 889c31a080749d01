"""Catalogs made up for tests, and what is to hold of each."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sidera.catalog import Catalog, CatalogItem
from sidera.trie import build_trie, tables_of
from tests.sidera.worlds import SIZES, random_sids


def made_up(domain: str, count: int, seed: int = 0) -> list[CatalogItem]:
    return [
        CatalogItem(
            domain, f"{place}", sid, f"Title {place}" if place % 3 else None, {"year": place, "tags": ["ä", "b"]}
        )
        for place, sid in enumerate(random_sids(np.random.default_rng(seed), count))
    ]


def assert_holds(catalog: Catalog, items: Sequence[CatalogItem]) -> None:
    """Everything that the catalog says of these items fits together, and it holds no others."""
    assert len(catalog) == len(items)
    assert sorted(catalog.domains) == sorted({item.domain for item in items})
    for domain in catalog.domains:
        own = sorted((item for item in items if item.domain == domain), key=lambda item: item.sid)
        index = catalog.index(domain)
        assert catalog.size(domain) == len(own)
        assert catalog.sids(domain).tolist() == [list(item.sid) for item in own]
        numbers = index.number_of_leaf.tolist()
        assert [catalog.item(number) for number in numbers] == own
        assert [catalog.name(number) for number in numbers] == [(item.item_id, item.title) for item in own]
        assert [catalog.find(domain, item.item_id) for item in own] == numbers
        assert [catalog.leaf(number) for number in numbers] == list(range(len(own)))
        assert catalog.leaves(np.array(numbers)[::-1]).tolist() == list(range(len(own)))[::-1]
        assert index.numbers_of(np.arange(len(own))[::-1]).tolist() == numbers[::-1]
        assert index.sids_of(np.arange(len(own))[::-1]).tolist() == [list(item.sid) for item in own][::-1]
        assert catalog.sids_of(domain, numbers) == [catalog.sid(domain, number) for number in numbers]
        assert catalog.sids_of(domain, numbers[::-1]) == [item.sid for item in own[::-1]]
        assert catalog.sids_of(domain, []) == []
        assert [catalog.holder(domain, item.sid) for item in own] == numbers
        assert index.trie.sids().tolist() == [list(item.sid) for item in own]
    if items:
        of_domain = [[item.sid for item in items if item.domain == domain] for domain in catalog.domains]
        anew = tables_of([build_trie(np.array(sids), SIZES)[0] for sids in of_domain])
        assert everything(catalog.tables()) == everything(anew)


def everything(tables: Any) -> list[list[int]]:
    """All numbers of tables."""
    return [array[:].tolist() for array in (*tables.codes, *tables.first_child, *tables.leaf_begin)]
