"""How much the decoding benchmark measures: shapes, rounds and sizes, for a full run and a quick one."""

import math
from dataclasses import dataclass, replace
from itertools import product


@dataclass(frozen=True)
class Shape:
    """One configuration.

    Attributes:
        batch: requests that are decoded together.
        length: items of each history.
        beams: of each request.
    """

    batch: int
    length: int
    beams: int

    def __str__(self) -> str:
        return f"batch_{self.batch}_history_{self.length}_beams_{self.beams}"


@dataclass(frozen=True)
class Scope:
    """What is measured.

    Attributes:
        rounds: of one request.
        large_rounds: of one request to the pretrained backbone.
        generate_rounds: of one request, beside ``generate``, which takes many times longer.
        batches: requests at a time, of the trained model.
        large_batches: the same of the pretrained one.
        sizes: items of the smaller and of the larger made-up catalog.
        filtered: items of the made-up catalog of which a filter keeps 1 %.
    """

    rounds: int = 20
    large_rounds: int = 8
    generate_rounds: int = 4
    lengths: tuple[int, ...] = (20, 50)
    beams: tuple[int, ...] = (20, 50)
    batches: tuple[int, ...] = (1, 8, 32)
    large_batches: tuple[int, ...] = (1,)
    sizes: tuple[int, int] = (10_000, 10_000_000)
    filtered: int = 1_000_000

    @classmethod
    def on(cls, device: str) -> "Scope":
        """A full run.

        ``generate`` reads a request's prompt once for each beam; for many requests to the pretrained backbone that
        takes a GPU.
        """
        return cls(large_batches=cls.batches) if device == "cuda" else cls()

    def large(self) -> "Scope":
        """The same for the pretrained backbone: fewer rounds, each of which takes many times longer."""
        return replace(self, rounds=self.large_rounds, generate_rounds=max(2, self.generate_rounds // 2))

    def shapes(self, batches: tuple[int, ...]) -> list[Shape]:
        """Every batch size with every history and beam width."""
        return [Shape(*values) for values in product(batches, self.lengths, self.beams)]

    def rounds_of(self, batch: int, rounds: int) -> int:
        """Rounds of a batch size: fewer of larger ones, which vary less; at least 2."""
        return max(2, round(rounds / math.pow(batch, 0.75)))


QUICK = Scope(
    rounds=4,
    large_rounds=3,
    generate_rounds=2,
    lengths=(20,),
    beams=(20,),
    batches=(1, 8),
    large_batches=(1,),
    sizes=(2_000, 200_000),
    filtered=20_000,
)
"""Whether it runs, within two minutes."""
