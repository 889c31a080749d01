"""``python -m benchmarks.quality --data DIR --domains A,B --out FILE.json``: what the product recommends is worth.

One joint model of all domains, trained by the real pipeline, scored at item level over the full ranking of the test
part: as it is served, and its language model without neighbours, beside the floors. On request beside a model trained
on each domain alone, beside SASRec, with GenCDR's switches one by one, and in a domain that it never saw. Every step is
kept in ``--work`` and resumes; the parts can be asked for one after the other.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from benchmarks import sasrec as sasrec_benchmark
from benchmarks.harness import Figure, report
from benchmarks.quality_ablations import ablate
from benchmarks.quality_config import joint_config, quick_document
from benchmarks.quality_figures import (
    ablation_figures,
    ablation_table,
    alone_figures,
    events_figures,
    quality_figures,
    sasrec_figures,
    training_figures,
    unseen_figures,
)
from benchmarks.quality_runs import QualityRun, language_model_report, train_run
from benchmarks.quality_sample import write_sample
from benchmarks.quality_unseen import unseen_reports
from sidera.errors import SideraError
from training.config import TrainConfig
from training.errors import ConfigError, TrainingError
from training.evaluation import MODEL
from training.split import split_events

_LOG_COLUMNS = 160
"""How wide a table is where no terminal says it."""

_QUICK_USERS = 12
_QUICK_SASREC_MINUTES = 0.05
_QUICK_TARGETS = 8


@dataclass(frozen=True)
class Parts:
    """What is measured beside the joint model.

    Attributes:
        unseen: domains that are only evaluated.
        alone: a model for each domain.
        sasrec_minutes: SASRec's training of each domain; 0: none.
        ablations: GenCDR's switches.
        ablation_targets: test targets of a domain for these; 0: all.
        most_minutes: that the joint training may take; None: it is only shown.
        quick: SASRec on nearly nothing.
    """

    unseen: tuple[str, ...] = ()
    alone: bool = False
    sasrec_minutes: float = 0.0
    ablations: bool = False
    ablation_targets: int = 0
    most_minutes: float | None = None
    quick: bool = False


def main(
    data: Annotated[Path, typer.Option(help="Holds one folder a domain.")],
    domains: Annotated[str, typer.Option(help="One model learns from all of these, such as beauty,sports.")],
    out: Annotated[Path, typer.Option(help="Where the figures go, as JSON.")],
    unseen: Annotated[str, typer.Option(help="Domains that are only evaluated, as new ones.")] = "",
    config: Annotated[Path | None, typer.Option(help="A YAML config to begin with; options replace its keys.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Of phase 1; without a config 10.")] = None,
    minutes: Annotated[float | None, typer.Option(help="What the joint training may take: a figure to reach.")] = None,
    backbone: Annotated[str | None, typer.Option(help="scratch:<preset>, a folder or a hub name.")] = None,
    batch_tokens: Annotated[int | None, typer.Option(help="Tokens of a training batch, of both phases.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of phase 1; without a config 0.003.")] = None,
    dropout: Annotated[float | None, typer.Option(help="Of the language model.")] = None,
    targets: Annotated[int | None, typer.Option(help="Test targets of each domain; 0: all.")] = None,
    max_history: Annotated[int | None, typer.Option(help="Items of a history that are read.")] = None,
    method: Annotated[str | None, typer.Option(help="Of the tokenizer, with that method's own defaults.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of every draw.")] = None,
    threads: Annotated[int, typer.Option(min=0, help="Processor threads, 0 for all cores.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    alone: Annotated[bool, typer.Option("--alone", help="A model for each domain beside the joint one.")] = False,
    sasrec: Annotated[float, typer.Option(min=0, help="Minutes of SASRec's training for each domain.")] = 0.0,
    ablations: Annotated[bool, typer.Option("--ablations", help="GenCDR's switches, one by one.")] = False,
    ablation_targets: Annotated[
        int, typer.Option(min=0, help="Test targets of a domain for the ablations; 0: all.")
    ] = 5000,
    work: Annotated[Path | None, typer.Option(help="Keeps every step; default: beside --out.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="All parts on nearly nothing: whether it runs.")] = False,
) -> None:
    """Train the product on some domains and say what its recommendations are worth."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    home = work or out.with_name(out.name + ".work")
    try:
        trained, strangers = _names(domains), _names(unseen)
        _check_roles(trained, strangers, alone)
        if quick:
            data = write_sample(data, (*trained, *strangers), _QUICK_USERS, home / "data")
        given = {
            "domains": list(trained),
            "data": str(data),
            "threads": threads,
            "device": device,
            "seed": seed,
            "test_targets": targets,
            "tokenizer": {"method": method},
            "language_model": {
                "backbone": backbone,
                "dropout": dropout,
                "max_history": max_history,
                "universal": {"epochs": epochs, "learning_rate": learning_rate, "batch_tokens": batch_tokens},
                "domain": {"optimizer": {"batch_tokens": batch_tokens}},
            },
        }
        parts = Parts(strangers, alone, sasrec, ablations, ablation_targets, minutes)
        if quick:
            alone = len(trained) > 1
            parts = Parts(strangers, alone, _QUICK_SASREC_MINUTES, True, _QUICK_TARGETS, minutes, quick=True)
        settings = joint_config(config, given, home, quick_document if quick else None)
        if threads:
            torch.set_num_threads(threads)
        measure(settings, parts, home, out, lambda told: console.print(told, markup=False))
    except (SideraError, TrainingError) as error:
        console.print(f"error: {error}", style="bold red", markup=False)
        raise typer.Exit(1) from None


def measure(config: TrainConfig, parts: Parts, home: Path, out: Path, say: Callable[[str], None]) -> None:
    """Train and score what is not done yet, then write the figures.

    Args:
        config: of the joint model.
        home: the folder of all steps.
        say: told in a sentence what each step did.

    Raises:
        SideraError, TrainingError: what went wrong, where, and what to do.
    """
    joint = train_run(home / "joint", config, _labelled(say, "joint"))
    model = language_model_report(joint)
    figures: dict[str, Figure] = quality_figures(joint.manifest.metrics, model)
    figures |= training_figures("joint", joint, parts.most_minutes)
    runs = {"joint": joint}
    context: dict[str, Any] = {"quick": parts.quick, "language_model_alone": {"joint": model}, "unseen": {}}
    for name in parts.unseen:
        most, home_of = config.test_targets, home / "joint" / "unseen"
        found = unseen_reports(joint.bundle, Path(config.data), name, most, home_of, config.device)
        context["unseen"][name] = found
        figures |= unseen_figures(name, found["report"])
        if found["with_events"] is not None:
            figures |= events_figures(name, found["with_events"])
    if parts.alone:
        own_runs = {}
        for name in config.domains:
            own_config, speak = replace(config, domains=(name,)), _labelled(say, f"{name} alone")
            run = train_run(home / f"alone-{name}", own_config, speak, like=joint)
            own_runs[name] = run, language_model_report(run)
            context["language_model_alone"][f"alone-{name}"] = own_runs[name][1]
            runs[f"alone-{name}"] = run
        figures |= alone_figures(joint, own_runs, model)
    if parts.sasrec_minutes:
        found_figures, context["sasrec"] = _sasrec(joint, parts, home / "sasrec", say)
        figures |= found_figures
    if parts.ablations:
        ablated = ablate(joint, home, parts.ablation_targets, say)
        figures |= ablation_figures(ablated)
        for run in ablated.runs:
            runs[run.home.name] = run
            figures |= training_figures(run.home.name, run)
        console = Console(highlight=False)
        if not console.is_terminal:
            console.width = _LOG_COLUMNS
        console.print(ablation_table(ablated))
    context["runs"] = {name: run.as_dict() for name, run in runs.items()}
    report("Recommendations, item level, full ranking, test part", figures, out, context)


def _sasrec(
    joint: QualityRun, parts: Parts, home: Path, say: Callable[[str], None]
) -> tuple[dict[str, Figure], dict[str, Any]]:
    """SASRec of every domain: its figures, and all of its trainings."""
    dataset = joint.dataset()
    events = split_events(dataset)
    start, grid = (sasrec_benchmark.QUICK, ()) if parts.quick else (sasrec_benchmark.START, sasrec_benchmark.GRID)
    figures: dict[str, Figure] = {}
    told: dict[str, Any] = {}
    for number, domain in enumerate(dataset.domains):
        own = sasrec_benchmark.own_domain(dataset, events, number)
        seconds = parts.sasrec_minutes * 60
        speak = _labelled(say, f"SASRec {domain.name}")
        baseline = sasrec_benchmark.train_baseline(own, home / domain.name, start, grid, seconds, speak)
        served = float(joint.manifest.metrics["domains"][domain.name]["rankers"][MODEL]["ndcg@10"])
        figures |= sasrec_figures(own, baseline, served)
        told[domain.name] = {"chosen": baseline.chosen, "fits": [one.as_dict() for one in baseline.fits]}
    return figures, told


def _check_roles(trained: tuple[str, ...], unseen: tuple[str, ...], alone: bool) -> None:
    if not trained:
        raise ConfigError("--domains names no domain; name at least one, as A,B")
    if both := sorted(set(trained) & set(unseen)):
        raise ConfigError(f"domain {both[0]!r} is among --domains and --unseen; name it once")
    if alone and len(trained) == 1:
        raise ConfigError(
            f"--alone: the model learns from {trained[0]!r} alone; name several --domains, or leave it out"
        )


def _names(listed: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in listed.split(",") if name.strip()))


def _labelled(say: Callable[[str], None], label: str) -> Callable[[str], None]:
    return lambda told: say(f"[{label}] {told}")


if __name__ == "__main__":
    typer.run(main)
