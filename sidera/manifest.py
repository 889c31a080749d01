"""What a bundle says about itself: one JSON document whose every byte counts.

The bytes of a manifest are the canonical serialisation of its content, and ``bundle_version`` is
the SHA-256 of that serialisation without the field itself. So a document that differs in any byte,
be it a space, is refused. Knows nothing of the files it names, apart from their names.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn

from sidera.errors import BundleError, CatalogError
from sidera.names import check_domain_name

SCHEMA_VERSION = 2
MANIFEST_NAME = "manifest.json"

_NAME_PART = re.compile(r"[A-Za-z0-9._+-]+")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileEntry:
    """Digest (64 hex digits) and size in bytes of one file."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class DomainEntry:
    """The number of a domain's token, and the folder of its adapter in the bundle, if it has one."""

    token: int
    adapter: str | None = None


@dataclass(frozen=True)
class BundleDetails:
    """What the maker of a bundle says of it; everything in the mappings must be JSON.

    ``config`` is the training config, ``lineage`` the digests of data and split and the commit,
    ``parts`` whatever a part of the system wants to find again (the place to extend a bundle).
    ``created`` is an ISO 8601 time with its zone.
    """

    created: str
    config: Mapping[str, Any]
    lineage: Mapping[str, Any]
    metrics: Mapping[str, Any]
    codebook_sizes: tuple[int, ...]
    domains: Mapping[str, DomainEntry]
    parts: Mapping[str, Any]


@dataclass(frozen=True)
class Manifest(BundleDetails):
    """The details of a bundle, its files by name (``folder/file``, sorted), and its version."""

    schema_version: int
    bundle_version: str
    files: Mapping[str, FileEntry]


def manifest_bytes(details: BundleDetails, files: Mapping[str, FileEntry]) -> bytes:
    """Serialise the manifest of a bundle, version included.

    Raises:
        BundleError: a detail is not JSON (a path, a NaN), or is refused by ``parse_manifest``.
    """
    document = {
        "schema_version": SCHEMA_VERSION,
        "created": details.created,
        "config": details.config,
        "lineage": details.lineage,
        "metrics": details.metrics,
        "codebook_sizes": list(details.codebook_sizes),
        "domains": {name: {"token": entry.token, "adapter": entry.adapter} for name, entry in details.domains.items()},
        "files": {name: {"sha256": entry.sha256, "bytes": entry.bytes} for name, entry in files.items()},
        "parts": details.parts,
    }
    for field, value in document.items():
        try:
            _canonical(value)
        except (TypeError, ValueError) as error:
            raise BundleError(f"{MANIFEST_NAME}: {field!r} cannot be written as JSON: {error}") from error
    data = _canonical(document | {"bundle_version": _version_of(document)})
    parse_manifest(data)
    return data


def parse_manifest(data: bytes) -> Manifest:
    """Read a manifest, refusing whatever ``manifest_bytes`` would not have written.

    Raises:
        BundleError: not JSON, another schema version, a field missing, unknown or of a wrong kind,
            a file name that could leave the bundle, bytes that are not canonical, or a wrong version.
    """
    try:
        document = json.loads(data, parse_constant=_refuse_constant)
        canonical = _canonical(document)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{MANIFEST_NAME} is not JSON ({error}); the bundle is damaged, write it again") from error
    fields = _object(document, "the document")
    if fields.get("schema_version") != SCHEMA_VERSION:
        raise BundleError(
            f"{MANIFEST_NAME} has schema version {fields.get('schema_version')!r}, but this release reads "
            f"{SCHEMA_VERSION}; write the bundle again with this release"
        )
    expected = set(Manifest.__dataclass_fields__)
    if set(fields) != expected:
        missing, unknown = sorted(expected - set(fields)), sorted(set(fields) - expected)
        raise BundleError(f"{MANIFEST_NAME} has missing fields {missing} and unknown fields {unknown}")
    if data != canonical:
        raise BundleError(f"{MANIFEST_NAME} is not in canonical form; it was changed after it was written")
    if fields["bundle_version"] != _version_of(fields):
        raise BundleError(f"{MANIFEST_NAME} does not match its bundle_version; it was changed after it was written")

    files = {name: _file_entry(name, entry) for name, entry in _object(fields["files"], "'files'").items()}
    return Manifest(
        schema_version=SCHEMA_VERSION,
        bundle_version=str(fields["bundle_version"]),
        created=_created(fields["created"]),
        config=_object(fields["config"], "'config'"),
        lineage=_object(fields["lineage"], "'lineage'"),
        metrics=_object(fields["metrics"], "'metrics'"),
        codebook_sizes=_codebook_sizes(fields["codebook_sizes"]),
        domains=_domains(_object(fields["domains"], "'domains'"), files),
        files=files,
        parts=_object(fields["parts"], "'parts'"),
    )


def check_file_name(name: str) -> str:
    """Return ``name`` if it is a relative name that stays inside the bundle: ``folder/file``, plain characters.

    Raises:
        BundleError: absolute, with ``.`` or ``..`` or an empty part, or with other characters.
    """
    for part in name.split("/"):
        if part in {".", ".."} or _NAME_PART.fullmatch(part) is None:
            raise BundleError(
                f"the file name {name!r} is not allowed in a bundle: names are relative, without '..', "
                "of letters, digits and '._+-'"
            )
    if name == MANIFEST_NAME:
        raise BundleError(f"{MANIFEST_NAME} cannot be one of the files that a bundle's manifest names")
    return name


def _canonical(value: object) -> bytes:
    return (json.dumps(value, sort_keys=True, indent=1, ensure_ascii=True, allow_nan=False) + "\n").encode("ascii")


def _version_of(document: Mapping[str, object]) -> str:
    rest = {field: value for field, value in document.items() if field != "bundle_version"}
    return hashlib.sha256(_canonical(rest)).hexdigest()


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BundleError(f"{MANIFEST_NAME}: {what} is {_kind(value)}; expected an object")
    return value


def _kind(value: object) -> str:
    return type(value).__name__


def _is_count(value: object, least: int) -> bool:
    return type(value) is int and value >= least


def _file_entry(name: str, value: object) -> FileEntry:
    check_file_name(name)
    entry = _object(value, f"the file {name!r}")
    digest, size = entry.get("sha256"), entry.get("bytes")
    if set(entry) != {"sha256", "bytes"} or not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        raise BundleError(f"{MANIFEST_NAME}: the file {name!r} needs a sha256 of 64 hex digits and its bytes")
    if not _is_count(size, 0):
        raise BundleError(f"{MANIFEST_NAME}: the file {name!r} has {size!r} bytes; expected a whole number")
    return FileEntry(sha256=digest, bytes=int(entry["bytes"]))


def _codebook_sizes(value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or not value or not all(_is_count(size, 1) for size in value):
        raise BundleError(
            f"{MANIFEST_NAME}: 'codebook_sizes' is {value!r}; expected a list of one whole number a level"
        )
    return tuple(value)


def _created(value: object) -> str:
    try:
        if isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None:
            return value
    except ValueError:
        pass
    raise BundleError(f"{MANIFEST_NAME}: 'created' is {value!r}; expected an ISO 8601 time with its zone")


def _domains(domains: Mapping[str, object], files: Mapping[str, FileEntry]) -> dict[str, DomainEntry]:
    entries: dict[str, DomainEntry] = {}
    owner_of_token: dict[int, str] = {}
    for name, value in domains.items():
        try:
            check_domain_name(name)
        except CatalogError as error:
            raise BundleError(f"{MANIFEST_NAME}: {error}") from error
        fields = _object(value, f"the domain {name!r}")
        token, adapter = fields.get("token"), fields.get("adapter")
        if set(fields) != {"token", "adapter"} or type(token) is not int or token < 0:
            raise BundleError(
                f"{MANIFEST_NAME}: the domain {name!r} needs a token (a whole number) and an adapter or null"
            )
        if owner_of_token.setdefault(token, name) != name:
            raise BundleError(
                f"{MANIFEST_NAME}: the domains {owner_of_token[token]!r} and {name!r} share token {token}"
            )
        if adapter is not None:
            if not isinstance(adapter, str):
                raise BundleError(
                    f"{MANIFEST_NAME}: the adapter of domain {name!r} is {_kind(adapter)}; expected a folder"
                )
            if not any(file.startswith(f"{adapter}/") for file in files):
                raise BundleError(f"{MANIFEST_NAME}: the adapter of domain {name!r}, {adapter!r}, holds no file")
        entries[name] = DomainEntry(token=token, adapter=adapter)
    return entries
