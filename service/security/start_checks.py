"""What a service refuses to start with: misspelt variables, and being open to others outside development."""

import difflib
import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from service.errors import StartError
from service.settings import Settings

_PREFIX = "SIDERA_"
_LEAST_KEY_CHARACTERS = 16


def read_settings(flags: Mapping[str, Any], environment: Iterable[str]) -> Settings:
    """The settings of the environment and of a command's flags, which win.

    Args:
        flags: by the name of the setting; what was not given is left out.
        environment: the names of all environment variables.

    Raises:
        StartError: it names the flag or the variable, and what to do.
    """
    refuse_unknown_variables(environment)
    try:
        return Settings(**flags)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        name = str(problem["loc"][0]) if problem["loc"] else ""
        where = _flag(name) if name in flags else f"{_PREFIX}{name.upper()}: " if name else ""
        raise StartError(f"{where}{problem['msg'].removeprefix('Value error, ')}") from error


def _flag(name: str) -> str:
    return "BUNDLE: " if name == "bundle" else f"--{name.replace('_', '-')}: "


def refuse_unknown_variables(environment: Iterable[str]) -> None:
    """Refuse variables that begin like a setting and are none: most often a misspelt one.

    Raises:
        StartError: it names the variable, and the setting that is most like it.
    """
    known = {name.upper() for name in Settings.model_fields}
    for given in sorted(environment):
        name = given.upper().removeprefix(_PREFIX)
        if given.upper().startswith(_PREFIX) and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            meant = f"did you mean {_PREFIX}{near[0]}?" if near else "take it out of the environment"
            raise StartError(f"{given} is no setting of the service; {meant}")


def refuse_insecure(settings: Settings) -> None:
    """Refuse what lets strangers in, outside development.

    Raises:
        StartError: it says what is open, and what to set.
    """
    if settings.environment == "development":
        return
    if "*" in settings.cors_origins:
        raise StartError(
            "SIDERA_CORS_ORIGINS is '*', which lets every web page call; name the origins, "
            "or set SIDERA_ENVIRONMENT=development"
        )
    hosts = [settings.host] if settings.admin_port is None else [settings.host, settings.admin_host]
    reached = [host for host in hosts if not is_loopback(host)]
    if not reached:
        return
    if settings.api_keys_file is None and not settings.api_keys:
        raise StartError(
            f"the service would listen on {reached[0]} and let everybody in; set SIDERA_API_KEYS_FILE "
            "('sidera keys new NAME' makes a key), listen on 127.0.0.1, or set SIDERA_ENVIRONMENT=development"
        )
    if any(len(key.get_secret_value()) < _LEAST_KEY_CHARACTERS for key in settings.api_keys):
        raise StartError(
            f"SIDERA_API_KEYS holds a key of fewer than {_LEAST_KEY_CHARACTERS} characters, which can be guessed; "
            "'sidera keys new NAME' makes a long one"
        )


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
