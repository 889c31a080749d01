"""The command ``sidera bench``."""

import asyncio
import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from sidera_client.errors import ClientError
from sidera_client.load import Load, Loader, Shot, repeated
from sidera_client.load_bodies import drawn_bodies, read_bodies
from sidera_client.load_report import Report, print_report, report_of
from sidera_client.synchronous import Client
from sidera_client.wire import Target

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def _commands() -> None:
    """One command is called by its name, too."""


@app.command()
def bench(
    url: Annotated[str, typer.Argument(metavar="URL", help="Where the service is: http://127.0.0.1:8000.")],
    clients: Annotated[
        int, typer.Option(min=1, help="Closed loop: so many clients, each asks again when it is answered.")
    ] = 8,
    rate: Annotated[
        float | None,
        typer.Option(
            min=0.001, help="Open loop instead: so many requests a second at random times.", show_default=False
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, max=3600, help="How long to load it.")] = 10.0,
    warm_up: Annotated[float, typer.Option(min=0, max=600, help="Seconds before that which do not count.")] = 2.0,
    histories: Annotated[
        Path | None,
        typer.Option(help="Bodies of /recommend: .jsonl, .json or .parquet; made up if left out.", show_default=False),
    ] = None,
    history: Annotated[int, typer.Option(min=0, help="Items of a made-up history.")] = 20,
    num_results: Annotated[
        int | None, typer.Option(min=1, help="Items to ask for [10, or what the file says].")
    ] = None,
    domain: Annotated[list[str] | None, typer.Option(help="Domains of made-up histories [all].")] = None,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds after which a request is given up.")] = 30.0,
    out: Annotated[Path | None, typer.Option("--json", help="File for the figures.", show_default=False)] = None,
) -> None:
    """Load a running service; print throughput and latencies. The key, if it needs one, is in BENCH_API_KEY."""
    key = os.environ.get("BENCH_API_KEY") or None
    try:
        target = Target.of(url, key)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="URL") from error
    if histories is None:
        with Client(url, api_key=key, timeout=timeout) as client:
            bodies = drawn_bodies(client, history, count=256, num_results=num_results or 10, domains=domain or ())
    else:
        bodies = read_bodies(histories, num_results)
    shots = [Shot(target.request("POST", "/recommend", _bytes(body))) for body in bodies]
    report = report_of(asyncio.run(_load(Loader(target, timeout), shots, clients, rate, seconds, warm_up)))
    how = f"{clients} clients" if rate is None else f"{rate:g} requests a second"
    print_report(report, Console(), f"{url}, {how}")
    if out is not None:
        _write(out, report, url, how)
    if report.succeeded is None:
        raise ClientError("no request succeeded; the table says what came instead")


async def _load(
    loader: Loader, shots: list[Shot], clients: int, rate: float | None, seconds: float, warm_up: float
) -> Load:
    asked = repeated(shots)
    try:
        if warm_up:
            await _once(loader, asked, clients, rate, warm_up)
        return await _once(loader, asked, clients, rate, seconds)
    finally:
        loader.close()


async def _once(loader: Loader, asked: Any, clients: int, rate: float | None, seconds: float) -> Load:
    if rate is None:
        return await loader.closed(asked, clients, seconds)
    return await loader.open(asked, rate, seconds)


def _bytes(body: dict[str, Any]) -> bytes:
    try:
        return json.dumps(body, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise ClientError(f"a request is no JSON ({error}); its columns are fields of /recommend") from error


def _write(out: Path, report: Report, url: str, how: str) -> None:
    try:
        out.write_text(json.dumps({"url": url, "load": how} | report.as_json(), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise ClientError(f"{out} cannot be written: {error.strerror}; name a file in a folder that exists") from error
    Console().print(f"Written to {out}.", markup=False, soft_wrap=True)
