"""``python -m benchmarks.time_split --data DIR --domains A,B --out FILE.json``: what learning from events is worth.

Each domain is split by calendar time. A model is trained on what was known at a first moment, T: items that had an
event by then, and the events before it (the newest of them choose). Then the events from T on come in their order, and
before some of them, drawn by the seed, the service's code recommends from what the user did so far:

- ``none``: the memory counts no event from T on;
- ``live``: it counts every event right after it came;
- ``live_earlier``: it counts an event once another time begins. Where times are days, nobody knows which of a day's
  events came first, and ``live`` takes the order of the file;
- ``retrained``: tokenizer, language model, router, memory and shares are made anew from scratch of what was known at a
  second moment, the middle of the stream, and count nothing after it; scored on the targets from there on;
- ``retrained_live``: the same, counting.

What the bundles do not count of the events before their moment, as it served to choose, is counted before the first
recommendation, in all five. Items that come later are registered right before their first event. The first targets of
``live`` are also asked of a real service, which gets the events through ``POST /events``: does it recommend the same?
Every step is kept in ``--work`` and resumes.

Shapes: N targets, U users, S samples.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
import typer
from rich.console import Console

from benchmarks.harness import Figure, at_least, report
from benchmarks.processes import ServiceProcessError
from benchmarks.quality_config import joint_config, quick_document
from benchmarks.quality_runs import QualityRun, train_run, work_of
from benchmarks.time_split_data import Stream, stream_of, write_known
from benchmarks.time_split_figures import CHOOSING, FIRST, MOMENTS, SECOND, Ranks, Replayed, time_figures
from benchmarks.time_split_replay import Counting, Replay
from benchmarks.time_split_sample import write_late_sample
from benchmarks.time_split_service import ServiceReplayError, service_answers
from sidera.embedding import TextEncoder
from sidera.errors import SideraError
from sidera.loading import load_bundle
from training.data import read_dataset
from training.errors import DataError, TrainingError
from training.evaluation import PLACES
from training.metrics import ndcg_values
from training.pipeline import choose_device
from training.stages import stage
from training.vectors import item_vectors

_PIPELINE_TARGETS = 100
"""Test targets of the pipeline's own report, which nothing is read off here."""

ARMS: Mapping[str, tuple[str, Counting]] = {
    "none": ("first", "nothing"),
    "live": ("first", "all before"),
    "live_earlier": ("first", "all earlier"),
    "retrained": ("second", "nothing"),
    "retrained_live": ("second", "all before"),
}
"""Which training each arm takes, and what it counts."""

_QUICK_USERS = 24
_QUICK_TARGETS = 12
_QUICK_SERVICE = 3

SAME_THROUGH_THE_SERVICE = 0.95
"""Share of recommendations; vectors of new items differ in their last bits with the texts that are encoded together."""

Say = Callable[[str], None]


def main(
    data: Annotated[Path, typer.Option(help="Holds one folder a domain.")],
    domains: Annotated[str, typer.Option(help="A model for each of these, such as beauty,sports.")],
    out: Annotated[Path, typer.Option(help="Where the figures go, as JSON.")],
    config: Annotated[Path | None, typer.Option(help="A YAML config to begin with; options replace its keys.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Of phase 1; without a config 10.")] = None,
    targets: Annotated[int, typer.Option(min=1, help="Recommendations of each domain's stream.")] = 2000,
    service: Annotated[int, typer.Option(min=0, help="Targets of each that a real service is asked for too.")] = 50,
    seed: Annotated[int, typer.Option(help="Of every draw.")] = 0,
    threads: Annotated[int, typer.Option(min=0, help="Processor threads, 0 for all cores.")] = 0,
    work: Annotated[Path | None, typer.Option(help="Keeps every step; default: beside --out.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The same on nearly nothing: whether it runs.")] = False,
) -> None:
    """Train before a moment, replay what came after it, and say what counting the events is worth."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    home = work or out.with_name(out.name + ".work")
    try:
        names = tuple(dict.fromkeys(name.strip() for name in domains.split(",") if name.strip()))
        if not names:
            raise DataError("--domains names no domain; name at least one, as A,B")
        if threads:
            torch.set_num_threads(threads)
        if quick:
            targets, service = _QUICK_TARGETS, min(service, _QUICK_SERVICE)
        figures: dict[str, Figure] = {}
        told: dict[str, Any] = {}
        for name in names:

            def say(sentence: str, name: str = name) -> None:
                console.print(f"[{name}] {sentence}", markup=False)

            given = {"threads": threads, "seed": seed, "language_model": {"universal": {"epochs": epochs}}}
            own = write_late_sample(data, name, _QUICK_USERS, home / name / "sample") if quick else data
            found = replayed(own, name, config, given, targets, home / name, say, quick)
            figures |= time_figures(name, found, seed)
            if service:
                same = same_through_the_service(found, found.asked[:service].tolist(), home / name)
                figures[f"service_same_{name}"] = at_least(
                    same, SAME_THROUGH_THE_SERVICE, "share", f"the ten items of the first {service} targets, in order"
                )
            told[name] = _context(found)
        report("Learning from events as they come, by calendar time", figures, out, {"quick": quick, "domains": told})
    except (SideraError, TrainingError, ServiceProcessError, ServiceReplayError) as error:
        console.print(f"error: {error}", style="bold red", markup=False)
        raise typer.Exit(1) from None


def replayed(
    data: Path,
    name: str,
    base: Path | None,
    given: Mapping[str, Any],
    most: int,
    home: Path,
    say: Say,
    quick: bool = False,
) -> Replayed:
    """Train what is not trained yet, and replay what is not replayed yet.

    Args:
        base: a YAML config to begin with.
        given: what replaces its keys.
        most: targets.
        home: the folder of all steps.

    Raises:
        SideraError, TrainingError: what went wrong, where, and what to do.
    """
    dataset = read_dataset(data, [name])
    stream = stream_of(dataset)
    begin, second = (stream.place(stream.moment(share)) for share in (FIRST, SECOND))
    if not begin < second < len(stream.time_E):
        raise DataError(f"domain {name!r}: too many of its events are of one time; choose a domain with finer times")
    seed = int(given["seed"])
    drawn = np.random.default_rng(seed).permutation(np.arange(begin, len(stream.time_E)))[:most]
    asked = np.sort(drawn)
    vectors_ID = _vectors(stream, base, given, home, quick)
    runs = {
        label: _trained(stream, share, base, given, home / label, home / "vectors", say, quick)
        for label, share in MOMENTS.items()
    }
    ranks: dict[str, Ranks] = {}
    for arm, (label, counting) in ARMS.items():
        start = begin if label == "first" else second
        own = asked[asked >= start]
        inputs = {
            "bundle": runs[label].manifest.bundle_version,
            "data": dataset.digest,
            "asked": own.tolist(),
            "counting": counting,
        }
        with stage(home, arm, inputs) as made:
            path = made.folder / "ranks.npy"
            if not made.done:
                loaded = load_bundle(runs[label].bundle, runs[label].config.device)
                np.save(path, Replay(loaded, stream, vectors_ID).ranks(start, own.tolist(), counting))
            ranks[arm] = np.load(path, allow_pickle=False)
        say(f"{arm}: NDCG@10 {ndcg_values(ranks[arm], PLACES).mean():.4f} of {len(own)} targets")
    new_items = int(((stream.first_I >= begin) & (stream.first_I < len(stream.time_E))).sum())
    return Replayed(stream, vectors_ID, asked, second, ranks, runs, new_items)


def same_through_the_service(found: Replayed, asked: Sequence[int], home: Path) -> float:
    """The share of targets for which a real service recommends what the live replay does, in the same order.

    Raises:
        ServiceProcessError, ServiceReplayError: the service fails.
    """
    stream, run = found.stream, found.runs["first"]
    begin = stream.place(stream.moment(FIRST))
    inputs = {"bundle": run.manifest.bundle_version, "events": _digest(stream), "asked": list(asked)}
    with stage(home, "service", inputs) as made:
        path = made.folder / "answers.json"
        if not made.done:
            replay = Replay(load_bundle(run.bundle, "cpu"), stream, found.vectors_ID)
            with tempfile.TemporaryDirectory(dir=made.folder) as folder:
                theirs = service_answers(run.bundle, stream, replay.counted, begin, asked, Path(folder))
            path.write_text(json.dumps({"service": theirs, "replay": replay.answers(begin, asked, "all before")}))
        told = json.loads(path.read_text())
    return float(np.mean([one == other for one, other in zip(told["service"], told["replay"], strict=True)]))


def _vectors(
    stream: Stream, base: Path | None, given: Mapping[str, Any], home: Path, quick: bool
) -> npt.NDArray[np.float32]:
    """The vectors of all items, float32[I, D]; those that are known first come first in the shards on disk.

    Raises:
        DataError: an item that joins the stream later has no text, so nothing could be registered of it.
    """
    change = quick_document if quick else None
    settings = joint_config(base, {**given, **_told(stream, home, FIRST)}, home, change)
    by_first = np.argsort(stream.first_I, kind="stable")
    domain = replace(
        stream.domain,
        item_ids=tuple(stream.domain.item_ids[item] for item in by_first.tolist()),
        fields=tuple(stream.domain.fields[item] for item in by_first.tolist()),
    )
    made_ID = item_vectors(domain, TextEncoder(settings.encoder, choose_device(settings.device)), home / "vectors")
    vectors_ID = np.empty_like(made_ID)
    vectors_ID[by_first] = made_ID
    later = (stream.first_I >= stream.place(stream.moment(FIRST))) & (stream.first_I < len(stream.time_E))
    untold = np.flatnonzero(later & np.isnan(vectors_ID[:, 0]))
    if len(untold):
        raise DataError(
            f"domain {stream.domain.name!r}: item {stream.domain.item_ids[untold[0]]!r} appears late and has no text, "
            "so it cannot be registered; choose another domain"
        )
    return vectors_ID


def _trained(
    stream: Stream,
    share: float,
    base: Path | None,
    given: Mapping[str, Any],
    home: Path,
    vectors: Path,
    say: Say,
    quick: bool,
) -> QualityRun:
    """The model of what was known when this share of the events was over."""
    moment = stream.moment(share)
    with stage(home, "data", {"users": list(stream.users), "moment": moment, "events": _digest(stream)}) as made:
        if not made.done:
            write_known(stream, moment, made.folder / "known")
    told = _told(stream, made.folder / "known", share)
    config = joint_config(base, {**given, **told}, home, quick_document if quick else None)
    name, kept = stream.domain.name, work_of(config) / "vectors"
    if not kept.exists():  # what does not fit, the pipeline computes anew
        half = kept.with_name("vectors.copying")
        shutil.rmtree(half, ignore_errors=True)
        shutil.copytree(vectors / name, half / name)
        half.rename(kept)
    label = "before the first moment" if share == FIRST else "before the second moment"
    return train_run(home / "joint", config, lambda sentence: say(f"{label}: {sentence}"))


def _told(stream: Stream, data: Path, share: float) -> dict[str, Any]:
    """The keys of a training's config that the moment decides."""
    split = {"validation_from": stream.moment(share - CHOOSING), "test_from": stream.moment(share)}
    return {
        "domains": [stream.domain.name],
        "data": str(data),
        "tokenizer": {"method": None},
        "split": split,
        "test_targets": _PIPELINE_TARGETS,
    }


def _digest(stream: Stream) -> str:
    """sha256 (hex) of the events and their order."""
    digest = hashlib.sha256("\0".join(stream.domain.item_ids).encode())
    for column_E in (stream.user_E, stream.item_E, stream.time_E):
        digest.update(np.ascontiguousarray(column_E).tobytes())
    return digest.hexdigest()


def _context(found: Replayed) -> dict[str, Any]:
    """What a reader needs to judge a domain's figures, as JSON."""
    stream = found.stream
    moments = {
        label: datetime.fromtimestamp(stream.moment(share), UTC).date().isoformat() for label, share in MOMENTS.items()
    }
    return {
        "moments": moments,
        "events": len(stream.time_E),
        "replayed": len(stream.time_E) - stream.place(stream.moment(FIRST)),
        "new_items": found.new_items,
        "runs": {label: run.as_dict() for label, run in found.runs.items()},
    }


if __name__ == "__main__":
    typer.run(main)
