"""Finds the items of one snapshot of the catalog by the words of their titles, or by the beginning of their id.

The titles that the bundle holds have one index (:mod:`sidera.items.word_index`), which serves all snapshots. Items that
came, changed or went since are found through a second, small index of their own, made anew for each snapshot.
"""

from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sidera.catalog import Catalog
from sidera.items.word_index import WordIndex, words_in


@dataclass(frozen=True)
class FoundItem:
    """An item that was found."""

    domain: str
    item_id: str
    title: str | None
    sid: tuple[int, ...]
    hidden: bool


class LiveItemSearch:
    """Finds the items of one snapshot of the catalog; of the next one: :meth:`of_snapshot`, which costs the changes."""

    def __init__(self, catalog: Catalog, base: WordIndex | None = None) -> None:
        """``base`` is the index of the bundle's titles; without it, it is made, in seconds for a million items."""
        self._base = base or WordIndex.of(catalog.bundle_items["title"])
        self._bundle_items = catalog.bundle_items
        self.catalog = catalog
        names = self._bundle_items["domain"].combine_chunks()
        if isinstance(names, pa.ChunkedArray):
            names = names.chunk(0)
        self._domain_names: list[str] = names.dictionary.to_pylist()
        self._domain_N = names.indices.to_numpy()
        later = {number: item for domain in catalog.domains for number, item in catalog.later_items(domain).items()}
        self._later_items = later
        self._later_numbers = list(later)
        self._later_domains = np.array([item.domain for item in later.values()], dtype=object)
        titles = pa.array([item.title for item in later.values()], pa.large_string())
        self._later = WordIndex.of(pa.chunked_array([titles]))
        live_N = catalog.from_bundle(np.arange(len(self._domain_N)))
        changed = np.array([number for number in later if number < len(live_N)], dtype=np.int64)
        live_N[changed] = False
        self._live_N = None if live_N.all() else live_N

    def of_snapshot(self, catalog: Catalog) -> "LiveItemSearch":
        """The same of another snapshot of the same bundle."""
        return self if catalog is self.catalog else LiveItemSearch(catalog, self._base)

    def find(self, text: str, most: int, domain: str | None = None) -> list[FoundItem]:
        """The items whose titles have all words of a text; those whose id begins with the text behind them.

        An item whose id is the text comes first. The last word is a beginning unless a space follows it.

        Raises:
            UnknownDomainError: the catalog does not hold the domain.
        """
        domains = self.catalog.domains if domain is None else (domain,)
        for name in domains:
            self.catalog.index(name)
        asked = text.strip()
        numbers = dict.fromkeys(
            number for name in domains if asked and (number := self.catalog.find(name, asked)) is not None
        )
        wanted, whole_last = words_in(text), text[-1:].isspace()
        later = self._later.search(wanted, whole_last, most, self._later_allowed(domain))
        numbers |= dict.fromkeys(self._later_numbers[row] for row in later.tolist())
        base = self._base.search(wanted, whole_last, most, self._allowed(domain))
        numbers |= dict.fromkeys(base.tolist())
        if asked and len(numbers) < most:
            for name in domains:
                for item_id in islice(self.catalog.ids_from(name, asked), most):
                    number = self.catalog.find(name, item_id)
                    if number is not None:
                        numbers[number] = None
        return [self._found(number) for number in islice(numbers, most)]

    def _found(self, number: int) -> FoundItem:
        item_id, title = self.catalog.name(number)
        later = self._later_items.get(number)
        domain = self._domain_names[self._domain_N[number]] if later is None else later.domain
        return FoundItem(domain, item_id, title, self.catalog.sid(domain, number), self.catalog.is_hidden(number))

    def _allowed(self, domain: str | None) -> npt.NDArray[np.bool_] | None:
        if domain is None:
            return self._live_N
        if domain not in self._domain_names:
            return np.zeros(len(self._domain_N), dtype=bool)
        own_N: npt.NDArray[np.bool_] = self._domain_N == self._domain_names.index(domain)
        return own_N if self._live_N is None else own_N & self._live_N

    def _later_allowed(self, domain: str | None) -> npt.NDArray[np.bool_] | None:
        return None if domain is None else np.asarray(self._later_domains == domain, dtype=bool)
