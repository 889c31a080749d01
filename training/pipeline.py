"""The whole way of the data, stage by stage: vectors, tokenizer, language model, evaluation, bundle.

Each stage is skipped when its inputs have not changed and resumes when it was interrupted; all of them lie beside
the bundle, in a folder of its name and ``.work``.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sidera.bundle import open_bundle, verify_bundle
from sidera.catalog import Catalog, CatalogItem, create_catalog
from sidera.embedding import TextEncoder, embedder_config, embedder_identity
from sidera.items.neighbours import load_neighbours
from sidera.language_model import LanguageModel
from sidera.manifest import MANIFEST_NAME, Manifest
from sidera.model.vocabulary import DOMAIN_ROWS, Vocabulary
from sidera.tokenizers import ItemTokenizer, load_tokenizer
from training.backbones import is_scratch, load_universal
from training.bundling import Trained, write_trained_bundle
from training.collaborative import cf_files_digest, cf_vectors
from training.config import TrainConfig
from training.data import DomainData, read_dataset
from training.errors import ConfigError, DataError
from training.evaluation import evaluate
from training.language_model import Phase
from training.mixture_stage import mixture_stage
from training.model_stages import adapter_stage, backbone_stage, universal_stage
from training.neighbour_stage import neighbour_stage
from training.no_text import check_interactions, fill_vectors
from training.pretrained import find_pretrained
from training.processes import first_goes_first, is_first, join
from training.run import Run
from training.sequences import training_sequences
from training.split import Part, hold_out, parts_digest, split_events
from training.stages import Stage, stage
from training.text_alignment import check_text_alignment
from training.tokenization import check_capacity, tokenize
from training.vectors import item_vectors

Vectors = Mapping[str, npt.NDArray[np.float32]]
Sids = Mapping[str, npt.NDArray[np.int32]]


def train(config: TrainConfig, say: Callable[[str], None]) -> Manifest:
    """Run every stage that is not done, and write the bundle.

    Args:
        say: told in a sentence what each stage did.

    Raises:
        TrainingError, SideraError: what went wrong, where, and what to do.
    """
    out = Path(config.out)
    check_place(out)
    device = choose_device(config.device)
    join(device)
    if not is_first():
        say = silent
    with first_goes_first():
        name = config.language_model.backbone
        pretrained = None if is_scratch(name) else find_pretrained(name)
    forget = None if config.forget is None else Path(config.forget)
    dataset = read_dataset(Path(config.data), config.domains or None, config.min_interactions, forget)
    alignment = config.language_model.text_alignment
    if pretrained is not None and alignment is not None:
        check_text_alignment(alignment, pretrained, len(config.codebook_sizes), dataset)
    everything = {
        "config": config.digestible(),
        "backbone": None if pretrained is None else pretrained.digest,
        "words": None if pretrained is None or alignment is None else pretrained.tokenizer,
        "data": dataset.digest,
        "cf_files": cf_files_digest(config.cf_source, [domain.name for domain in dataset.domains]),
        "out": str(out.absolute()),
    }
    work = out.with_name(out.name + ".work")
    with stage(work, "run", everything, together=True) as whole:
        manifest = whole_bundle(out) if whole.done else None
        if manifest is not None:
            say(f"everything kept: neither config nor data have changed since {out} was written")
            return manifest
        if config.threads:
            torch.set_num_threads(config.threads)
        events = split_events(dataset, config.split)
        if share := config.language_model.router_share:
            events = hold_out(events, share, config.language_model.router.most, config.seed)
        return _run_stages(Run(config, dataset, events, work, device, say, pretrained), out)


def _run_stages(run: Run, out: Path) -> Manifest:
    events, domains = run.events, run.dataset.domains
    if not (events.part_E == Part.TRAIN).any():
        raise DataError(f"{run.config.data}: no user has 3 events in a domain, so nothing can be learned; add events")
    if len(run.names) > DOMAIN_ROWS:
        raise DataError(
            f"{run.config.data}: {len(run.names)} domains are more than the {DOMAIN_ROWS} that one model can learn; "
            "choose fewer with --domains"
        )
    check_interactions(run.dataset, events)
    check_capacity({domain.name: len(domain.item_ids) for domain in domains}, run.config.tokenizer)
    run.say(f"data: {len(run.names)} domains, {len(run.dataset.users)} users, {len(events.user_E)} events")
    if run.config.forget is not None:
        run.say(f"forgotten: {run.dataset.forgotten_events} events of {run.dataset.forgotten_users} users")
    backbone_stage(run)
    encoder = TextEncoder(run.config.encoder, run.device)
    with first_goes_first():
        vectors = {domain.name: item_vectors(domain, encoder, run.work / "vectors") for domain in domains}
        no_text = fill_vectors(run.dataset, events, vectors, run.work, embedder_identity(encoder))
    source = f", {no_text} of them without text: from the train part's events" if no_text else ""
    run.say(f"vectors: {sum(map(len, vectors.values()))} items, {encoder.dim} dimensions{source}")
    tokenizer, sids, tokenized = _tokenizer_stage(run, vectors, embedder_identity(encoder), no_text)
    base = 0 if run.pretrained is None else run.pretrained.rows
    vocabulary = Vocabulary(tokenizer.codebook_sizes, {name: row for row, name in enumerate(run.names)}, base)
    catalog = _catalog(domains, sids, tokenizer.codebook_sizes)
    sequences = training_sequences(events, [sids[name] for name in run.names])
    phase = Phase(
        sequences,
        vocabulary,
        run.names,
        run.config.language_model,
        run.config.seed,
        run.tracking,
        tries=tuple(catalog.index(name).trie for name in run.names),
    )

    universal = universal_stage(run, phase, catalog, tokenized)
    adapters = {
        name: adapter_stage(run, phase, catalog, universal, row)
        for row, name in enumerate(run.names)
        if run.config.language_model.domain is not None and run.validation_of(row)
    }
    mixture = mixture_stage(run, vocabulary, catalog, universal, adapters)
    used = mixture.adapters(adapters)
    backbone = load_universal(universal.folder, run.device)
    model = LanguageModel(backbone, vocabulary, used, mixture.gammas, mixture.loaded_router())
    neighbours, listed = neighbour_stage(run, model, catalog, vectors, mixture.stage)

    most = run.config.test_targets
    with stage(run.work, "evaluation", {"upstream": listed.digest, "test_targets": most}) as evaluated:
        path = evaluated.folder / "metrics.json"
        if not evaluated.done:
            known = None if neighbours is None else load_neighbours(neighbours)
            recommender = run.recommender(model, catalog, known)
            ordered = [vectors[name] for name in run.names]
            report = evaluate(recommender, domains, events, ordered, Part.TEST, run.config.seed, most)
            path.write_text(json.dumps(report, indent=1))
        metrics = json.loads(path.read_text())
    trained = Trained(
        config=run.config,
        tokenizer=tokenizer,
        embedder=embedder_config(encoder),
        backbone=universal.folder / "backbone",
        experts=universal.folder / "experts",
        adapters=used,
        gammas=mixture.gammas,
        router=mixture.router,
        neighbours=neighbours,
        catalog=catalog,
        vectors={domain.name: (domain.item_ids, vectors[domain.name]) for domain in domains},
        vocabulary=vocabulary,
        metrics=metrics,
        tokenization_report=tokenized.folder / "report",
        lineage={"data": run.dataset.digest, "stages": evaluated.digest},
        samples=run.samples(),
        evaluation_users=run.evaluation_users(),
    )
    with first_goes_first():
        manifest = write_trained_bundle(out, trained) if is_first() else open_bundle(out).manifest
    run.say(f"bundle: {out}, version {manifest.bundle_version[:12]}")
    return manifest


def _tokenizer_stage(
    run: Run, vectors: Vectors, embedder: Mapping[str, Any], no_text: int
) -> tuple[ItemTokenizer, Sids, Stage]:
    settings, source = run.config.tokenizer_settings, run.config.cf_source
    inputs = {
        "settings": {name: value for name, value in settings.items() if name != "cf_vectors"},
        "data": run.dataset.digest,
        "embedder": dict(embedder),
        "cf_files": cf_files_digest(source, run.names),
        # What is not of the texts or the user's own files is of the train part's events.
        "parts": parts_digest(run.events) if no_text or (source is not None and source.folder is None) else None,
    }
    with stage(run.work, "tokenizer", inputs) as tokenized:
        if not tokenized.done:
            cf = None if source is None else cf_vectors(run.dataset, run.events, source, tokenized.folder)
            fields = {domain.name: domain.fields for domain in run.dataset.domains}
            made = tokenize(vectors, settings, tokenized.folder, cf, fields)
            for name, sids_NL in made.sids.items():
                np.save(tokenized.folder / f"{name}.npy", sids_NL)
        tokenizer = load_tokenizer(tokenized.folder / "tokenizer")
        sids = {name: np.load(tokenized.folder / f"{name}.npy", allow_pickle=False) for name in run.names}
    verb = "kept" if tokenized.done else "fitted"
    run.say(f"tokenizer: {verb}, {tokenizer.method} with codebooks of {tokenizer.codebook_sizes}")
    return tokenizer, sids, tokenized


def _catalog(domains: Sequence[DomainData], sids: Sids, codebook_sizes: Sequence[int]) -> Catalog:
    items = []
    for domain in domains:
        for item_id, fields, sid in zip(domain.item_ids, domain.fields, sids[domain.name].tolist(), strict=True):
            title = fields.get("title")
            other = {key: value for key, value in fields.items() if key not in ("item_id", "title")}
            items.append(CatalogItem(domain.name, item_id, tuple(sid), None if title is None else str(title), other))
    return create_catalog(items, codebook_sizes)


def silent(sentence: str) -> None:
    """What the processes behind the first one say."""


def choose_device(wanted: str) -> str:
    """``cpu`` or ``cuda``, of what the config wants.

    Raises:
        ConfigError: a GPU is wanted and none is here.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: PyTorch finds no GPU here; set auto or cpu, or install PyTorch for CUDA")
    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


def check_place(out: Path) -> None:
    """Refuse now what the last stage would refuse: a place where something else lies."""
    if out.exists() and not (out.is_dir() and ((out / MANIFEST_NAME).exists() or not any(out.iterdir()))):
        raise ConfigError(f"out: {out} exists and is not a bundle; choose another place for the bundle, or remove it")


def whole_bundle(path: Path) -> Manifest | None:
    """The manifest of the bundle at ``path``; None where there is none, or where a byte of it has changed."""
    return None if verify_bundle(path) else open_bundle(path).manifest
