"""The commands ``sidera serve``, ``sidera fold``, ``sidera openapi`` and ``sidera keys``."""

import os
from pathlib import Path
from typing import Annotated

import typer

from service.app import create_admin_app, create_app
from service.bundles.folder import BundleFolder
from service.catalog.offline import fold_offline
from service.description import as_yaml
from service.errors import StartError
from service.heap import share_one_heap
from service.logs import make_logger
from service.runtime import open_store
from service.security.keys_cli import keys_app
from service.security.start_checks import read_settings, refuse_insecure
from service.serving import Serving, listen
from service.settings import Settings
from sidera.bundle import open_bundle

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(keys_app, name="keys")

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
    bundle_store: Annotated[
        Path | None,
        typer.Option(help="Folder of bundles, instead of BUNDLE [SIDERA_BUNDLE_STORE].", show_default=False),
    ] = None,
    admin_port: Annotated[
        int | None, typer.Option(help="Port of the admin routes [SIDERA_ADMIN_PORT, else there are none].")
    ] = None,
    database: Annotated[
        str | None, typer.Option(help="File or URL of registered items [SIDERA_DATABASE, else sidera-items.db].")
    ] = None,
) -> None:
    """Serve a bundle over HTTP. Every setting is an environment variable SIDERA_*; a flag wins over its variable."""
    flags = {
        "bundle": bundle,
        "bundle_store": bundle_store,
        "host": host,
        "port": port,
        "admin_port": admin_port,
        "database": database,
    }
    settings = read_settings({name: value for name, value in flags.items() if value is not None}, os.environ)
    refuse_insecure(settings)
    share_one_heap()
    source = _checked_source(settings)
    listener = listen(settings.host, settings.port, "--host or --port")
    admin_listener = None
    if settings.admin_port is not None:
        admin_listener = listen(settings.admin_host, settings.admin_port, "SIDERA_ADMIN_HOST or --admin-port")
    serving = Serving(settings, listener, admin_listener)
    typer.echo(f"Loading {source}, which takes some seconds ...")
    serving.run()
    if serving.failure is not None:
        raise StartError(serving.failure)


@app.command()
def fold(
    bundle_store: Annotated[
        Path | None, typer.Option(help="Folder of bundles [SIDERA_BUNDLE_STORE].", show_default=False)
    ] = None,
    database: Annotated[
        str | None, typer.Option(help="File or URL of registered items [SIDERA_DATABASE, else sidera-items.db].")
    ] = None,
    least: Annotated[int, typer.Option(min=1, help="Write nothing for fewer changes of items than this.")] = 1,
    keep: Annotated[
        int, typer.Option(min=0, help="Delete older folded versions than the newest so many; 0: none.")
    ] = 0,
) -> None:
    """Write the bundle that serves, with all items that were registered, changed and deleted, as a new version."""
    flags = {"bundle_store": bundle_store, "database": database}
    settings = read_settings({name: value for name, value in flags.items() if value is not None}, os.environ)
    store = open_store(settings)
    try:
        fold_offline(settings, store, make_logger(settings.log_level), least, typer.echo, keep)
    finally:
        store.close()


@app.command()
def openapi(
    out: Annotated[Path | None, typer.Option(help="File to write; standard output if left out.")] = None,
    admin: Annotated[bool, typer.Option("--admin", help="Describe the admin port instead.")] = False,
) -> None:
    """Write the description of the HTTP interface as YAML."""
    text = openapi_yaml(admin=admin)
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


def openapi_yaml(*, admin: bool = False) -> str:
    """The description of the HTTP interface, or of that of the admin port; it does not depend on any setting."""
    public = create_app(Settings(bundle=Path("bundle")))
    return as_yaml((create_admin_app(public) if admin else public).openapi())


def _checked_source(settings: Settings) -> Path:
    """Where bundles come from; what is plainly none is refused before a port is taken."""
    if settings.bundle is not None:
        open_bundle(settings.bundle)
        return settings.bundle
    assert settings.bundle_store is not None  # the settings see to it
    BundleFolder(settings.bundle_store).versions()
    return settings.bundle_store
