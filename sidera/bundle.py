"""The on-disk contract between training and service: a folder whose every byte is accounted for.

Reading trusts nothing: opening checks the manifest and that every file is there with its size; a file's digest is
checked before its path is first handed out, so what nobody reads (a report) is not hashed, and a large backbone is
hashed once, unless it was touched since. Files that the manifest does not name are never handed out. Knows nothing of
what the files mean, and executes none of them. How a bundle is written: :mod:`sidera.bundle_writing`.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from sidera.digests import sha256_of_file
from sidera.errors import BundleError
from sidera.manifest import MANIFEST_NAME, FileEntry, Manifest, parse_manifest


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
        extra = set(names_below(self._root)) - set(self.manifest.files) - {MANIFEST_NAME}
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
        extra = sorted(set(names_below(self._root / name)) - {file.removeprefix(f"{name}/") for file in names})
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


def names_below(root: Path) -> Iterator[str]:
    """Yield the name of everything below a folder that is no folder itself; links are not followed."""
    for folder, folders, files in os.walk(root):
        links = [name for name in folders if Path(folder, name).is_symlink()]
        for name in files + links:
            yield Path(folder, name).relative_to(root).as_posix()
