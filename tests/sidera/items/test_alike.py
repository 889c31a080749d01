import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from sidera.catalog import Catalog, CatalogItem, create_catalog
from sidera.disk_arrays import open_tensor
from sidera.errors import CatalogError
from sidera.items.alike import Alike
from sidera.items.neighbours import GrownLists, NeighbourLists, Neighbours, Reading, Shares
from training.neighbour_lists import joined, similar_of
from training.neighbours_config import NeighboursConfig

SIZES = (8, 8, 8)
NEAREST = 4
DIM = 5
Vectors = dict[tuple[str, str], np.ndarray[Any, np.dtype[np.float32]]]
FREE = list(itertools.product(range(8), repeat=3))


def catalog_of(bundle: int) -> Catalog:
    """So many films and one song."""
    films = [CatalogItem("films", f"film-{item}", FREE[item]) for item in range(bundle)]
    return create_catalog([*films, CatalogItem("songs", "song", FREE[0])], SIZES)


def alike_of(catalog: Catalog, vector_of: Vectors) -> Alike:
    """What training makes of the items of a bundle."""
    keys: dict[str, list[str]] = {"films": [], "songs": []}
    for domain, item_id in vector_of:
        if catalog.find(domain, item_id) is not None:
            keys[domain].append(item_id)
    config = NeighboursConfig(nearest=NEAREST, temperature=0.5)
    stored_ND = np.zeros((len(catalog), DIM), dtype=np.float32)
    lists, numbers = {}, {}
    for domain, item_ids in keys.items():
        numbers[domain] = np.array([catalog.find(domain, item_id) for item_id in item_ids], dtype=np.int64)
        vectors_ID = np.stack([vector_of[domain, item_id] for item_id in item_ids])
        stored_ND[numbers[domain]] = vectors_ID
        lists[domain] = similar_of(vectors_ID, config, domain)
    nothing = NeighbourLists(np.zeros(len(catalog) + 1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))
    return Alike(
        Neighbours(
            nothing,
            GrownLists(joined(lists, numbers, len(catalog))),
            np.zeros(len(catalog), dtype=np.float32),
            {},
            Shares(similar=0.5),
            Reading(nearest=NEAREST, temperature=0.5),
        ),
        stored_ND,
    )


def vectors_of(films: int, seed: int) -> Vectors:
    rng = np.random.default_rng(seed)
    named = {("films", f"film-{item}"): rng.normal(size=DIM).astype(np.float32) for item in range(films)}
    return {**named, ("songs", "song"): rng.normal(size=DIM).astype(np.float32)}


def grown(
    alike: Alike, catalog: Catalog, batches: Sequence[Sequence[int]], vector_of: Vectors
) -> tuple[Alike, Catalog]:
    for batch in batches:
        items = [CatalogItem("films", f"film-{item}", FREE[item]) for item in batch]
        catalog = catalog.with_items(items, catalog.version + 1)
        alike = alike.with_items(catalog, {("films", item.item_id): vector_of["films", item.item_id] for item in items})
    return alike, catalog


def named_lists(alike: Alike, catalog: Catalog) -> dict[str, dict[str, float]]:
    """Each film's list, by item ids."""
    lists = {}
    for number in catalog.index("films").number_of_leaf.tolist():
        item_X, weight_X = alike.neighbours.similar.of(number)
        lists[catalog.name(number)[0]] = {
            catalog.name(item)[0]: weight for item, weight in zip(item_X.tolist(), weight_X.tolist(), strict=True)
        }
    return lists


@settings(deadline=None, max_examples=40)
@given(st.data(), st.integers(1, 12), st.integers(0, 12), st.integers(0, 10**6))
def test_items_that_join_in_any_batches_end_in_the_lists_of_a_bundle_that_held_them(
    data: st.DataObject, bundle: int, later: int, seed: int
) -> None:
    vector_of = vectors_of(bundle + later, seed)
    cuts = sorted(data.draw(st.sets(st.integers(bundle, bundle + later), max_size=4)))
    edges = [bundle, *cuts, bundle + later]
    batches = [list(range(begin, end)) for begin, end in itertools.pairwise(edges) if begin < end]
    alike, catalog = grown(alike_of(catalog_of(bundle), vector_of), catalog_of(bundle), batches, vector_of)
    whole = catalog_of(bundle + later)
    expected = named_lists(alike_of(whole, vector_of), whole)
    found = named_lists(alike, catalog)
    assert found.keys() == expected.keys()
    for item_id, listed in expected.items():
        assert found[item_id] == pytest.approx(listed, rel=1e-4)


@settings(deadline=None, max_examples=40)
@given(st.data(), st.integers(2, 10), st.integers(0, 8), st.integers(0, 10**6))
def test_items_that_join_again_with_other_vectors_end_in_the_lists_of_a_bundle_that_held_those(
    data: st.DataObject, bundle: int, later: int, seed: int
) -> None:
    vector_of = vectors_of(bundle + later, seed)
    batches = [list(range(bundle, bundle + later))] if later else []
    alike, catalog = grown(alike_of(catalog_of(bundle), vector_of), catalog_of(bundle), batches, vector_of)
    rounds = data.draw(st.lists(st.sets(st.integers(0, bundle + later - 1), min_size=1, max_size=4), max_size=4))
    for place, films in enumerate(rounds):
        keys = [("films", f"film-{film}") for film in sorted(films)]
        vector_of |= {key: vectors_of(bundle + later, seed + place + 1)[key] for key in keys}
        items = [CatalogItem(*key, FREE[64 * (place + 1) + int(key[1][5:])]) for key in keys]
        catalog = catalog.with_changes(catalog.version + 1, removed=keys, items=items)
        alike = alike.with_items(catalog, {key: vector_of[key] for key in keys})
    whole = catalog_of(bundle + later)
    expected = named_lists(alike_of(whole, vector_of), whole)
    found = named_lists(alike, catalog)
    for item_id, listed in expected.items():
        assert found[item_id] == pytest.approx(listed, rel=1e-4)


def test_an_item_that_is_gone_is_in_no_list_of_those_that_join_later() -> None:
    vector_of = vectors_of(8, 1)
    alike, catalog = grown(alike_of(catalog_of(3), vector_of), catalog_of(3), [[3, 4, 5]], vector_of)
    catalog = catalog.without_items([("films", "film-4"), ("films", "film-0")], catalog.version + 1)
    alike, catalog = grown(alike, catalog, [[6]], vector_of)
    listed, _ = alike.neighbours.similar.of(catalog.find("films", "film-6") or 0)
    assert {catalog.name(number)[0] for number in listed.tolist()} == {"film-1", "film-2", "film-3", "film-5"}


def test_an_item_that_enters_nobodys_list_still_gets_its_own() -> None:
    vector_of: Vectors = {
        ("films", f"film-{item}"): np.array([1, item / 100, 0, 0, 0], dtype=np.float32) for item in range(6)
    }
    vector_of |= {("films", "film-6"): -np.ones(DIM, np.float32), ("songs", "song"): np.ones(DIM, np.float32)}
    alike, catalog = grown(alike_of(catalog_of(6), vector_of), catalog_of(6), [[6]], vector_of)
    lists = named_lists(alike, catalog)
    assert len(lists["film-6"]) == NEAREST
    assert not any("film-6" in listed for listed in lists.values())


def test_a_domain_that_is_new_has_lists_of_its_own_items_alone() -> None:
    vector_of = vectors_of(3, 0)
    catalog = catalog_of(3)
    before = alike_of(catalog, vector_of)
    poems = [CatalogItem("poems", f"poem-{item}", FREE[item]) for item in range(2)]
    later = catalog.with_items(poems, 2)
    ones = np.ones(DIM, dtype=np.float32)
    after = before.with_items(later, {("poems", "poem-0"): ones, ("poems", "poem-1"): 2 * ones})
    numbers = [later.find("poems", f"poem-{item}") or 0 for item in range(2)]
    assert after.neighbours.known("poems", numbers[:1])[0].tolist() == [numbers[1]]
    assert named_lists(after, later) == named_lists(before, catalog)
    assert before.neighbours.known("poems", numbers[:1])[0].tolist() == []


def test_an_item_of_the_bundle_that_joins_again_is_in_no_list_twice_and_has_its_new_weight() -> None:
    vector_of = vectors_of(6, seed=3)
    catalog = catalog_of(6)
    alike = alike_of(catalog, vector_of)
    key = ("films", "film-2")
    vector_of[key] = vector_of["films", "film-4"] * 2
    again = catalog.with_changes(2, removed=[key], items=[CatalogItem(*key, FREE[100])])
    changed = alike.with_items(again, {key: vector_of[key]})
    number = again.find(*key)
    for item in range(6):
        owner = again.find("films", f"film-{item}")
        assert owner is not None
        listed, weights = changed.neighbours.similar.of(owner)
        assert len(set(listed.tolist())) == len(listed)
        if item == 4:
            assert weights[listed.tolist().index(number)] == pytest.approx(1.0)


def test_an_item_that_the_catalog_does_not_hold_is_refused() -> None:
    catalog = catalog_of(2)
    with pytest.raises(CatalogError, match="no item 'film-9' in domain 'films'"):
        alike_of(catalog, vectors_of(2, 0)).with_items(catalog, {("films", "film-9"): np.ones(DIM, np.float32)})


def test_a_tensor_on_disk_is_the_one_that_was_written(tmp_path: Path) -> None:
    path = tmp_path / "vectors.safetensors"
    vectors = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    save_file({"other": np.arange(4), "vectors": vectors}, path)
    assert open_tensor(path, "vectors").tolist() == vectors.tolist()
    with pytest.raises(CatalogError, match=r"vectors\.safetensors: no tensor 'missing' can be read"):
        open_tensor(path, "missing")
    with pytest.raises(CatalogError, match="of type I64, not F32"):
        open_tensor(path, "other")
    (tmp_path / "short").write_bytes(b"abc")
    with pytest.raises(CatalogError, match="no tensor 'vectors' can be read"):
        open_tensor(tmp_path / "short", "vectors")
