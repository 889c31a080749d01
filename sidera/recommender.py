"""Item ids in, item ids and scores out: the catalog, the language model and beam search put together.

Knows nothing of files, HTTP or queues. Not thread-safe: one caller at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from sidera.beam_search import SearchBatch, SearchResult, beam_search
from sidera.catalog import Catalog
from sidera.decoding.diversity import PrefixCaps
from sidera.decoding.known_mass import KnownMass
from sidera.decoding.leaf_filter import LeafArray, LeafFilter, LeafSet
from sidera.decoding.sampling import Sampler
from sidera.errors import CatalogError, SearchError
from sidera.explain.explain_items import explained
from sidera.items.item_filter import BundleColumns, ItemFilter
from sidera.items.neighbours import Neighbours
from sidera.language_model import LanguageModel
from sidera.model.history_window import window_start
from sidera.queries import Query, Recommendation, RecommendedItem
from sidera.stages import stage_ended
from sidera.trie import TrieTables

__all__ = ["PreparedCatalog", "Query", "Recommendation", "RecommendedItem", "Recommender", "Understood"]


@dataclass(frozen=True)
class PreparedCatalog:
    """A catalog whose tries lie on the device.

    Attributes:
        root: of each domain's trie in ``tables``.
        first_leaf: of each domain in ``tables``.
        item_filter: which leaves pass conditions.
        neighbours: what is mixed with the language model's distributions; None: nothing.
        popularity_below_N: the train events of all leaves before each one, as shares of its domain's; None where there
            are no neighbours. Shape: float64[N + 1].
    """

    catalog: Catalog
    tables: TrieTables
    root: dict[str, int]
    first_leaf: dict[str, int]
    item_filter: ItemFilter
    neighbours: Neighbours | None
    popularity_below_N: torch.Tensor | None


@dataclass(frozen=True)
class Understood:
    """A query in the language model's terms.

    Attributes:
        known: (domain, item number) of the history's entries that the catalog holds, oldest first.
        places: where each of them stands in the query's history.
        first_read: of them, the first one that the prompt holds.
        own: the numbers of those of the asked domain.
        blocked: leaves that must not come back.
        allowed: the only leaves that may come back; None: all.
    """

    prompt: list[int]
    known: list[tuple[str, int]]
    places: list[int]
    first_read: int
    own: list[int]
    blocked: LeafArray
    allowed: LeafSet | None
    missing: tuple[tuple[str, str], ...]
    beams: int


class Recommender:
    """Answers queries with one language model over one catalog snapshot.

    Args:
        model: the language model.
        catalog: the items that may come back.
        max_history: how many of the newest known items of a history are read at most, see
            :mod:`sidera.model.history_window`.
        beam_width: beams kept at each level when a query does not say.
        neighbours: what is mixed with the language model's distributions; None: nothing.
    """

    def __init__(
        self,
        model: LanguageModel,
        catalog: Catalog,
        max_history: int,
        beam_width: int,
        neighbours: Neighbours | None = None,
    ) -> None:
        self.model = model
        self.max_history = max_history
        self.beam_width = beam_width
        self._columns: BundleColumns | None = None
        self._serving = self.prepare_catalog(catalog, neighbours)
        self._columns = self._serving.item_filter.columns

    @property
    def catalog(self) -> Catalog:
        return self._serving.catalog

    @property
    def tables(self) -> TrieTables:
        """The tries that serve, on the device."""
        return self._serving.tables

    def prompt(self, query: Query) -> list[int]:
        """The tokens that the language model reads for a query."""
        return self.understand(query).prompt

    def leaf(self, domain: str, item_id: str) -> int:
        """The leaf of an item in ``tables``.

        Raises:
            CatalogError: the catalog does not hold the item.
        """
        number = self.catalog.find(domain, item_id)
        if number is None:
            raise CatalogError(f"there is no item {item_id[:80]!r} in domain {domain!r}; register it first")
        return self._serving.first_leaf[domain] + self.catalog.leaf(number)

    def popularity(self, leaf: int) -> float:
        """The share of a leaf in its domain's train events, among the items that are left; 0 without neighbours."""
        below_N = self._serving.popularity_below_N
        return 0.0 if below_N is None else float(below_N[leaf + 1] - below_N[leaf])

    @property
    def neighbours(self) -> Neighbours | None:
        """What is mixed with the language model's distributions."""
        return self._serving.neighbours

    @property
    def item_filter(self) -> ItemFilter:
        """Which leaves pass conditions; any thread may ask."""
        return self._serving.item_filter

    def prepare_catalog(self, catalog: Catalog, neighbours: Neighbours | None) -> PreparedCatalog:
        """Lay a catalog's tries out on the device, beside the one that serves, with the neighbours of its items.

        Raises:
            CatalogError: its SIDs are not of the model's codebooks.
        """
        sizes = self.model.vocabulary.codebook_sizes
        if catalog.codebook_sizes != sizes:
            raise CatalogError(f"the catalog has codebooks of {catalog.codebook_sizes} codes, the model of {sizes}")
        first_leaf = {domain: index.first_leaf for domain, index in catalog.indexes.items()}
        return PreparedCatalog(
            catalog=catalog,
            tables=catalog.tables(self.model.device),
            root={domain: root for root, domain in enumerate(catalog.domains)},
            first_leaf=first_leaf,
            item_filter=ItemFilter(catalog, first_leaf, self._columns),
            neighbours=neighbours,
            popularity_below_N=None if neighbours is None else self._popularity(neighbours, catalog),
        )

    def _popularity(self, neighbours: Neighbours, catalog: Catalog) -> torch.Tensor:
        masses = [np.zeros(1)]
        for index in catalog.indexes.values():
            numbers_N = index.number_of_leaf
            mass_N = np.zeros(len(numbers_N))
            counted_N = numbers_N < len(neighbours.popularity)
            mass_N[counted_N] = neighbours.popularity[numbers_N[counted_N]]
            whole = mass_N.sum()  # items that were removed leave their share to the others
            # Where no event is left, all are as popular as each other: scores stay those of a distribution.
            masses.append(mass_N / whole if whole > 0 else np.full(len(mass_N), 1 / len(mass_N)))
        return torch.from_numpy(np.cumsum(np.concatenate(masses))).to(self.model.device)

    def known_mass(self, domains: Sequence[str], histories: Sequence[Sequence[int]]) -> KnownMass | None:
        """What neighbours know of the leaves, for histories of item numbers of the asked domain, oldest first."""
        if self.neighbours is None:
            return None
        leaves, masses, shares = [], [], []
        for domain, numbers in zip(domains, histories, strict=True):
            known = self.neighbours.known_of(domain, numbers)
            shares.append(known.shares.popularity)
            item_S, mass_S = known.listed()
            leaf_S = self.catalog.table_leaves(item_S)
            here_S = leaf_S >= 0  # of items that were removed the language model gets the share
            leaves.append(leaf_S[here_S])
            masses.append(mass_S[here_S])
        return KnownMass.build(leaves, masses, shares, self._serving.popularity_below_N, self.model.device)

    def replace_catalog(self, prepared: PreparedCatalog) -> None:
        """Serve another snapshot from now on."""
        self._serving = prepared
        self._columns = prepared.item_filter.columns

    def replace_neighbours(self, neighbours: Neighbours) -> None:
        """Mix other counts of the same items in from now on."""
        self._serving = replace(self._serving, neighbours=neighbours)

    def recommend(self, queries: Sequence[Query]) -> list[Recommendation]:
        """Answer queries, those of all domains together.

        Raises:
            UnknownDomainError: a query asks for a domain that the catalog does not hold.
            SearchError: a query asks for fewer than one item or beam, or for a prefix longer than SIDs are, or has a
                condition on a field that its domain's items do not have.
        """
        understood = [self.understand(query) for query in queries]
        answers: dict[int, Recommendation] = {}
        for beams in sorted({asked.beams for asked in understood}):
            rows = [row for row, asked in enumerate(understood) if asked.beams == beams]
            found = self.search([queries[row] for row in rows], [understood[row] for row in rows], beams)
            for place, row in enumerate(rows):
                answers[row] = self._answer(queries[row], understood[row], found, place)
        for row, query in enumerate(queries):
            if query.explain:
                answers[row] = explained(self, query, understood[row], answers[row])
        return [answers[row] for row in range(len(queries))]

    def understand(self, query: Query) -> Understood:
        """A query in the language model's terms."""
        catalog = self.catalog
        catalog.index(query.domain)
        if query.num_results < 1 or (query.beam_width is not None and query.beam_width < 1):
            raise SearchError("num_results and beam_width must be at least 1")
        known, places, missing = [], [], []
        for place, (domain, item_id) in enumerate(query.history):
            number = catalog.find(domain, item_id)
            if number is None:
                missing.append((domain, item_id))
            else:
                known.append((domain, number))
                places.append(place)
        first_read = window_start([number for _, number in known], self.max_history)
        excluded = [catalog.find(query.domain, item_id) for item_id in query.exclude]
        blocked = [number for number in excluded if number is not None]
        own = [number for domain, number in known if domain == query.domain]
        if query.exclude_history:
            blocked += own
        return Understood(
            prompt=self.model.prompt(self._with_sids(known[first_read:]), query.domain),
            known=known,
            places=places,
            first_read=first_read,
            own=own,
            blocked=catalog.leaves(np.array(blocked, dtype=np.int64)) + self._serving.first_leaf[query.domain],
            allowed=self._serving.item_filter.allowed(query.domain, query.conditions, query.only),
            missing=tuple(missing),
            beams=max(query.beam_width or self.beam_width, query.num_results),
        )

    def without(self, query: Query, asked: Understood, place: int) -> Understood:
        """The same without one of the items that its prompt holds; no older one takes its place."""
        known = asked.known[:place] + asked.known[place + 1 :]
        return replace(
            asked,
            prompt=self.model.prompt(self._with_sids(known[asked.first_read :]), query.domain),
            own=[number for domain, number in known if domain == query.domain],
        )

    def _with_sids(self, items: Sequence[tuple[str, int]]) -> list[tuple[str, tuple[int, ...]]]:
        """(domain, item number) to (domain, SID), in the same order."""
        sid_of = dict[int, tuple[int, ...]]()
        for domain in {domain for domain, _ in items}:
            numbers = [number for own, number in items if own == domain]
            sid_of |= zip(numbers, self.catalog.sids_of(domain, numbers), strict=True)
        return [(domain, sid_of[number]) for domain, number in items]

    def search(self, queries: Sequence[Query], understood: Sequence[Understood], beams: int) -> SearchResult:
        """Beam search for queries of one beam width."""
        device = self.model.device
        lengths = [len(asked.prompt) for asked in understood]
        tokens_BP = torch.full((len(queries), max(lengths)), self.model.vocabulary.pad)
        for row, asked in enumerate(understood):
            tokens_BP[row, : lengths[row]] = torch.tensor(asked.prompt)
        batch = SearchBatch(
            tokens_BP=tokens_BP.to(device),
            lengths_B=torch.tensor(lengths, device=device),
            roots_B=torch.tensor([self._serving.root[query.domain] for query in queries], device=device),
            mixture=self.model.mixture([query.domain for query in queries]),
            num_results_B=torch.tensor([query.num_results for query in queries], device=device),
            filter=LeafFilter.build(
                [asked.blocked for asked in understood], [asked.allowed for asked in understood], device
            ),
            known=self.known_mass([query.domain for query in queries], [asked.own for asked in understood]),
            caps=PrefixCaps.build([query.diversity for query in queries], self.model.vocabulary.num_levels, device),
            sampler=Sampler.build([query.sampling for query in queries], device),
        )
        stage_ended("tokenisation")
        found = beam_search(self.model, self._serving.tables, batch, beams)
        stage_ended("decode", device)
        return found

    def _answer(self, query: Query, asked: Understood, found: SearchResult, row: int) -> Recommendation:
        index = self.catalog.index(query.domain)
        count = int(found.counts_B[row])
        leaves = (found.leaves_BK[row, :count].cpu() - self._serving.first_leaf[query.domain]).numpy()
        scores = found.scores_BK[row, :count].tolist()
        sids_KL = index.sids_of(leaves)
        items = []
        for number, score, sid in zip(index.numbers_of(leaves).tolist(), scores, sids_KL.tolist(), strict=True):
            item_id, title = self.catalog.name(number)
            items.append(RecommendedItem(item_id, score, tuple(sid), title))
        reason = None
        if count < query.num_results:
            reason = f"only {count} items of {query.domain!r} are allowed; {query.num_results} were asked for"
            if query.diversity is not None:
                reason += f", no more than {query.diversity.max_per_prefix} of a prefix"
        return Recommendation(
            items=tuple(items),
            missing=asked.missing,
            exact=bool(found.certified_B[row]),
            fallback=None if asked.known else "prior",
            returned_reason=reason,
            beams=asked.beams,
        )
