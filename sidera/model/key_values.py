"""Keys and values of a backbone's layers, token by token: taken out of a pass, put before another, put side by side.

Packed, a token is one vector: the keys and values of a run of layers, one behind the other. So a piece of a history is
one contiguous matrix, whatever heads and widths its layers have.

Shapes: R rows of a pass, T tokens, H heads, W width of a head, F numbers a token.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

_ROOM = 64
"""Places that are left free behind the first tokens of a layer."""


class RoomyLayer(DynamicLayer):
    """Keys and values of one layer, with room behind them: new tokens are written there, and old ones are not copied.

    Attributes:
        keys: of the tokens so far, a view. Shape: float[R, H, T, W].
        values: the same.
    """

    def __init__(self, past: tuple[Tensor, Tensor] | None = None) -> None:
        """``past``: keys and values to go on from, float[R, H, T, W]; they are copied before anything is written."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._places: tuple[Tensor, Tensor] | None = None
        if past is not None:
            self.lazy_initialization(*past)
            self.keys, self.values = past

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append a run of tokens, float[R, H, T, W]; all of them so far."""
        self.open(len(key_states), key_states, value_states)
        return self.write(slice(None), key_states, value_states)

    def open(self, rows: int, key_states: Tensor, value_states: Tensor) -> None:
        """Make place for a run of tokens in all rows; what is written there comes with ``write``.

        Args:
            rows: R of the whole run.
            key_states: of some rows of it; only its shape is read.
            value_states: the same.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before, length = self.get_seq_length(), key_states.shape[2]
        end = before + length
        if self._places is None or end > self._places[0].shape[2]:
            room = _ROOM if self._places is None else 3 * length
            old = (self.keys, self.values) if before else (None, None)
            self._places = (
                _with_room(key_states, rows, old[0], end + room),
                _with_room(value_states, rows, old[1], end + room),
            )
        self.keys, self.values = (places_RHTW[:, :, :end] for places_RHTW in self._places)

    def write(self, rows: slice, key_states: Tensor, value_states: Tensor) -> tuple[Tensor, Tensor]:
        """Write the last tokens of some rows, float[r, H, T, W]; all tokens of these rows so far."""
        assert self.keys is not None, "it was opened"
        assert self.values is not None, "it was opened"
        keys_RHTW, values_RHTW = self.keys[rows], self.values[rows]
        before = keys_RHTW.shape[2] - key_states.shape[2]
        keys_RHTW[:, :, before:], values_RHTW[:, :, before:] = key_states, value_states
        return keys_RHTW, values_RHTW


def _with_room(like_RHTW: Tensor, rows: int, old_RHTW: Tensor | None, places: int) -> Tensor:
    roomy = like_RHTW.new_empty(rows, like_RHTW.shape[1], places, like_RHTW.shape[3])
    if old_RHTW is not None:
        roomy[:, :, : old_RHTW.shape[2]] = old_RHTW
    return roomy


def empty_cache() -> Cache:
    """A cache that a first pass fills; its layers grow."""
    return Cache(layer_class_to_replicate=RoomyLayer)


def roomy_layer(cache: Cache, number: int) -> RoomyLayer:
    """A layer of a cache that :func:`empty_cache` or :func:`cache_of` made."""
    while len(cache.layers) <= number:
        cache.layers.append(RoomyLayer())
    layer = cache.layers[number]
    assert isinstance(layer, RoomyLayer), "so it was made"
    return layer


def keys_and_values(cache: Cache, layers: slice) -> list[Tensor]:
    """Keys, values, keys, values, ... of these layers, each float[R, H, T, W].

    Raises:
        TypeError: a layer keeps something else; only full attention keeps keys and values of every token.
    """
    found = []
    for layer in cache.layers[layers]:
        if not isinstance(layer, DynamicLayer) or layer.keys is None or layer.values is None:
            raise TypeError(f"a layer keeps a {type(layer).__name__}, not the keys and values of every token")
        found += [layer.keys, layer.values]
    return found


def pack(cache: Cache, layers: slice, start: int) -> Tensor:
    """The tokens from ``start`` on, of these layers. Shape: float[R, T, F]."""
    parts = [kept_RHTW[:, :, start:].transpose(1, 2).flatten(2) for kept_RHTW in keys_and_values(cache, layers)]
    return torch.cat(parts, dim=2)


def head_shapes(cache: Cache, layers: slice) -> list[tuple[int, int]]:
    """H and W of the keys, the values, the keys, ... of these layers."""
    return [(kept_RHTW.shape[1], kept_RHTW.shape[3]) for kept_RHTW in keys_and_values(cache, layers)]


def unpack(packed_RTF: Tensor, shapes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """What ``pack`` packed, as views: keys, values, keys, ... of its layers, each float[R, H, T, W]."""
    parts = packed_RTF.split([heads * width for heads, width in shapes], dim=2)
    return [part.unflatten(2, shape).transpose(1, 2) for part, shape in zip(parts, shapes, strict=True)]


def cache_of(tensors: Sequence[Tensor]) -> Cache:
    """A cache that a pass goes on from: keys, values, keys, ... of all layers, each float[R, H, T, W]."""
    return Cache(layers=[RoomyLayer(past) for past in zip(tensors[::2], tensors[1::2], strict=True)])


def side_by_side(tensors: Sequence[Tensor], rows: Sequence[Sequence[int]]) -> Tensor:
    """Rows of several passes in one tensor, padded on the right with zeros.

    Args:
        tensors: of each pass, its tokens in dimension 2. Shape: float[R, H, T, W].
        rows: where each pass's rows lie in the result; together 0..R-1 of it.
    """
    first = tensors[0]
    longest = max(tensor.shape[2] for tensor in tensors)
    joined = first.new_zeros(sum(map(len, rows)), first.shape[1], longest, first.shape[3])
    for tensor, own in zip(tensors, rows, strict=True):
        joined[torch.tensor(own, device=joined.device), :, : tensor.shape[2]] = tensor
    return joined
