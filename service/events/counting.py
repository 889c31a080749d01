"""What a bundle says of counting events."""

from collections.abc import Mapping
from dataclasses import dataclass

from sidera.items.transitions import TransitionRule


@dataclass(frozen=True)
class Counting:
    """How events of a bundle are counted.

    Attributes:
        rule: what an event adds.
        trained_until: of each domain the time (unix seconds) of the newest event that the bundle counted; None where
            its times are positions, so that every stored event is newer.
    """

    rule: TransitionRule
    trained_until: Mapping[str, float | None]
