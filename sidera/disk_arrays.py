"""Arrays that may lie on disk, read and written in parts of which memory keeps nothing.

A file that is mapped into memory counts as the process's own, page by page as these are touched, until the system wants
them back: reading gigabytes in small parts would look like holding them.

Shapes: R some rows, D dim.
"""

import json
import mmap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from sidera.errors import CatalogError


def read_rows(array_ND: np.ndarray, rows: slice | np.ndarray) -> np.ndarray:
    """A copy in memory of some rows: [R, D], of the same kind; see :func:`release`."""
    copied_RD = np.array(array_ND[rows])
    release(array_ND)
    return copied_RD


def release(array: np.ndarray) -> None:
    """Hand the pages of an array's file back to the system, which keeps them while it has room.

    Nothing is lost: the file holds what was written through the array, and pages return when they are touched. Arrays
    in memory stay as they are, and so do copies on write, whose changes no file holds.
    """
    base: Any = array
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap) and base.mode == "c":
            return
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


def open_tensor(path: Path, name: str) -> np.memmap:
    """One float32 tensor of a safetensors file as an array on disk, read-only.

    The format is eight bytes of the header's length (little endian), the header as JSON, and the tensors' bytes.

    Raises:
        CatalogError: the file holds no such tensor.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            about = json.loads(file.read(length))[name]
        if about["dtype"] != "F32":
            raise ValueError(f"{name} is of type {about['dtype']}, not F32")
        offset = 8 + length + about["data_offsets"][0]
        return np.memmap(path, dtype="<f4", mode="r", offset=offset, shape=tuple(about["shape"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CatalogError(f"{path.name}: no tensor {name!r} can be read ({error}); export the bundle again") from error


def write_tensor(path: Path, name: str, parts: Iterable[np.ndarray], dim: int) -> None:
    """Write rows, given in parts, as one float32 tensor of a safetensors file, without ever holding them all.

    Args:
        parts: the rows in order. Shape of each: float32[R, D].
        dim: D.
    """
    with path.open("wb") as file:
        file.write(_HEADER_BYTES.to_bytes(8, "little") + b" " * _HEADER_BYTES)  # the number of rows is not known yet
        rows = 0
        for part_RD in parts:
            file.write(np.ascontiguousarray(part_RD, dtype="<f4").tobytes())
            rows += len(part_RD)
        about = {name: {"dtype": "F32", "shape": [rows, dim], "data_offsets": [0, 4 * rows * dim]}}
        file.seek(8)
        file.write(json.dumps(about).encode().ljust(_HEADER_BYTES))


_HEADER_BYTES = 256
_KINDS = {"F32": "<f4", "I64": "<i8", "I32": "<i4"}


def open_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """All tensors of a safetensors file as arrays on disk, read-only, and what its header says beside them.

    Raises:
        CatalogError: the file holds no tensors, or one of another type than float32, int32 and int64.
    """
    try:
        file = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
        length = int.from_bytes(file[:8].tobytes(), "little")
        about = json.loads(file[8 : 8 + length].tobytes())
        header = about.pop("__metadata__", {})
        tensors = {}
        for name, own in about.items():
            begin, end = own["data_offsets"]
            tensors[name] = file[8 + length + begin : 8 + length + end].view(_KINDS[own["dtype"]]).reshape(own["shape"])
        return tensors, header
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CatalogError(f"{path.name}: no tensors can be read ({error}); export the bundle again") from error
