"""What is asked of a :class:`~sidera.recommender.Recommender`, and what it answers."""

from dataclasses import dataclass

from sidera.decoding.diversity import Diversity
from sidera.decoding.sampling import Sampling
from sidera.explain.item_explanation import ItemExplanation
from sidera.items.conditions import Condition


@dataclass(frozen=True)
class Query:
    """What is asked for.

    Attributes:
        domain: the target's domain.
        history: (domain, item id) of what the user interacted with, oldest first; unknown ones are reported.
        num_results: how many items to return, at least 1.
        exclude: item ids of the target domain that must not come back; unknown ones change nothing.
        exclude_history: whether the history's items must not come back.
        beam_width: beams kept at each level, None for the bundle's default; never fewer than ``num_results``.
        conditions: what the fields of an item must be for it to come back; made by
            :func:`sidera.items.conditions.conditions_of`.
        only: item ids of the target domain that alone may come back, unknown ones change nothing; None: all items.
        diversity: how many items of one prefix may come back; None: any number.
        sampling: draw the items at random, without replacement; None: the best ones. Drawn items come in the order
            drawn, each with its log-probability as ever.
        explain: whether every item comes with an :class:`~sidera.explain.item_explanation.ItemExplanation`,
            which costs more than the search itself.
    """

    domain: str
    history: tuple[tuple[str, str], ...] = ()
    num_results: int = 10
    exclude: frozenset[str] = frozenset()
    exclude_history: bool = True
    beam_width: int | None = None
    conditions: tuple[Condition, ...] = ()
    only: frozenset[str] | None = None
    diversity: Diversity | None = None
    sampling: Sampling | None = None
    explain: bool = False


@dataclass(frozen=True)
class RecommendedItem:
    """An item and its log-probability of being next."""

    item_id: str
    score: float
    sid: tuple[int, ...]
    title: str | None
    explanation: ItemExplanation | None = None


@dataclass(frozen=True)
class Recommendation:
    """The answer to one query.

    Attributes:
        items: best first; no item twice.
        missing: entries of the history that the catalog does not hold.
        exact: whether no number of beams would find other items: none that may come back scores higher than the last
            one. Of drawn items: whether the beams did not bias the draw.
        fallback: ``"prior"`` when nothing of the history is known, so that the domain alone speaks.
        returned_reason: why fewer items than asked for came back, else None.
        beams: how many beams were kept at each level.
    """

    items: tuple[RecommendedItem, ...]
    missing: tuple[tuple[str, str], ...]
    exact: bool
    fallback: str | None
    returned_reason: str | None
    beams: int
