"""``python -m benchmarks.sasrec --data DIR --domains A,B --out FILE.json``: SASRec, the baseline that others train.

One model a domain, on that domain's events alone, with the split, histories, exclusions and metrics of Sidera's own
evaluation. Settings are tuned on validation one after the other (``GRID``), the test part is ranked once, with the
model that validation chose. Every training is kept in ``--work`` and resumes; its time is shown beside the figures.

Shapes: N targets, K places, E events.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
import typer
from rich.console import Console
from safetensors.torch import load_file, save

from benchmarks.harness import Figure, at_least, report, shown
from benchmarks.sasrec_model import SasRec, SasRecConfig
from benchmarks.sasrec_training import Fit, fit
from sidera.errors import SideraError
from sidera.files import write_atomically
from training.data import Dataset, read_dataset
from training.errors import DataError, TrainingError
from training.evaluation import PLACES
from training.floors import FloorTask, item_bigram, popularity
from training.metrics import bootstrap_interval, ndcg_values, ranking_metrics, recall_values, target_ranks
from training.split import Events, Part, Target, split_events, targets

START = SasRecConfig()
GRID: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("dropout", (0.3, 0.7)),
    ("width", (128,)),
    ("layers", (1,)),
    ("learning_rate", (0.0005,)),
    ("weight_decay", (0.1,)),
)
"""Which other values of which setting are tried, in this order; what validation likes better stays."""

COUNTS_FROM = {"beauty": 0.055}
"""Recall@10 that SASRec must reach on known data before anything is compared with it."""

QUICK = replace(START, width=16, layers=1, epochs=2)

Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class OwnDomain:
    """What SASRec sees of a domain: item numbers of its events, oldest first.

    Attributes:
        train: the train items of every user who has some.
        validation, test: the targets; their histories hold this domain's events only.
    """

    name: str
    item_ids: tuple[str, ...]
    events: Events
    train: Sequence[npt.NDArray[np.int32]]
    validation: Sequence[Target]
    test: Sequence[Target]


@dataclass(frozen=True, eq=False)
class Baseline:
    """SASRec of one domain.

    Attributes:
        fits: every training, in the order tried.
        chosen: the place of the best by validation in ``fits``.
        top_NK: what the chosen one recommends for the test targets. Shape: int32[N, K].
        metrics: of the test targets.
    """

    fits: tuple[Fit, ...]
    chosen: int
    top_NK: npt.NDArray[np.int32]
    metrics: Mapping[str, float]


def main(
    data: Annotated[Path, typer.Option(help="Holds one folder a domain.")],
    domains: Annotated[str, typer.Option(help="A model for each of these, such as beauty,sports.")],
    out: Annotated[Path, typer.Option(help="Where the figures go, as JSON.")],
    minutes: Annotated[float, typer.Option(help="Of training for each domain, all settings together.")] = 120.0,
    tune: Annotated[bool, typer.Option(help="Try other settings; without: one training with the defaults.")] = True,
    threads: Annotated[int, typer.Option(min=1, help="Processor threads.")] = 1,
    device: Annotated[str, typer.Option(help="Where it computes: cpu or cuda.")] = "cpu",
    work: Annotated[Path | None, typer.Option(help="Keeps every training; default: beside --out.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The same on nearly nothing: whether it runs.")] = False,
) -> None:
    """Train SASRec with the full softmax, tuned on validation, and score it beside the bigram and popularity."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    torch.set_num_threads(threads)
    folder = work or out.with_name(out.name + ".work")
    try:
        names = tuple(name.strip() for name in domains.split(",") if name.strip())
        if not names:
            raise DataError("--domains names no domain; name at least one, as A,B")
        dataset = read_dataset(data, names)
        figures: dict[str, Figure] = {}
        told: dict[str, Any] = {}
        for number, name in enumerate(names):
            own = own_domain(dataset, split_events(dataset), number, most=50 if quick else 0)

            def say(sentence: str, name: str = name) -> None:
                console.print(f"{name}: {sentence}", markup=False)

            start, grid = (QUICK, GRID[:1]) if quick else (START, GRID)
            baseline = train_baseline(own, folder / name, start, grid if tune else (), minutes * 60, say, device)
            figures |= _figures(own, baseline)
            told[name] = {
                "chosen": asdict(baseline.fits[baseline.chosen].config),
                "fits": [one.as_dict() for one in baseline.fits],
                "test": dict(baseline.metrics),
            }
        report("SASRec, full softmax, item level, full ranking, test part", figures, out, {"domains": told})
    except (SideraError, TrainingError) as error:
        console.print(f"error: {error}", style="bold red", markup=False)
        raise typer.Exit(1) from None


def own_domain(dataset: Dataset, events: Events, number: int, most: int = 0) -> OwnDomain:
    """One domain of a dataset as SASRec sees it.

    Args:
        most: so many targets of each part, 0: all.

    Raises:
        DataError: no user has 3 events in the domain.
    """
    domain = dataset.domains[number]
    rows_E = np.flatnonzero((events.domain_E == number) & (events.part_E == Part.TRAIN))
    begins = np.flatnonzero(np.diff(events.user_E[rows_E])) + 1
    parts = []
    for part in (Part.VALIDATION, Part.TEST):
        asked = [_within(target) for target in targets(events, part) if target.domain == number]
        parts.append(asked[:most] if most else asked)
    if not parts[0]:
        raise DataError(f"domain {domain.name!r}: no user has 3 events, so nothing can be learned; give more events")
    train = np.split(events.item_E[rows_E], begins)
    return OwnDomain(domain.name, domain.item_ids, events, train, parts[0], parts[1])


def train_baseline(
    own: OwnDomain,
    folder: Path,
    start: SasRecConfig,
    grid: Sequence[tuple[str, Sequence[Any]]],
    seconds: float,
    say: Say,
    device: str = "cpu",
) -> Baseline:
    """Tune on validation, one setting after the other, then rank the test targets once.

    Args:
        folder: keeps every training and the test ranking.
        grid: other values of settings, tried in this order.
        seconds: of training in all; a training that has begun when they are over ends with its epoch, those after it
            are left out.
    """
    fits = [_fitted(own, folder, start, seconds, say, device)]
    chosen = 0
    for setting, values in grid:
        base = fits[chosen].config
        for value in values:
            left = seconds - sum(one.seconds for one in fits)
            if left <= 0:
                say(f"{setting} {value} is not tried, since the time is over")
                continue
            fits.append(_fitted(own, folder, replace(base, **{setting: value}), left, say, device))
            if fits[-1].score > fits[chosen].score:
                chosen = len(fits) - 1
    model = SasRec(len(own.item_ids), fits[chosen].config).to(device)
    model.load_state_dict(load_file(_folder(own, folder, fits[chosen].config) / "model.safetensors"))
    top_NK = model.top([_items(target) for target in own.test], PLACES, f"{own.name}: test")
    item_N = np.array([target.item for target in own.test])
    metrics = ranking_metrics(top_NK, item_N, len(own.item_ids)).as_dict()
    say(f"test Recall@10 {metrics['recall@10']:.4f}, NDCG@10 {metrics['ndcg@10']:.4f}")
    return Baseline(tuple(fits), chosen, top_NK, metrics)


def _fitted(own: OwnDomain, folder: Path, config: SasRecConfig, seconds: float, say: Say, device: str) -> Fit:
    """One training, or what is kept of it."""
    home = _folder(own, folder, config)
    home.mkdir(parents=True, exist_ok=True)
    path = home / "fit.json"
    fitted = Fit.from_dict(json.loads(path.read_text())) if path.exists() else None
    if fitted is None or not (fitted.over or fitted.seconds >= seconds):
        torch.manual_seed(0)
        model = SasRec(len(own.item_ids), config).to(device)
        histories = [_items(target) for target in own.validation]
        item_N = np.array([target.item for target in own.validation])

        def validate() -> float:
            top_NK = model.top(histories, PLACES, "SASRec: validation")
            return float(ndcg_values(target_ranks(top_NK, item_N), PLACES).mean())

        fitted = fit(model, config, own.train, validate, home, seconds)
        write_atomically(home / "model.safetensors", save(model.state_dict()))
        write_atomically(path, json.dumps(fitted.as_dict()).encode())
    told = f"validation NDCG@10 {fitted.score:.4f} in epoch {fitted.best_epoch + 1} of {len(fitted.scores)}"
    end = "" if fitted.converged else ", not converged"
    say(f"{_settings(config)}: {told}, {fitted.seconds / 60:.1f} min{end}")
    return fitted


def _figures(own: OwnDomain, baseline: Baseline) -> dict[str, Figure]:
    """SASRec's figures of a domain, and the two floors that need no item text."""
    chosen = baseline.fits[baseline.chosen]
    item_N = np.array([target.item for target in own.test])
    gains = ndcg_values(target_ranks(baseline.top_NK, item_N), PLACES)
    interval = bootstrap_interval(gains, seed=0)
    recall, ndcg = baseline.metrics["recall@10"], baseline.metrics["ndcg@10"]
    least = COUNTS_FROM.get(own.name)
    minutes = sum(one.seconds for one in baseline.fits) / 60
    end = "converged" if chosen.converged else "NOT converged: its time or epochs were over"
    task = FloorTask(own.events, own.test[0].domain, own.item_ids, own.test, PLACES)
    floors = {"bigram": item_bigram(task), "popularity": popularity(task)}
    return {
        f"sasrec_recall10_{own.name}": shown(recall, "recall") if least is None else at_least(recall, least, "recall"),
        f"sasrec_ndcg10_{own.name}": shown(ndcg, "ndcg", f"95 % interval {interval.low:.4f} .. {interval.high:.4f}"),
        f"sasrec_validation_ndcg10_{own.name}": shown(chosen.score, "ndcg", _settings(chosen.config)),
        f"sasrec_minutes_{own.name}": shown(
            minutes, "min", f"{len(baseline.fits)} trainings; the chosen one {chosen.seconds / 60:.1f}, {end}"
        ),
    } | {
        f"{name}_{kind}10_{own.name}": shown(float(values(target_ranks(top_NK, item_N), PLACES).mean()), kind)
        for name, top_NK in floors.items()
        for kind, values in (("recall", recall_values), ("ndcg", ndcg_values))
    }


def _within(target: Target) -> Target:
    """The target with its own domain's events alone for a history."""
    return replace(target, history=tuple(pair for pair in target.history if pair[0] == target.domain))


def _items(target: Target) -> list[int]:
    return [item for _, item in target.history]


def _settings(config: SasRecConfig) -> str:
    """What makes this training different from others."""
    named = {name: getattr(config, name) for name, _ in GRID}
    return ", ".join(f"{name} {value:g}" for name, value in named.items())


def _folder(own: OwnDomain, folder: Path, config: SasRecConfig) -> Path:
    told = json.dumps(_inputs(own, config), sort_keys=True)
    return folder / hashlib.sha256(told.encode()).hexdigest()[:16]


def _inputs(own: OwnDomain, config: SasRecConfig) -> dict[str, Any]:
    """All that a training depends on, its time apart."""
    digest = hashlib.sha256("\0".join(own.item_ids).encode())
    for sequence in own.train:
        digest.update(len(sequence).to_bytes(8, "little") + sequence.tobytes())
    for target in own.validation:
        digest.update(json.dumps([target.item, target.history]).encode())
    return {"data": digest.hexdigest(), "config": asdict(config)}


if __name__ == "__main__":
    typer.run(main)
