"""The one command ``sidera``: it knows the names of all commands, and who owns each.

Commands of training, service and client are passed on, arguments untouched, to ``training.cli.app`` and its
like, which are imported only then: help is quick, and a base installation can read
a bundle. Errors that a package raises on purpose are printed as one sentence; all others keep
their traceback.
"""

import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sidera import __version__
from sidera.bundle import open_bundle, verify_bundle
from sidera.errors import SideraError
from sidera.jobs import file_commands
from sidera.manifest import Manifest
from sidera.terminal import print_error, printable


@dataclass(frozen=True)
class Owner:
    """A package that brings commands: its extra, its error tree, and the modules that the extra installs."""

    package: str
    extra: str
    error: str
    modules: frozenset[str]


TRAINING = Owner(
    "training",
    "train",
    "TrainingError",
    frozenset(
        {
            "accelerate",
            "implicit",
            "k_means_constrained",
            "matplotlib",
            "peft",
            "pydantic",
            "sklearn",
            "tensorboard",
            "threadpoolctl",
            "yaml",
        }
    ),
)
SERVICE = Owner(
    "service",
    "service",
    "ServiceError",
    frozenset(
        {
            "alembic",
            "fastapi",
            "httptools",
            "prometheus_client",
            "pydantic",
            "pydantic_settings",
            "sqlalchemy",
            "starlette",
            "structlog",
            "uvicorn",
            "yaml",
        }
    ),
)
CLIENT = Owner("sidera_client", "client", "ClientError", frozenset({"httpx", "pydantic"}))
PASSED_ON: dict[str, tuple[Owner, str]] = {
    "data": (TRAINING, "Get the demo data, or check your own."),
    "train": (TRAINING, "Train from a config file and write a bundle."),
    "add-domain": (TRAINING, "Train one more domain's adapter, and write a bundle that has it."),
    "evaluate": (TRAINING, "Score a bundle on held-out interactions, beside simple floors."),
    "serve": (SERVICE, "Serve a bundle over HTTP."),
    "fold": (SERVICE, "Write the live items of a service into a new bundle."),
    "openapi": (SERVICE, "Print the description of the HTTP interface."),
    "keys": (SERVICE, "Make an API key."),
    "bench": (CLIENT, "Load a running service; print throughput and latencies."),
}

app = typer.Typer(
    help="Sidera recommends the next item across many domains.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
bundle_app = typer.Typer(
    help="Show what a bundle holds, verify every byte of it, or export its language model.", no_args_is_help=True
)
tokenizer_app = typer.Typer(help="Say in words what the codes of an item mean.", no_args_is_help=True)

BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE", help="The folder of the bundle.", show_default=False)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line (``sys.argv`` by default) and exit with its code."""
    try:
        app(args=arguments, prog_name="sidera")
    except Exception as error:
        if not isinstance(error, (SideraError, *_loaded_error_roots())):
            raise
        print_error(str(error))
        sys.exit(1)


def _loaded_error_roots() -> list[type[Exception]]:
    """Return the roots of the error trees of the packages that are imported: only they can have raised."""
    errors = [(sys.modules.get(f"{owner.package}.errors"), owner.error) for owner in (TRAINING, SERVICE, CLIENT)]
    return [getattr(module, root) for module, root in errors if module is not None]


def _passed_on_to(owner: Owner, name: str) -> Callable[[typer.Context], None]:
    def run(context: typer.Context) -> None:
        try:
            owned: typer.Typer = importlib.import_module(f"{owner.package}.cli").app
            owned(args=[name, *context.args], prog_name="sidera")
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in owner.modules:
                raise
            print_error(
                f"sidera {name} needs the package {error.name!r}; install the extra '{owner.extra}': "
                f"pip install 'sidera[{owner.extra}]'"
            )
            raise typer.Exit(1) from error

    return run


def _add_commands() -> None:
    untouched = {"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False}
    for name, (owner, line) in PASSED_ON.items():
        app.command(name, help=line, add_help_option=False, context_settings=untouched)(_passed_on_to(owner, name))
    app.command("batch")(file_commands.batch)
    app.command("embed")(file_commands.embed)
    app.add_typer(bundle_app, name="bundle")
    app.add_typer(tokenizer_app, name="tokenizer")


@app.callback(invoke_without_command=True)
def _global_options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


@bundle_app.command("show")
def show(path: BundlePath) -> None:
    """Print what a bundle is, what it was made from, and what it holds."""
    bundle = open_bundle(path)
    console = Console(soft_wrap=True)
    for table in _tables(bundle.manifest):
        console.print(table)


@bundle_app.command("verify")
def verify(path: BundlePath) -> None:
    """Read every byte of a bundle; exit with 1 and list what is wrong with it."""
    with Console(stderr=True).status("Reading every file of the bundle"):
        problems = verify_bundle(path)
    if problems:
        for problem in problems:
            print_error(problem)
        raise typer.Exit(1)
    manifest = open_bundle(path).manifest
    total = sum(entry.bytes for entry in manifest.files.values())
    typer.echo(f"{path} is whole: {len(manifest.files)} files, {_size(total)}, version {manifest.bundle_version[:12]}")


@bundle_app.command("export")
def export(
    path: BundlePath,
    out: Annotated[Path, typer.Option(metavar="DIR", help="A folder that is not there yet.", show_default=False)],
) -> None:
    """Write the language model for stock transformers, and the adapters of the domains for stock peft over it."""
    from sidera.export import export_bundle

    names = export_bundle(path, out)
    typer.echo(f"{out} holds {', '.join(names)}")


@tokenizer_app.command("explain")
def explain(
    item: Annotated[str, typer.Argument(metavar="ITEM", help="Its item_id.", show_default=False)],
    bundle: Annotated[Path, typer.Option(metavar="BUNDLE", help="The folder of the bundle.", show_default=False)],
    domain: Annotated[str | None, typer.Option(help="Whose item, where several domains have the id.")] = None,
) -> None:
    """Print an item's semantic ID, and what the items that share its codes have in common."""
    from sidera.explain.explanation import explain_item

    explained = explain_item(open_bundle(bundle), item, domain)
    title = "" if explained.title is None else f": {explained.title}"
    sid = " ".join(map(str, explained.sid))
    table = Table("codes", "items", "words that stand out", "others, for instance", box=SIMPLE_HEAD, pad_edge=False)
    for prefix in explained.prefixes:
        words = ", ".join(prefix.words) or "none"
        others = "; ".join(prefix.examples) if prefix.examples else "none: this item alone"
        row = (" ".join(map(str, prefix.codes)), f"{prefix.items:,}", words, others)
        table.add_row(*(Text(printable(cell)) for cell in row))
    console = Console(soft_wrap=True)
    console.print(Text(printable(f"{explained.domain} {explained.item_id}{title}")))
    console.print(Text(f"SID {sid}, one of {explained.domain_items:,} items of {explained.domain}"))
    console.print(table)


def _tables(manifest: Manifest) -> list[Table]:
    about = Table("bundle", manifest.bundle_version, title_justify="left")
    about.add_row("created", manifest.created)
    about.add_row("schema version", str(manifest.schema_version))
    about.add_row("codebook sizes", " x ".join(map(str, manifest.codebook_sizes)))
    for title, mapping in (("lineage", manifest.lineage), ("metrics", manifest.metrics), ("config", manifest.config)):
        for key, value in _flat(mapping):
            about.add_row(Text(f"{title} {key}"), Text(value))

    domains = Table("domain", "token", "adapter")
    for name, domain in sorted(manifest.domains.items()):
        domains.add_row(name, str(domain.token), domain.adapter or "none")

    files = Table("file", "size", "sha256")
    for name, entry in sorted(manifest.files.items()):
        files.add_row(name, _size(entry.bytes), entry.sha256[:12])
    return [about, domains, files]


def _flat(mapping: object, prefix: str = "") -> list[tuple[str, str]]:
    """Return the leaves of nested mappings with dotted names."""
    if not isinstance(mapping, dict):
        return [(prefix, f"{mapping:.4f}" if isinstance(mapping, float) else str(mapping))]
    return [leaf for key, value in mapping.items() for leaf in _flat(value, f"{prefix}.{key}" if prefix else str(key))]


def _size(count: int) -> str:
    """Return a number of bytes as a person reads it."""
    size, units = float(count), ["bytes", "KiB", "MiB", "GiB"]
    while size >= 1024 and len(units) > 1:
        size /= 1024
        units.pop(0)
    return f"{count} bytes" if units[0] == "bytes" else f"{size:.1f} {units[0]}"


_add_commands()
