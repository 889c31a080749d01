"""Layers that all distributions have in common are run once: the rows of a pass are repeated where they first differ.

The decoder layers below the first one that an adapter touches do the same for the universal distribution and the
domain's. A hook in front of every layer from that one on repeats what comes with one row a request: the hidden states
once, masks and positions for every layer.

Shapes: B requests, M distributions.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from sidera.model.linear_layers import decoder_layers


class RepeatedRows:
    """Repeats the rows of a pass from one decoder layer on; does nothing outside ``times``.

    Args:
        layers: all decoder layers, in order; those from ``first`` on get a hook.
        first: the first one whose rows differ between distributions.
    """

    def __init__(self, layers: nn.ModuleList, first: int) -> None:
        self.first = first
        self._times = 1
        self._size = 0
        self._repeated: dict[int, tuple[Tensor, Tensor]] = {}
        for layer in list(layers)[first:]:
            layer.register_forward_pre_hook(self._before, with_kwargs=True)

    @contextmanager
    def times(self, times: int, size: int) -> Iterator[None]:
        """Within: a pass begins with ``size`` rows and ends with ``times * size``, distribution first."""
        self._times, self._size = times, size
        try:
            yield
        finally:
            self._times = 1
            self._repeated.clear()

    def _before(
        self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self._times == 1:
            return None
        return tuple(map(self._repeat, args)), {name: self._repeat(value) for name, value in kwargs.items()}

    def _repeat(self, value: Any) -> Any:
        """A tensor with one row a request (or a tuple of such), repeated; anything else as it is."""
        if isinstance(value, tuple):
            return tuple(map(self._repeat, value))
        if not isinstance(value, Tensor) or value.ndim < 2 or len(value) != self._size:
            return value
        # The same masks and positions come to every layer; they are kept beside the result so that no id is reused.
        if id(value) not in self._repeated:
            repeated = value.repeat(self._times, *[1] * (value.ndim - 1))
            self._repeated[id(value)] = (value, repeated)
        return self._repeated[id(value)][1]


def repeated_rows(backbone: PreTrainedModel, adapted: Sequence[str]) -> RepeatedRows | None:
    """What runs the layers below the first adapted one once; None where that is the first layer of all.

    Args:
        backbone: gets hooks; its adapters may be in place already.
        adapted: the names of the layers that adapters touch.
    """
    found = decoder_layers(backbone)
    if found is None:
        return None
    stack, layers = found
    numbers = [name.removeprefix(f"{stack}.").split(".")[0] for name in adapted if name.startswith(f"{stack}.")]
    first = min(map(int, numbers)) if len(numbers) == len(adapted) else 0
    return RepeatedRows(layers, first) if first else None
