"""The commands of `sidera` that make or score a bundle: ``data``, ``train``, ``add-domain``, ``evaluate``."""

import json as json_module
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sidera.terminal import print_error

if TYPE_CHECKING:
    from sidera.manifest import Manifest
    from training.config import TrainConfig

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
data_app = typer.Typer(no_args_is_help=True, help="Get the demo data; check your own.")
app.add_typer(data_app, name="data")

_RANKERS = ("sidera", "popularity", "bigram", "content-kNN")
_FIGURES = ("recall@5", "recall@10", "ndcg@5", "ndcg@10", "coverage@10")


def _console() -> Console:
    return Console(soft_wrap=True, highlight=False)


@data_app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where the domains go.")] = Path(".cache/demo/data"),
) -> None:
    """Get MovieLens-100K and lay it out as a folder a domain, with one domain held out beside them."""
    from training.demo import prepare_demo_data

    made = prepare_demo_data(out, out.parent / "downloads")
    table = Table("domain", "users", "items", "events", title="Demo data" + (" (kept)" if made.reused else ""))
    for name, domain in made.domains.items():
        table.add_row(name, *(f"{count:,}" for count in (domain.users, domain.items, domain.events)))
    console = _console()
    console.print(table)
    console.print(f"To train on: {made.folder}. Held out as a new domain: {made.new_folder}.", markup=False)
    console.print(f"Left out: {made.left_out_items} films without a known genre, {made.left_out_events} events.")


@data_app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="Holds one folder a domain.")],
    domains: Annotated[str | None, typer.Option(help="Only these, as A,B.")] = None,
    min_interactions: Annotated[int, typer.Option(min=0, help="Say what this limit would drop.")] = 0,
    limit: Annotated[int, typer.Option(min=1, help="Name at most so many bad rows of a file.")] = 20,
) -> None:
    """Check every row of a data folder and name the bad ones by file, line and reason."""
    from training.data_check import check_folder

    report = check_folder(folder, _names(domains), min_interactions, limit)
    console = _console()
    columns = ("users", "items", "events", "repeated\nevents", "positions\nfor times", "rows\nrefused")
    table = Table("domain", *columns, title=Text(str(folder)), box=SIMPLE_HEAD, pad_edge=False)
    for domain in report.domains:
        counts = (domain.users, domain.items, domain.events, domain.repeated_events, domain.position_events)
        table.add_row(domain.name, *(f"{count:,}" for count in (*counts, domain.refused_rows)))
    console.print(table)
    if min_interactions:
        for domain in report.domains:
            dropped = f"{domain.dropped_users:,} users with {domain.dropped_events:,} events"
            console.print(
                f"--min-interactions {min_interactions} would drop from {domain.name}: {dropped}.", markup=False
            )
    for domain in report.domains:
        if domain.items_without_text:
            console.print(
                f"{domain.name}: {domain.items_without_text:,} items have no text; training makes their vectors from "
                "the train part's events, and refuses those that have none there.",
                markup=False,
            )
    for domain in report.domains:
        for line in domain.refused:
            console.print(line, markup=False)
    if report.refused_rows:
        console.print(f"{report.refused_rows:,} rows are refused; mend them, or training stops at the first one.")
        raise typer.Exit(1)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="A YAML file such as configs/demo.yaml.")],
    data: Annotated[Path | None, typer.Option(help="Holds one folder a domain; instead of the config's.")] = None,
    domains: Annotated[str | None, typer.Option(help="Only these, as A,B; instead of the config's.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where the bundle goes; instead of the config's.")] = None,
    ray_workers: Annotated[int, typer.Option(min=0, help="Train with so many workers of Ray; 0: without.")] = 0,
    ray_address: Annotated[str | None, typer.Option(help="Of a Ray cluster; without: one on this machine.")] = None,
) -> None:
    """Train everything, evaluate it and write a bundle; stages that are done are kept."""
    from training.config import load_config
    from training.pipeline import train as run_pipeline
    from training.processes import is_first

    overrides = {"data": data and str(data), "domains": _names(domains), "out": out and str(out)}
    settings = load_config(config, overrides)
    console = _console()

    def say(sentence: str) -> None:
        console.print(sentence, markup=False)

    manifest = _with_ray(settings, ray_workers, ray_address, say) if ray_workers else run_pipeline(settings, say)
    if is_first():
        _print_report(console, dict(manifest.metrics))


@app.command("add-domain")
def add_domain(
    bundle: Annotated[Path, typer.Argument(help="The bundle that the domain joins; it stays as it is.")],
    data: Annotated[Path, typer.Option(help="Holds the domain's folder; known domains beside it give histories.")],
    domain: Annotated[str, typer.Option(help="The new domain's name, and that of its folder.")],
    out: Annotated[Path, typer.Option(help="Where the new bundle goes.")],
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where the models compute.")] = "auto",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 for all cores.")] = 0,
) -> None:
    """Train the adapter of one more domain and its token's row, and write a bundle that has it."""
    from training.add_domain import add_domain as run_addition
    from training.processes import is_first

    console = _console()
    added = run_addition(bundle, data, domain, out, lambda said: console.print(said, markup=False), device, threads)
    if is_first():
        _print_report(console, added.report)


@app.command()
def evaluate(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder.")],
    data: Annotated[Path, typer.Option(help="Holds one folder a domain.")],
    domains: Annotated[str | None, typer.Option(help="Only these, as A,B; without: those that it holds.")] = None,
    new: Annotated[bool, typer.Option("--new", help="Give domains and items that it lacks SIDs first.")] = False,
    targets: Annotated[int, typer.Option(min=0, help="Test targets of a domain, drawn alike each time; 0: all.")] = 0,
    slices: Annotated[bool, typer.Option("--slices", help="Show cold users, short and long histories too.")] = False,
    experts: Annotated[bool, typer.Option("--experts", help="Show what every expert and pair gives.")] = False,
    forget: Annotated[Path | None, typer.Option(dir_okay=False, help="Users whose events do not count.")] = None,
    json: Annotated[Path | None, typer.Option(dir_okay=False, help="Write the report here too.")] = None,
) -> None:
    """Score a bundle on the test events of a data folder, at item level, beside the floors."""
    from training.bundle_evaluation import evaluate_bundle

    if json is not None:
        json.parent.mkdir(parents=True, exist_ok=True)
    evaluated = evaluate_bundle(bundle, data, "auto", _names(domains), new, targets, experts, forget)
    console = _console()
    _print_report(console, evaluated.report)
    if slices:
        _print_slices(console, evaluated.report)
    if experts:
        _print_experts(console, evaluated.report)
    for note in evaluated.notes:
        console.print(f"Note: {note}", markup=False)
    if json is not None:
        json.write_text(json_module.dumps(evaluated.report, indent=1))
        console.print(f"Written to {json}.", markup=False)


def _with_ray(settings: "TrainConfig", workers: int, address: str | None, say: Callable[[str], None]) -> "Manifest":
    from training.ray_train import train_with_ray

    try:
        return train_with_ray(settings, workers, say, address)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "ray":
            raise
        print_error("sidera train --ray-workers needs the package 'ray'; install the extra: pip install 'sidera[ray]'")
        raise typer.Exit(1) from error


def _names(domains: str | None) -> tuple[str, ...] | None:
    if domains is None:
        return None
    names = tuple(name.strip() for name in domains.split(",") if name.strip())
    if not names:
        raise typer.BadParameter("name at least one domain, or leave --domains out")
    return names


def _print_report(console: Console, report: dict[str, Any]) -> None:
    """Two tables that fit a terminal of 80 columns: the figures, and what the differences are worth."""
    figures = Table(title=f"Item level, full ranking, {report['part']} part", box=SIMPLE_HEAD, pad_edge=False)
    differences = Table(title="NDCG@10 of sidera, and minus the others'", box=SIMPLE_HEAD, pad_edge=False)
    figures.add_column("domain\n(targets)", overflow="fold")
    figures.add_column("ranker", no_wrap=True)
    for figure in _FIGURES:
        figures.add_column(figure.replace("@", "\n@"), justify="right", no_wrap=True)
    differences.add_column("domain", overflow="fold")
    differences.add_column("ranker", no_wrap=True)
    for column in ("NDCG@10", "95 % interval", "p"):
        differences.add_column(column, justify="right", no_wrap=True)
    for name, part in [*report["domains"].items(), ("pooled", report["pooled"])]:
        for ranker in _RANKERS:
            first, last = ranker == _RANKERS[0], ranker == _RANKERS[-1]
            own = part["rankers"][ranker]
            shown = (f"{own[figure]:.4f}" if figure in own else "" for figure in _FIGURES)
            figures.add_row(f"{name} ({part['targets']:,})" if first else "", ranker, *shown, end_section=last)
            row = _difference(part["differences"][ranker]) if ranker in part["differences"] else _own(own)
            differences.add_row(name if first else "", f"{'' if first else '- '}{ranker}", *row, end_section=last)
    console.print(figures)
    console.print(differences)
    for name, part in report["domains"].items():
        repeated = f"{part['repeated']} targets repeat an item of the history and count as misses"
        console.print(f"{name}: {part['exact']:.1%} of the answers certified exact; {repeated}.", markup=False)


def _print_slices(console: Console, report: dict[str, Any]) -> None:
    """Who is recommended to how well, in a table that fits a terminal of 80 columns."""
    from training.slices import MEANING

    table = Table(title="Slices: NDCG@10 of sidera, and the best floor's", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("domain", overflow="fold")
    table.add_column("slice", no_wrap=True)
    for column in ("targets", "Recall\n@10", "NDCG\n@10", "95 % interval", "best floor"):
        table.add_column(column, justify="right", no_wrap=True)
    for domain, part in report["domains"].items():
        for place, (name, own) in enumerate(part["slices"].items()):
            best = max(floor["ndcg@10"] for floor in own["floors"].values())
            low, high = own["ndcg@10_interval"]
            figures = (f"{own['targets']:,}", f"{own['recall@10']:.4f}", f"{own['ndcg@10']:.4f}")
            last = place == len(part["slices"]) - 1
            row = (domain if not place else "", name, *figures, f"{low:.4f} .. {high:.4f}", f"{best:.4f}")
            table.add_row(*row, end_section=last)
    console.print(table)
    console.print("; ".join(f"{name}: {words}" for name, words in MEANING.items()) + ".", markup=False)


def _print_experts(console: Console, report: dict[str, Any]) -> None:
    """What each part of the mixture is worth, in a table that fits a terminal of 80 columns."""
    table = Table(title="Experts of the mixture: NDCG@10", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("domain", overflow="fold")
    table.add_column("experts", overflow="fold")
    for column in ("Recall\n@10", "NDCG\n@10", "95 % interval", "rare\nitems"):
        table.add_column(column, justify="right", no_wrap=True)
    for domain, part in report["domains"].items():
        for place, (name, own) in enumerate(part["experts"].items()):
            low, high = own["ndcg@10_interval"]
            rare = own["slices"].get("rare")
            figures = (f"{own['recall@10']:.4f}", f"{own['ndcg@10']:.4f}", f"{low:.4f} .. {high:.4f}")
            last = place == len(part["experts"]) - 1
            table.add_row(
                domain if not place else "", name, *figures, "" if rare is None else f"{rare:.4f}", end_section=last
            )
    console.print(table)


def _own(figures: dict[str, Any]) -> tuple[str, str, str]:
    interval = figures.get("ndcg@10_interval")
    return f"{figures['ndcg@10']:.4f}", f"{interval[0]:.4f} .. {interval[1]:.4f}" if interval else "", ""


def _difference(difference: dict[str, float]) -> tuple[str, str, str]:
    interval = f"{difference['low']:+.4f} .. {difference['high']:+.4f}"
    return f"{difference['mean']:+.4f}", interval, f"{difference['p_value']:.3f}"
