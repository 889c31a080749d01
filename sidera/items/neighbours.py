"""What a user's last items say at once of the next one: items that followed them, items like them, popular ones.

Three distributions over the items of the target's domain that need no forward pass. ``transitions``: what came near an
item in the train part's sequences, and in the events that came since. ``similar``: the items whose vectors are nearest;
it knows no user, so it serves a domain that training never saw. Where training fitted a reader of whole histories
(:mod:`sidera.items.history_reader`), a share of the mass of items alike is its own, by vectors learned from events and
texts. ``popularity``: the domain's train events. Each has a share of the mixture in each domain, which a router may
move for each history; the language model has the rest. How a history is read: :mod:`sidera.items.memory_reading`.

All is keyed by item number, which never changes within a bundle; leaves are looked up per snapshot. Tensors of files:
per list ``begin`` int64[N + 1], ``item`` int32[X], ``weight`` float32[X]; ``popularity`` float32[N]; the routers' and
the readers'.

Shapes: N items of the bundle, X entries of all lists, S items found for one history, F features of a history.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from sidera.disk_arrays import open_tensors
from sidera.errors import CatalogError
from sidera.items.borrowing import Borrowers
from sidera.items.history_reader import HistoryReader
from sidera.items.memory_reading import (
    NOTHING,
    Entries,
    Found,
    Reading,
    Shares,
    joined,
    read_lists,
    side_by_side,
    summed,
)
from sidera.items.memory_router import MemoryRouter, features_of
from sidera.items.neighbour_lists import GrownLists, GrownTransitions, Listed, NeighbourLists
from sidera.items.transitions import TransitionDelta, TransitionRule

__all__ = [
    "Found",
    "GrownLists",
    "Known",
    "Listed",
    "NeighbourLists",
    "Neighbours",
    "Reading",
    "Shares",
    "load_neighbours",
    "save_neighbours",
]

_ABOUT = "mixture"
_READER_PARTS = (
    "number_I",
    "input_ID",
    "output_ID",
    "bias_I",
    "age_A",
    "inner_HD",
    "inner_H",
    "outer_DH",
    "outer_D",
)
_ROUTER_PARTS = ("mean_F", "scale_F", "inner_HF", "inner_H", "outer_GH", "outer_G")


@dataclass(frozen=True)
class Known:
    """What is known of one history.

    Attributes:
        item_S: all items found, sorted. Shape: int64[S].
        followed_S: their masses as followers, which sum to at most 1, and to 0 where nothing followed. Shape:
            float64[S].
        alike_S: the same as items alike.
        shares: of the mixture, for this history.
    """

    item_S: npt.NDArray[np.int64]
    followed_S: npt.NDArray[np.float64]
    alike_S: npt.NDArray[np.float64]
    shares: Shares

    @property
    def followers(self) -> Found:
        """What followed the history's items."""
        return self._with_a_mass(self.followed_S)

    @property
    def likes(self) -> Found:
        """What is like the history's items."""
        return self._with_a_mass(self.alike_S)

    def listed(self) -> Found:
        """Followers and items alike, weighed: what :class:`sidera.decoding.known_mass.KnownMass` lists."""
        return self.item_S, self.shares.transitions * self.followed_S + self.shares.similar * self.alike_S

    def _with_a_mass(self, mass_S: npt.NDArray[np.float64]) -> Found:
        here_S = mass_S > 0
        return self.item_S[here_S], mass_S[here_S]


@dataclass(frozen=True)
class Neighbours:
    """The lists of a bundle, what events and new items made of them, and their shares.

    Attributes:
        transitions: how often an item came near each of its followers, as the bundle has it.
        popularity: the train events of every item, as shares of its domain's. Shape: float32[N].
        shares: of each domain that training saw.
        unseen: of all other domains.
        rule: what an event adds to ``transitions``; the bundle's counts are made by it too.
        trained_until: the time (unix seconds) of the newest event of each domain that the bundle's counts hold; None
            where its times are positions. Events up to it must not be counted once more.
        delta: what events added to ``transitions`` since.
        routers: of the domains in which a history's own shares rank better than the fixed ones.
        borrowers: the bundle's hardly known items, by whom they borrow from; None: none do.
        readers: of the domains whose histories are read as a whole too.
        now: the time (unix seconds) that old counts are faded to; None: that of the rule's reference.
    """

    transitions: NeighbourLists
    similar: GrownLists
    popularity: npt.NDArray[np.float32]
    shares: Mapping[str, Shares]
    unseen: Shares
    reading: Reading
    rule: TransitionRule = field(default_factory=TransitionRule)
    trained_until: Mapping[str, float | None] = field(default_factory=dict)
    delta: TransitionDelta = field(default_factory=TransitionDelta)
    routers: Mapping[str, MemoryRouter] = field(default_factory=dict)
    borrowers: NeighbourLists | None = None
    readers: Mapping[str, HistoryReader] = field(default_factory=dict)
    now: float | None = None

    def with_similar(self, similar: GrownLists) -> "Neighbours":
        """The same with other lists of items alike."""
        return replace(self, similar=similar)

    def with_transitions(self, delta: TransitionDelta, now: float | None = None) -> "Neighbours":
        """The same with other counts of events, whose transitions are those of :attr:`rule`. Costs nothing."""
        made = replace(self, delta=delta, now=now)
        if "_borrowers" in vars(self):
            # Events change nothing of it, and making it takes time with all items that joined.
            vars(made)["_borrowers"] = self._borrowers
        return made

    @cached_property
    def _grown(self) -> GrownTransitions:
        return GrownTransitions(self.transitions, self.delta, self.rule.longest)

    @cached_property
    def _fresh(self) -> float:
        """What a count of now is worth beside one of the reference: all fade alike, so counts stay as they are."""
        return 1.0 if self.now is None else float(self.rule.freshness(self.now))

    @cached_property
    def _borrowers(self) -> Borrowers | None:
        return None if self.borrowers is None else Borrowers.of(self.borrowers, self.similar)

    def shares_of(self, domain: str) -> Shares:
        """The fixed shares in a domain."""
        return self.shares.get(domain, self.unseen)

    def followers(self, numbers: Sequence[int]) -> Found:
        """What followed these items, oldest first; masses sum to at most 1, and to 0 where nothing did."""
        return summed(self._followed(numbers))

    def likes(self, domain: str, numbers: Sequence[int]) -> Found:
        """What is like these items of a domain, oldest first; masses sum to at most 1, to 0 where nothing is."""
        return summed(self._liked(domain, numbers))

    def alike(self, numbers: Sequence[int]) -> Found:
        """What the lists of items alike say of these items, oldest first."""
        return summed(read_lists(self.similar.of, numbers, self.reading))

    def read(self, domain: str, numbers: Sequence[int]) -> tuple[Entries, float]:
        """What the domain's reader says of these items, oldest first, and its share of the items alike."""
        reader = self.readers.get(domain)
        return (NOTHING, 0.0) if reader is None else (reader.read(numbers), reader.share)

    def _followed(self, numbers: Sequence[int]) -> Entries:
        smoothing, discount = self.reading.smoothing * self._fresh, self.reading.discount * self._fresh
        found = read_lists(self._grown.of, numbers, self.reading, smoothing, discount)
        if not self.reading.borrowing or not len(found[0]) or self._borrowers is None:
            return found
        return self._borrowers.shared(found, self.reading.borrowing, self.delta)

    def _liked(self, domain: str, numbers: Sequence[int]) -> Entries:
        item_X, mass_X = read_lists(self.similar.of, numbers, self.reading)
        (read_S, mass_S), share = self.read(domain, numbers)
        if not len(read_S):
            return item_X, mass_X
        return joined([(read_S, share * mass_S), (item_X, (1 - share) * mass_X)]) if len(item_X) else (read_S, mass_S)

    def features(
        self, numbers: Sequence[int], followed_S: npt.NDArray[np.float64], alike_S: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        """What a router reads of a history: float64[F], see :mod:`sidera.items.memory_router`."""
        counts = [float(self._grown.of(number)[1].sum()) / self._fresh for number in reversed(numbers[-3:])]
        newest = numbers[-1] if numbers else -1
        popularity = float(self.popularity[newest]) if 0 <= newest < len(self.popularity) else 0.0
        return features_of(counts, len(numbers), followed_S, alike_S, popularity)

    def known_of(self, domain: str, numbers: Sequence[int]) -> Known:
        """What is known of a history, and the shares that it has in the mixture.

        A router moves the fixed shares of its domain. In a domain that training never saw, followers have their
        whole share, and items alike have it where nothing followed: a language model is sure of the wrong things there.

        Args:
            numbers: the items of the target's domain in the history, oldest first.
        """
        shares, router = self.shares_of(domain), self.routers.get(domain)
        followed = self._followed(numbers) if shares.transitions or router else NOTHING
        liked = self._liked(domain, numbers) if shares.similar or router else NOTHING
        if router is None and domain not in self.shares:
            if len(followed[0]):
                followed = followed[0], followed[1] / followed[1].sum()
            else:
                shares = replace(shares, transitions=0.0, similar=shares.similar + shares.transitions)
        item_S, followed_S, alike_S = side_by_side(followed, liked)
        if router is not None:
            shares = router.shares(shares, self.features(numbers, followed_S, alike_S))
        return Known(item_S, followed_S, alike_S, shares)

    def known(self, domain: str, numbers: Sequence[int]) -> Found:
        """What is listed for a history, see :meth:`Known.listed`."""
        return self.known_of(domain, numbers).listed()


def save_neighbours(neighbours: Neighbours, path: Path) -> None:
    """Write them to one safetensors file; shares, reading and rule are in its header.

    Raises:
        CatalogError: items have joined them since they were read, or events were counted.
    """
    if neighbours.similar.changed or neighbours.delta.entries:
        raise CatalogError(
            "neighbours that items have joined or events have changed cannot be written; make them anew of all these"
        )
    arrays: dict[str, npt.NDArray[np.generic]] = {"popularity": neighbours.popularity}
    every = {"transitions": neighbours.transitions, "similar": neighbours.similar.base}
    if neighbours.borrowers is not None:
        every["borrowers"] = neighbours.borrowers
    for name, lists in every.items():
        arrays |= {f"{name}.begin": lists.begin, f"{name}.item": lists.item, f"{name}.weight": lists.weight}
    for row, router in enumerate(neighbours.routers.values()):
        arrays |= {f"router.{row}.{part}": getattr(router, part) for part in _ROUTER_PARTS}
    for row, reader in enumerate(neighbours.readers.values()):
        arrays |= {f"reader.{row}.{part}": getattr(reader, part) for part in _READER_PARTS}
    shares = {name: asdict(own) for name, own in neighbours.shares.items()}
    about = {
        "domains": shares,
        "unseen": asdict(neighbours.unseen),
        "reading": asdict(neighbours.reading),
        "rule": asdict(neighbours.rule),
        "trained_until": dict(neighbours.trained_until),
        "routers": {name: router.bound for name, router in neighbours.routers.items()},
        "readers": {name: reader.share for name, reader in neighbours.readers.items()},
    }
    # One entry: those of several stand in an order that is another one in every process.
    save_file(arrays, path, metadata={_ABOUT: json.dumps(about)})


def load_neighbours(path: Path) -> Neighbours:
    """Open what ``save_neighbours`` wrote; its arrays stay on disk until they are touched.

    Raises:
        CatalogError: the file holds no neighbours.
    """
    try:
        arrays, header = open_tensors(path)
        about = json.loads(header[_ABOUT])
        lists = {
            name: NeighbourLists(*(arrays[f"{name}.{part}"] for part in ("begin", "item", "weight")))
            for name in ("transitions", "similar", "borrowers")
            if f"{name}.begin" in arrays
        }
        routers = {
            name: MemoryRouter(
                **{part: np.array(arrays[f"router.{row}.{part}"]) for part in _ROUTER_PARTS}, bound=float(bound)
            )
            for row, (name, bound) in enumerate(about.get("routers", {}).items())
        }
        readers = {
            name: HistoryReader(
                **{part: np.asarray(arrays[f"reader.{row}.{part}"]) for part in _READER_PARTS}, share=float(share)
            )
            for row, (name, share) in enumerate(about.get("readers", {}).items())
        }
        return Neighbours(
            lists["transitions"],
            GrownLists(lists["similar"]),
            arrays["popularity"],
            {name: Shares(**own) for name, own in about["domains"].items()},
            Shares(**about["unseen"]),
            Reading(**about["reading"]),
            # A bundle of a release before events says none of these.
            rule=TransitionRule(**about.get("rule", {})),
            trained_until=about.get("trained_until", {}),
            routers=routers,
            borrowers=lists.get("borrowers"),
            readers=readers,
        )
    except (AttributeError, CatalogError, KeyError, TypeError, ValueError) as error:
        raise CatalogError(f"{path.name}: no neighbours can be read ({error}); export the bundle again") from error
