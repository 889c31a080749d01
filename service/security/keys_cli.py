"""The command ``sidera keys new``."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from service.security.keys import file_entry, new_key
from service.security.scopes import SCOPES, Scope

keys_app = typer.Typer(help="Make API keys.", no_args_is_help=True)


@keys_app.callback()
def _group() -> None:
    """Make API keys."""


@keys_app.command("new")
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of who will use the key; it is logged.")],
    scopes: Annotated[str, typer.Option(help=f"What the key may do: some of {','.join(SCOPES)}.")] = "recommend",
    expires: Annotated[
        datetime | None, typer.Option(help="The first day (UTC) on which it is not let in any more.")
    ] = None,
) -> None:
    """Print a new random key, which is shown this once, and the line for the file of keys, which holds its digest."""
    if not name or len(name) > 64 or not all(c.isascii() and (c.isalnum() or c in "._-") for c in name):
        raise typer.BadParameter("use 1 to 64 letters, digits, '.', '_' and '-'", param_hint="NAME")
    key = new_key()
    if expires is not None:
        expires = expires.replace(tzinfo=UTC)
    entry = file_entry(name, key, _scopes(scopes), expires)
    typer.echo(f"The key, which is shown this once:\n  {key}\nThe line for the file that SIDERA_API_KEYS_FILE names:")
    typer.echo(f"- {entry}")


def _scopes(text: str) -> set[Scope]:
    wanted = {part.strip() for part in text.split(",") if part.strip()}
    chosen: set[Scope] = {scope for scope in SCOPES if scope in wanted}
    if not chosen or wanted - chosen:
        raise typer.BadParameter(f"{text!r} is not some of {','.join(SCOPES)}", param_hint="--scopes")
    return chosen
