"""An item as a catalog describes it, and what happened to items after their bundle was written.

Shapes: N items, L levels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from sidera.errors import CatalogError
from sidera.trie import IntArray, check_sids


@dataclass(frozen=True)
class CatalogItem:
    """A thing to recommend.

    Attributes:
        sid: its semantic ID, unique within its domain.
        title: what to show for it, if it has one.
        fields: everything else that is known of it, as its JSON object says.
    """

    domain: str
    item_id: str
    sid: tuple[int, ...]
    title: str | None = None
    fields: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class LaterChanges:
    """What happened to items after the bundle was written.

    Attributes:
        items: those that were added or changed, by number.
        numbers: of those that were added, by domain and item id; they keep them when they are removed.
        removed: numbers of items that are gone.
        hidden: numbers of items that must not come back.
    """

    items: Mapping[int, CatalogItem] = field(default_factory=dict)
    numbers: Mapping[tuple[str, str], int] = field(default_factory=dict)
    removed: frozenset[int] = frozenset()
    hidden: frozenset[int] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.items or self.numbers or self.removed or self.hidden)


def item_sids(items: Sequence[CatalogItem], codebook_sizes: Sequence[int]) -> IntArray:
    """The SIDs of items, checked. Shape: int32[N, L].

    Raises:
        CatalogError: a SID has another number of codes than levels, or a code that its level does not have.
    """
    for item in items:
        if len(item.sid) != len(codebook_sizes):
            raise CatalogError(
                f"item {item.item_id[:80]!r} of {item.domain!r} has a SID of {len(item.sid)} codes, not "
                f"{len(codebook_sizes)}; encode it with this catalog's tokenizer"
            )
    sids_NL = np.array([item.sid for item in items], dtype=np.int64)
    check_sids(sids_NL, codebook_sizes)
    return sids_NL.astype(np.int32)
