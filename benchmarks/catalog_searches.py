"""What ``benchmarks.catalog_scale`` measures of searches in a changed catalog: their time, and what a fold does.

Imported by the child process of these tasks alone: it needs the libraries of language models.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.catalog_scale_child import resident
from benchmarks.catalog_synthetic import DOMAIN, SIZES, new_items
from benchmarks.harness import time_ratio
from sidera.beam_search import SearchBatch, beam_search
from sidera.catalog import Catalog
from sidera.language_model import LanguageModel
from sidera.model.user_router import Mixture
from sidera.model.vocabulary import Vocabulary
from sidera.trie import TrieTables, tables_of
from training.backbones import new_backbone

_ADDED = 10_000
_SHARE = 10
"""One of so many items joins or leaves before a fold."""
_PROMPT_ITEMS = 16
_BEAMS = 20
_SEARCHES = 60
_LATER_SECONDS = 0.2


class Searches:
    """Searches by a model that nobody trained, of ``scratch:tiny``, in one thread."""

    def __init__(self, catalog: Catalog) -> None:
        torch.manual_seed(0)
        torch.set_num_threads(1)
        vocabulary = Vocabulary(SIZES, {DOMAIN: 0})
        self.model = LanguageModel(new_backbone("scratch:tiny", vocabulary, 256).eval(), vocabulary, {}, {})
        index = catalog.index(DOMAIN)
        prompts = np.random.default_rng(3).integers(index.num_leaves, size=(_SEARCHES, _PROMPT_ITEMS))
        self.batches = [self._batch(vocabulary, index.sids_of(leaves).tolist()) for leaves in prompts]

    def _batch(self, vocabulary: Vocabulary, sids: list[list[int]]) -> SearchBatch:
        return SearchBatch(
            tokens_BP=torch.tensor([self.model.prompt([(DOMAIN, tuple(sid)) for sid in sids], DOMAIN)]),
            lengths_B=torch.tensor([_PROMPT_ITEMS * vocabulary.tokens_per_item + 1]),
            roots_B=torch.tensor([0]),
            mixture=Mixture(torch.zeros(1, 1)),
            num_results_B=torch.tensor([10]),
        )

    def over(self, tables: TrieTables) -> Callable[[SearchBatch], object]:
        """A search in tables."""
        return lambda batch: beam_search(self.model, tables, batch, _BEAMS)

    def ratio(self, one: TrieTables, other: TrieTables) -> tuple[float, str]:
        """The time of a search in one over that in the other, and how it was measured."""
        ratio = time_ratio(self.over(one), self.over(other), self.batches, clock=time.process_time)
        return ratio.median, ratio.note

    def pauses(self, tables: TrieTables, until: Callable[[], bool]) -> list[float]:
        """Search without a pause; the seconds between the ends of two searches."""
        search, ends = self.over(tables), [time.perf_counter()]
        while not until() or len(ends) < _SEARCHES:
            search(self.batches[len(ends) % len(self.batches)])
            ends.append(time.perf_counter())
        return np.diff(ends).tolist()


def search_changed(folder: Path, items: int) -> dict[str, Any]:
    """Time searches of a catalog that items joined and left, over those of its tries built anew."""
    catalog = Catalog.load(folder, [DOMAIN], SIZES)
    changed, added, removed = _changed(catalog, _ADDED, _ADDED)
    anew = tables_of([changed.index(DOMAIN).trie])
    ratio, note = Searches(catalog).ratio(changed.tables("cpu"), anew)
    return {"ratio": ratio, "note": note, "added": added, "removed": removed}


def fold(folder: Path, items: int) -> dict[str, Any]:
    """Fold a catalog of which a tenth changed, while another thread searches without a pause."""
    catalog = Catalog.load(folder, [DOMAIN], SIZES)
    before, added, removed = _changed(catalog, items // (2 * _SHARE), items // (2 * _SHARE))
    searches, tables = Searches(catalog), before.tables("cpu")
    quiet = searches.pauses(tables, lambda: True)
    found: dict[str, Any] = {}

    def build() -> None:
        time.sleep(_LATER_SECONDS)
        held, begun, begun_cpu = resident()["anonymous"], time.perf_counter(), time.thread_time()
        plain = before.folded()
        plain.tables("cpu")
        found.update(seconds=time.perf_counter() - begun, cpu_seconds=time.thread_time() - begun_cpu)
        found.update(bytes=resident()["anonymous"] - held, plain=plain)

    folding = threading.Thread(target=build)
    folding.start()
    during = searches.pauses(tables, lambda: not folding.is_alive())
    folding.join()
    plain: Catalog = found.pop("plain")
    ratio, note = searches.ratio(tables, plain.tables("cpu"))
    [one] = new_items(before, 1)
    later = before.with_items([replace(one, item_id="later")], before.version + 1)
    begun = time.perf_counter()
    later.moved(before, plain).tables("cpu")
    return found | {
        "moved_seconds": time.perf_counter() - begun,
        "quiet_longest": max(quiet),
        "quiet_median": float(np.median(quiet)),
        "longest": max(during),
        "median": float(np.median(during)),
        "searches": len(during),
        "ratio": ratio,
        "note": note,
        "added": added,
        "removed": removed,
    }


def _changed(catalog: Catalog, joining: int, leaving: int) -> tuple[Catalog, int, int]:
    """A catalog that so many items joined and left; how many did."""
    changed = catalog.with_items(new_items(catalog, joining), 2)
    leaves = np.arange(0, changed.size(DOMAIN), max(1, changed.size(DOMAIN) // leaving))
    numbers = changed.index(DOMAIN).numbers_of(leaves)
    gone = [catalog.name(int(number))[0] for number in numbers if number < len(catalog)][:leaving]
    joined = len(changed) - len(catalog)
    return changed.without_items([(DOMAIN, item_id) for item_id in gone], 3), joined, len(gone)
