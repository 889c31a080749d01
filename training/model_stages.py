"""The stages of the language model: the universal model, an adapter a domain, and the mixture's weights."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

import torch
from torch import nn
from transformers import PreTrainedModel

from sidera.catalog import Catalog
from sidera.language_model import LanguageModel, load_backbone
from sidera.progress_bars import no_progress_bars
from sidera.vocabulary import Vocabulary
from training.backbones import new_backbone
from training.evaluation import mean_ndcg, query_of
from training.language_model import Phase, choose_gamma, train_adapter, train_universal
from training.run import Run
from training.split import Target
from training.stages import Stage, stage


def universal_stage(run: Run, phase: Phase, catalog: Catalog, upstream: Stage) -> Stage:
    """Phase 1; leaves ``backbone/``, a Hugging Face folder, and ``training.json``."""
    config = run.config.language_model
    settings = asdict(config)
    del settings["domain"]
    with stage(
        run.work, "universal", {"upstream": upstream.digest, "config": settings, "seed": run.config.seed}
    ) as made:
        if not made.done:
            torch.manual_seed(run.config.seed)
            longest = (config.max_history + 1) * phase.vocabulary.tokens_per_item
            backbone = new_backbone(config.backbone, phase.vocabulary, longest)
            nn.Module.to(backbone, run.device)
            validate = _validation(run, phase.vocabulary, catalog, run.validation, "universal")
            report = train_universal(phase, backbone, validate, made.folder / "training")
            with no_progress_bars():
                backbone.save_pretrained(made.folder / "backbone")
            (made.folder / "backbone" / "generation_config.json").unlink(missing_ok=True)
            (made.folder / "training.json").write_text(json.dumps(asdict(report), indent=1))
    shutil.rmtree(
        made.folder / "training", ignore_errors=True
    )  # once the stage is whole: its checkpoints are not needed
    run.say(f"universal: {_done(made)}, {config.backbone}, validation NDCG@10 {_best_score(made):.4f}")
    return made


def adapter_stage(run: Run, phase: Phase, catalog: Catalog, universal: Stage, domain: int) -> Stage:
    """Phase 2 of one domain; leaves ``adapter/``, a PEFT folder, and ``training.json``."""
    name = run.names[domain]
    inputs = {"upstream": universal.digest, "config": asdict(run.config.language_model.domain), "domain": name}
    with stage(run.work, f"adapter-{name}", inputs) as made:
        if not made.done:
            backbone = load_backbone(universal.folder / "backbone", run.device)
            validate = _validation(run, phase.vocabulary, catalog, run.validation_of(domain), f"adapter {name}")
            report = train_adapter(phase, backbone, domain, validate, made.folder / "training")
            shutil.rmtree(made.folder / "adapter", ignore_errors=True)
            shutil.move(made.folder / "training" / "adapter", made.folder / "adapter")
            (made.folder / "training.json").write_text(json.dumps(asdict(report), indent=1))
    shutil.rmtree(
        made.folder / "training", ignore_errors=True
    )  # once the stage is whole: its checkpoints are not needed
    run.say(f"adapter {name}: {_done(made)}, its own validation NDCG@10 {_best_score(made):.4f}")
    return made


def gamma_stage(
    run: Run, vocabulary: Vocabulary, catalog: Catalog, universal: Stage, adapters: Mapping[str, Stage]
) -> tuple[dict[str, float], Stage]:
    """The domain distribution's share in each domain; leaves ``gammas.json``, and the likelihoods it was chosen by."""
    with stage(run.work, "gammas", {"upstream": [made.digest for made in adapters.values()]}) as weighed:
        path = weighed.folder / "gammas.json"
        if not weighed.done:
            backbone = load_backbone(universal.folder / "backbone", run.device)
            folders = {name: made.folder / "adapter" for name, made in adapters.items()}
            model = LanguageModel(backbone, vocabulary, folders)
            recommender = run.recommender(model, catalog)
            gammas, likelihoods = {}, {}
            for domain, name in enumerate(run.names):
                if name not in adapters:  # nobody has a target there: no adapter could be trained
                    continue
                own = run.validation_of(domain)
                prompts = [recommender.prompt(query_of(target, run.dataset.domains)) for target in own]
                item_ids = run.dataset.domains[domain].item_ids
                leaves = [recommender.leaf(name, item_ids[target.item]) for target in own]
                gammas[name], likelihoods[name] = choose_gamma(model, recommender.tables, prompts, leaves, name)
            (weighed.folder / "likelihoods.json").write_text(json.dumps(likelihoods, indent=1))
            path.write_text(json.dumps(gammas))
        gammas = json.loads(path.read_text())
    run.say("gammas: " + ", ".join(f"{name} {gamma:.2f}" for name, gamma in gammas.items()))
    return gammas, weighed


def _validation(
    run: Run, vocabulary: Vocabulary, catalog: Catalog, asked: Sequence[Target], label: str
) -> Callable[[PreTrainedModel], float]:
    """NDCG@10 of a backbone's present weights on validation targets, by the search that will serve."""

    def score(backbone: PreTrainedModel) -> float:
        recommender = run.recommender(LanguageModel(backbone, vocabulary), catalog)
        ndcg = mean_ndcg(recommender, run.dataset.domains, asked, f"{label}: validation")
        run.say(f"{label}: validation NDCG@10 {ndcg:.4f}")
        return ndcg

    return score


def _done(made: Stage) -> str:
    return "kept" if made.done else "trained"


def _best_score(made: Stage) -> float:
    report = json.loads((made.folder / "training.json").read_text())
    return float(report["scores"][report["best_epoch"]])
