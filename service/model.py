"""What the service asks of a loaded bundle, and the real one.

``Model`` is the seam between HTTP and the recommender: everything above it is tested on a small stand-in.

Shapes: N item, D item vector dim, L level.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from service.errors import StartError
from service.events.counting import Counting
from service.item_model import BundleItems, Description
from service.job_queue import Cost
from sidera.bundle import verified_bundle
from sidera.catalog import Catalog
from sidera.errors import SideraError
from sidera.items.item_filter import MOST_BYTES
from sidera.items.transitions import TransitionDelta
from sidera.loading import LoadedBundle, load_bundle
from sidera.model.history_cache import HistoryCache
from sidera.model.weight_formats import WeightFormat
from sidera.recommender import Query, Recommendation
from sidera.request_checks import check_query, work_of


class Model(Protocol):
    """A loaded bundle. One thread calls ``recommend``, ``learn`` and what ``stage`` returns, another one the rest."""

    @property
    def description(self) -> Description:
        """What is served."""

    @property
    def catalog(self) -> Catalog:
        """The snapshot that ``recommend`` uses."""

    @property
    def samples(self) -> Sequence[object]:
        """Bodies of /recommend to warm up with; may be empty."""

    @property
    def history_cache(self) -> HistoryCache | None:
        """What is kept of histories; None where nothing is."""

    @property
    def filter_bytes(self) -> int:
        """The memory that the fields take which requests filtered by."""

    def recommend(self, queries: Sequence[Query]) -> list[Recommendation]:
        """Answer queries, in order."""

    def cost(self, query: Query) -> Cost:
        """The tokens that a query takes at most; any thread may ask."""

    def check(self, query: Query) -> None:
        """Refuse what cannot be answered, and build what its filters need; any thread may call, also several at once.

        Raises:
            UnknownDomainError: the catalog does not hold the domain.
            SearchError: see :func:`sidera.request_checks.check_query`.
        """

    def stage(
        self, catalog: Catalog, vectors: Mapping[tuple[str, str], npt.NDArray[np.float32]], *, anew: bool
    ) -> Callable[[], None]:
        """Build what a snapshot needs, beside the one in use; calling the result swaps it in.

        Args:
            vectors: by (domain, item id), float32[D], of the items that joined since the snapshot in use; with ``anew``
                since the bundle was written, and what was learnt from events is let go: it goes by other numbers.
        """

    @property
    def counting(self) -> Counting | None:
        """How events are counted; None where the bundle mixes no transitions in."""

    def learn(self, delta: TransitionDelta, now: float) -> None:
        """Use what events added to the bundle's counts, faded to ``now`` (unix seconds), from now on."""

    def vectors(self, items: Sequence[Mapping[str, object]]) -> npt.NDArray[np.float32]:
        """The vectors of items given by their fields: float32[N, D]."""

    def place(
        self, vectors_ND: npt.NDArray[np.float32], domain: str, taken_NL: npt.NDArray[np.int32]
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        """Free SIDs for new items, int32[N, L], and whether another item had the nearest one, bool[N]."""

    def code_vectors(self, sids_NL: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """What the codes of SIDs stand for, as item vectors: float32[N, D]; any thread may ask."""


class BundleModel(BundleItems):
    """The model of one bundle."""

    def __init__(self, loaded: LoadedBundle) -> None:
        encoder = loaded.item_encoder
        super().__init__(loaded.manifest, loaded.tokenizer, encoder.text_encoder.digest, lambda: encoder)
        self._recommender = loaded.recommender
        self._alike = self._bundle_alike = loaded.alike
        self._learnt: tuple[TransitionDelta, float] | None = None
        self.samples: Sequence[object] = loaded.samples

    @property
    def catalog(self) -> Catalog:
        return self._recommender.catalog

    @property
    def history_cache(self) -> HistoryCache | None:
        return self._recommender.model.history_cache

    @property
    def filter_bytes(self) -> int:
        return self._recommender.item_filter.columns.num_bytes

    def keep_fields(self, most_bytes: int) -> None:
        """How much memory the fields may take that requests filter by."""
        self._recommender.item_filter.columns.most_bytes = most_bytes

    def recommend(self, queries: Sequence[Query]) -> list[Recommendation]:
        return self._recommender.recommend(queries)

    def cost(self, query: Query) -> Cost:
        work = work_of(self._recommender, query)
        return Cost(padded=work.prompt_tokens, added=work.search_tokens)

    def check(self, query: Query) -> None:
        check_query(self._recommender, query)

    def stage(
        self, catalog: Catalog, vectors: Mapping[tuple[str, str], npt.NDArray[np.float32]], *, anew: bool
    ) -> Callable[[], None]:
        alike = self._bundle_alike if anew else self._alike
        if alike is not None:
            alike = alike.with_items(catalog, vectors)
        prepared = self._recommender.prepare_catalog(catalog, None if alike is None else alike.neighbours)

        def swap() -> None:
            self._recommender.replace_catalog(prepared)
            self._alike = alike
            if anew:
                self._learnt = None
            if self._learnt is not None:
                self.learn(*self._learnt)

        return swap

    @property
    def counting(self) -> Counting | None:
        neighbours = self._recommender.neighbours
        return None if neighbours is None else Counting(neighbours.rule, neighbours.trained_until)

    def learn(self, delta: TransitionDelta, now: float) -> None:
        neighbours = self._recommender.neighbours
        if neighbours is not None:
            self._learnt = delta, now
            self._recommender.replace_neighbours(neighbours.with_transitions(delta, now))

    @torch.inference_mode()
    def code_vectors(self, sids_NL: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        vectors_ND: npt.NDArray[np.float32] = self._encoder().tokenizer.reconstruct(torch.from_numpy(sids_NL)).numpy()
        return vectors_ND


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory was short, of the device or of the host."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)  # of PyTorch on a CPU


def load_model(
    bundle: Path,
    device: str,
    weights: WeightFormat = "saved",
    history_cache_bytes: int = 0,
    threads: int = 0,
    filter_bytes: int = MOST_BYTES,
) -> Model:
    """Read every byte of a bundle once to verify it, then load it, its text encoder included.

    Args:
        weights: how those of the language model lie in memory.
        history_cache_bytes: how much is kept of histories; 0 keeps nothing.
        threads: of one computation on the CPU, in threads that begin to compute after this; 0 is PyTorch's own choice.
        filter_bytes: how much the fields may take that requests filter by.

    Raises:
        StartError: the bundle cannot be served; the message says why.
    """
    if threads:
        torch.set_num_threads(threads)
    try:
        model = BundleModel(load_bundle(verified_bundle(bundle), device, weights, history_cache_bytes))
    except SideraError as error:
        raise StartError(f"the bundle cannot be served: {error}") from error
    model.keep_fields(filter_bytes)
    return model
