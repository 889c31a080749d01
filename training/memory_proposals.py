"""What each part of the mixture proposes for a target: the candidates that shares and routers are chosen on.

Of the language model and of popularity only the first ``_PROPOSED`` items are asked for; the language model's mass of
others is taken for 0. A target that the counts have learned is left out of them: its own transitions are subtracted,
and one event of its popularity. Two traces stay: a list of followers that was cut off at its longest does not grow, and
a hardly known item borrows less by its own event, which makes it stand lower than it would.

Shapes: G parts of the mixture, C candidates of one target, S listed items, P popular items, F features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from sidera.catalog import Catalog
from sidera.items.memory_reading import Found
from sidera.items.memory_router import FEATURES
from sidera.items.neighbours import Neighbours
from sidera.items.transitions import TransitionDelta, pairs_of
from sidera.recommender import Query, Recommendation, Recommender
from training.data import DomainData
from training.evaluation import query_of
from training.memory_router import Asked
from training.mixture_shares import Candidates
from training.progress import track
from training.split import Target

_ANSWERED_AT_ONCE = 32
_PROPOSED = 50


class Proposals:
    """Asks all parts of the mixture for targets of one domain.

    Args:
        recommender: the language model as it will serve, without neighbours.
        index: of the domain.
        counted: the domain's train events.
    """

    def __init__(
        self,
        recommender: Recommender,
        listed: Neighbours,
        domains: Sequence[DomainData],
        index: int,
        counted: int,
    ) -> None:
        self._recommender, self._listed, self._domains = recommender, listed, domains
        self._domain, self._event = domains[index], 1 / max(1, counted)
        self._most = min(_PROPOSED, len(self._domain.item_ids))
        found = [recommender.catalog.find(self._domain.name, item_id) for item_id in self._domain.item_ids]
        self._number_I = np.array(found, dtype=np.int64)
        order = np.argsort(-listed.popularity[self._number_I], kind="stable")
        self._popular_P = self._number_I[order[: self._most]]

    def asked(self, own: Sequence[Target], learned_at: Mapping[int, float] | None = None) -> Asked:
        """What is proposed for targets of the domain.

        Args:
            learned_at: the time of each user's target, which the counts have and leave out; None: they have none.
        """
        queries = [
            replace(query_of(target, self._domains), num_results=self._most, beam_width=self._most) for target in own
        ]
        candidates, features, alone = [], [], []
        for target, query, answer in zip(own, queries, self._answers(queries), strict=True):
            history = _own_numbers(self._recommender.catalog, query)
            number = int(self._number_I[target.item])
            listed = self._listed
            if learned_at is not None:
                listed = _without(listed, history, number, learned_at[target.user])
            followers, likes = listed.followers(history), listed.likes(history)
            features.append(listed.features(history, followers, likes))
            popularity_C = _Popularity(listed, number, 0.0 if learned_at is None else self._event)
            ours = _ours(self._recommender.catalog, query.domain, answer)
            mass_GC, place = _masses((followers, likes), self._popular_P, ours, popularity_C, history, number)
            alone.append(mass_GC)
            # What followers and items alike leave of their share goes to the language model, as where it is served.
            left_G = np.array([1 - followers[1].sum(), 1 - likes[1].sum(), 0, 0])
            candidates.append(Candidates(mass_GC + left_G[:, None] * mass_GC[3], place))
        return Asked(candidates, np.array(features).reshape(len(own), len(FEATURES)), alone)

    def _answers(self, queries: Sequence[Query]) -> list[Recommendation]:
        """What the language model recommends, in the order of the queries."""
        answers: dict[int, Recommendation] = {}
        by_length = sorted(range(len(queries)), key=lambda row: len(queries[row].history))
        with track(f"neighbours {self._domain.name}: targets", len(queries)) as advance:
            for begin in range(0, len(queries), _ANSWERED_AT_ONCE):
                rows = by_length[begin : begin + _ANSWERED_AT_ONCE]
                answers |= zip(rows, self._recommender.recommend([queries[row] for row in rows]), strict=True)
                advance(len(rows))
        return [answers[row] for row in range(len(queries))]


class _Popularity:
    """The popularity of items, with one event of a target less."""

    def __init__(self, listed: Neighbours, target: int, event: float) -> None:
        self._popularity, self._target, self._event = listed.popularity, target, event

    def __call__(self, number_X: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        popularity_X = self._popularity[number_X].astype(np.float64)
        popularity_X[number_X == self._target] -= self._event
        left_X: npt.NDArray[np.float64] = np.maximum(popularity_X, 0)
        return left_X


def _without(listed: Neighbours, history: Sequence[int], target: int, time: float) -> Neighbours:
    """The same without the transitions that one event brought."""
    number_E = np.array([*history[-listed.rule.window :], target])
    last_E = np.arange(len(number_E)) == len(number_E) - 1
    ones_E = np.ones(len(number_E))
    brought = pairs_of(number_E, time * ones_E, ones_E, listed.rule, counted_E=last_E)
    return listed.with_transitions(TransitionDelta().subtracted(*brought))


def _ours(catalog: Catalog, domain: str, answer: Recommendation) -> Found:
    """What the language model recommends, by number."""
    numbers = [catalog.find(domain, item.item_id) for item in answer.items]
    return np.array(numbers, dtype=np.int64), np.exp([item.score for item in answer.items])


def _masses(
    listed: tuple[Found, Found],
    popular_P: npt.NDArray[np.int64],
    ours: Found,
    popularity: _Popularity,
    history: Sequence[int],
    target: int,
) -> tuple[npt.NDArray[np.float64], int | None]:
    """The masses of all that may come back for one history: what any part proposes, but for the history itself.

    Returns:
        float64[G, C], and the target's place among them; None where it is none of them.
    """
    every_C = np.setdiff1d(np.concatenate([listed[0][0], listed[1][0], popular_P, ours[0]]), history)
    mass_GC = np.zeros((4, len(every_C)))
    mass_GC[2] = popularity(every_C)
    for row, (found_S, mass_S) in ((0, listed[0]), (1, listed[1]), (3, ours)):
        here_S = np.isin(found_S, every_C)
        mass_GC[row, np.searchsorted(every_C, found_S[here_S])] = mass_S[here_S]
    place = np.flatnonzero(every_C == target)
    return mass_GC, int(place[0]) if len(place) else None


def _own_numbers(catalog: Catalog, query: Query) -> list[int]:
    found = [catalog.find(domain, item_id) for domain, item_id in query.history if domain == query.domain]
    return [number for number in found if number is not None]
