"""Item ids in, item ids and scores out: the catalog, the language model and beam search put together.

Knows nothing of files, HTTP or queues. Not thread-safe: one caller at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sidera.beam_search import SearchBatch, SearchResult, beam_search
from sidera.catalog import Catalog
from sidera.errors import CatalogError, SearchError
from sidera.known_mass import KnownMass
from sidera.language_model import LanguageModel
from sidera.leaf_filter import LeafFilter
from sidera.neighbours import Neighbours
from sidera.trie import TrieTables, tables_of


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
    """

    domain: str
    history: tuple[tuple[str, str], ...] = ()
    num_results: int = 10
    exclude: frozenset[str] = frozenset()
    exclude_history: bool = True
    beam_width: int | None = None


@dataclass(frozen=True)
class RecommendedItem:
    """An item and its log-probability of being next."""

    item_id: str
    score: float
    sid: tuple[int, ...]
    title: str | None


@dataclass(frozen=True)
class Recommendation:
    """The answer to one query.

    Attributes:
        items: best first; no item twice.
        missing: entries of the history that the catalog does not hold.
        exact: whether no other allowed item can score higher than the last one returned.
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


@dataclass(frozen=True)
class PreparedCatalog:
    """A catalog whose tries lie on the device.

    Attributes:
        root: of each domain's trie in ``tables``.
        first_leaf: of each domain in ``tables``.
        neighbours: what is mixed with the language model's distributions; None: nothing.
        popularity_below_N: the train events of all leaves before each one, as shares of its domain's; None where there
            are no neighbours. Shape: float64[N + 1].
    """

    catalog: Catalog
    tables: TrieTables
    root: dict[str, int]
    first_leaf: dict[str, int]
    neighbours: Neighbours | None
    popularity_below_N: torch.Tensor | None


@dataclass(frozen=True)
class _Understood:
    """A query in the language model's terms; ``own`` are the numbers of the history's items of the asked domain."""

    prompt: list[int]
    own: list[int]
    blocked: list[int]
    missing: tuple[tuple[str, str], ...]
    history_items: int
    beams: int


class Recommender:
    """Answers queries with one language model over one catalog snapshot.

    Args:
        model: the language model.
        catalog: the items that may come back.
        max_history: how many of the newest known items of a history are read.
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
        self._serving = self.prepare_catalog(catalog, neighbours)

    @property
    def catalog(self) -> Catalog:
        return self._serving.catalog

    @property
    def tables(self) -> TrieTables:
        """The tries that serve, on the device."""
        return self._serving.tables

    def prompt(self, query: Query) -> list[int]:
        """The tokens that the language model reads for a query."""
        return self._understand(query).prompt

    def leaf(self, domain: str, item_id: str) -> int:
        """The leaf of an item in ``tables``.

        Raises:
            CatalogError: the catalog does not hold the item.
        """
        number = self.catalog.find(domain, item_id)
        if number is None:
            raise CatalogError(f"there is no item {item_id[:80]!r} in domain {domain!r}; register it first")
        return self._serving.first_leaf[domain] + self.catalog.leaf(number)

    @property
    def neighbours(self) -> Neighbours | None:
        """What is mixed with the language model's distributions."""
        return self._serving.neighbours

    def prepare_catalog(self, catalog: Catalog, neighbours: Neighbours | None) -> PreparedCatalog:
        """Lay a catalog's tries out on the device, beside the one that serves, with the neighbours of its items.

        Raises:
            CatalogError: its SIDs are not of the model's codebooks.
        """
        sizes = self.model.vocabulary.codebook_sizes
        if catalog.codebook_sizes != sizes:
            raise CatalogError(f"the catalog has codebooks of {catalog.codebook_sizes} codes, the model of {sizes}")
        tries = [index.trie for index in catalog.indexes.values()]
        first_leaves = np.cumsum([0] + [trie.num_leaves for trie in tries]).tolist()
        return PreparedCatalog(
            catalog=catalog,
            tables=tables_of(tries, self.model.device),
            root={domain: root for root, domain in enumerate(catalog.domains)},
            first_leaf=dict(zip(catalog.domains, first_leaves, strict=False)),
            neighbours=neighbours,
            popularity_below_N=None if neighbours is None else self._popularity(neighbours, catalog),
        )

    def _popularity(self, neighbours: Neighbours, catalog: Catalog) -> torch.Tensor:
        numbers_N = np.concatenate([index.number_of_leaf for index in catalog.indexes.values()])
        mass_N = np.zeros(len(numbers_N))
        counted_N = numbers_N < len(neighbours.popularity)
        mass_N[counted_N] = neighbours.popularity[numbers_N[counted_N]]
        return torch.from_numpy(np.concatenate([[0.0], np.cumsum(mass_N)])).to(self.model.device)

    def known_mass(self, domains: Sequence[str], histories: Sequence[Sequence[int]]) -> KnownMass | None:
        """What neighbours know of the leaves, for histories of item numbers of the asked domain, oldest first."""
        if self.neighbours is None:
            return None
        leaves, masses = [], []
        for domain, numbers in zip(domains, histories, strict=True):
            item_S, mass_S = self.neighbours.known(domain, numbers)
            leaves.append(self.catalog.leaves(item_S) + self._serving.first_leaf[domain])
            masses.append(mass_S)
        shares = [self.neighbours.shares_of(domain).popularity for domain in domains]
        return KnownMass.build(leaves, masses, shares, self._serving.popularity_below_N, self.model.device)

    def replace_catalog(self, prepared: PreparedCatalog) -> None:
        """Serve another snapshot from now on."""
        self._serving = prepared

    def recommend(self, queries: Sequence[Query]) -> list[Recommendation]:
        """Answer queries, those of all domains together.

        Raises:
            UnknownDomainError: a query asks for a domain that the catalog does not hold.
            SearchError: a query asks for fewer than one item or beam.
        """
        understood = [self._understand(query) for query in queries]
        answers: dict[int, Recommendation] = {}
        for beams in sorted({asked.beams for asked in understood}):
            rows = [row for row, asked in enumerate(understood) if asked.beams == beams]
            found = self._search([queries[row] for row in rows], [understood[row] for row in rows], beams)
            for place, row in enumerate(rows):
                answers[row] = self._answer(queries[row], understood[row], found, place)
        return [answers[row] for row in range(len(queries))]

    def _understand(self, query: Query) -> _Understood:
        catalog = self.catalog
        catalog.index(query.domain)
        if query.num_results < 1 or (query.beam_width is not None and query.beam_width < 1):
            raise SearchError("num_results and beam_width must be at least 1")
        known, missing = [], []
        for domain, item_id in query.history:
            number = catalog.find(domain, item_id)
            if number is None:
                missing.append((domain, item_id))
            else:
                known.append((domain, number))
        history = self._with_sids(known[-self.max_history :])
        excluded = [catalog.find(query.domain, item_id) for item_id in query.exclude]
        blocked = [number for number in excluded if number is not None]
        own = [number for domain, number in known if domain == query.domain]
        if query.exclude_history:
            blocked += own
        return _Understood(
            prompt=self.model.prompt(history, query.domain),
            own=own,
            blocked=[self._serving.first_leaf[query.domain] + catalog.leaf(number) for number in blocked],
            missing=tuple(missing),
            history_items=len(history),
            beams=max(query.beam_width or self.beam_width, query.num_results),
        )

    def _with_sids(self, items: Sequence[tuple[str, int]]) -> list[tuple[str, tuple[int, ...]]]:
        """(domain, item number) to (domain, SID), in the same order."""
        sid_of = dict[int, tuple[int, ...]]()
        for domain in {domain for domain, _ in items}:
            numbers = [number for own, number in items if own == domain]
            sid_of |= zip(numbers, self.catalog.sids_of(domain, numbers), strict=True)
        return [(domain, sid_of[number]) for domain, number in items]

    def _search(self, queries: Sequence[Query], understood: Sequence[_Understood], beams: int) -> SearchResult:
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
            filter=LeafFilter.build([asked.blocked for asked in understood], device=device),
            known=self.known_mass([query.domain for query in queries], [asked.own for asked in understood]),
        )
        return beam_search(self.model, self._serving.tables, batch, beams)

    def _answer(self, query: Query, asked: _Understood, found: SearchResult, row: int) -> Recommendation:
        index = self.catalog.index(query.domain)
        count = int(found.counts_B[row])
        leaves = (found.leaves_BK[row, :count].cpu() - self._serving.first_leaf[query.domain]).numpy()
        scores = found.scores_BK[row, :count].tolist()
        sids_KL = index.trie.sids_of(leaves)
        items = []
        for number, score, sid in zip(index.number_of_leaf[leaves].tolist(), scores, sids_KL.tolist(), strict=True):
            item_id, title = self.catalog.name(number)
            items.append(RecommendedItem(item_id, score, tuple(sid), title))
        reason = None
        if count < query.num_results:
            reason = f"only {count} items of {query.domain!r} are allowed; {query.num_results} were asked for"
        return Recommendation(
            items=tuple(items),
            missing=asked.missing,
            exact=bool(found.certified_B[row]),
            fallback=None if asked.history_items else "prior",
            returned_reason=reason,
            beams=asked.beams,
        )
