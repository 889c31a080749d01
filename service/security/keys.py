"""API keys: random, kept as digests only, compared in constant time.

A key has 256 random bits, so its plain SHA-256 cannot be turned back; that of a word that a person chose could.
The plain keys of ``SIDERA_API_KEYS`` may do everything but ``admin``.
"""

import hashlib
import hmac
import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from service.security.scopes import SCOPES, Caller, Scope

PREFIX = "sidera_"
"""Of every key that ``sidera keys new`` makes, so that logs and repositories can be searched for one."""

PLAIN_SCOPES: frozenset[Scope] = frozenset(SCOPES) - {"admin"}


@dataclass(frozen=True)
class ApiKey:
    """A key that is let in.

    Attributes:
        name: of its caller, for logs and limits; an old key and its successor may share one.
        digest: SHA-256 of the key, 32 bytes.
        expires: the first moment at which it is not let in any more; None: never.
    """

    name: str
    digest: bytes
    scopes: frozenset[Scope]
    expires: datetime | None = None

    def expired(self, now: datetime) -> bool:
        """Whether it is not let in any more."""
        return self.expires is not None and now >= self.expires


def digest(key: str) -> bytes:
    """What is kept of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def find(given: str, keys: Iterable[ApiKey], now: datetime) -> Caller | None:
    """Who a key belongs to; None: it is unknown, or has expired.

    Every digest is compared, so that the time tells nothing of which key matched, or how far.
    """
    given_digest = digest(given)
    found: ApiKey | None = None
    for key in keys:
        if hmac.compare_digest(given_digest, key.digest):
            found = key
    if found is None or found.expired(now):
        return None
    return Caller(found.name, found.scopes)


def new_key() -> str:
    """A random key of 256 bits."""
    return PREFIX + secrets.token_urlsafe(32)


def file_entry(name: str, key: str, scopes: Iterable[Scope], expires: datetime | None) -> str:
    """The entry of a key in the file of keys, as one line that is JSON and YAML."""
    entry: dict[str, object] = {"name": name, "sha256": digest(key).hex(), "scopes": sorted(scopes, key=SCOPES.index)}
    if expires is not None:
        entry["expires"] = expires.astimezone(UTC).isoformat()
    return json.dumps(entry)
