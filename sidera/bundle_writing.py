"""Writes a bundle: it is there whole or not at all.

The files are filled into a temporary sibling, hashed, synced and renamed; a writer that was killed leaves only a
sibling, which the next writer removes. What is read of a bundle: :mod:`sidera.bundle`.
"""

import contextlib
import errno
import fcntl
import glob
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from sidera.bundle import names_below
from sidera.digests import sha256_of_file, sync_file, sync_folder
from sidera.errors import BundleError
from sidera.manifest import (
    MANIFEST_NAME,
    BundleDetails,
    FileEntry,
    Manifest,
    check_file_name,
    manifest_bytes,
    parse_manifest,
)


def write_bundle(path: Path, *, fill: Callable[[Path], None], details: BundleDetails) -> Manifest:
    """Write a bundle at ``path``, in place of one that is there, and return its manifest.

    ``fill`` writes the files into the empty folder that it is given. The bundle that was at
    ``path`` stays until the new one is complete. Two writers do not disturb each other; the last wins.

    Raises:
        BundleError: something that is no bundle is at ``path``, ``fill`` wrote a link or a name that
            is not allowed, or the details cannot be written.
    """
    path = path.resolve()
    _refuse_to_replace_what_is_no_bundle(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    with _claimed_sibling(path) as folder:
        folder.mkdir()
        fill(folder)
        files = _seal(folder)
        data = manifest_bytes(details, files)
        (folder / MANIFEST_NAME).write_bytes(data)
        sync_file(folder / MANIFEST_NAME)
        sync_folder(folder)
        _swap_in(folder, path)
    return parse_manifest(data)


def _seal(folder: Path) -> dict[str, FileEntry]:
    """Hash every file that was filled in, make it as readable as the folder, and sync all to the disk."""
    entries: dict[str, FileEntry] = {}
    mode = folder.stat().st_mode
    for name in sorted(names_below(folder)):
        check_file_name(name)
        file = folder / name
        status = file.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise BundleError(f"{name!r} is not a plain file, and a bundle holds nothing else; write a copy of it")
        file.chmod(mode & 0o666)  # some libraries write files that only their owner may read
        sync_file(file)
        entries[name] = FileEntry(sha256=sha256_of_file(file), bytes=status.st_size)
    for below, _, _ in os.walk(folder):
        sync_folder(Path(below))
    return entries


def _refuse_to_replace_what_is_no_bundle(path: Path) -> None:
    try:
        names = os.listdir(path)  # noqa: PTH208 - one look: another writer may be renaming
        if MANIFEST_NAME in names or not names:
            return
    except FileNotFoundError:
        return
    except NotADirectoryError:
        pass
    raise BundleError(f"{path} exists and is not a bundle; choose another place for the bundle, or remove it")


def _swap_in(folder: Path, path: Path) -> None:
    """Rename ``folder`` to ``path``; a bundle there is moved aside whole, and deleted at the end."""
    aside = folder.with_name(f"{folder.name}.old")
    while True:
        try:
            folder.rename(path)
            break
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
                raise
        _refuse_to_replace_what_is_no_bundle(path)
        if aside.exists():
            shutil.rmtree(aside)
        with contextlib.suppress(FileNotFoundError):  # another writer has just moved it
            path.rename(aside)
    sync_folder(path.parent)
    if aside.exists():
        shutil.rmtree(aside)


@contextlib.contextmanager
def _claimed_sibling(path: Path) -> Iterator[Path]:
    """Yield a name beside ``path`` that is this writer's own; the kernel drops the claim when the writer dies.

    The claim is a lock on ``NAME.lock``, taken before anything else of that name exists.
    """
    while True:
        folder = path.with_name(f".{path.name}.writing-{secrets.token_hex(8)}")
        lock = folder.with_name(f"{folder.name}.lock")
        with lock.open("x") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not lock.exists():  # another writer took it for a leftover between open and flock
                continue
            try:
                yield folder
            finally:
                _remove_sibling(folder, path)
            return


def _remove_leftovers(path: Path) -> None:
    """Remove the siblings of writers that were killed; those of live writers are locked, and stay."""
    for lock in sorted(path.parent.glob(f".{glob.escape(path.name)}.writing-*.lock")):
        try:
            with lock.open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove_sibling(lock.with_suffix(""), path)
        except (BlockingIOError, FileNotFoundError):
            continue


def _remove_sibling(folder: Path, path: Path) -> None:
    aside = folder.with_name(f"{folder.name}.old")
    if aside.exists() and not path.exists():  # stopped between the two renames: the old bundle goes back
        aside.rename(path)
    for leftover in (folder, aside):
        if leftover.exists():
            shutil.rmtree(leftover)
    folder.with_name(f"{folder.name}.lock").unlink(missing_ok=True)
