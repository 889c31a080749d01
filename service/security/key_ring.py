"""The keys that are let in now: those of the settings, and a file that is read again whenever it changes.

So a key is rotated without a restart: add the new one, let callers change over, take the old one out.
"""

import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from datetime import time as time_of_day
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError
from structlog.typing import FilteringBoundLogger

from service.errors import StartError
from service.metrics import Metrics
from service.security.keys import PLAIN_SCOPES, ApiKey, digest, find
from service.security.scopes import EVERYBODY, Caller, Scope
from service.settings import Settings

_LOOK_AGAIN_SECONDS = 1.0
_STAMP = tuple[int, int, int]


class _Entry(BaseModel):
    """A key in the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    scopes: Annotated[list[Scope], Field(min_length=1)]
    expires: AwareDatetime | date | None = None

    def key(self) -> ApiKey:
        expires = self.expires
        if expires is not None and not isinstance(expires, datetime):
            expires = datetime.combine(expires, time_of_day(), UTC)
        return ApiKey(self.name, bytes.fromhex(self.sha256), frozenset(self.scopes), expires)


_ENTRIES = TypeAdapter(Annotated[list[_Entry], Field(min_length=1)])


def read_key_file(path: Path) -> tuple[ApiKey, ...]:
    """The keys of a file: a YAML or JSON list of ``{name, sha256, scopes, expires?}``.

    Raises:
        StartError: it cannot be read, or an entry is wrong; the message quotes none of it but field names.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        kind = type(error).__name__
        raise StartError(f"SIDERA_API_KEYS_FILE: {path} cannot be read as YAML or JSON: {kind}; repair it") from error
    try:
        entries = _ENTRIES.validate_python(data)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, problem["loc"])) or "the file"
        raise StartError(
            f"SIDERA_API_KEYS_FILE: {path}: {where}: {problem['msg']}; 'sidera keys new NAME' prints an entry"
        ) from error
    keys = tuple(entry.key() for entry in entries)
    if len({key.digest for key in keys}) < len(keys):
        raise StartError(f"SIDERA_API_KEYS_FILE: {path} holds one sha256 twice; give every entry a key of its own")
    return keys


class KeyRing:
    """Who a key belongs to. Used by one event loop."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        log: FilteringBoundLogger,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read the file for the first time.

        Raises:
            StartError: the file cannot be used.
        """
        self._log = log
        self._metrics = metrics
        self._clock = clock
        self._path = settings.api_keys_file
        self._plain = tuple(
            ApiKey(f"plain-{number}", digest(key.get_secret_value()), PLAIN_SCOPES)
            for number, key in enumerate(settings.api_keys, start=1)
        )
        self._from_file: tuple[ApiKey, ...] = ()
        self._stamp: _STAMP | None = None
        self._look_again_at = 0.0
        if self._path is not None:
            self._stamp = _stamp(self._path)
            self._from_file = read_key_file(self._path)
            self._metrics.keys_read(usable=True)

    @property
    def open(self) -> bool:
        """Whether no key is asked for."""
        return self._path is None and not self._plain

    def caller(self, given: str | None) -> Caller | None:
        """Who sent this key; None: nobody that is known."""
        if self.open:
            return EVERYBODY
        if given is None:
            return None
        self._read_again()
        return find(given, self._plain + self._from_file, datetime.now(UTC))

    def _read_again(self) -> None:
        now = self._clock()
        if self._path is None or now < self._look_again_at:
            return
        self._look_again_at = now + _LOOK_AGAIN_SECONDS
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._from_file = read_key_file(self._path)
        except StartError as error:
            self._metrics.keys_read(usable=False)
            self._log.error("the changed file of keys cannot be used; the keys before it stay", reason=str(error))
            return
        self._metrics.keys_read(usable=True)
        self._log.info("the file of keys was read again", names=sorted({key.name for key in self._from_file}))


def _stamp(path: Path) -> _STAMP | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_ino, status.st_size, status.st_mtime_ns)
