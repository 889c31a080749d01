"""The files of a data folder: where a domain's two files lie, their bytes, and how a bad row is told.

A data folder holds one sub-folder a domain, with ``items.jsonl[.gz]`` and ``interactions.{csv,csv.gz,parquet}``.
Knows nothing of what the rows mean.
"""

import gzip
import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sidera.errors import CatalogError
from sidera.names import check_domain_name
from training.errors import DataError

ITEM_FILES = ("items.jsonl", "items.jsonl.gz")
INTERACTION_FILES = ("interactions.csv", "interactions.csv.gz", "interactions.parquet")


@dataclass(frozen=True)
class BadRow:
    """One row that is refused: its line (for parquet its row, both counted from 1) and the reason."""

    path: Path
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.reason}"


@dataclass(frozen=True)
class BadRows:
    """The rows of one file that are refused: the first few in file order, and how many there are."""

    first: tuple[BadRow, ...]
    total: int

    def raise_first(self) -> None:
        """Raise ``DataError`` about the first bad row, if there is one."""
        if self.first:
            raise DataError(str(self.first[0]))


@dataclass(frozen=True)
class FileContent:
    """A file's bytes, decompressed, and the sha256 of what lies on disk."""

    path: Path
    data: bytes
    sha256: str

    def line_at(self, offset: int) -> int:
        """The number, from 1, of the line that holds byte ``offset``."""
        return self.data.count(b"\n", 0, offset) + 1


def domain_folders(folder: Path, domains: Sequence[str] | None) -> tuple[Path, ...]:
    """The sub-folders of the domains asked for, in the order asked, or of all domains in the order of their names.

    Raises:
        DataError: there is no such folder or domain, or a sub-folder has a name that cannot name a domain.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder; give the folder that holds one sub-folder a domain")
    found = {path.name: path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")}
    if domains is None:
        chosen = tuple(found)
        if not chosen:
            hint = (
                f"it is itself a domain, give {folder.parent}" if _is_domain(folder) else "make one sub-folder a domain"
            )
            raise DataError(f"{folder}: the folder holds no domain; {hint}")
    else:
        chosen = tuple(domains)
    for position, name in enumerate(chosen):
        if name in chosen[:position]:
            raise DataError(f"{folder}: domain {name!r} is asked for twice; name each domain once")
        if name not in found:
            raise DataError(f"{folder}: there is no domain {name!r}; choose among {', '.join(found) or 'none'}")
        try:
            check_domain_name(name)
        except CatalogError as error:
            raise DataError(f"{found[name]}: {error}") from error
    return tuple(found[name] for name in chosen)


def find_file(folder: Path, names: Sequence[str]) -> Path:
    """The one file of ``folder`` that has one of ``names``.

    Raises:
        DataError: none of them is there, or more than one.
    """
    present = [name for name in names if (folder / name).is_file()]
    if not present:
        raise DataError(f"{folder}: there is no {' or '.join(names)}; put one of them there")
    if len(present) > 1:
        raise DataError(f"{folder}: {' and '.join(present)} are both there; keep one of them")
    return folder / present[0]


def read_content(path: Path) -> FileContent:
    """Read a file, and decompress it if its name ends in ``.gz``.

    Raises:
        DataError: the file cannot be read, is not what gzip writes, or is empty.
    """
    try:
        raw = path.read_bytes()
        data = gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}:1: the file is not whole gzip data ({error}); compress it again") from error
    except OSError as error:
        raise DataError(f"{path}: the file cannot be read: {error.strerror or error}") from error
    if not data.strip():
        raise DataError(f"{path}:1: the file is empty; write its rows or remove the domain")
    return FileContent(path, data.removeprefix(b"\xef\xbb\xbf"), hashlib.sha256(raw).hexdigest())


def quoted(value: object) -> str:
    """A value as an error message shows it: in double quotes and not longer than 80 characters."""
    text = str(value)
    return '"' + (text if len(text) <= 80 else text[:77] + "...") + '"'


def _is_domain(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ITEM_FILES + INTERACTION_FILES)
