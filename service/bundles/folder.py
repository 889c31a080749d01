"""The bundle store: a folder that holds one folder a version. Reads it, never writes it.

What is listed but cannot be loaded says why. A folder is complete once its manifest names files that are all there
with their sizes; every byte is checked again when it is loaded. Names that begin with a dot are not seen: so writers
name what is not finished. Links are not followed.
"""

import hashlib
import os
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from service.errors import StartError
from sidera.bundle import open_bundle
from sidera.errors import BundleError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")


@dataclass(frozen=True)
class StoredBundle:
    """One folder of the store.

    Attributes:
        name: of the folder.
        path: where it is.
        bundle_version: the digest of what it says of itself; None where it is not complete.
        created: when its maker says that it was made; None where it is not complete.
        problem: why it cannot be loaded; None where it is complete.
        fingerprint: another one whenever a file of it was written, added or removed.
        is_unreadable: whether the file system failed while it was looked at; another look may find a bundle.
    """

    name: str
    path: Path
    bundle_version: str | None
    created: datetime | None
    problem: str | None
    fingerprint: str
    is_unreadable: bool = False


class BundleFolder:
    """The versions that an operator keeps."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def versions(self) -> list[StoredBundle]:
        """Everything that lies in the store, the newest first; what is not complete at the end.

        Raises:
            StartError: the folder cannot be read.
        """
        try:
            names = sorted(entry.name for entry in os.scandir(self.path) if not entry.name.startswith("."))
        except OSError as error:
            raise StartError(
                f"the bundle store {self.path} cannot be read ({error.strerror}); set SIDERA_BUNDLE_STORE to a folder "
                "that holds one folder a bundle"
            ) from error
        found = [read_version(self.path / name) for name in names]
        return sorted(found, key=lambda stored: stored.created.timestamp() if stored.created else -1.0, reverse=True)

    def find(self, version: str) -> StoredBundle | None:
        """The folder of this name, or else one that holds this bundle version; a path is neither."""
        listed = self.versions()
        named = [stored for stored in listed if stored.name == version]
        return next(iter(named + [stored for stored in listed if stored.bundle_version == version]), None)


def read_version(path: Path) -> StoredBundle:
    """What a folder holds, judged without reading its files, its manifest aside.

    A folder that vanishes meanwhile, or that the file system cannot read, is one with a problem, as it is then.
    """
    try:
        return _read_version(path)
    except OSError as error:
        problem = f"it cannot be read now ({error.strerror}); it is looked at again"
        return StoredBundle(path.name, path, None, None, problem, f"unreadable {error.errno}", is_unreadable=True)


def _read_version(path: Path) -> StoredBundle:
    name, problem = path.name, None
    if not _NAME.fullmatch(name):
        problem = "its name has characters other than letters, digits and '._+-'; rename it"
    elif path.is_symlink() or not path.is_dir():
        problem = "it is not a folder; a store holds one folder a bundle"
    else:
        try:
            manifest = open_bundle(path).manifest
        except BundleError as error:
            problem = str(error)
        else:
            created = datetime.fromisoformat(manifest.created)
            return StoredBundle(name, path, manifest.bundle_version, created, None, _fingerprint(path))
    return StoredBundle(name, path, None, None, problem, _fingerprint(path))


def _fingerprint(path: Path) -> str:
    digest = hashlib.sha256()
    entries = [path, *(Path(folder, name) for folder, _, files in os.walk(path) for name in files)]
    for entry in sorted(entries):
        try:
            status = entry.lstat()
        except FileNotFoundError:  # it is being written, so another look will find another state
            continue
        digest.update(f"{entry}\0{status.st_ino}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()
