"""The on-disk contract between training and service: a folder whose every byte is accounted for.

Writing is atomic: the files are filled into a temporary sibling, hashed, synced and renamed, so a
bundle is there whole or not at all, and a writer that was killed leaves only a sibling that the
next writer removes. Reading trusts nothing: opening checks the manifest and that every file is
there with its size; a file's digest is checked before its path is first handed out, so what nobody
reads (a report) is not hashed, and a large backbone is hashed once, unless it was touched since.
Files that the manifest does not name are never handed out. Knows nothing of what the files mean,
and executes none of them.
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

from sidera.digests import sha256_of_file, sync_file, sync_folder
from sidera.errors import BundleError
from sidera.manifest import (
    MANIFEST_NAME,
    BundleDetails,
    DomainEntry,
    FileEntry,
    Manifest,
    check_file_name,
    manifest_bytes,
    parse_manifest,
)

__all__ = [
    "Bundle",
    "BundleDetails",
    "DomainEntry",
    "FileEntry",
    "Manifest",
    "open_bundle",
    "verified_bundle",
    "verify_bundle",
    "write_bundle",
]


class Bundle:
    """An opened bundle. ``manifest`` is checked; files are checked as their paths are asked for."""

    def __init__(self, root: Path, manifest: Manifest) -> None:
        self.manifest = manifest
        self._root = root
        self._matched: dict[str, _Signature] = {}

    def path(self, name: str) -> Path:
        """Return the path of one file, its digest checked.

        Raises:
            BundleError: the manifest does not name it, or its bytes are not the ones written.
        """
        entry = self.manifest.files.get(name)
        if entry is None:
            raise BundleError(f"the bundle {self._root} has no file {name!r} in its {MANIFEST_NAME}")
        problem = self._problem(name, entry)
        if problem is not None:
            raise BundleError(problem)
        return self._root / name

    def _problem(self, name: str, entry: FileEntry) -> str | None:
        """Say what is wrong with a file; its bytes are read unless they are those that matched before."""
        problem = _stat_problem(self._root, name, entry)
        if problem is not None:
            return problem
        try:
            signature = _signature(self._root / name)
        except OSError as error:  # it went since the line before
            return f"{self._root / name} cannot be read ({error.strerror})"
        if self._matched.get(name) == signature:
            return None
        problem = _digest_problem(self._root, name, entry)
        if problem is None:
            self._matched[name] = signature
        return problem

    def problems(self) -> list[str]:
        """Read every byte and return what is wrong, one sentence each; none if it is whole."""
        found = [self._problem(name, entry) for name, entry in sorted(self.manifest.files.items())]
        extra = set(_walk(self._root)) - set(self.manifest.files) - {MANIFEST_NAME}
        return [one for one in found if one is not None] + [_extra_problem(self._root, name) for name in sorted(extra)]

    def folder(self, name: str) -> Path:
        """Return the path of a folder, for loaders that choose files by name: all its files are checked.

        Raises:
            BundleError: no file of the manifest lies there, one is not as it was written, or the
                folder holds something that the manifest does not name.
        """
        names = [file for file in self.manifest.files if file.startswith(f"{name}/")]
        if not names:
            raise BundleError(f"the bundle {self._root} has no folder {name!r} in its {MANIFEST_NAME}")
        for file in names:
            self.path(file)
        extra = sorted(set(_walk(self._root / name)) - {file.removeprefix(f"{name}/") for file in names})
        if extra:
            raise BundleError(_extra_problem(self._root, f"{name}/{extra[0]}"))
        return self._root / name


def open_bundle(path: Path) -> Bundle:
    """Open a bundle for reading; see the module's docstring for what is checked when.

    Raises:
        BundleError: one sentence that names what is missing, damaged or not allowed.
    """
    manifest = _read_manifest(path)
    root = path.resolve()
    for name, entry in manifest.files.items():
        problem = _stat_problem(root, name, entry)
        if problem is not None:
            raise BundleError(problem)
    return Bundle(root, manifest)


def verify_bundle(path: Path) -> list[str]:
    """Read every byte of a bundle and return all its problems, one sentence each; none if it is whole."""
    try:
        manifest = _read_manifest(path)
    except BundleError as error:
        return [str(error)]
    return Bundle(path.resolve(), manifest).problems()


def verified_bundle(path: Path) -> Bundle:
    """Open a bundle and read every byte of it; what was read is not read again to hand its path out.

    Raises:
        BundleError: it is not whole; names the first problem, and says how many more there are.
    """
    bundle = Bundle(path.resolve(), _read_manifest(path))
    if problems := bundle.problems():
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise BundleError(f"{problems[0]}{more}")
    return bundle


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


# Reading

_Signature = tuple[int, int, int, int, int]
"""Another one whenever a file was written to, or another one took its place."""


def _signature(file: Path) -> _Signature:
    status = file.lstat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _read_manifest(path: Path) -> Manifest:
    file = path / MANIFEST_NAME
    try:
        if not stat.S_ISREG(file.lstat().st_mode):
            raise BundleError(f"{file} is not a plain file; the bundle is damaged, write it again")
        return parse_manifest(file.read_bytes())
    except FileNotFoundError as error:
        raise BundleError(f"{path} is not a bundle: it has no {MANIFEST_NAME}") from error
    except OSError as error:
        raise BundleError(f"{file} cannot be read: {error.strerror}") from error
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from error


def _stat_problem(root: Path, name: str, entry: FileEntry) -> str | None:
    """Say what is wrong with a file that shows without reading it."""
    file = root / name
    try:
        for parent in file.relative_to(root).parents:
            if (root / parent).is_symlink() and parent != Path():
                return f"{root / parent} is a link; a bundle holds plain files, copy it again"
        status = file.lstat()
    except OSError as error:
        return f"{file} is missing or cannot be read ({error.strerror}); copy or write the bundle again"
    if not stat.S_ISREG(status.st_mode):
        return f"{file} is not a plain file; copy or write the bundle again"
    if status.st_size != entry.bytes:
        return (
            f"{file} has {status.st_size} bytes, but {MANIFEST_NAME} says {entry.bytes}; copy or write the bundle again"
        )
    return None


def _digest_problem(root: Path, name: str, entry: FileEntry) -> str | None:
    try:
        digest = sha256_of_file(root / name)
    except OSError as error:
        return f"{root / name} cannot be read ({error.strerror})"
    if digest == entry.sha256:
        return None
    return (
        f"{root / name} was changed: its sha256 is {digest[:12]}..., but {MANIFEST_NAME} says {entry.sha256[:12]}...; "
        "copy or write the bundle again"
    )


def _extra_problem(root: Path, name: str) -> str:
    return f"{root / name} is not named by {MANIFEST_NAME}; remove it"


def _walk(root: Path) -> Iterator[str]:
    """Yield the name of everything below ``root`` that is not a folder; links are not followed."""
    for folder, folders, files in os.walk(root):
        links = [name for name in folders if Path(folder, name).is_symlink()]
        for name in files + links:
            yield Path(folder, name).relative_to(root).as_posix()


# Writing


def _seal(folder: Path) -> dict[str, FileEntry]:
    """Hash every file that was filled in, make it as readable as the folder, and sync all to the disk."""
    entries: dict[str, FileEntry] = {}
    mode = folder.stat().st_mode
    for name in sorted(_walk(folder)):
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
