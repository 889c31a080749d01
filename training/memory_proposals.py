"""What each part of the mixture proposes for a target: the candidates that shares and routers are chosen on.

Of the language model and of popularity only the first ``_PROPOSED`` items are asked for; the language model's mass of
others is taken for 0. The targets are those of the validation part, which nothing has learned or counted.

Shapes: G parts of the mixture, C candidates of one target, S listed items, P popular items, F features.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sidera.catalog import Catalog
from sidera.items.memory_reading import Found, side_by_side, summed
from sidera.items.memory_router import FEATURES
from sidera.items.neighbours import Neighbours
from sidera.recommender import Query, Recommendation, Recommender
from training.data import DomainData
from training.evaluation import query_of
from training.memory_router import Asked
from training.mixture_shares import Candidates
from training.progress import track
from training.split import Target

_ANSWERED_AT_ONCE = 32
_PROPOSED = 50


@dataclass(frozen=True)
class Proposed:
    """What is proposed for one target.

    Attributes:
        history: numbers of the items of the target's domain, oldest first.
        target: its number.
        followers, alike: what the lists say.
        read: what the reader of whole histories says.
        ours: what the language model recommends.
    """

    history: Sequence[int]
    target: int
    followers: Found
    alike: Found
    read: Found
    ours: Found


class Proposals:
    """Asks all parts of the mixture for targets of one domain.

    Args:
        recommender: the language model as it will serve, without neighbours.
        index: of the domain.
    """

    def __init__(self, recommender: Recommender, listed: Neighbours, domains: Sequence[DomainData], index: int) -> None:
        self._recommender, self._listed, self._domains = recommender, listed, domains
        self._domain = domains[index]
        self._most = min(_PROPOSED, len(self._domain.item_ids))
        found = [recommender.catalog.find(self._domain.name, item_id) for item_id in self._domain.item_ids]
        self._number_I = np.array(found, dtype=np.int64)
        order = np.argsort(-listed.popularity[self._number_I], kind="stable")
        popular_P = self._number_I[order[: self._most]]
        self._popular = np.sort(popular_P), listed.popularity[np.sort(popular_P)].astype(np.float64)

    def of(self, own: Sequence[Target]) -> list[Proposed]:
        """What is proposed for targets of the domain."""
        queries = [
            replace(query_of(target, self._domains), num_results=self._most, beam_width=self._most) for target in own
        ]
        listed, catalog = self._listed, self._recommender.catalog
        made = []
        for target, query, answer in zip(own, queries, self._answers(queries), strict=True):
            history = _own_numbers(catalog, query)
            made.append(
                Proposed(
                    history,
                    int(self._number_I[target.item]),
                    listed.followers(history),
                    listed.alike(history),
                    summed(listed.read(query.domain, history)[0]),
                    _ours(catalog, query.domain, answer),
                )
            )
        return made

    def apart(self, proposed: Sequence[Proposed]) -> list[Candidates]:
        """The masses of followers, lists of items alike, reader, popularity and language model."""
        return [
            # Where the reader knows nothing the lists speak for it, and the other way round, as where it is served.
            self._candidates(own, (own.followers, _first(own.alike, own.read), _first(own.read, own.alike)))
            for own in proposed
        ]

    def asked(self, proposed: Sequence[Proposed]) -> Asked:
        """The masses of followers, items alike, popularity and language model, and what the router reads."""
        candidates, features = [], []
        for own in proposed:
            likes = self._listed.likes(self._domain.name, own.history)
            candidates.append(self._candidates(own, (own.followers, likes)))
            _, followed_S, alike_S = side_by_side(own.followers, likes)
            features.append(self._listed.features(own.history, followed_S, alike_S))
        return Asked(candidates, np.array(features).reshape(len(proposed), len(FEATURES)))

    def _candidates(self, own: Proposed, listed: Sequence[Found]) -> Candidates:
        """The masses of all that may come back for one history: what any part proposes, but for the history itself.

        Args:
            listed: parts that leave what they have not to the language model, as where it is served.
        """
        parts = [*listed, self._popular, own.ours]
        every_C = np.setdiff1d(np.concatenate([found_S for found_S, _ in parts]), own.history)
        mass_GC = np.zeros((len(parts), len(every_C)))
        for row, (found_S, mass_S) in enumerate(parts):
            here_S = np.isin(found_S, every_C)
            mass_GC[row, np.searchsorted(every_C, found_S[here_S])] = mass_S[here_S]
        mass_GC[-2] = self._listed.popularity[every_C]
        left_G = np.array([*(1 - mass_S.sum() for _, mass_S in listed), 0.0, 0.0])
        place = np.flatnonzero(every_C == own.target)
        return Candidates(mass_GC + left_G[:, None] * mass_GC[-1], int(place[0]) if len(place) else None)

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


def _first(found: Found, other: Found) -> Found:
    """The first of two that found anything."""
    return found if len(found[0]) else other


def _ours(catalog: Catalog, domain: str, answer: Recommendation) -> Found:
    """What the language model recommends, by number."""
    numbers = [catalog.find(domain, item.item_id) for item in answer.items]
    return np.array(numbers, dtype=np.int64), np.exp([item.score for item in answer.items])


def _own_numbers(catalog: Catalog, query: Query) -> list[int]:
    found = [catalog.find(domain, item_id) for domain, item_id in query.history if domain == query.domain]
    return [number for number in found if number is not None]
