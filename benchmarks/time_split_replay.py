"""Replays a stream of events against a bundle: before an event a recommendation, then the event is counted, or not.

An item that the bundle does not hold is registered right before its first event, as a catalog feed would: its text gets
a vector and a SID, nothing is trained. What a live replay counts goes the way of the service: the transitions that the
event adds to those of its user's last ones, into a delta beside the bundle's lists.

Shapes: E events, I items, D item vector dim, N targets.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from benchmarks.time_split_data import Stream
from sidera.catalog import CatalogItem
from sidera.items.alike import Alike
from sidera.items.transitions import TransitionDelta, pairs_of
from sidera.loading import LoadedBundle
from sidera.queries import Query
from training.errors import DataError
from training.evaluation import PLACES
from training.metrics import ABSENT
from training.progress import track

_ANSWERED_AT_ONCE = 32

Counting = Literal["nothing", "all before", "all earlier"]
"""What is counted when a target comes: no event of the stream; all that stand before it; all of an earlier time."""


@dataclass
class _Memory:
    """What events added to the bundle's counts, and the newest events of every user: numbers and times."""

    delta: TransitionDelta = field(default_factory=TransitionDelta)
    newest: dict[int, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))


class Replay:
    """One bundle, and the stream that goes on where its training ended.

    Args:
        loaded: a bundle of the stream's domain alone, with neighbours.
        vectors_ID: of all items of the stream's domain, by its own encoder; those of items that the bundle holds are
            not read. Shape: float32[I, D].

    Raises:
        DataError: the bundle counts no transitions, or does not say up to when.
    """

    def __init__(self, loaded: LoadedBundle, stream: Stream, vectors_ID: npt.NDArray[np.float32]) -> None:
        name = stream.domain.name
        until = None if loaded.alike is None else loaded.alike.neighbours.trained_until.get(name)
        if loaded.alike is None or until is None:
            raise DataError(f"the bundle does not say up to when it counts the events of {name!r}; train it anew")
        self.loaded, self.stream, self.vectors_ID = loaded, stream, vectors_ID
        self.name = name
        self.alike: Alike = loaded.alike
        self.rule = loaded.alike.neighbours.rule
        self.counted = int(np.searchsorted(stream.time_E, until, side="right"))
        catalog = loaded.recommender.catalog
        found = [catalog.find(name, item_id) for item_id in stream.domain.item_ids]
        self.number_I = np.array([-1 if number is None else number for number in found], dtype=np.int64)
        self.memory = _Memory()
        self._remember(0, self.counted)

    def ranks(self, begin: int, asked: Sequence[int], counting: Counting) -> npt.NDArray[np.int64]:
        """The rank of each target among what :meth:`answers` gives for it, or ``ABSENT``: int64[N]."""
        ids = [self.stream.domain.item_ids[item] for item in self.stream.item_E[list(asked)].tolist()]
        found = self.answers(begin, asked, counting)
        ranks = [told.index(item_id) if item_id in told else ABSENT for told, item_id in zip(found, ids, strict=True)]
        return np.array(ranks, dtype=np.int64)

    def answers(self, begin: int, asked: Sequence[int], counting: Counting) -> list[list[str]]:
        """What is recommended right before each target: item ids, best first.

        Args:
            begin: where the stream goes on; what the bundle does not count of the events before is counted first.
            asked: the places of the targets, ascending, from ``begin`` on.
            counting: which events from ``begin`` on are counted.
        """
        stream = self.stream
        histories: dict[int, list[str]] = defaultdict(list)
        for user, item in zip(stream.user_E[:begin].tolist(), stream.item_E[:begin].tolist(), strict=True):
            histories[user].append(stream.domain.item_ids[item])
        self._register(np.flatnonzero(stream.first_I < begin))
        self._count(begin)
        self._serve()
        told: list[list[str]] = []
        waiting: list[Query] = []

        def answer() -> None:
            answers = self.loaded.recommender.recommend(waiting)
            told.extend([item.item_id for item in found.items] for found in answers)
            waiting.clear()

        place = begin
        live = counting != "nothing"
        label = f"{self.name}: replay, {counting} counted"
        with track(label, len(asked)) as advance:
            for target in asked:
                new = self._new(place, target + 1)
                if waiting and (live or len(new) or len(waiting) == _ANSWERED_AT_ONCE):
                    answer()
                for past in range(place, target):
                    histories[int(stream.user_E[past])].append(stream.domain.item_ids[stream.item_E[past]])
                place = target
                self._register(new)
                if live:
                    self._count(target if counting == "all before" else stream.place(stream.time_E[target]))
                if live or len(new):
                    self._serve()
                history = tuple((self.name, item_id) for item_id in histories[int(stream.user_E[target])])
                waiting.append(Query(self.name, history, num_results=PLACES))
                advance(1)
            if waiting:
                answer()
        return told

    def _new(self, begin: int, end: int) -> npt.NDArray[np.int64]:
        """The items that the catalog does not hold, of the events between two places."""
        items = np.unique(self.stream.item_E[begin:end])
        new: npt.NDArray[np.int64] = items[self.number_I[items] < 0].astype(np.int64)
        return new

    def _register(self, items: npt.NDArray[np.int64]) -> None:
        """Let items join the catalog and the lists of items alike; those that are there already stay as they are."""
        items = items[self.number_I[items] < 0]
        if not len(items):
            return
        recommender, domain = self.loaded.recommender, self.stream.domain
        catalog, vectors_MD = recommender.catalog, np.asarray(self.vectors_ID[items])
        sids_ML, _ = self.loaded.item_encoder.place(vectors_MD, self.name, catalog.sids(self.name))
        added = [
            CatalogItem(self.name, domain.item_ids[item], tuple(sid))
            for item, sid in zip(items.tolist(), sids_ML.tolist(), strict=True)
        ]
        grown = catalog.with_items(added, catalog.version + 1)
        keys = [(item.domain, item.item_id) for item in added]
        self.alike = self.alike.with_items(grown, dict(zip(keys, vectors_MD, strict=True)))
        recommender.replace_catalog(recommender.prepare_catalog(grown, self.alike.neighbours))
        for item in items.tolist():
            number = grown.find(self.name, domain.item_ids[item])
            if number is None:
                raise DataError(f"item {domain.item_ids[item]!r} was not registered")
            self.number_I[item] = number

    def _serve(self) -> None:
        """Recommend with what is counted by now."""
        self.loaded.recommender.replace_neighbours(self.alike.neighbours.with_transitions(self.memory.delta))

    def _count(self, end: int) -> None:
        """Count all events before a place that are not counted yet; their items are registered."""
        found = []
        for place in range(self.counted, end):
            own = self._remember(place, place + 1)
            last_E = np.arange(len(own)) == len(own) - 1
            number_E, time_E = np.array(own, dtype=np.int64).T
            found.append(pairs_of(number_E, time_E.astype(np.float64), np.ones(len(own)), self.rule, counted_E=last_E))
        if found:
            befores, afters, counts = zip(*found, strict=True)
            self.memory.delta = self.memory.delta.added(
                np.concatenate(befores), np.concatenate(afters), np.concatenate(counts)
            )
        self.counted = max(self.counted, end)

    def _remember(self, begin: int, end: int) -> list[tuple[int, int]]:
        """Keep the newest events of the users between two places; what is kept of the last one's."""
        stream = self.stream
        numbers = self.number_I[stream.item_E[begin:end]].tolist()
        own: list[tuple[int, int]] = []
        for user, number, time in zip(
            stream.user_E[begin:end].tolist(), numbers, stream.time_E[begin:end].tolist(), strict=True
        ):
            own = self.memory.newest[user]
            own.append((number, time))
            del own[: -self.rule.window - 1]
        return own
