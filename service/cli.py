"""The commands ``sidera serve`` and ``sidera openapi``."""

import gc
import json
import socket
from pathlib import Path
from typing import Annotated, Any

import typer
import uvicorn
from pydantic import ValidationError

from service.app import create_app
from service.description import as_yaml
from service.errors import StartError
from service.logs import server_log_config
from service.settings import Settings
from sidera.bundle import open_bundle

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

Bundle = Annotated[
    Path | None, typer.Argument(metavar="BUNDLE", help="The folder of the bundle [SIDERA_BUNDLE].", show_default=False)
]


@app.command()
def serve(
    bundle: Bundle = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on [SIDERA_HOST, else 127.0.0.1].")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on, 0 for a free one [SIDERA_PORT, else 8000].")
    ] = None,
    database: Annotated[
        str | None, typer.Option(help="SQLite file of registered items [SIDERA_DATABASE, else sidera-items.db].")
    ] = None,
) -> None:
    """Serve a bundle over HTTP. Every setting is an environment variable SIDERA_*; a flag wins over its variable."""
    flags = {"bundle": bundle, "host": host, "port": port, "database": database}
    settings = _settings({name: value for name, value in flags.items() if value is not None})
    domains = sorted(open_bundle(settings.bundle).manifest.domains)
    listener = _listen(settings)
    server = _server(settings, listener, domains[0])
    typer.echo(f"Loading {settings.bundle}, which takes some seconds ...")
    server.run(sockets=[listener])
    if server.failure is not None:
        raise StartError(server.failure)


@app.command()
def openapi(
    out: Annotated[Path | None, typer.Option(help="File to write; standard output if left out.")] = None,
) -> None:
    """Write the description of the HTTP interface as YAML."""
    text = openapi_yaml()
    if out is None:
        typer.echo(text, nl=False)
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise typer.BadParameter(
            f"{out} cannot be written: {error.strerror}; name a file in a folder that exists"
        ) from error
    typer.echo(f"wrote {out}")


def openapi_yaml() -> str:
    """The description of the HTTP interface; it does not depend on any setting."""
    return as_yaml(create_app(Settings(bundle=Path("bundle"))).openapi())


def _settings(flags: dict[str, Any]) -> Settings:
    try:
        return Settings(**flags)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(str(part) for part in problem["loc"])
        where = f"SIDERA_{name.upper()}: " if name else ""
        raise StartError(f"{where}{problem['msg']}") from error


def _listen(settings: Settings) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except OSError as error:
        raise StartError(
            f"cannot listen on {settings.host}:{settings.port} ({error.strerror}); choose another with --host or --port"
        ) from error
    # Connections inherit it: an answer leaves in two writes, and the second would wait 40 ms for the client's ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


class _Server(uvicorn.Server):
    """A server that ends when its app cannot start."""

    failure: str | None = None


def _server(settings: Settings, listener: socket.socket, domain: str) -> _Server:
    def on_outcome(failure: str | None) -> None:
        if failure is not None:
            server.failure = failure
            server.should_exit = True
            return
        # What was loaded stays for good; the collector need not look at it again in the middle of a request.
        gc.collect()
        gc.freeze()
        typer.echo(_greeting(listener, domain))

    config = uvicorn.Config(
        create_app(settings, on_outcome=on_outcome),
        log_config=server_log_config(settings.log_level),
        access_log=False,
        server_header=False,
        lifespan="on",
    )
    server = _Server(config)
    return server


def _greeting(listener: socket.socket, domain: str) -> str:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{'127.0.0.1' if host == '0.0.0.0' else shown}:{port}"  # noqa: S104
    body = json.dumps({"domain": domain, "num_results": 3})
    return (
        f"Sidera serves at {address}, described at {address}/docs. Try:\n"
        f"  curl -s {address}/recommend -H 'content-type: application/json' -d '{body}'"
    )
