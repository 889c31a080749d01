"""One node of a domain's trie as a person reads it: what lies below it, how much, and the words that stand out there.

The node is looked up in the tries of the snapshot, so registered and deleted items count. What is said in words comes
from a sample of the items below each child, so a node of a million items is told as quickly as one of a thousand.

Shapes: K children, X items.
"""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from sidera.catalog import Catalog
from sidera.errors import CatalogError
from sidera.explain.code_words import WordCounts, count_words, standing_out, words_of
from sidera.items.leaves import DomainIndex

SAMPLED_ITEMS = 2048
"""Items that the words of one node are taken from, all of its children together; as many of the whole domain."""
_LEAST_SAMPLED = 4
_EXAMPLES = 3
_MOST_WORDS = 4


@dataclass(frozen=True)
class ExampleItem:
    """An item below a node."""

    item_id: str
    title: str | None


@dataclass(frozen=True)
class ChildNode:
    """What lies below one code.

    Attributes:
        items: how many.
        words: those that stand out among them, against the domain.
        examples: a few of them, from all over the node.
    """

    code: int
    items: int
    words: tuple[str, ...]
    examples: tuple[ExampleItem, ...]


@dataclass(frozen=True)
class TrieNode:
    """A node: the prefix of codes that leads to it, how many items lie below it, and its children by code."""

    prefix: tuple[int, ...]
    items: int
    children: tuple[ChildNode, ...]


def domain_words(catalog: Catalog, domain: str) -> WordCounts:
    """The words of a sample of a domain's items, which those of its nodes are compared with.

    Raises:
        UnknownDomainError: the catalog does not hold the domain.
    """
    index = catalog.index(domain)
    sample = index.numbers_of(spread(0, index.num_leaves, SAMPLED_ITEMS))
    return count_words(words for _, words in _shown(catalog, domain, sample))


def trie_node(catalog: Catalog, domain: str, prefix: Sequence[int], everywhere: WordCounts | None = None) -> TrieNode:
    """The node that a prefix of codes leads to.

    Args:
        prefix: fewer codes than levels; none for the root.
        everywhere: what :func:`domain_words` counts, if that is known.

    Raises:
        UnknownDomainError: the catalog does not hold the domain.
        CatalogError: no item of the domain has such a SID, or the prefix is a whole SID.
    """
    index = catalog.index(domain)
    codes_K, begin_K1 = _children(catalog, index, prefix)
    everywhere = everywhere or domain_words(catalog, domain)
    most = max(SAMPLED_ITEMS // len(codes_K), _LEAST_SAMPLED)
    samples = [spread(begin, end, most) for begin, end in itertools.pairwise(begin_K1)]
    shown = _shown(catalog, domain, index.numbers_of(np.concatenate(samples)))
    children, behind = [], 0
    for code, sample, size in zip(codes_K, samples, np.diff(begin_K1).tolist(), strict=True):
        own, behind = shown[behind : behind + len(sample)], behind + len(sample)
        inside = count_words(words for _, words in own)
        words = standing_out(inside, WordCounts.total([everywhere, inside]), _MOST_WORDS)
        examples = [own[place][0] for place in spread(0, len(own), _EXAMPLES).tolist()]
        children.append(ChildNode(code, size, tuple(words), tuple(examples)))
    return TrieNode(tuple(prefix), begin_K1[-1] - begin_K1[0], tuple(children))


def _children(catalog: Catalog, index: DomainIndex, prefix: Sequence[int]) -> tuple[list[int], list[int]]:
    """The codes of a node's children, and where the leaves of each begin in the domain's trie, and the end."""
    tables = catalog.tables()
    if len(prefix) >= tables.num_levels:
        raise CatalogError(f"{len(prefix)} codes are a whole semantic ID; ask for a prefix, which is shorter")
    first_leaf = torch.tensor([index.first_leaf])
    node = int(tables.ancestors(first_leaf)[0, 0])
    for level, wanted in enumerate([*prefix, None]):
        begin, end = tables.first_child[level][torch.tensor([node, node + 1])].tolist()
        codes_K = tables.codes[level][slice(begin, end)].tolist()
        if wanted is None:
            begins = tables.leaf_begin[level + 1][torch.arange(begin, end + 1)] - index.first_leaf
            return codes_K, begins.tolist()
        if wanted not in codes_K:
            given = ", ".join(map(str, prefix[: level + 1]))
            raise CatalogError(f"no item of {index.domain!r} has a semantic ID that begins with {given}")
        node = begin + codes_K.index(wanted)
    raise AssertionError("the loop returns at its last turn")


def prefix_ranges(catalog: Catalog, domain: str, sid: Sequence[int]) -> list[tuple[int, int]]:
    """Where the leaves of a domain lie that begin like a SID: with no code alike, with one, and so on while there are.

    Each range is of leaves of the domain, from the first to before the last.

    Raises:
        UnknownDomainError: the catalog does not hold the domain.
    """
    index, tables = catalog.index(domain), catalog.tables()
    node = int(tables.ancestors(torch.tensor([index.first_leaf]))[0, 0])
    ranges = [(0, index.num_leaves)]
    for level, wanted in enumerate(sid[: tables.num_levels]):
        begin, end = tables.first_child[level][torch.tensor([node, node + 1])].tolist()
        codes_K = tables.codes[level][slice(begin, end)].tolist()
        if wanted not in codes_K:
            break
        node = begin + codes_K.index(wanted)
        first, behind = (tables.leaf_begin[level + 1][torch.tensor([node, node + 1])] - index.first_leaf).tolist()
        ranges.append((first, behind))
    return ranges


def spread(begin: int, end: int, most: int) -> npt.NDArray[np.int64]:
    """At most so many different places from ``begin`` to before ``end``, evenly spaced."""
    count = min(most, end - begin)
    places: npt.NDArray[np.int64] = begin + (np.arange(count) * (end - begin)) // max(count, 1)
    return places


def _shown(catalog: Catalog, domain: str, numbers_X: npt.NDArray[np.int64]) -> list[tuple[ExampleItem, frozenset[str]]]:
    """Each item, and its words."""
    later = catalog.later_items(domain)
    table = catalog.bundle_items
    numbers = numbers_X.tolist()
    stored = [number for number in numbers if number not in later]
    rows = pa.array(stored, pa.int64())
    titles, fields = (pc.take(table[name], rows).to_pylist() for name in ("title", "fields"))
    known = {
        number: (title, json.loads(own) if "[" in own else {})  # only lists hold words: skip objects without one
        for number, title, own in zip(stored, titles, fields, strict=True)
    }
    known |= {number: (later[number].title, later[number].fields) for number in numbers if number in later}
    return [(ExampleItem(catalog.name(number)[0], known[number][0]), words_of(*known[number])) for number in numbers]
