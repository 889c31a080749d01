"""Histories that were read before, so that a returning user costs only what is new.

What is kept are the keys and values of whole items, each behind exactly the items that came before it: a tree, one node
an item, whose edges are the items' tokens themselves. Two users whose histories begin alike share nodes, and a history
that has grown by an item adds one. Tokens of the target's domain are never kept, so the domain asked for may change.

A cache belongs to one loaded model. What is least recently used goes first; a node is always older than those that it
hangs on, so what goes is a leaf, and what stays is whole.

Not thread-safe: one caller at a time.

Shapes: N new items, I tokens of an item, F numbers a token (see :mod:`sidera.model.key_values`).
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Item = tuple[int, ...]
"""The tokens of one item of a history."""

_NODE_BYTES = 1024
"""About what a node takes beside its numbers."""


class Part(NamedTuple):
    """Which layers of the backbone keep something, and with whose weights.

    Attributes:
        lower: the layers below the first one that any adapter touches, which all distributions share.
        adapter: of the layers above; None for the universal distribution, and for the lower layers.
    """

    lower: bool
    adapter: int | None


class _Node:
    """An item of a history, behind the items before it; a root has no parent."""

    __slots__ = ("children", "item", "kept_IF", "parent")

    def __init__(self, parent: "_Node | None", item: Item, kept_IF: Tensor) -> None:
        self.parent = parent
        self.item = item
        self.kept_IF = kept_IF
        self.children: dict[Item, _Node] = {}

    @property
    def num_bytes(self) -> int:
        return self.kept_IF.nbytes + _NODE_BYTES


class HistoryCache:
    """Keys and values of histories, up to a number of bytes.

    Args:
        max_bytes: on the model's device, at least 1.

    Attributes:
        hits: histories of which something was kept.
        misses: histories of which nothing was; empty ones count neither way.
        reused_items: items that were not read again.
        evictions: items that had to go, counted once a part.
        num_bytes: what is kept now.
    """

    def __init__(self, max_bytes: int) -> None:
        if max_bytes < 1:
            raise ValueError(f"a history cache of {max_bytes} bytes keeps nothing; leave it out instead")
        self.max_bytes = max_bytes
        self.hits = 0
        self.misses = 0
        self.reused_items = 0
        self.evictions = 0
        self.num_bytes = 0
        self._roots: dict[Part, _Node] = {}
        self._oldest_first: OrderedDict[_Node, None] = OrderedDict()

    def find(self, parts: Sequence[Part], items: Sequence[Item]) -> list[list[Tensor]]:
        """The longest beginning of a history that is kept of all parts: for each part, float[I, F] of every item."""
        paths = [self._path(part, items) for part in parts]
        shared = min(map(len, paths))
        for path in paths:
            self._used(path)
        if items:
            self.hits += shared > 0
            self.misses += shared == 0
            self.reused_items += shared
        return [[node.kept_IF for node in path[:shared]] for path in paths]

    def add(self, part: Part, items: Sequence[Item], new_NIF: Tensor) -> None:
        """Keep the last N items of a history; nothing where the items before them had to go meanwhile.

        Args:
            items: the whole history.
            new_NIF: copied, so that what it is a part of may go. Shape: float[N, I, F].
        """
        path = self._path(part, items)
        before = len(items) - len(new_NIF)
        if before <= len(path) < len(items):
            node = path[-1] if path else self._roots.setdefault(part, _Node(None, (), new_NIF.new_empty(0)))
            for item, kept_IF in zip(items[len(path) :], new_NIF[len(path) - before :], strict=True):
                node.children[item] = node = _Node(node, item, kept_IF.clone(memory_format=torch.contiguous_format))
                path.append(node)
                self.num_bytes += node.num_bytes
        self._used(path)
        while self.num_bytes > self.max_bytes:
            self._evict()

    def _path(self, part: Part, items: Sequence[Item]) -> list[_Node]:
        path = list[_Node]()
        node = self._roots.get(part)
        for item in items:
            node = None if node is None else node.children.get(item)
            if node is None:
                break
            path.append(node)
        return path

    def _used(self, path: Sequence[_Node]) -> None:
        """Make a path the most recently used, its first item most of all."""
        for node in reversed(path):
            self._oldest_first[node] = None
            self._oldest_first.move_to_end(node)

    def _evict(self) -> None:
        node, _ = self._oldest_first.popitem(last=False)
        if node.parent is not None:
            del node.parent.children[node.item]
        self.num_bytes -= node.num_bytes
        self.evictions += 1
