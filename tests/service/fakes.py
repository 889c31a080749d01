"""A stand-in for a bundle, so that HTTP is tested without weights: 2 levels of 4 codes, 16 SIDs a domain.

It recommends the domain's items in SID order, makes vectors from the text's digest, and places at the next free SID.
"""

import hashlib
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from starlette.testclient import TestClient

from service.app import create_app
from service.catalog.rows import CatalogStore
from service.catalog.store import SqlStore
from service.events.counting import Counting
from service.item_model import Description
from service.job_queue import Cost
from service.settings import Settings
from sidera.catalog import Catalog, CatalogItem, create_catalog
from sidera.errors import FilterError
from sidera.explain.item_explanation import ItemExplanation
from sidera.item_text import item_texts
from sidera.items.transitions import TransitionDelta
from sidera.model.history_cache import HistoryCache
from sidera.recommender import Query, Recommendation, RecommendedItem

SIZES = (4, 4)
SIDS = list(itertools.product(range(4), range(4)))


def film(number: int, domain: str = "drama", sid: tuple[int, ...] | None = None) -> CatalogItem:
    """An item of the bundle."""
    return CatalogItem(domain, f"{domain}-{number}", sid or SIDS[number], f"Film {number}", {"categories": ["Film"]})


def bundle_items() -> list[CatalogItem]:
    """Six dramas and three comedies, at the SIDs of their numbers."""
    return [film(number) for number in range(6)] + [film(number, "comedy") for number in range(3)]


class FakeModel:
    """See the module."""

    def __init__(
        self,
        items: Sequence[CatalogItem] | None = None,
        tokenizer: str = "tokenizer-a",
        encoder: str = "encoder-a",
        samples: Sequence[object] = (),
        counting: Counting | None = None,
    ) -> None:
        self._catalog = create_catalog(items or bundle_items(), SIZES)
        self.history_cache: HistoryCache | None = None
        self.filter_bytes = 0
        self.description = Description("bundle-1", "scratch:tiny", "rqvae", tokenizer, encoder)
        self.samples = samples
        self._counting = counting
        self.learnt = TransitionDelta()
        self.batches: list[list[Query]] = []
        self.explanation: ItemExplanation | None = None
        self.checked: list[Query] = []
        self.encoded: list[str] = []
        self.joined: dict[tuple[str, str], npt.NDArray[np.float32]] = {}
        self.before_check: Callable[[Query], None] = lambda query: None
        self.before_recommend: Callable[[Sequence[Query]], None] = lambda queries: None

    @property
    def catalog(self) -> Catalog:
        return self._catalog

    def recommend(self, queries: Sequence[Query]) -> list[Recommendation]:
        self.batches.append(list(queries))
        self.before_recommend(queries)
        return [self._recommend(query) for query in queries]

    def cost(self, query: Query) -> Cost:
        return Cost(padded=3 * len(query.history) + 1, added=query.beam_width or 20)

    def check(self, query: Query) -> None:
        """A condition on the field ``year`` is refused."""
        self._catalog.index(query.domain)
        self.checked.append(query)
        self.before_check(query)
        if query.diversity is not None:
            query.diversity.check(len(SIZES))
        for condition in query.conditions:
            if condition.field == "year":
                raise FilterError("no item has the field 'year'", "year")

    def _recommend(self, query: Query) -> Recommendation:
        index = self._catalog.index(query.domain)
        missing = tuple(entry for entry in query.history if self._catalog.find(*entry) is None)
        known = {item_id for domain, item_id in query.history if domain == query.domain}
        hidden = query.exclude | (known if query.exclude_history else set())
        allowed = [
            item for item in map(self._catalog.item, index.number_of_leaf.tolist()) if item.item_id not in hidden
        ]
        items = tuple(
            RecommendedItem(
                item.item_id, -0.5 - rank, item.sid, item.title, self.explanation if query.explain else None
            )
            for rank, item in enumerate(allowed[: query.num_results])
        )
        return Recommendation(
            items=items,
            missing=missing,
            exact=True,
            fallback="prior" if len(missing) == len(query.history) else None,
            returned_reason=None if len(items) == query.num_results else f"only {len(items)} items are allowed",
            beams=max(query.beam_width or 20, query.num_results),
        )

    def stage(
        self, catalog: Catalog, vectors: Mapping[tuple[str, str], npt.NDArray[np.float32]], *, anew: bool
    ) -> Callable[[], None]:
        joined = dict(vectors) if anew else {**self.joined, **vectors}

        def swap() -> None:
            self._catalog, self.joined = catalog, joined
            if anew:
                self.learnt = TransitionDelta()

        return swap

    @property
    def counting(self) -> Counting | None:
        return self._counting

    def learn(self, delta: TransitionDelta, now: float) -> None:
        self.learnt = delta

    def vectors(self, items: Sequence[Mapping[str, object]]) -> npt.NDArray[np.float32]:
        texts = item_texts(items)
        self.encoded += texts
        digests = [hashlib.sha256(f"{self.description.encoder_digest}{text}".encode()).digest() for text in texts]
        return np.array([list(digest[:3]) for digest in digests], dtype=np.float32)

    def place(
        self, vectors_ND: npt.NDArray[np.float32], domain: str, taken_NL: npt.NDArray[np.int32]
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        taken = {tuple(sid) for sid in taken_NL.tolist()}
        sids, moved = [], []
        for vector_D in vectors_ND:
            nearest = int(vector_D.sum()) % len(SIDS)
            free = next(sid for sid in SIDS[nearest:] + SIDS[:nearest] if sid not in taken)
            taken.add(free)
            sids.append(free)
            moved.append(free != SIDS[nearest])
        return np.array(sids, dtype=np.int32), np.array(moved)

    def code_vectors(self, sids_NL: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """The first code across, the second one up, a little above the origin."""
        return sids_NL.astype(np.float32) + np.array([0.5, 1], dtype=np.float32)


class Gate:
    """Holds the model's thread inside ``recommend`` until it is opened."""

    def __init__(self, model: FakeModel) -> None:
        self.entered = threading.Event()
        self._open = threading.Event()
        model.before_recommend = self._hold

    def _hold(self, queries: Sequence[Query]) -> None:
        self.entered.set()
        assert self._open.wait(20)

    def open(self) -> None:
        self._open.set()


def settings(**changes: Any) -> Settings:
    """Settings that no environment variable changes; a path is always given."""
    values: dict[str, Any] = {"bundle": Path("no-bundle"), "log_level": "error"} | changes
    return Settings(**values)


@contextmanager
def serving(
    database: Path,
    model: FakeModel | None = None,
    store: Callable[[Settings], CatalogStore] | None = None,
    **changes: Any,
) -> Iterator[TestClient]:
    """A client of a service that is ready."""
    model = model or FakeModel()
    ready = threading.Event()
    failures: list[str] = []

    def on_outcome(failure: str | None) -> None:
        failures.extend([] if failure is None else [failure])
        ready.set()

    app = create_app(
        settings(**changes),
        load=lambda _: model,
        store=store or (lambda _: SqlStore(str(database))),
        on_outcome=on_outcome,
    )
    with TestClient(app, raise_server_exceptions=False) as client:
        assert ready.wait(20)
        assert not failures, failures
        yield client
