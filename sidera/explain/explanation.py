"""What the SID of an item means in words: below each of its prefixes, how many items there are and what they share.

Knows the catalog of a bundle; does not know vectors, tokenizers or models, so nothing of them is loaded.

Shapes: N items of a domain, in the order of their SIDs; L level.
"""

import difflib
import itertools
import json
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sidera.bundle import Bundle
from sidera.catalog import Catalog
from sidera.errors import CatalogError
from sidera.explain.code_words import count_words, standing_out, words_of
from sidera.items.item_store import IDS_FILE, TABLE_FILE
from sidera.items.stored_catalog import TRIES_FILE

_CLOSE_MATCHES = 3
_SIMILAR = 0.75
_EXAMPLES = 3
_LONGEST = 80
_CANDIDATES = 1000
_ID_CHARACTERS = string.ascii_letters + string.digits + "-_.:/ "
_NO_MATCH = "give an item_id as in items.jsonl"


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
    files = [bundle.path(f"catalog/{name}") for name in (IDS_FILE, TABLE_FILE, TRIES_FILE)]
    catalog = Catalog.load(files[0].parent, manifest.domains, manifest.codebook_sizes)
    domain, number = _find(catalog, item_id, domain)

    number_N = catalog.index(domain).number_of_leaf
    own = catalog.bundle_items.take(number_N)
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
    matches = list(dict.fromkeys([*_similar_ids(catalog, item_id, names), *_titled(catalog, item_id, names)]))
    hint = f"close to it: {', '.join(map(repr, matches[:_CLOSE_MATCHES]))}" if matches else _NO_MATCH
    raise CatalogError(f"there is no item {item_id[:80]!r} {where}; {hint}")


def _similar_ids(catalog: Catalog, item_id: str, domains: Sequence[str]) -> list[str]:
    """Ids like the one asked for, most similar first; some thousand are looked up, however many there are.

    Those of one edit, and some of those that share its beginning as far as any id does.
    """
    asked = item_id[:_LONGEST]
    similar = [edited for edited in _one_edit(asked) if any(catalog.find(name, edited) is not None for name in domains)]
    for name in domains:
        for end in range(len(asked), 0, -1):
            same_beginning = list(itertools.islice(catalog.ids_from(name, asked[:end]), _CANDIDATES))
            if same_beginning:
                similar += same_beginning
                break
    return difflib.get_close_matches(asked, dict.fromkeys(similar), _CLOSE_MATCHES, _SIMILAR)


def _one_edit(text: str) -> Iterator[str]:
    """The texts that one insertion, deletion, replacement or swap of neighbours makes of a text."""
    characters = sorted({*_ID_CHARACTERS, *text})
    for place in range(len(text) + 1):
        before, after = text[:place], text[place:]
        yield from (before + character + after for character in characters)
        if after:
            yield before + after[1:]
            yield from (before + character + after[1:] for character in characters)
        if len(after) > 1:
            yield before + after[1] + after[0] + after[2:]


def _titled(catalog: Catalog, text: str, domains: Sequence[str]) -> list[str]:
    """Ids of a few items whose title holds the text, in lower or upper case."""
    if not text:
        return []
    wanted = text.encode(errors="replace").decode()  # what a terminal sent may be no Unicode
    table = catalog.bundle_items
    found_N = pc.match_substring(table["title"], wanted, ignore_case=True).fill_null(False)
    own_N = pc.is_in(table["domain"].cast(pa.string()), pa.array(domains))
    numbers = pc.indices_nonzero(pc.and_(found_N, own_N))[:_CLOSE_MATCHES].to_pylist()
    return [catalog.name(number)[0] for number in numbers]
