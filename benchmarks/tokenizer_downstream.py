"""``python -m benchmarks.tokenizer_downstream --data DIR --domains A,B [--unseen C] --out FILE.json``: SIDs compared.

The same small language model is trained for the same epochs on the SIDs of different tokenizers, and asked for the
same test targets: item-level NDCG@10 over the full ranking, beside the floors, also in a domain that the language
model never saw. Only the universal model is trained: no adapters. Every step is kept in ``--work`` and resumes.

Settings of a tokenizer are chosen by ``validation_ndcg_<variant>``: NDCG@10 of the language model's kept epoch on
validation targets, over seeds and trained domains. The test figures are for what was chosen, never to choose by.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.downstream_data import FLOORS, Domains, floor_ranks, read_world
from benchmarks.downstream_figures import cost_figures, domain_results, quality_figures, validation_figures
from benchmarks.downstream_runs import score_variant, tokenize_variant
from benchmarks.harness import Figure, report
from sidera.embedding import DEFAULT_ENCODER, EncoderSpec
from sidera.errors import SideraError
from training.errors import ConfigError, TrainingError
from training.model_config import LanguageModelConfig, OptimizerConfig
from training.tokenizers import read_config

_VARIANT_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_QUICK_EPOCHS = {"warm_up_epochs": 1, "epochs": 2, "domain_epochs": 1, "router_epochs": 1}

Variants = Mapping[str, Mapping[str, Any]]
"""The tokenizer settings of each variant, by its name."""


@dataclass(frozen=True)
class Plan:
    """What is compared, and how.

    Attributes:
        reference: the variant that the others are compared with.
        seeds: of the language model, each a training of its own.
        targets: test targets of a domain, 0: all.
        encoder: makes the item vectors.
        hide_text: the share of the items trained on whose vectors are made of their users' events instead of text.
    """

    roles: Domains
    variants: Variants
    reference: str
    language_model: LanguageModelConfig
    seeds: tuple[int, ...]
    targets: int
    encoder: EncoderSpec
    device: str
    hide_text: float = 0.0


def main(
    data: Annotated[Path, typer.Option(help="Holds one folder a domain.")],
    domains: Annotated[str, typer.Option(help="The language model learns from these, such as office14,beauty.")],
    out: Annotated[Path, typer.Option(help="Where the figures go, as JSON.")],
    unseen: Annotated[str, typer.Option(help="Domains that are only evaluated, as new ones.")] = "",
    fit_domains: Annotated[str, typer.Option(help="Tokenizers are fitted on these; empty: as --domains.")] = "",
    variants: Annotated[Path | None, typer.Option(help="JSON: tokenizer settings of each variant by name.")] = None,
    methods: Annotated[str, typer.Option(help="Some of the variants; without --variants: methods as they are.")] = "",
    reference: Annotated[str, typer.Option(help="The variant that the others are compared with.")] = "rqvae",
    epochs: Annotated[int, typer.Option(help="Of every language model.")] = 10,
    targets: Annotated[int, typer.Option(help="Test targets of each domain; 0: all.")] = 0,
    seeds: Annotated[str, typer.Option(help="Of the language model; scores are means over them.")] = "0",
    backbone: Annotated[str, typer.Option(help="scratch:tiny or scratch:small.")] = "scratch:tiny",
    max_history: Annotated[int, typer.Option(help="Items of a history that are read.")] = 30,
    batch_tokens: Annotated[int, typer.Option(help="Tokens of a training batch.")] = 2048,
    learning_rate: Annotated[float, typer.Option(help="Of the language model.")] = 0.003,
    beam_width: Annotated[int, typer.Option(help="Beams of validation and test.")] = 20,
    validation_targets: Annotated[int, typer.Option(help="Of each domain, to choose the best epoch by.")] = 500,
    encoder: Annotated[str, typer.Option(help="Makes the item vectors: a name or a folder.")] = DEFAULT_ENCODER,
    encoder_tokens: Annotated[int, typer.Option(help="Of an item's text that the encoder reads.")] = 256,
    hide_text: Annotated[float, typer.Option(min=0, max=1, help="Share of items taken for items without text.")] = 0.0,
    device: Annotated[str, typer.Option(help="Where the language model computes: cpu or cuda.")] = "cpu",
    work: Annotated[Path | None, typer.Option(help="Keeps every step; default: beside --out.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The same on nearly nothing: whether it runs.")] = False,
) -> None:
    """Compare tokenizers by what a language model makes of their SIDs."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        trained = listed_names(domains)
        language_model = LanguageModelConfig(
            universal=OptimizerConfig(
                epochs=1 if quick else epochs,
                learning_rate=learning_rate,
                batch_tokens=batch_tokens,
                patience=epochs,  # as many as there are: no variant stops early
            ),
            backbone=backbone,
            max_history=max_history,
            beam_width=beam_width,
            validation_targets=8 if quick else validation_targets,
        )
        chosen = read_variants(variants, listed_names(methods))
        plan = Plan(
            roles=Domains(trained, listed_names(unseen), listed_names(fit_domains) or trained),
            variants={name: _quick(settings) for name, settings in chosen.items()} if quick else chosen,
            reference=reference,
            language_model=language_model,
            seeds=_seeds(seeds),
            targets=20 if quick else targets,
            encoder=EncoderSpec(encoder, max_tokens=encoder_tokens),
            device=device,
            hide_text=hide_text,
        )
        compare(
            plan, data, work or out.with_name(out.name + ".work"), out, lambda told: console.print(told, markup=False)
        )
    except (SideraError, TrainingError) as error:
        console.print(f"error: {error}", style="bold red", markup=False)
        raise typer.Exit(1) from None


def compare(plan: Plan, data: Path, work: Path, out: Path, say: Callable[[str], None]) -> None:
    """Fit, train and rank what is not done yet, then write the figures.

    Args:
        work: the folder of all steps; runs with other plans may share it.
        say: told in a sentence what each step did.

    Raises:
        SideraError, TrainingError: what went wrong, where, and what to do.
    """
    if plan.reference not in plan.variants:
        raise ConfigError(f"--reference {plan.reference!r} is no variant; choose one of {', '.join(plan.variants)}")
    if plan.targets < 0:
        raise ConfigError(f"--targets is {plan.targets}; set 0 for all, or a number above it")
    if not plan.roles.trained:
        raise ConfigError("--domains is empty; name at least one domain to train on")
    world = read_world(data, plan.roles, plan.encoder, work / "vectors", plan.targets, hide_text=plan.hide_text)
    counts = ", ".join(f"{name} {len(part.targets)}" for name, part in world.parts.items())
    say(f"data: {len(world.data.domains)} domains; test targets: {counts}")
    floors = {name: floor_ranks(part, world.vectors[name], work) for name, part in world.parts.items()}

    facts: dict[str, dict[str, Any]] = {}
    ranks: dict[str, dict[str, list[Any]]] = {name: {} for name in world.parts}
    for variant, settings in plan.variants.items():
        tokenized = tokenize_variant(world, settings, work, labelled(say, variant))
        facts[variant] = {"tokenizer": tokenized.facts, "models": {}}
        for seed in plan.seeds:
            label = labelled(say, f"{variant}, seed {seed}")
            scored = score_variant(world, tokenized, settings, plan.language_model, seed, work, plan.device, label)
            facts[variant]["models"][str(seed)] = scored.facts
            for name, rank_T in scored.ranks.items():
                ranks[name].setdefault(variant, []).append(rank_T)

    results = {name: domain_results(ranks[name], floors[name], plan.reference) for name in world.parts}
    figures: dict[str, Figure] = validation_figures(facts)
    for name, found in results.items():
        figures |= quality_figures(name, found, plan.reference, len(world.parts[name].targets), _how(plan.roles, name))
    figures |= cost_figures(facts)
    context = {
        "settings": {
            "domains": asdict(plan.roles),
            "reference": plan.reference,
            "language_model": {key: value for key, value in asdict(plan.language_model).items() if key != "domain"},
            "seeds": plan.seeds,
            "encoder": asdict(plan.encoder),
            "hide_text": plan.hide_text,
            "targets": {name: len(part.targets) for name, part in world.parts.items()},
        },
        "variants": facts,
        "results": results,
    }
    report("Tokenizers, by the language model's recommendations", figures, out, context)


def read_variants(path: Path | None, names: tuple[str, ...] = ()) -> Variants:
    """The variants of a file, or those of these names; without a file, methods by their names.

    Raises:
        ConfigError: the file cannot be read, a variant is not in it, or settings are refused.
    """
    if path is None:
        if not names:
            raise ConfigError("nothing to compare; give --variants FILE.json or --methods rqvae,rqkmeans")
        every: Any = {name: {"method": name} for name in names}
    else:
        try:
            every = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: cannot be read ({error}); give a JSON object of variants") from error
        if not isinstance(every, dict) or not every or not all(isinstance(value, dict) for value in every.values()):
            raise ConfigError(
                f"{path}: is no JSON object of tokenizer settings by variant; see benchmarks/ablations.json"
            )
    for name in names:
        if name not in every:
            raise ConfigError(f"{path}: there is no variant {name!r}; choose among {', '.join(every)}")
    chosen: dict[str, Mapping[str, Any]] = {name: every[name] for name in names or every}
    for name, settings in chosen.items():
        if name in FLOORS:
            raise ConfigError(f"variant {name!r}: a floor has this name; rename it")
        if not _VARIANT_NAME.fullmatch(name):
            raise ConfigError(f"variant {name!r}: a name has lower-case letters, digits, '_' and '-' only; rename it")
        try:
            read_config(settings)
        except ConfigError as error:
            raise ConfigError(f"variant {name!r}: {error}") from error
    return chosen


def _quick(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with hardly any epochs, for methods that have some."""
    known = {field.name for field in dataclasses.fields(read_config(settings)[1])}
    return {**settings, **{name: value for name, value in _QUICK_EPOCHS.items() if name in known}}


def listed_names(listed: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in listed.split(",") if name.strip()))


def _seeds(listed: str) -> tuple[int, ...]:
    try:
        seeds = tuple(int(seed) for seed in listed_names(listed))
    except ValueError:
        seeds = ()
    if not seeds or min(seeds) < 0:
        raise ConfigError(f"--seeds is {listed!r}; set whole numbers from 0 on, such as 0,1,2")
    return seeds


def labelled(say: Callable[[str], None], label: str) -> Callable[[str], None]:
    return lambda told: say(f"[{label}] {told}")


def _how(roles: Domains, name: str) -> str:
    """What to say of the variants' answers in a domain."""
    if name not in roles.unseen:
        return ""
    return "zero-shot for the language model" + ("" if name in roles.fitted else " and the tokenizer")


if __name__ == "__main__":
    typer.run(main)
