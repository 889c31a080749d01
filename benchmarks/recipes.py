"""``python -m benchmarks.recipes --data DIR --domains A --variants FILE.json --out FILE.json``: recipes compared.

The same SIDs, the same sequences, other settings of the language model: what each is worth on validation targets, and
in which time. Only the universal model is trained. Every step is kept in ``--work`` and resumes; variants may be
trained by processes side by side that share ``--work``, and printed by one more run.

Settings are chosen by ``validation_ndcg_<variant>``; test targets are not looked at.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console

from benchmarks.downstream_data import Domains, World, read_world
from benchmarks.downstream_figures import cost_figures, validation_figures
from benchmarks.downstream_runs import Say, score_variant, tokenize_variant
from benchmarks.harness import report
from benchmarks.tokenizer_downstream import labelled, listed_names
from sidera.embedding import DEFAULT_ENCODER, EncoderSpec
from sidera.errors import SideraError
from training.errors import ConfigError, TrainingError
from training.model_config import LanguageModelConfig


def main(
    data: Annotated[Path, typer.Option(help="Holds one folder a domain.")],
    domains: Annotated[str, typer.Option(help="The language model learns from these, such as beauty.")],
    variants: Annotated[Path, typer.Option(help="JSON: settings of the language model by name.")],
    out: Annotated[Path, typer.Option(help="Where the figures go, as JSON.")],
    names: Annotated[str, typer.Option(help="Some of the variants.")] = "",
    fit_domains: Annotated[str, typer.Option(help="The tokenizer is fitted on these; empty: as --domains.")] = "",
    method: Annotated[str, typer.Option(help="Of the tokenizer.")] = "unitok",
    epochs: Annotated[int, typer.Option(help="Of variants that do not say.")] = 20,
    validation_targets: Annotated[int, typer.Option(help="Of each domain.")] = 2000,
    seed: Annotated[int, typer.Option(help="Of the language model.")] = 0,
    encoder: Annotated[str, typer.Option(help="Makes the item vectors: a name or a folder.")] = DEFAULT_ENCODER,
    encoder_tokens: Annotated[int, typer.Option(help="Of an item's text that the encoder reads.")] = 256,
    device: Annotated[str, typer.Option(help="Where the language model computes: cpu or cuda.")] = "cpu",
    work: Annotated[Path | None, typer.Option(help="Keeps every step; default: beside --out.")] = None,
) -> None:
    """Compare settings of the language model on the same SIDs."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    home = work or out.with_name(out.name + ".work")
    try:
        trained = listed_names(domains)
        recipes = read_recipes(variants, listed_names(names), epochs, validation_targets)
        roles = Domains(trained, (), listed_names(fit_domains) or trained)
        world = replace(
            read_world(data, roles, EncoderSpec(encoder, max_tokens=encoder_tokens), home / "vectors", 1), parts={}
        )
        facts = compare(
            world, {"method": method}, recipes, seed, home, device, lambda told: console.print(told, markup=False)
        )
        figures = validation_figures(facts) | cost_figures(facts)
        context = {"domains": trained, "fitted": roles.fitted, "method": method, "seed": seed, "variants": facts}
        report("Recipes of the language model, on validation targets", figures, out, context)
    except (SideraError, TrainingError) as error:
        console.print(f"error: {error}", style="bold red", markup=False)
        raise typer.Exit(1) from None


def compare(
    world: World,
    tokenizer: dict[str, Any],
    recipes: dict[str, LanguageModelConfig],
    seed: int,
    home: Path,
    device: str,
    say: Say,
) -> dict[str, dict[str, Any]]:
    """Train what is not trained yet; the facts of each recipe, as ``cost_figures`` wants them."""
    tokenized = tokenize_variant(world, tokenizer, home, say)
    facts = {}
    for name, recipe in recipes.items():
        scored = score_variant(world, tokenized, tokenizer, recipe, seed, home, device, labelled(say, name))
        facts[name] = {"tokenizer": tokenized.facts, "settings": _told(recipe), "models": {str(seed): scored.facts}}
    return facts


def read_recipes(path: Path, names: tuple[str, ...], epochs: int, targets: int) -> dict[str, LanguageModelConfig]:
    """The recipes of a file, or those of these names.

    Raises:
        ConfigError: the file cannot be read, a name is not in it, or settings are refused.
    """
    try:
        every = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give a JSON object of recipes") from error
    recipes = {}
    for name in names or every:
        if name not in every:
            raise ConfigError(f"{path}: there is no recipe {name!r}; choose among {', '.join(every)}")
        settings = {"validation_targets": targets, **every[name]}
        optimizer = {"epochs": epochs, "learning_rate": 0.003, "batch_tokens": 2048, **settings.get("universal", {})}
        optimizer.setdefault("patience", optimizer["epochs"])  # no recipe stops early
        try:
            document = json.dumps(settings | {"universal": optimizer})
            recipes[name] = TypeAdapter(LanguageModelConfig).validate_json(document)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise ConfigError(f"recipe {name!r}: {place}: {first['msg']}; look at its settings") from error
    return recipes


def _told(recipe: LanguageModelConfig) -> dict[str, Any]:
    return TypeAdapter(LanguageModelConfig).dump_python(recipe, mode="json")  # type: ignore[no-any-return]


if __name__ == "__main__":
    typer.run(main)
