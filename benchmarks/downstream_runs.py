"""One variant of the downstream benchmark: its tokenizer, SIDs, language model and the ranks of the test targets.

Every step lies in a folder named by a digest of its inputs, is kept when it is whole and goes on where it was killed.
Variants with the same settings share their folders, and so do runs with other variants, seeds or targets.

Shapes: N items, D item vector dim, L levels, T targets.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.downstream_data import Ranks, TestPart, World, array_digest, events_digest, target_items
from benchmarks.hardware import describe_hardware
from sidera.catalog import CatalogItem, create_catalog
from sidera.files import write_atomically
from sidera.items.assignment import assign_sids
from sidera.language_model import LanguageModel
from sidera.model.vocabulary import Vocabulary
from sidera.recommender import Recommender
from sidera.tokenizers import ItemTokenizer, load_tokenizer, save_tokenizer
from training.backbones import load_universal
from training.collaborative import cf_files_digest, cf_vectors
from training.config import TrainConfig
from training.evaluation import recommend_for
from training.language_model import Phase
from training.metrics import ranking_metrics, target_ranks
from training.model_config import LanguageModelConfig
from training.model_stages import universal_stage
from training.run import Run
from training.sequences import training_sequences
from training.split import split_events
from training.stages import Stage, stage
from training.tokenization import fit_tokenizer
from training.tokenizers import read_config

Sids = Mapping[str, npt.NDArray[np.int32]]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Tokenized:
    """The SIDs of all evaluated domains.

    Attributes:
        sids: int32[N, L] by domain.
        facts: what a reader wants to know of tokenizer and SIDs, as JSON. Its ``seconds`` are those of the
            fit's last start.
    """

    codebook_sizes: tuple[int, ...]
    sids: Sids
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Scored:
    """One language model.

    Attributes:
        ranks: of the test targets, by domain.
        facts: tokens, seconds, weights, losses, and metrics by domain, as JSON.
    """

    ranks: Mapping[str, Ranks]
    facts: Mapping[str, Any]


class Stopwatch:
    """Seconds spent on a step over all its starts, kept in a file; what a kill cut off since the last tick is lost."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds = float(json.loads(path.read_text())) if path.exists() else 0.0
        self._ticked = time.monotonic()

    def tick(self) -> None:
        """Add the time since the last tick."""
        now = time.monotonic()
        self.seconds, self._ticked = self.seconds + now - self._ticked, now
        write_atomically(self.path, json.dumps(self.seconds).encode())


def tokenize_variant(world: World, settings: Mapping[str, Any], work: Path, say: Say) -> Tokenized:
    """Fit the tokenizer on the fitted domains and give the items of every evaluated domain their SIDs.

    Raises:
        SideraError, TrainingError: as the fit and the assignment do.
    """
    fitted, config = world.roles.fitted, read_config(settings)[1]
    dataset = world.dataset(fitted)
    source = config.cf_source
    inputs = {
        "method": settings.get("method", "rqvae"),
        "settings": {name: value for name, value in asdict(config).items() if name != "cf_vectors"},
        "vectors": {name: array_digest(world.vectors[name]) for name in sorted(fitted)},
        "cf_files": cf_files_digest(source, fitted),
        "cf_events": None if source is None else events_digest(split_events(dataset)),
    }
    with stage(work / "tokenizers", _digest(inputs)[:16], inputs) as made:
        if not made.done:
            begun = time.monotonic()
            cf = None if source is None else cf_vectors(dataset, split_events(dataset), source, made.folder)
            tokenizer = fit_tokenizer({name: world.vectors[name] for name in fitted}, settings, made.folder / "fit", cf)
            save_tokenizer(tokenizer, made.folder / "tokenizer")
            (made.folder / "seconds.json").write_text(json.dumps(time.monotonic() - begun))
        tokenizer = load_tokenizer(made.folder / "tokenizer")
    seconds = json.loads((made.folder / "seconds.json").read_text())
    say(f"tokenizer: {'kept' if made.done else 'fitted'}, {tokenizer.method} of {tokenizer.codebook_sizes}")
    evaluated = dict.fromkeys((*world.roles.trained, *world.parts))
    assigned = {name: _sids(world, tokenizer, made, name) for name in evaluated}
    facts = {
        "method": tokenizer.method,
        "settings": dict(settings),
        "codebook_sizes": list(tokenizer.codebook_sizes),
        "seconds": seconds,
        "sids": {name: report for name, (_, report) in assigned.items()},
    }
    return Tokenized(tokenizer.codebook_sizes, {name: sids_NL for name, (sids_NL, _) in assigned.items()}, facts)


def score_variant(
    world: World,
    tokenized: Tokenized,
    settings: Mapping[str, Any],
    language_model: LanguageModelConfig,
    seed: int,
    work: Path,
    device: str,
    say: Say,
) -> Scored:
    """Train the universal language model on the SIDs, and rank the test targets of every domain with it."""
    names = world.roles.trained
    inputs = {
        "events": events_digest(world.events),
        "domains": names,
        "sids": array_digest(*(tokenized.sids[name] for name in names)),
        "codebook_sizes": tokenized.codebook_sizes,
        "config": {name: value for name, value in asdict(language_model).items() if name != "domain"},
        "seed": seed,
    }
    folder = work / "models" / _digest(inputs)[:16]
    folder.mkdir(parents=True, exist_ok=True)
    watch = Stopwatch(folder / "seconds.json")

    def told(sentence: str) -> None:
        watch.tick()
        say(sentence)

    config = TrainConfig(
        data=".", out=str(folder), tokenizer=dict(settings), language_model=language_model, domains=names, seed=seed
    )
    run = Run(config, world.dataset(names), world.events, folder, device, told)
    vocabulary = Vocabulary(tokenized.codebook_sizes, {name: row for row, name in enumerate(names)})
    sequences = training_sequences(world.events, [tokenized.sids[name] for name in names])
    catalog = create_catalog(_items(world, tokenized.sids), tokenized.codebook_sizes)
    tries = tuple(catalog.index(name).trie for name in names)
    phase = Phase(sequences, vocabulary, names, language_model, seed, tries=tries)
    trained = universal_stage(run, phase, catalog, Stage(folder, _digest(inputs), done=True))

    @cache
    def recommender() -> Recommender:
        return run.recommender(LanguageModel(load_universal(trained.folder, device), vocabulary), catalog)

    with stage(folder, "budget", {"upstream": trained.digest}) as budget:
        path = budget.folder / "budget.json"
        if not budget.done:
            weights = sum(weight.numel() for weight in recommender().model.backbone.parameters())
            facts = {"seconds": watch.seconds, "weights": weights, "hardware": describe_hardware()}
            path.write_text(json.dumps(facts | _training_budget(phase)))
        facts = json.loads(path.read_text())
    facts |= json.loads((trained.folder / "training.json").read_text())
    found = {
        name: _ranked(recommender, part, tokenized.sids, trained.digest, folder, say)
        for name, part in world.parts.items()
    }
    facts |= {"test": {name: metrics for name, (_, metrics) in found.items()}}
    return Scored({name: ranks for name, (ranks, _) in found.items()}, facts)


def _sids(
    world: World, tokenizer: ItemTokenizer, made: Stage, name: str
) -> tuple[npt.NDArray[np.int32], dict[str, Any]]:
    """The SIDs of one domain, and what making them unique took."""
    inputs = {"tokenizer": made.digest, "vectors": array_digest(world.vectors[name])}
    with stage(made.folder / "sids", name, inputs) as assigned:
        if not assigned.done:
            sids_NL, report = assign_sids(tokenizer, world.vectors[name], name)
            np.save(assigned.folder / "sids.npy", sids_NL)
            told = asdict(report) | {"collision_rate_distinct": report.collision_rate_distinct}
            (assigned.folder / "report.json").write_text(json.dumps(told))
        facts = json.loads((assigned.folder / "report.json").read_text())
        return np.load(assigned.folder / "sids.npy", allow_pickle=False), facts


def _items(world: World, sids: Sids) -> list[CatalogItem]:
    return [
        CatalogItem(name, item_id, tuple(sid))
        for name, sids_NL in sids.items()
        for item_id, sid in zip(world.data.domain(name).item_ids, sids_NL.tolist(), strict=True)
    ]


def _training_budget(phase: Phase) -> dict[str, int]:
    """What the training reads in all its epochs."""
    optimizer = phase.config.universal
    batches_of = phase.batches(phase.sequences, optimizer.batch_tokens)
    budget = {"tokens": 0, "tokens_with_padding": 0, "targets": 0, "steps": 0}
    for epoch in range(optimizer.epochs):
        for batch in batches_of(epoch):
            budget["tokens"] += int((batch.tokens_BWX != phase.vocabulary.pad).sum())
            budget["tokens_with_padding"] += batch.tokens_BWX.numel()
            budget["targets"] += int(batch.target_BW.sum())
            budget["steps"] += 1
    return budget


def _ranked(
    recommender: Callable[[], Recommender], part: TestPart, sids: Sids, model: str, folder: Path, say: Say
) -> tuple[Ranks, dict[str, Any]]:
    """The ranks of one domain's targets, and their metrics; kept on disk."""
    inputs = {"model": model, "part": part.digest, "sids": array_digest(sids[part.name])}
    with stage(folder, f"test-{part.name}", inputs) as ranked:
        path = ranked.folder / "ranks.json"
        if not ranked.done:
            begun = time.monotonic()
            answers = recommend_for(recommender(), part.domains, part.targets, f"{part.name}: test")
            item_T = target_items(part)
            metrics = ranking_metrics(answers.top_NK, item_T, len(part.domains[part.domain].item_ids)).as_dict()
            metrics |= {"exact": answers.exact, "seconds": time.monotonic() - begun}
            ranks = target_ranks(answers.top_NK, item_T).tolist()
            path.write_text(json.dumps({"metrics": metrics, "ranks": ranks}))
        found = json.loads(path.read_text())
    metrics = found["metrics"]
    say(f"{part.name}: NDCG@10 {metrics['ndcg@10']:.4f} of {metrics['targets']} test targets")
    return np.array(found["ranks"], dtype=np.int64), metrics


def _digest(inputs: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
