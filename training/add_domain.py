"""Adds a domain to a bundle: only its adapter and the row of its token learn; all else of the bundle stays.

Its items get vectors and SIDs by the bundle's own encoder and tokenizer, as a service would give them. Where the data
folder holds known domains too, a user's events there are part of the histories, as in training. The adapter's settings
are those that the bundle was trained with. Gamma is the best constant on validation: a router that is there decides for
the domains that it knows. What is done is kept in stages beside the new bundle, as in ``training.pipeline``.

Shapes: I items of a domain, L levels, D item vector dim.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sidera.bundle import Bundle, open_bundle
from sidera.catalog import Catalog
from sidera.disk_arrays import open_tensor, read_rows
from sidera.embedding import TextEncoder, embedder_identity
from sidera.items.assignment import assign_sids, domain_full
from sidera.items.neighbours import load_neighbours, save_neighbours
from sidera.language_model import LanguageModel
from sidera.loading import bundle_vocabulary, load_bundle_backbone
from sidera.manifest import Manifest
from sidera.model.user_router import load_router
from sidera.model.vocabulary import Vocabulary
from sidera.tokenizers import ItemTokenizer, load_tokenizer
from training.added_bundle import Joining, Learned, grown_catalog, grown_neighbours, write_added_bundle
from training.backbones import load_universal, save_universal
from training.data import read_dataset
from training.errors import ConfigError, DataError
from training.evaluation import evaluate
from training.joining import config_for_joining, free_token, read_joining
from training.language_model import Phase, train_adapter
from training.mixture_stage import Weighed, mixture_stage
from training.model_stages import backbone_validation
from training.neighbour_stage import reader_of, weights_in, with_weights
from training.no_text import check_interactions, fill_vectors
from training.pipeline import check_place, choose_device, silent, whole_bundle
from training.processes import first_goes_first, is_first, join
from training.run import Run
from training.sequences import training_sequences
from training.split import Part, split_events
from training.stages import Stage, stage
from training.vectors import item_vectors


@dataclass(frozen=True)
class Added:
    """The new bundle, and the evaluation of the new domain."""

    manifest: Manifest
    report: dict[str, Any]


def add_domain(
    path: Path, data: Path, name: str, out: Path, say: Callable[[str], None], device: str = "auto", threads: int = 0
) -> Added:
    """Train what a new domain needs, evaluate it, and write the bundle that has it.

    Args:
        path: the bundle that the domain joins; it stays as it is.
        data: holds the folder of the domain, and those of known domains whose events belong to the histories.
        name: the domain's, and that of its folder.
        out: where the new bundle goes.
        say: told in a sentence what each stage did.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: CPU threads, 0 for all cores.

    Raises:
        BundleError: the bundle cannot be read.
        ConfigError: the bundle has this domain, or no token row left, or ``out`` is taken.
        DataError: the data are not what they should be, or nobody has 3 events in the domain.
        EmbeddingError: the bundle's encoder is not to be had here.
        DomainFullError: there are fewer SIDs than items.
    """
    bundle = open_bundle(path)
    token = free_token(bundle.manifest, path, name)
    check_place(out)
    if out.resolve() == path.resolve():
        raise ConfigError(f"out: {out} is the bundle that the domain joins; choose another place for the new one")
    device = choose_device(device)
    config = config_for_joining(bundle.manifest, data, out, device, threads)
    join(device)
    say = say if is_first() else silent
    dataset, left_out = read_joining(bundle.manifest, data, name, config.min_interactions)
    if left_out:
        say(f"left out, since the bundle does not hold them: {', '.join(left_out)}")
    work = out.with_name(out.name + ".work")
    inputs = {"bundle": bundle.manifest.bundle_version, "data": dataset.digest, "domain": name}
    with stage(work, "run", inputs | {"out": str(out.absolute())}, together=True) as whole:
        manifest = whole_bundle(out) if whole.done else None
        if manifest is not None:
            say(f"everything kept: neither bundle nor data have changed since {out} was written")
            return Added(manifest, json.loads((work / "evaluation" / "metrics.json").read_text()))
        if threads:
            torch.set_num_threads(threads)
        run = Run(config, dataset, split_events(dataset, config.split), work, device, say)
        return _Addition(run, bundle, token, inputs).made(out)


class _Addition:
    """One run: the new domain is the last one of its data."""

    def __init__(self, run: Run, bundle: Bundle, token: int, inputs: Mapping[str, Any]) -> None:
        self.run, self.bundle, self.token, self.inputs = run, bundle, token, inputs
        self.index = len(run.names) - 1
        self.name = run.names[self.index]
        vocabulary = bundle_vocabulary(bundle.manifest)
        self.vocabulary = Vocabulary(
            vocabulary.codebook_sizes, {**vocabulary.domains, self.name: token}, vocabulary.base
        )
        self.before = Catalog.load(bundle.folder("catalog"), bundle.manifest.domains, bundle.manifest.codebook_sizes)

    def made(self, out: Path) -> Added:
        """Everything, stage by stage."""
        run, bundle, name = self.run, self.bundle, self.name
        sids = self._known_sids()
        self._check_targets()
        tokenizer = load_tokenizer(bundle.folder("tokenizer"))
        domain = run.dataset.domains[self.index]
        if len(domain.item_ids) > tokenizer.capacity:
            raise domain_full(tokenizer, name, len(domain.item_ids))
        encoder = TextEncoder.from_config(json.loads(bundle.path("embedder/config.json").read_text()), run.device)
        run.say(f"data: {len(domain.item_ids)} items and {len(domain.user_E)} events of {name}")
        with first_goes_first():
            vectors_ID = self._vectors(encoder)
        sids_IL, tokenized = self._sids_stage(tokenizer, vectors_ID)
        joining = Joining(domain, self.token, sids_IL, vectors_ID)
        catalog = grown_catalog(self.before, joining)
        trained = self._adapter_stage(catalog, [*sids, sids_IL], tokenized)
        mixture = mixture_stage(run, self.vocabulary, catalog, trained, {name: trained})
        model = self._model(trained, mixture)
        neighbours, listed = self._neighbour_stage(model, catalog, joining, mixture.stage)
        report, evaluated = self._evaluation_stage(model, catalog, vectors_ID, neighbours, listed)
        learned = Learned(
            backbone=trained.folder / "backbone",
            adapter=mixture.adapters({name: trained}).get(name),
            gamma=mixture.gammas[name],
            neighbours=neighbours,
            report=report,
            lineage=self._lineage(evaluated),
            samples=[body for body in run.samples() if body["domain"] == name],
        )
        with first_goes_first():
            if is_first():
                manifest = write_added_bundle(out, bundle, (self.before, catalog), joining, learned)
            else:
                manifest = open_bundle(out).manifest
        run.say(f"bundle: {out}, version {manifest.bundle_version[:12]}")
        return Added(manifest, report)

    def _known_sids(self) -> list[npt.NDArray[np.int32]]:
        """The SIDs of the known domains' items, in the order of the data. Shape of each: int32[I, L]."""
        sids = []
        for domain in self.run.dataset.domains[: self.index]:
            numbers = [self.before.find(domain.name, item_id) for item_id in domain.item_ids]
            missing = [item_id for item_id, number in zip(domain.item_ids, numbers, strict=True) if number is None]
            if missing:
                raise DataError(
                    f"{self.run.config.data}: {len(missing)} items of {domain.name!r} are not in the bundle, "
                    f"{missing[0]!r} the first of them; remove them and their interactions, or the domain's folder"
                )
            known = [number for number in numbers if number is not None]
            sids.append(np.array(self.before.sids_of(domain.name, known), dtype=np.int32))
        return sids

    def _check_targets(self) -> None:
        events = self.run.events
        if not ((events.part_E == Part.TRAIN) & (events.domain_E == self.index)).any():
            raise DataError(
                f"{self.run.config.data}: no user has 3 events in {self.name!r}, so nothing can be learned; add "
                "events, or register its items with a service, which recommends them untrained"
            )
        check_interactions(self.run.dataset, events)

    def _vectors(self, encoder: TextEncoder) -> npt.NDArray[np.float32]:
        """The vectors of the new domain's items. Shape: float32[I, D]."""
        domain = self.run.dataset.domains[self.index]
        vectors = {domain.name: item_vectors(domain, encoder, self.run.work / "vectors")}
        if domain.no_text:
            stored = open_tensor(self.bundle.path("catalog/vectors.safetensors"), "vectors")
            for known in self.run.dataset.domains[: self.index]:
                numbers = [self.before.find(known.name, item_id) for item_id in known.item_ids]
                vectors[known.name] = read_rows(stored, np.array(numbers, dtype=np.int64))
            fill_vectors(self.run.dataset, self.run.events, vectors, self.run.work, embedder_identity(encoder))
        self.run.say(f"vectors: {len(domain.item_ids)} items, {encoder.dim} dimensions")
        return vectors[domain.name]

    def _sids_stage(
        self, tokenizer: ItemTokenizer, vectors_ID: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.int32], Stage]:
        with stage(self.run.work, "sids", self.inputs) as made:
            path = made.folder / "sids.npy"
            if not made.done:
                np.save(path, assign_sids(tokenizer, vectors_ID, self.name)[0])
            sids_IL: npt.NDArray[np.int32] = np.load(path, allow_pickle=False)
        self.run.say(f"SIDs: {'kept' if made.done else 'given'} by the bundle's tokenizer, {tokenizer.method}")
        return sids_IL, made

    def _adapter_stage(self, catalog: Catalog, sids: Sequence[npt.NDArray[np.int32]], upstream: Stage) -> Stage:
        """Train; leaves ``adapter/``, ``training.json``, and ``backbone/`` and ``experts/`` with the token's row."""
        run, label = self.run, f"adapter {self.name}"
        sequences = training_sequences(run.events, sids)
        tries = tuple(catalog.index(name).trie for name in run.names)
        config = run.config.language_model
        phase = Phase(sequences, self.vocabulary, run.names, config, run.config.seed, run.tracking, tries)
        inputs = {"upstream": upstream.digest, "config": asdict(run.config.language_model)["domain"]}
        with stage(run.work, "adapter", inputs, together=True) as made:
            if not made.done:
                backbone = load_bundle_backbone(self.bundle, run.device)
                validate = backbone_validation(run, self.vocabulary, catalog, run.validation_of(self.index), label)
                folder = made.folder / "training"
                report = train_adapter(phase, backbone, self.index, validate, folder, new_token=True)
                if is_first():
                    save_universal(backbone, made.folder)
                    shutil.rmtree(made.folder / "adapter", ignore_errors=True)
                    shutil.move(folder / "adapter", made.folder / "adapter")
                    (made.folder / "training.json").write_text(json.dumps(asdict(report), indent=1))
        if is_first():
            shutil.rmtree(made.folder / "training", ignore_errors=True)  # the stage is whole: nothing is gone on from
        run.say(f"{label}: {'kept' if made.done else 'trained'}, with its token's row")
        return made

    def _model(self, trained: Stage, mixture: Weighed) -> LanguageModel:
        """The language model as the new bundle will serve it."""
        manifest, settings = self.bundle.manifest, self.bundle.manifest.parts["language_model"]
        adapters = {own: self.bundle.folder(about.adapter) for own, about in manifest.domains.items() if about.adapter}
        adapters |= mixture.adapters({self.name: trained})
        router = None if settings.get("router") is None else load_router(self.bundle.path(settings["router"]))
        gammas = {**settings["gammas"], **mixture.gammas}
        return LanguageModel(load_universal(trained.folder, self.run.device), self.vocabulary, adapters, gammas, router)

    def _neighbour_stage(
        self, model: LanguageModel, catalog: Catalog, joining: Joining, upstream: Stage
    ) -> tuple[Path | None, Stage]:
        listed = self.bundle.manifest.parts.get("neighbours")
        with stage(self.run.work, "neighbours", {"upstream": upstream.digest}) as made:
            path = made.folder / "neighbours.safetensors"
            if listed is not None and not made.done:
                before = load_neighbours(self.bundle.path(listed))
                catalogs, config = (self.before, catalog), self.run.config.neighbours
                numbers_I = np.array([catalog.find(self.name, item_id) for item_id in joining.data.item_ids])
                reader = reader_of(self.run, self.index, joining.vectors_ID, numbers_I)
                grown = grown_neighbours(before, catalogs, joining, self.run.events, self.index, config, reader)
                weights = weights_in(self.run, self.run.recommender(model, catalog), grown, self.index)
                save_neighbours(with_weights(grown, {self.name: weights}), path)
        return (None if listed is None else path), made

    def _evaluation_stage(
        self,
        model: LanguageModel,
        catalog: Catalog,
        vectors_ID: npt.NDArray[np.float32],
        neighbours: Path | None,
        upstream: Stage,
    ) -> tuple[dict[str, Any], Stage]:
        """The report of the new domain's test targets alone."""
        run = self.run
        with stage(run.work, "evaluation", {"upstream": upstream.digest}) as made:
            path = made.folder / "metrics.json"
            if not made.done:
                known = None if neighbours is None else load_neighbours(neighbours)
                recommender = run.recommender(model, catalog, known)
                others_E = (run.events.domain_E != self.index) & (run.events.part_E == Part.TEST)
                part_E = np.where(others_E, Part.CONTEXT, run.events.part_E).astype(np.int8)
                vectors = [vectors_ID] * len(run.names)  # only the new domain's are read: the others have no targets
                events = replace(run.events, part_E=part_E)
                settings = run.config
                domains = run.dataset.domains
                report = evaluate(
                    recommender, domains, events, vectors, Part.TEST, settings.seed, settings.test_targets
                )
                path.write_text(json.dumps(report, indent=1))
            return json.loads(path.read_text()), made

    def _lineage(self, evaluated: Stage) -> dict[str, Any]:
        """The old bundle's lineage, and what was added.

        ``data`` is that of all domains together where the known ones are those that the old bundle was trained on; else
        it stays that of the old bundle, so that an evaluation warns of other data.
        """
        before, dataset = self.bundle.manifest.lineage, self.run.dataset
        known = list(self.run.names[: self.index])
        data = before.get("data")
        if known and set(known) == set(self.bundle.manifest.domains):
            folder = Path(self.run.config.data)
            if read_dataset(folder, known, self.run.config.min_interactions).digest == data:
                data = dataset.digest
        joined = {"domain": self.name, "bundle": self.bundle.manifest.bundle_version, "data": dataset.digest}
        added = [*before.get("added", []), joined]
        return {**before, "data": data, "stages": evaluated.digest, "added": added}
