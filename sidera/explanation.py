"""What the SID of an item means in words: below each of its prefixes, how many items there are and what they share.

Knows the catalog of a bundle; does not know vectors, tokenizers or models, so nothing of them is loaded.

Shapes: N items of a domain, in the order of their SIDs; L level.
"""

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq

from sidera.bundle import Bundle
from sidera.catalog import Catalog
from sidera.code_words import count_words, standing_out, words_of
from sidera.errors import CatalogError

_CLOSE_MATCHES = 3
_SIMILAR = 0.75
_EXAMPLES = 3


@dataclass(frozen=True)
class PrefixMeaning:
    """The items below one prefix of a SID.

    Attributes:
        codes: the prefix.
        items: how many share it, the item itself included.
        words: those that stand out among them, against the domain.
        examples: titles (ids, where there is none) of a few of the others.
    """

    codes: tuple[int, ...]
    items: int
    words: tuple[str, ...]
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Explanation:
    """One item, its SID, and the meaning of every prefix of it, the shortest first."""

    domain: str
    item_id: str
    title: str | None
    sid: tuple[int, ...]
    domain_items: int
    prefixes: tuple[PrefixMeaning, ...]


def explain_item(bundle: Bundle, item_id: str, domain: str | None = None) -> Explanation:
    """Explain the SID of an item.

    Args:
        bundle: only its catalog is read.
        item_id: as in ``items.jsonl``.
        domain: whose item it is; needed only where several domains have an item of that id.

    Raises:
        UnknownDomainError: the bundle has no such domain.
        CatalogError: there is no such item, or there is one in several domains.
        BundleError: a file of the catalog is missing or damaged.
    """
    manifest = bundle.manifest
    for name in ("item_ids.marisa", *(f"{name}.safetensors" for name in manifest.domains)):
        bundle.path(f"catalog/{name}")
    items_path = bundle.path("catalog/items.parquet")
    catalog = Catalog.load(items_path.parent, manifest.domains, manifest.codebook_sizes)
    domain, number = _find(catalog, item_id, domain)

    table = pq.read_table(items_path, columns=["title", "fields"])
    number_N = catalog.index(domain).number_of_leaf
    own = table.take(number_N)
    titles: list[str | None] = own["title"].to_pylist()
    words = [
        words_of(title, json.loads(fields) if "[" in fields else {})  # only lists hold words: skip objects without one
        for title, fields in zip(titles, own["fields"].to_pylist(), strict=True)
    ]
    everywhere = count_words(words)
    sids_NL, leaf = catalog.sids(domain), catalog.leaf(number)
    shared_N = (sids_NL == sids_NL[leaf]).cumprod(axis=1).sum(axis=1)
    prefixes = []
    for length in range(1, sids_NL.shape[1] + 1):
        rows = np.flatnonzero(shared_N >= length).tolist()
        others = [row for row in rows if row != leaf]
        shown = np.linspace(0, len(others) - 1, min(_EXAMPLES, len(others))).astype(int).tolist()
        prefixes.append(
            PrefixMeaning(
                codes=tuple(sids_NL[leaf, :length].tolist()),
                items=len(rows),
                words=tuple(standing_out(count_words(words[row] for row in rows), everywhere)),
                examples=tuple(titles[others[n]] or catalog.name(int(number_N[others[n]]))[0] for n in shown),
            )
        )
    return Explanation(domain, item_id, titles[leaf], prefixes[-1].codes, len(titles), tuple(prefixes))


def _find(catalog: Catalog, item_id: str, domain: str | None) -> tuple[str, int]:
    """The domain and the number of an item."""
    names = catalog.domains if domain is None else (domain,)
    for name in names:
        catalog.index(name)
    found = [(name, number) for name in names if (number := catalog.find(name, item_id)) is not None]
    if len(found) == 1:
        return found[0]
    if found:
        several = ", ".join(name for name, _ in found)
        raise CatalogError(f"item {item_id[:80]!r} is in several domains; choose one with --domain: {several}")
    where = "in the bundle" if domain is None else f"in domain {domain!r}"
    raise CatalogError(f"there is no item {item_id[:80]!r} {where}; {_close_matches(catalog, item_id, names)}")


def _close_matches(catalog: Catalog, item_id: str, domains: Sequence[str]) -> str:
    """What the user may have meant: items of a similar id, or of a title that holds the text."""
    known = [catalog.name(int(number)) for name in domains for number in catalog.index(name).number_of_leaf]
    close = difflib.get_close_matches(item_id, (own_id for own_id, _ in known), _CLOSE_MATCHES, _SIMILAR)
    asked = item_id.casefold()
    titled = [own_id for own_id, title in known if asked and title is not None and asked in title.casefold()]
    matches = list(dict.fromkeys([*close, *titled]))[:_CLOSE_MATCHES]
    if not matches:
        return "give an item_id as in items.jsonl"
    return f"close to it: {', '.join(map(repr, matches))}"
