"""Requests a second: many at once against one by one, and what other weights than the bundle's own change."""

import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import torch

from benchmarks.decoding_ratios import RESULTS, each_shape
from benchmarks.decoding_scope import Scope, Shape
from benchmarks.decoding_subject import Subject, synchronised
from benchmarks.harness import Figure, Ratio, ratio_figures, shown, time_ratio
from sidera.model.weight_formats import WeightFormat
from sidera.recommender import Query, Recommendation, Recommender

Input = TypeVar("Input")
Output = TypeVar("Output")

LEAST = 2.2


def measure_batching(subject: Subject, scope: Scope, name: str, judged: bool = True) -> dict[str, Figure]:
    """Requests a second of the largest batch against those of one at a time, on the same requests.

    Args:
        judged: whether there is something to reach.
    """
    size = max(scope.batches)

    def alone(queries: list[Query]) -> object:
        return [subject.recommender.recommend([query]) for query in queries]

    def gain_at(shape: Shape) -> Ratio:
        return time_ratio(
            synchronised(alone, subject.device),
            synchronised(subject.recommender.recommend, subject.device),
            _batches(subject, scope, shape),
            warm_up=1,
        )

    gains = each_shape(scope.shapes((size,)), f"{size} requests at once against one by one", gain_at)
    if judged:
        figures = ratio_figures(name, gains, least=LEAST)
    else:
        figures = {f"{name}_{shape}": shown(gain.median, "ratio", gain.note) for shape, gain in gains.items()}
    for shape, gain in gains.items():
        figures[f"{name}_per_second_{shape}"] = shown(size / gain.seconds_b, "requests/s", f"{size} at once")
    return figures


def measure_threads(subject: Subject, scope: Scope, name: str) -> dict[str, Figure]:
    """What all cores are worth to the largest batch and to one request at a time, each against one thread.

    The product of the first and of ``batched_vs_single`` on one thread is what a machine gains that answers batches on
    all its cores and single requests on one. Nothing is measured where there is one core, or on a GPU.
    """
    cores = len(os.sched_getaffinity(0))
    if subject.device.type != "cpu" or cores == 1:
        return {}
    figures: dict[str, Figure] = {}
    recommend = subject.recommender.recommend
    for size in (1, max(scope.batches)):

        def gain_at(shape: Shape) -> Ratio:
            batches = _batches(subject, scope, shape)
            return time_ratio(with_threads(1, recommend), with_threads(cores, recommend), batches, warm_up=1)

        for shape, gain in each_shape(scope.shapes((size,)), f"{size} at once on {cores} threads", gain_at).items():
            figures[f"{name}_{shape}"] = shown(gain.median, "ratio", gain.note)
    return figures


def with_threads(threads: int, call: Callable[[Input], Output]) -> Callable[[Input], Output]:
    """The same with so many processor threads within."""

    def called(value: Input) -> Output:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return call(value)
        finally:
            torch.set_num_threads(before)

    return called


def measure_weights(
    subject: Subject,
    load: Callable[[WeightFormat], Recommender],
    formats: Sequence[WeightFormat],
    scope: Scope,
    name: str,
) -> dict[str, Figure]:
    """For each format: batches against single requests, the largest batch against the bundle's weights, and the top 10.

    Args:
        load: gives the bundle's recommender with such weights.
    """
    figures: dict[str, Figure] = {}
    size = max(scope.batches)
    for weights in formats:
        other = replace(subject, recommender=load(weights))
        figures |= measure_batching(other, scope, f"{name}_{weights}_batched_vs_single", judged=False)
        kept: list[float] = []

        def faster_at(shape: Shape, other: Subject = other, kept: list[float] = kept) -> Ratio:
            batches = _batches(subject, scope, shape)
            kept += [
                share_kept(before, after)
                for batch in batches
                for before, after in zip(
                    subject.recommender.recommend(batch), other.recommender.recommend(batch), strict=True
                )
            ]
            return time_ratio(
                synchronised(subject.recommender.recommend, subject.device),
                synchronised(other.recommender.recommend, subject.device),
                batches,
                warm_up=0,
            )

        shapes = [shape for batch in (1, size) for shape in scope.shapes((batch,))]
        for at, ratio in each_shape(shapes, f"the bundle's weights against {weights}", faster_at).items():
            figures[f"{name}_saved_vs_{weights}_{at}"] = shown(ratio.median, "ratio", ratio.note)
        note = f"of the {RESULTS} best items, the mean over {len(kept)} requests"
        figures[f"{name}_{weights}_items_kept"] = shown(statistics.mean(kept), "share", note)
    return figures


def share_kept(before: Recommendation, after: Recommendation) -> float:
    """How many of the items of one answer stand in the other one too."""
    items = {item.item_id for item in before.items}
    return len(items & {item.item_id for item in after.items}) / len(items)


def _batches(subject: Subject, scope: Scope, shape: Shape) -> list[list[Query]]:
    rounds = scope.rounds_of(shape.batch, scope.rounds)
    return subject.batches(rounds, shape.batch, shape.length, shape.beams, RESULTS)
