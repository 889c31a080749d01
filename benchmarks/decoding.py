"""``python -m benchmarks.decoding --out FILE.json [--quick]``: the decoding engine, beside what it is compared with.

A recommendation beside the bare forward passes at the same shapes and beside ``generate``; what the search itself
takes; batches, mixtures, filters, returning users, and catalogs of millions of items. Every ratio is of two things that
this run timed in turn. The model of 5 M weights is trained by the real pipeline in ``--work``, or comes with
``--bundle``; a pretrained one gets new rows and the same catalog.

Memory and building times of large catalogs: ``benchmarks.catalog_scale``.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from transformers import PreTrainedModel

from benchmarks.decoding_batches import measure_batching, measure_threads, measure_weights
from benchmarks.decoding_mixture import measure_mixture
from benchmarks.decoding_ratios import (
    LEAST_ONE,
    LEAST_ONE_LARGE,
    measure_generate,
    measure_recommend,
    measure_search_share,
    measure_visits,
)
from benchmarks.decoding_returning import measure_returning
from benchmarks.decoding_scope import QUICK, Scope
from benchmarks.decoding_subject import Subject, load_subject, pretrained_subject, quick_data, train_bundle
from benchmarks.decoding_synthetic import measure_filter, measure_growth
from benchmarks.harness import Figure, print_summary, report
from sidera.bundle import open_bundle
from sidera.errors import SideraError
from sidera.loading import load_bundle, load_bundle_backbone
from sidera.model.weight_formats import WeightFormat
from sidera.recommender import Recommender
from training.errors import ConfigError, TrainingError
from training.pipeline import choose_device

Measurement = Callable[[str], dict[str, Figure]]
"""Figures whose names begin with the given one."""

OF_TRAINED = (
    "recommend_vs_bare",
    "generate_vs_beam",
    "growth",
    "returning_vs_new",
    "batched_vs_single",
    "one_thread_vs_all",
    "filter",
    "mixture_vs_universal",
    "visited",
    "search_share",
    "weights",
)
OF_PRETRAINED = ("large_search_share", "large_returning_vs_new", "large_generate_vs_beam")


def main(
    out: Annotated[Path, typer.Option(help="Where the figures go, as JSON.")],
    data: Annotated[Path, typer.Option(help="Holds one folder a domain.")] = Path(".cache/demo/data"),
    domain: Annotated[str, typer.Option(help="Of the items that are recommended.")] = "drama",
    bundle: Annotated[Path | None, typer.Option(help="A trained bundle; default: one is trained.")] = None,
    pretrained: Annotated[Path | None, typer.Option(help="The folder of a larger backbone, such as SmolLM2.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Of the training.")] = 4,
    threads: Annotated[int, typer.Option(min=0, help="Processor threads, 0 for all cores.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "cpu",
    work: Annotated[Path | None, typer.Option(help="Keeps what is trained; default: OUT.work.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="One of the measurements; may be given again.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The same on less: whether it runs.")] = False,
) -> None:
    """Measure the decoding engine."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        asked = _asked(only or (), pretrained is not None)
        device = choose_device(device)
        if threads:
            torch.set_num_threads(threads)
        if bundle is None:
            home = work or out.with_name(out.name + ".work")
            data = quick_data(data, domain, home) if quick else data
            say = partial(console.print, markup=False)
            bundle = train_bundle(data, domain, home, 1 if quick else epochs, device, say)
        subject, version = load_subject(bundle, data, domain, device)
        scope = QUICK if quick else Scope.on(device)
        backbone = partial(load_bundle_backbone, open_bundle(bundle), device)
        chosen = of_trained(subject, partial(_load, bundle, device), backbone, _formats(device), scope)
        if pretrained is not None:
            larger = pretrained_subject(subject, pretrained)
            again = partial(pretrained_subject, subject, pretrained)
            chosen |= of_pretrained(larger, lambda: again().recommender, scope.large())
        figures: dict[str, Figure] = {}
        for name in asked:
            figures |= chosen[name](name)
    except (SideraError, TrainingError) as error:
        console.print(f"error: {error}", style="bold red", markup=False)
        raise typer.Exit(1) from None
    context: dict[str, Any] = {"bundle_version": version, "device": device, "quick": quick, "domain": domain}
    if pretrained is not None:
        context["pretrained"] = pretrained.name
    if only:
        context["only"] = only
    report(f"Decoding, bundle {version[:12]}", figures, out, context)
    print_summary("What there is to reach", figures)


def _load(bundle: Path, device: str, weights: WeightFormat = "saved") -> Recommender:
    return load_bundle(bundle, device, weights).recommender


def _formats(device: str) -> tuple[WeightFormat, ...]:
    """Other weights than the bundle's; int8 is for CPUs."""
    return ("bfloat16", "int8") if device == "cpu" else ("bfloat16",)


def of_trained(
    subject: Subject,
    load: Callable[[WeightFormat], Recommender],
    backbone: Callable[[], PreTrainedModel],
    formats: Sequence[WeightFormat],
    scope: Scope,
) -> dict[str, Measurement]:
    """What is measured of the trained model, by name.

    Args:
        load: gives the subject's recommender once more, with such weights.
        backbone: loads the model's backbone anew, without adapters.
        formats: other weights than the bundle's.
    """
    return {
        "recommend_vs_bare": partial(measure_recommend, subject, scope),
        "generate_vs_beam": lambda name: measure_generate(subject, scope, name, scope.batches, LEAST_ONE),
        "growth": partial(measure_growth, subject, scope),
        "returning_vs_new": lambda name: measure_returning(subject, load("saved"), scope, name),
        "batched_vs_single": partial(measure_batching, subject, scope),
        "one_thread_vs_all": partial(measure_threads, subject, scope),
        "filter": partial(measure_filter, subject, scope),
        "mixture_vs_universal": partial(measure_mixture, subject, backbone, scope),
        "visited": partial(measure_visits, subject, scope),
        "search_share": lambda name: measure_search_share(subject, scope, name, time.perf_counter, judged=False),
        "weights": partial(measure_weights, subject, load, formats, scope),
    }


def of_pretrained(subject: Subject, keeping: Callable[[], Recommender], scope: Scope) -> dict[str, Measurement]:
    """What is measured of the pretrained backbone; ``keeping`` gives the same once more, to keep histories."""
    return {
        "large_search_share": lambda name: measure_search_share(subject, scope, name, time.perf_counter, judged=True),
        "large_returning_vs_new": lambda name: measure_returning(subject, keeping(), scope, name),
        "large_generate_vs_beam": lambda name: measure_generate(
            subject, scope, name, scope.large_batches, LEAST_ONE_LARGE
        ),
    }


def _asked(only: Sequence[str], pretrained: bool) -> list[str]:
    """The measurements that are asked for; without ``only`` all that there are.

    Raises:
        ConfigError: there is no such measurement, or none without a pretrained backbone.
    """
    names = [*OF_TRAINED, *(OF_PRETRAINED if pretrained else ())]
    for name in only:
        if name not in names:
            needs = "needs --pretrained" if name in OF_PRETRAINED else f"is no measurement; use {', '.join(names)}"
            raise ConfigError(f"--only {name} {needs}")
    return [name for name in names if not only or name in only]


if __name__ == "__main__":
    typer.run(main)
