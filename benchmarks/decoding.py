"""``python -m benchmarks.decoding --out FILE.json [--quick]``: the decoding engine, beside what it is compared with.

A recommendation beside the bare forward passes at the same shapes and beside ``generate``; what the search itself
takes; batches, mixtures, filters, returning users, and catalogs of millions of items. Every ratio is of two things that
this run timed in turn. The model of 5 M weights is trained by the real pipeline in ``--work``, or comes with
``--bundle``; a pretrained one gets new rows and the same catalog.

Memory and building times of large catalogs: ``benchmarks.catalog_scale``.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from transformers import PreTrainedModel

from benchmarks.decoding_batches import measure_batching, measure_weights
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
from benchmarks.harness import Figure, report
from sidera.bundle import open_bundle
from sidera.errors import SideraError
from sidera.loading import load_bundle, load_bundle_backbone
from sidera.model.weight_formats import WeightFormat
from sidera.recommender import Recommender
from training.errors import TrainingError
from training.pipeline import choose_device


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
    quick: Annotated[bool, typer.Option("--quick", help="The same on less: whether it runs.")] = False,
) -> None:
    """Measure the decoding engine."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    try:
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
        load = partial(_load, bundle, device)
        figures = measure_small(subject, load, backbone, scope)
        figures |= measure_weights(subject, load, _formats(device), scope, "weights")
        if pretrained is not None:
            larger, keeping = (pretrained_subject(subject, pretrained) for _ in range(2))
            figures |= measure_large(larger, keeping.recommender, scope)
    except (SideraError, TrainingError) as error:
        console.print(f"error: {error}", style="bold red", markup=False)
        raise typer.Exit(1) from None
    context: dict[str, Any] = {"bundle_version": version, "device": device, "quick": quick, "domain": domain}
    if pretrained is not None:
        context["pretrained"] = pretrained.name
    report(f"Decoding, bundle {version[:12]}", figures, out, context)


def _load(bundle: Path, device: str, weights: WeightFormat = "saved") -> Recommender:
    return load_bundle(bundle, device, weights).recommender


def _formats(device: str) -> tuple[WeightFormat, ...]:
    """Other weights than the bundle's; int8 is for CPUs."""
    return ("bfloat16", "int8") if device == "cpu" else ("bfloat16",)


def measure_small(
    subject: Subject, load: Callable[[], Recommender], backbone: Callable[[], PreTrainedModel], scope: Scope
) -> dict[str, Figure]:
    """The figures of the trained model.

    Args:
        load: gives the subject's recommender once more, to keep histories.
        backbone: loads the model's backbone anew, without adapters.
    """
    figures = measure_recommend(subject, scope, "recommend_vs_bare")
    figures |= measure_generate(subject, scope, "generate_vs_beam", scope.batches, LEAST_ONE)
    figures |= measure_growth(subject, scope, "growth")
    figures |= measure_returning(subject, load(), scope, "returning_vs_new")
    figures |= measure_batching(subject, scope, "batched_vs_single")
    figures |= measure_filter(subject, scope, "filter")
    figures |= measure_mixture(subject, backbone, scope, "mixture_vs_universal")
    figures |= measure_visits(subject, scope, "visited")
    return figures | measure_search_share(subject, scope, "search_share", time.perf_counter, judged=False)


def measure_large(subject: Subject, keeping: Recommender, scope: Scope) -> dict[str, Figure]:
    """The figures of the pretrained backbone; ``keeping`` is the same once more, to keep histories."""
    figures = measure_search_share(subject, scope, "large_search_share", time.perf_counter, judged=True)
    figures |= measure_returning(subject, keeping, scope, "large_returning_vs_new")
    return figures | measure_generate(subject, scope, "large_generate_vs_beam", scope.large_batches, LEAST_ONE_LARGE)


if __name__ == "__main__":
    typer.run(main)
