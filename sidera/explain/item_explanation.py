"""Why an item is recommended: its codes' probabilities, what the mixture's parts add, and the history's weight."""

from dataclasses import dataclass


@dataclass(frozen=True)
class OtherCode:
    """A code that could have stood there, with the same probabilities."""

    code: int
    universal: float
    domain: float | None


@dataclass(frozen=True)
class CodeProbability:
    """The probability of one code of a SID, given the codes before it, among the codes that exist behind them.

    Attributes:
        universal: with the universal weights.
        domain: with the domain's; None where they have no part.
        others: the likeliest other codes there, the likeliest first.
    """

    code: int
    universal: float
    domain: float | None
    others: tuple[OtherCode, ...] = ()


@dataclass(frozen=True)
class Parts:
    """What each part of the mixture adds to an item's probability; they sum to it.

    Attributes:
        language_model: its share times what it gives to the item.
        followed: from items that followed those of the history in the train part.
        alike: from items like those of the history.
        popular: from the domain's train events.
    """

    language_model: float
    followed: float = 0.0
    alike: float = 0.0
    popular: float = 0.0


@dataclass(frozen=True)
class HistoryEffect:
    """What one item of the history did for a recommended item.

    Attributes:
        place: in the query's history, from 0.
        effect: the recommended item's log-probability less the one without this item of the history. Below 0: it
            speaks against it. Infinite: without it the recommended item has no probability.
    """

    place: int
    domain: str
    item_id: str
    effect: float


@dataclass(frozen=True)
class ItemExplanation:
    """Why an item has its score.

    Attributes:
        codes: of its SID, in order.
        gamma: the share of the domain's weights in the language model.
        parts: what the language model and the neighbours add.
        history: the items of the history that were read, those of the largest effect, up or down, first.
    """

    codes: tuple[CodeProbability, ...]
    gamma: float
    parts: Parts
    history: tuple[HistoryEffect, ...]
