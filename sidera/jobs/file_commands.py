"""The commands of ``sidera`` that work through a file: ``batch`` and ``embed``, on one machine or through Ray Data."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from sidera.terminal import print_error, printable

BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE", help="The folder of the bundle.", show_default=False)]


def batch(
    path: BundlePath,
    histories: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            dir_okay=False,
            show_default=False,
            help="Parquet: a row a user (user_id, history: list of domain and item_id, oldest first), or a row an "
            "event (user_id, domain, item_id, timestamp).",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            dir_okay=False,
            show_default=False,
            help="Parquet, a row a user and domain: user_id, domain, item_ids, scores.",
        ),
    ],
    domain: Annotated[str | None, typer.Option(help="Recommend from this one; without: from every domain.")] = None,
    k: Annotated[int, typer.Option(min=1, help="Items of each answer.")] = 10,
    exclude_seen: Annotated[bool, typer.Option(help="Leave the history's items out of the answers.")] = True,
    beam_width: Annotated[int | None, typer.Option(min=1, help="Instead of the bundle's.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Queries decoded together; changes no answer.")] = 32,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    ray: Annotated[bool, typer.Option("--ray", help="Through Ray Data; needs the extra 'ray'.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes of --ray.")] = 2,
    ray_address: Annotated[str | None, typer.Option(help="Of a Ray cluster; without: one on this machine.")] = None,
) -> None:
    """Recommend for all users of a file; a second start goes on where the first stopped."""
    from sidera.jobs.batch import recommend_for_file, sentences
    from sidera.jobs.batch_part import BatchConfig

    answerer = None
    if ray:
        with _needing_ray("sidera batch --ray"):
            from sidera.jobs.ray_batch import ray_answerer

            answerer = ray_answerer(workers, ray_address)
    config = BatchConfig(() if domain is None else (domain,), k, exclude_seen, beam_width, batch_size, device)
    for told in sentences(recommend_for_file(path, histories, out, config, answerer), out):
        Console(soft_wrap=True).print(Text(printable(told)))


def embed(
    path: BundlePath,
    items: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            dir_okay=False,
            show_default=False,
            help="Parquet, a row an item: item_id, and its fields (title, brand, categories, description, others).",
        ),
    ],
    domain: Annotated[str, typer.Option(help="The items' domain; the bundle may hold it or not.", show_default=False)],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE", dir_okay=False, show_default=False, help="Parquet, a row an item: item_id, vector, sid."
        ),
    ],
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    ray: Annotated[bool, typer.Option("--ray", help="Through Ray Data; needs the extra 'ray'.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes of --ray.")] = 2,
    ray_address: Annotated[str | None, typer.Option(help="Of a Ray cluster; without: one on this machine.")] = None,
) -> None:
    """Make vectors and SIDs of all items of a file; a second start goes on where the first stopped."""
    from sidera.jobs.item_batch import EmbedConfig, embed_file, sentence

    embedder = None
    if ray:
        with _needing_ray("sidera embed --ray"):
            from sidera.jobs.ray_batch import ray_embedder

            embedder = ray_embedder(workers, ray_address)
    told = sentence(embed_file(path, items, out, EmbedConfig(domain, device), embedder), out)
    Console(soft_wrap=True).print(Text(printable(told)))


@contextmanager
def _needing_ray(command: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "ray":
            raise
        print_error(f"{command} needs the package 'ray'; install the extra: pip install 'sidera[ray]'")
        raise typer.Exit(1) from error
