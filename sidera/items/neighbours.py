"""What a user's last items say at once of the next one: items that followed them, items like them, popular ones.

Three distributions over the items of the target's domain that need no forward pass. ``transitions``: what came near an
item in the train part's sequences. ``similar``: the items whose vectors are nearest; it knows no user, so it serves a
domain that training never saw. ``popularity``: the domain's train events. Each has a constant share of the mixture in
each domain; the language model has the rest. The first two are read off the newest items of the history, the newer the
more: P(i | S) = sum_j decay^j w(h_j, i) / sum_j decay^j over the items h_j that have a list, h_0 the newest. The
weights w of a list sum to 1, those of followers to c / (c + smoothing) for a count of c: a list that stands on little
leaves its mass to the language model.

All is keyed by item number, which never changes within a bundle; leaves are looked up per snapshot. Tensors of files:
per list ``begin`` int64[N + 1], ``item`` int32[X], ``weight`` float32[X]; ``popularity`` float32[N].

Shapes: N items of the bundle, X entries of all lists, S items found for one history.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from sidera.errors import CatalogError

_ABOUT = "mixture"

Listed = tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]
"""Item numbers and weights."""

Found = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]
"""Item numbers, each once, and their masses."""


@dataclass(frozen=True)
class NeighbourLists:
    """For each item a short list of others, with weights; what counts is their ratio within a list.

    Attributes:
        begin: where each item's list begins, and where the last one ends. Shape: int64[N + 1].
        item: the listed item numbers. Shape: int32[X].
        weight: above 0. Shape: float32[X].
    """

    begin: npt.NDArray[np.int64]
    item: npt.NDArray[np.int32]
    weight: npt.NDArray[np.float32]

    def of(self, number: int) -> Listed:
        """The list of one item; empty for items that came later."""
        if number + 1 >= len(self.begin):
            return self.item[:0], self.weight[:0]
        rows = slice(self.begin[number], self.begin[number + 1])
        return self.item[rows], self.weight[rows]

    @cached_property
    def least(self) -> npt.NDArray[np.float32]:
        """The smallest weight of each list, 0 of an empty one. Shape: float32[N]."""
        least_N = np.zeros(len(self.begin) - 1, dtype=np.float32)
        filled = np.flatnonzero(np.diff(self.begin))
        if len(filled):
            least_N[filled] = np.minimum.reduceat(self.weight, self.begin[filled])
        return least_N


@dataclass(frozen=True)
class GrownLists:
    """The lists of a bundle, and what became of them as items joined.

    Attributes:
        changed: the present list of each item whose list is another one than in ``base``, by number.
    """

    base: NeighbourLists
    changed: Mapping[int, Listed] = field(default_factory=dict)

    def of(self, number: int) -> Listed:
        """The present list of one item."""
        return self.changed.get(number) or self.base.of(number)

    def threshold(self, numbers_X: npt.NDArray[np.integer], nearest: int) -> npt.NDArray[np.float32]:
        """What an item's weight must be above to enter these lists of at most ``nearest``. Shape: float32[X]."""
        last = len(self.base.begin) - 1
        known_X = numbers_X < last
        row_X = np.where(known_X, numbers_X, 0)
        if last:
            full_X = known_X & (self.base.begin[row_X + 1] - self.base.begin[row_X] >= nearest)
            threshold_X = np.where(full_X, self.base.least[row_X], 0).astype(np.float32)
        else:
            threshold_X = np.zeros(len(numbers_X), dtype=np.float32)
        for place in np.flatnonzero(np.isin(numbers_X, np.fromiter(self.changed, np.int64, len(self.changed)))):
            _, weight_K = self.changed[int(numbers_X[place])]
            threshold_X[place] = weight_K.min() if len(weight_K) >= nearest else 0
        return threshold_X


@dataclass(frozen=True)
class Shares:
    """The share of the mixture that each of the three has in a domain; the language model has what is left of 1."""

    transitions: float = 0.0
    similar: float = 0.0
    popularity: float = 0.0

    def __post_init__(self) -> None:
        every = (self.transitions, self.similar, self.popularity)
        if not (min(every) >= 0 and sum(every) <= 1 + 1e-6):
            raise CatalogError(
                f"shares of {every} are no shares of one mixture; set values from 0 that sum to at most 1"
            )


@dataclass(frozen=True)
class Reading:
    """How a history is read: its ``recent`` newest items of the target's domain, each ``decay`` times the newer one.

    ``smoothing`` is what the counts of followers are compared with. And how an item that joins is compared: a list of
    alike items has the ``nearest`` ones, with the weights exp((cosine - 1) / ``temperature``).
    """

    recent: int = 5
    decay: float = 0.6
    nearest: int = 60
    temperature: float = 0.1
    smoothing: float = 0.0


class Neighbours:
    """The lists of a bundle and their shares.

    Args:
        popularity: the train events of every item, as shares of its domain's. Shape: float32[N].
        shares: of each domain that training saw.
        unseen: of all other domains.
    """

    def __init__(
        self,
        transitions: NeighbourLists,
        similar: GrownLists,
        popularity: npt.NDArray[np.float32],
        shares: Mapping[str, Shares],
        unseen: Shares,
        reading: Reading,
    ) -> None:
        self.transitions, self.similar, self.popularity = transitions, similar, popularity
        self.shares, self.unseen, self.reading = dict(shares), unseen, reading

    def with_similar(self, similar: GrownLists) -> "Neighbours":
        """The same with other lists of items alike."""
        return Neighbours(self.transitions, similar, self.popularity, self.shares, self.unseen, self.reading)

    def shares_of(self, domain: str) -> Shares:
        """The shares in a domain."""
        return self.shares.get(domain, self.unseen)

    def followers(self, numbers: Sequence[int]) -> Found:
        """What followed these items, oldest first; masses sum to at most 1, and to 0 where nothing did."""
        return self._read(self.transitions, numbers, self.reading.smoothing)

    def likes(self, numbers: Sequence[int]) -> Found:
        """What is like these items, oldest first; masses sum to 1, or to 0 where nothing is known to be."""
        return self._read(self.similar, numbers, 0.0)

    def known(self, domain: str, numbers: Sequence[int]) -> Found:
        """Both, weighed by the domain's shares: what :class:`sidera.decoding.known_mass.KnownMass` lists.

        Args:
            numbers: the items of the target's domain in the history, oldest first.
        """
        shares = self.shares_of(domain)
        items, masses = [], []
        for share, (found_S, mass_S) in (
            (shares.transitions, self.followers(numbers) if shares.transitions else _NOTHING),
            (shares.similar, self.likes(numbers) if shares.similar else _NOTHING),
        ):
            items.append(found_S)
            masses.append(share * mass_S)
        return _summed(np.concatenate(items), np.concatenate(masses))

    def _read(self, lists: NeighbourLists | GrownLists, numbers: Sequence[int], smoothing: float) -> Found:
        items, masses, whole = [], [], 0.0
        for age, number in enumerate(reversed(numbers[-self.reading.recent :])):
            item_X, weight_X = lists.of(number)
            if len(item_X):
                items.append(item_X.astype(np.int64))
                masses.append(weight_X * (self.reading.decay**age / (weight_X.sum(dtype=np.float64) + smoothing)))
                whole += self.reading.decay**age
        if not items:
            return _NOTHING
        found_S, mass_S = _summed(np.concatenate(items), np.concatenate(masses))
        return found_S, mass_S / whole


_NOTHING: Found = (np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float64))


def _summed(item_X: npt.NDArray[np.int64], mass_X: npt.NDArray[np.float64]) -> Found:
    """Each item once, with the sum of its masses."""
    found_S, place_X = np.unique(item_X, return_inverse=True)
    return found_S, np.bincount(place_X, weights=mass_X, minlength=len(found_S)).astype(np.float64)


def save_neighbours(neighbours: Neighbours, path: Path) -> None:
    """Write them to one safetensors file; shares and reading are in its header.

    Raises:
        CatalogError: items have joined them since they were read.
    """
    if neighbours.similar.changed:
        raise CatalogError("neighbours that items have joined cannot be written; make them of all items first")
    arrays: dict[str, npt.NDArray[np.generic]] = {"popularity": neighbours.popularity}
    for name, lists in (("transitions", neighbours.transitions), ("similar", neighbours.similar.base)):
        arrays |= {f"{name}.begin": lists.begin, f"{name}.item": lists.item, f"{name}.weight": lists.weight}
    shares = {name: asdict(own) for name, own in neighbours.shares.items()}
    about = {"domains": shares, "unseen": asdict(neighbours.unseen), "reading": asdict(neighbours.reading)}
    # One entry: those of several stand in an order that is another one in every process.
    save_file(arrays, path, metadata={_ABOUT: json.dumps(about)})


def load_neighbours(path: Path) -> Neighbours:
    """Read what ``save_neighbours`` wrote.

    Raises:
        CatalogError: the file holds no neighbours.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads(file.metadata()[_ABOUT])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        lists = {
            name: NeighbourLists(*(arrays[f"{name}.{part}"] for part in ("begin", "item", "weight")))
            for name in ("transitions", "similar")
        }
        return Neighbours(
            lists["transitions"],
            GrownLists(lists["similar"]),
            arrays["popularity"],
            {name: Shares(**own) for name, own in about["domains"].items()},
            Shares(**about["unseen"]),
            Reading(**about["reading"]),
        )
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CatalogError(f"{path.name}: no neighbours can be read ({error}); export the bundle again") from error
