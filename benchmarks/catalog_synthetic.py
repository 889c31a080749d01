"""Made-up items for catalogs of any size: ids, titles, and SIDs that fill a tree as unevenly as real ones do.

Shapes: N items, L levels.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sidera.catalog import Catalog, CatalogItem
from sidera.items.item_store import ItemColumns

DOMAIN = "made-up"
SIZES = (256, 256, 256, 256)
ID_LENGTH = 10
_ID_CHARACTERS = np.frombuffer(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", dtype=np.uint8)
_SPREAD = 1.0
"""Of the logarithm of how often a node's children are taken: 1 leaves the rarest tenth with 1 % of the items."""


def made_up_items(items: int, seed: int = 0) -> ItemColumns:
    """Items with ids of ten random characters, titles and a few fields."""
    random = np.random.default_rng(seed)
    characters = np.empty((0, ID_LENGTH), dtype=np.uint8)
    while len(characters) < items:
        more = _ID_CHARACTERS[random.integers(len(_ID_CHARACTERS), size=(items - len(characters), ID_LENGTH))]
        characters = np.concatenate([characters, more])
        whole = characters.view(f"S{ID_LENGTH}")[:, 0]
        _, first = np.unique(whole, return_index=True)
        characters = characters[np.sort(first)]
    ends = np.arange(0, ID_LENGTH * items + 1, ID_LENGTH, dtype=np.int64)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(np.ascontiguousarray(characters))]
    item_ids = pa.Array.from_buffers(pa.large_string(), items, buffers)
    titles = [f"Made-up item {number:,} of {items:,}" for number in range(items)]
    fields = [f'{{"brand": "Maker {number % 997}", "price": {number % 100}.99}}' for number in range(items)]
    return ItemColumns(item_ids, pa.array(titles, pa.large_string()), pa.array(fields, pa.large_string()))


def made_up_sids(items: int, codebook_sizes: tuple[int, ...], seed: int = 0) -> npt.NDArray[np.int32]:
    """Different SIDs in random order: each node's children are taken unevenly, and other ones below every node.

    Args:
        items: at most half of what the codebooks can tell apart.

    Returns:
        int32[N, L].
    """
    random = np.random.default_rng(seed)
    shares = [np.exp(random.normal(scale=_SPREAD, size=size)) for size in codebook_sizes]
    keys = np.empty(0, dtype=np.int64)
    while len(keys) < items:
        more = items - len(keys) + items // 8
        found = np.zeros(more, dtype=np.int64)
        for size, share in zip(codebook_sizes, shares, strict=True):
            drawn = random.choice(size, size=more, p=share / share.sum())
            # A number of the prefix moves the codes, so that siblings elsewhere are not the same ones.
            code = (drawn + (found * 2_654_435_761 % 2**32 >> 7)) % size
            found = found * size + code
        keys = np.unique(np.concatenate([keys, found]))
    keys = random.permutation(keys)[:items]
    return np.stack(np.unravel_index(keys, codebook_sizes), axis=1).astype(np.int32)


def new_items(catalog: Catalog, count: int) -> list[CatalogItem]:
    """Items with SIDs that no item of a catalog of :data:`DOMAIN` has, each beside one that some item has."""
    random = np.random.default_rng(2)
    index = catalog.index(DOMAIN)
    sids_XL = index.sids_of(random.integers(index.num_leaves, size=4 * count))
    sids_XL[:, -1] = (sids_XL[:, -1] + random.integers(1, SIZES[-1], size=len(sids_XL))) % SIZES[-1]
    free = (sid for sid in dict.fromkeys(map(tuple, sids_XL.tolist())) if catalog.holder(DOMAIN, sid) is None)
    return [CatalogItem(DOMAIN, f"new {place}", sid, "New") for place, sid in zip(range(count), free, strict=False)]
