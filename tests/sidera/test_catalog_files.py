"""Catalogs on disk: what is refused when one is opened, and what is made of columns."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from sidera.catalog import Catalog, CatalogItem, create_catalog
from sidera.errors import CatalogError
from sidera.items.item_store import ItemColumns, ItemStore
from sidera.items.stored_catalog import build_catalog
from tests.sidera.catalogs import made_up
from tests.sidera.worlds import SIZES


@pytest.fixture
def items() -> list[CatalogItem]:
    return [*made_up("films", 20), *made_up("books", 30, seed=1), CatalogItem("one-item", "it", (4, 3, 5))]


def rewrite(folder: Path, change: Any, **metadata: str) -> None:
    """Write ``tries.safetensors`` again with other arrays, or other domains."""
    path = folder / "tries.safetensors"
    with safe_open(path, framework="numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata() | metadata
    change(arrays)
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path, metadata=metadata)


@pytest.mark.parametrize("name", ["number_of_leaf", "leaf_of_number"])
@pytest.mark.parametrize(
    "change",
    [
        lambda numbers: np.full_like(numbers, numbers[0]),
        lambda numbers: numbers + 1000,
        lambda numbers: numbers - 1000,
        lambda numbers: numbers[1:],
        lambda numbers: numbers[::-1],
        lambda numbers: numbers.astype(np.int64),
    ],
)
def test_leaves_that_do_not_stand_for_items_are_refused(
    name: str, change: Any, items: list[CatalogItem], tmp_path: Path
) -> None:
    create_catalog(items, SIZES).save(tmp_path)
    rewrite(tmp_path, lambda arrays: arrays.update({name: change(arrays[name])}))
    with pytest.raises(CatalogError, match="do not fit the items"):
        Catalog.load(tmp_path, ["films", "books", "one-item"], SIZES)


def test_a_table_of_another_length_is_refused(items: list[CatalogItem], tmp_path: Path) -> None:
    create_catalog(items, SIZES).save(tmp_path)
    table = ItemStore.load(tmp_path).table
    for wrong, told in (
        (table[1:], "50 rows for 51 item ids"),
        (table.drop_columns(["title"]), "title does not exist"),
    ):
        with pa.OSFile(str(tmp_path / "new"), "wb") as file, pa.ipc.new_file(file, wrong.schema) as writer:
            writer.write_table(wrong)
        (tmp_path / "new").replace(tmp_path / "items.arrow")
        with pytest.raises(CatalogError, match=told):
            Catalog.load(tmp_path, ["films", "books", "one-item"], SIZES)


def test_other_domains_than_the_bundle_names_are_refused(items: list[CatalogItem], tmp_path: Path) -> None:
    create_catalog(items, SIZES).save(tmp_path)
    with pytest.raises(CatalogError, match="holds the domains books, films, one-item, not films; export"):
        Catalog.load(tmp_path, ["films"], SIZES)
    rewrite(tmp_path, lambda arrays: None, domains='["books", "films"]')
    with pytest.raises(CatalogError, match="levels do not fit together"):
        Catalog.load(tmp_path, ["films", "books"], SIZES)


@pytest.mark.parametrize("name", ["tries.safetensors", "items.arrow", "item_ids.marisa"])
@pytest.mark.parametrize("content", [None, b"", b"no such file at all " * 10])
def test_a_missing_or_broken_file_is_named(
    name: str, content: bytes | None, items: list[CatalogItem], tmp_path: Path
) -> None:
    create_catalog(items, SIZES).save(tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CatalogError, match=f"{name} cannot be read .*; export the bundle again"):
        Catalog.load(tmp_path, ["films", "books", "one-item"], SIZES)


def test_codes_beyond_the_codebooks_are_refused(items: list[CatalogItem], tmp_path: Path) -> None:
    create_catalog(items, SIZES).save(tmp_path)
    with pytest.raises(CatalogError, match="codes do not increase"):
        Catalog.load(tmp_path, ["films", "books", "one-item"], (5, 4, 5))


def test_tries_and_numbers_are_not_copied_into_memory(items: list[CatalogItem], tmp_path: Path) -> None:
    create_catalog(items[:50], SIZES).save(tmp_path)
    catalog = Catalog.load(tmp_path, ["films", "books"], SIZES)
    tables, again = catalog.tables(), catalog.with_hidden([("films", "1")], 2).tables()
    assert tables is again
    for domain, root in (("books", 0), ("films", 1)):
        trie = catalog.index(domain).trie
        for level, codes in enumerate(trie.codes):
            whole = tables.codes[level].values.numpy()  # type: ignore[attr-defined]
            assert codes.dtype == np.uint8
            assert np.shares_memory(codes, whole)
            assert np.shares_memory(trie.first_child[level], tables.first_child[level].values.numpy())  # type: ignore[attr-defined]
        assert catalog.index(domain).number_of_leaf.dtype == np.int32
        assert tables.first_child[0][root : root + 1].tolist() == [int(trie.first_child[0][0])]


# Columns


def test_items_given_in_columns_are_those_given_one_by_one() -> None:
    own = made_up("films", 20)
    columns = ItemColumns(
        pa.array([item.item_id for item in own]),
        pa.array([item.title for item in own]),
        pa.array(['{"year": %s, "tags": ["ä", "b"]}' % item.item_id for item in own]),  # noqa: UP031
    )
    sids_NL = np.array([item.sid for item in own])
    built, expected = build_catalog({"films": (columns, sids_NL)}, SIZES), create_catalog(own, SIZES)
    assert built.store.table.equals(expected.bundle_items)
    np.testing.assert_array_equal(built.tries.number_of_leaf, expected.index("films").number_of_leaf)
    bare = build_catalog({"films": (ItemColumns(columns.item_ids), sids_NL)}, SIZES).store
    assert (bare.title(3), bare.fields(3)) == (None, {})


@pytest.mark.parametrize(
    ("item_ids", "told"),
    [(["1", "2", ""], "is not allowed"), (["1", "a\0", "3"], "is not allowed"), (["1", None, "3"], "without an id")],
)
def test_a_column_of_ids_that_are_not_allowed_is_refused(item_ids: list[str | None], told: str) -> None:
    with pytest.raises(CatalogError, match=told):
        build_catalog({"films": (ItemColumns(pa.array(item_ids)), np.array([[0, 0, 0], [0, 0, 1], [1, 0, 0]]))}, SIZES)


def test_columns_of_different_lengths_are_refused() -> None:
    sids_NL = np.array([[0, 0, 0], [0, 0, 1]])
    for columns, sids in (
        (ItemColumns(pa.array(["1", "2"]), pa.array(["one"])), sids_NL),
        (ItemColumns(pa.array(["1", "2"])), sids_NL[:1]),
    ):
        with pytest.raises(CatalogError, match="for 2 items"):
            build_catalog({"films": (columns, sids)}, SIZES)
