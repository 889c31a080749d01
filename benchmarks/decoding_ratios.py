"""A recommendation beside its bare forward passes and beside ``generate``; what the search itself takes.

Everything is measured on real SIDs with histories of evaluation. ``tasks`` of each measurement are prepared beforehand:
prompts, filters and masks lie on the device when the clock runs, except where ``Recommender.recommend`` makes them.

Shapes: M distributions, B batch.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from benchmarks.decoding_scope import Scope, Shape
from benchmarks.decoding_subject import Subject, synchronised
from benchmarks.generate import (
    TIE,
    GenerateSearch,
    Ranked,
    as_generate_asks,
    beam_searcher,
    kept,
    same_items,
    score_difference,
)
from benchmarks.harness import Figure, Ratio, at_least, ratio_figures, shown, time_ratio
from benchmarks.search import BarePasses, search_batch
from sidera.beam_search import SearchBatch, beam_search
from sidera.language_model import LanguageModel
from sidera.recommender import Query, Recommender
from training.progress import track

MOST_OF_BARE = 1.0
LEAST_ONE = 4.5
LEAST_ONE_LARGE = 6.0
LEAST_BATCH = 10.0
MOST_SEARCH_SHARE = 0.03
RESULTS = 10


@dataclass(frozen=True)
class Task:
    """The same requests as both sides get them."""

    queries: list[Query]
    batch: SearchBatch


def measure_recommend(subject: Subject, scope: Scope, name: str) -> dict[str, Figure]:
    """A recommendation, from item ids to item ids, against the bare passes of all levels at the same shapes."""
    figures = _against_bare(subject.recommender, subject, scope, name, "as served")
    served = subject.recommender
    if served.neighbours is not None:
        alone = Recommender(served.model, served.catalog, served.max_history, served.beam_width)
        figures |= _against_bare(alone, subject, scope, f"{name}_model_alone", "without neighbours")
    return figures


def _against_bare(recommender: Recommender, subject: Subject, scope: Scope, name: str, note: str) -> dict[str, Figure]:
    def recommend(task: Task) -> object:
        return recommender.recommend(task.queries)

    def ratio_at(shape: Shape) -> Ratio:
        with subject.device:
            bare = BarePasses(recommender.model, shape.batch, shape.beams)
        return time_ratio(
            synchronised(recommend, subject.device),
            synchronised(lambda task: bare(task.batch), subject.device),
            _tasks(subject, shape, scope.rounds_of(shape.batch, scope.rounds)),
            warm_up=3 if shape.batch == 1 else 1,
        )

    ratios = each_shape(scope.shapes(scope.batches), f"recommendation against bare passes, {note}", ratio_at)
    return ratio_figures(name, ratios, most=MOST_OF_BARE)


def measure_generate(
    subject: Subject, scope: Scope, name: str, batches: Sequence[int], least_one: float
) -> dict[str, Figure]:
    """How much faster beam search is than ``generate``, alone and in batches, and whether both find the same items.

    Both search the universal distribution, filter nothing and return all beams.

    Args:
        least_one: how much faster it is to be for one request.
    """
    ours: list[Ranked] = []
    theirs: list[Ranked] = []

    def ratio_at(shape: Shape) -> Ratio:
        with subject.device:
            generate = kept(GenerateSearch(subject.recommender, shape.beams), theirs)
            search = kept(beam_searcher(subject.recommender, shape.beams), ours)
            rounds = scope.rounds_of(shape.batch, scope.generate_rounds)
            queries = subject.batches(rounds, shape.batch, shape.length, shape.beams)
            asked = [as_generate_asks(subject.recommender, batch) for batch in queries]
        return time_ratio(
            synchronised(generate, subject.device), synchronised(search, subject.device), asked, warm_up=1
        )

    figures: dict[str, Figure] = {}
    for size in batches:
        ratios = each_shape(scope.shapes((size,)), f"beam search against generate, {size} at a time", ratio_at)
        figures |= ratio_figures(f"{name}_batch_{size}", ratios, least=least_one if size == 1 else LEAST_BATCH)
    same = sum(map(same_items, ours, theirs))
    note = f"{same} of {len(ours)} lists, all beams compared; order may differ where scores lie within {TIE:g}"
    return figures | {
        f"{name}_same_items": at_least(same / len(ours), 1.0, "share", note),
        f"{name}_score_difference": shown(
            max(map(score_difference, ours, theirs)), "nats", "the largest between the scores of one item"
        ),
    }


class PassClock:
    """Adds up the seconds that a backbone's forward passes take, and keeps their shapes.

    Args:
        model: whose backbone is watched until :meth:`close`.

    Attributes:
        seconds: of all passes.
        shapes: rows and tokens of each, padding included.
    """

    def __init__(self, model: LanguageModel, clock: Callable[[], float]) -> None:
        self._device, self._clock, self._begun = model.device, clock, 0.0
        self.seconds = 0.0
        self.shapes: list[tuple[int, int]] = []
        decoder = model.decoder
        before = decoder.register_forward_pre_hook(lambda module, inputs, named: self._begin(named), with_kwargs=True)
        self._hooks = [before, decoder.register_forward_hook(lambda module, inputs, output: self._end())]

    def now(self) -> float:
        """The time when everything asked of the device is done."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return self._clock()

    def close(self) -> None:
        """Watch no longer."""
        for hook in self._hooks:
            hook.remove()

    def _begin(self, named: Mapping[str, torch.Tensor]) -> None:
        rows, tokens = named["input_ids"].shape
        self.shapes.append((rows, tokens))
        self._begun = self.now()

    def _end(self) -> None:
        self.seconds += self.now() - self._begun


def measure_search_share(
    subject: Subject, scope: Scope, name: str, clock: Callable[[], float], judged: bool
) -> dict[str, Figure]:
    """What the search takes of its own time: all but the backbone's forward passes, so the head's slices too.

    Args:
        judged: whether there is something to reach.
    """

    def share_at(shape: Shape) -> Ratio:
        found = []
        for task in _tasks(subject, shape, scope.rounds_of(shape.batch, scope.rounds) + 1):
            passes = PassClock(subject.recommender.model, clock)
            begun = passes.now()
            beam_search(subject.recommender.model, subject.recommender.tables, task.batch, shape.beams)
            seconds = passes.now() - begun
            passes.close()
            found.append(((seconds - passes.seconds) / seconds, seconds - passes.seconds, seconds))
        shares, own, whole = zip(*found[1:], strict=True)
        return Ratio(statistics.median(shares), statistics.median(own), statistics.median(whole), len(shares))

    shares = each_shape(scope.shapes((1,)), "the search's share of the time", share_at)
    if judged:
        return ratio_figures(name, shares, most=MOST_SEARCH_SHARE)
    return {f"{name}_{shape}": shown(share.median, "ratio", share.note) for shape, share in shares.items()}


def measure_visits(subject: Subject, scope: Scope, name: str) -> dict[str, Figure]:
    """How many passes and rows the visited beams need, beside those of bare passes, L - 1 and K each.

    In a batch a request also waits for the rows of the others: they are as many as those of the one that has most.
    """
    figures: dict[str, Figure] = {}
    model, tables = subject.recommender.model, subject.recommender.tables
    passes = model.vocabulary.num_levels - 1
    for shape in scope.shapes(scope.batches):
        found, in_all = [], []
        for task in _tasks(subject, shape, scope.rounds_of(shape.batch, scope.rounds)):
            clock = PassClock(model, time.perf_counter)
            found.append(beam_search(model, tables, task.batch, shape.beams))
            clock.close()
            in_all.append(sum(tokens for _, tokens in clock.shapes[1:]))
        note = f"of a request, the mean over {len(found)} searches; bare: "
        fed = statistics.mean(result.tokens_fed for result in found) / shape.batch
        figures[f"{name}_rows_{shape}"] = shown(fed, "rows", f"{note}{passes * shape.beams}")
        if shape.batch > 1:
            figures[f"{name}_rows_with_padding_{shape}"] = shown(statistics.mean(in_all), "rows", note + "the same")
        told = statistics.mean(result.passes for result in found)
        figures[f"{name}_passes_{shape}"] = shown(told, "passes", f"after the prefill; bare: {passes}")
        certified = statistics.mean(float(result.certified_B.float().mean()) for result in found)
        figures[f"{name}_certified_{shape}"] = shown(certified, "share", "no wider beam would find other items")
    return figures


def _tasks(subject: Subject, shape: Shape, count: int) -> list[Task]:
    """Batches of queries, and their prompts and mixture as the bare passes read them."""
    batches = subject.batches(count, shape.batch, shape.length, shape.beams, RESULTS)
    return [Task(queries, universal_batch(subject, queries, mixed=True)) for queries in batches]


def universal_batch(subject: Subject, queries: Sequence[Query], mixed: bool = False) -> SearchBatch:
    """What ``beam_search`` gets for these queries, on the device, without a filter.

    Args:
        mixed: the mixture that serving uses, instead of the universal distribution alone.
    """
    with subject.device:
        batch = search_batch(subject.recommender, queries, universal_only=True)
    if not mixed:
        return batch
    return replace(batch, mixture=subject.recommender.model.mixture([query.domain for query in queries]))


def each_shape(shapes: Sequence[Shape], told: str, measure: Callable[[Shape], Ratio]) -> dict[str, Ratio]:
    """The ratio at every shape, by its name."""
    ratios: dict[str, Ratio] = {}
    with track(told, len(shapes)) as advance:
        for shape in shapes:
            ratios[str(shape)] = measure(shape)
            advance()
    return ratios
