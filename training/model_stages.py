"""The stages of the language model: the universal model, and an adapter a domain."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

import torch
from torch import nn
from transformers import PreTrainedModel

from sidera.catalog import Catalog
from sidera.language_model import LanguageModel
from sidera.model.self_test import check_backbone
from sidera.model.vocabulary import Vocabulary
from training.backbones import load_universal, new_backbone, save_universal
from training.evaluation import mean_scores
from training.language_model import Phase, train_adapter, train_universal
from training.loop import Scores
from training.pretrained import check_pretrained, load_pretrained, load_text_tokenizer
from training.processes import is_first
from training.run import Run
from training.split import Target, parts_digest
from training.stages import Stage, stage
from training.text_alignment import catalog_titles


def backbone_stage(run: Run) -> None:
    """Let a pretrained backbone decode a tree before anything is computed for it; a scratch one needs no test.

    Raises:
        BackboneError: it decodes wrongly, or its context is too short for the history.
    """
    found = run.pretrained
    if found is None:
        return
    sizes, max_history = run.config.codebook_sizes, run.config.language_model.max_history
    inputs = {"backbone": found.digest, "codebook_sizes": list(sizes), "max_history": max_history}
    with stage(run.work, "backbone", inputs) as checked:
        if not checked.done:
            check_pretrained(found, sizes, max_history, run.device)
    run.say(f"backbone: {found.name}, {found.rows} tokens of its own, decodes rightly")


def universal_stage(run: Run, phase: Phase, catalog: Catalog, upstream: Stage) -> Stage:
    """Phase 1; leaves ``backbone/``, a Hugging Face folder, ``experts/`` where it has any, and ``training.json``.

    Raises:
        BackboneError: a pretrained backbone decodes wrongly, or its context is too short for the history.
    """
    config = run.config.language_model
    settings = asdict(config)
    del settings["domain"], settings["router"]
    if run.pretrained is not None:
        settings["backbone"] = run.pretrained.digest
        if config.text_alignment is not None:
            settings["words"] = run.pretrained.tokenizer
    inputs = {"upstream": upstream.digest, "parts": parts_digest(run.events), "config": settings}
    with stage(run.work, "universal", inputs | {"seed": run.config.seed}, together=True) as made:
        if not made.done:
            torch.manual_seed(run.config.seed)
            backbone = _untrained(run, phase)
            if run.pretrained is not None and config.text_alignment is not None:
                tokenizer = load_text_tokenizer(run.pretrained)
                titles = catalog_titles(catalog, run.names, tokenizer, config.text_alignment.max_title_tokens)
                phase = replace(phase, titles=titles)
            validate = backbone_validation(run, phase.vocabulary, catalog, run.validation, "universal")
            report = train_universal(phase, backbone, validate, made.folder / "training")
            if is_first():
                save_universal(backbone, made.folder)
                (made.folder / "training.json").write_text(json.dumps(asdict(report), indent=1))
    shutil.rmtree(
        made.folder / "training", ignore_errors=True
    )  # once the stage is whole: its checkpoints are not needed
    run.say(f"universal: {_done(made)}, {config.backbone}, validation {_best_scores(made)}")
    return made


def adapter_stage(run: Run, phase: Phase, catalog: Catalog, universal: Stage, domain: int) -> Stage:
    """Phase 2 of one domain; leaves ``adapter/``, a PEFT folder, and ``training.json``."""
    name = run.names[domain]
    inputs = {"upstream": universal.digest, "config": asdict(run.config.language_model)["domain"], "domain": name}
    with stage(run.work, f"adapter-{name}", inputs, together=True) as made:
        if not made.done:
            backbone = load_universal(universal.folder, run.device)
            validate = backbone_validation(run, phase.vocabulary, catalog, run.validation_of(domain), f"adapter {name}")
            report = train_adapter(phase, backbone, domain, validate, made.folder / "training")
            if is_first():
                shutil.rmtree(made.folder / "adapter", ignore_errors=True)
                shutil.move(made.folder / "training" / "adapter", made.folder / "adapter")
                (made.folder / "training.json").write_text(json.dumps(asdict(report), indent=1))
    shutil.rmtree(
        made.folder / "training", ignore_errors=True
    )  # once the stage is whole: its checkpoints are not needed
    run.say(f"adapter {name}: {_done(made)}, its own validation {_best_scores(made)}")
    return made


def _untrained(run: Run, phase: Phase) -> PreTrainedModel:
    config, vocabulary = run.config.language_model, phase.vocabulary
    if run.pretrained is None:
        longest = (config.max_history + 1) * vocabulary.tokens_per_item
        backbone = new_backbone(config.backbone, vocabulary, longest)
        nn.Module.to(backbone, run.device)
        return backbone
    backbone = load_pretrained(run.pretrained, vocabulary, run.device, run.config.seed)
    check_backbone(LanguageModel(backbone, vocabulary), config.max_history)
    return backbone


def backbone_validation(
    run: Run, vocabulary: Vocabulary, catalog: Catalog, asked: Sequence[Target], label: str
) -> Callable[[PreTrainedModel], Scores]:
    """Recall@10 and NDCG@10 of a backbone's present weights on validation targets, by the search that will serve."""

    def score(backbone: PreTrainedModel) -> Scores:
        recommender = run.recommender(LanguageModel(backbone, vocabulary), catalog)
        scores = mean_scores(recommender, run.dataset.domains, asked, f"{label}: validation")
        run.say(f"{label}: validation {_shown(scores)}")
        return scores

    return score


def _done(made: Stage) -> str:
    return "kept" if made.done else "trained"


def _best_scores(made: Stage) -> str:
    report = json.loads((made.folder / "training.json").read_text())
    return _shown(report["scores"][report["best_epoch"]])


def _shown(scores: Scores) -> str:
    return f"Recall@10 {scores['recall@10']:.4f}, NDCG@10 {scores['ndcg@10']:.4f}"
