"""Arrays that may lie on disk, read and written in parts of which memory keeps nothing.

A file that is mapped into memory counts as the process's own, page by page as these are touched, until the system wants
them back: reading gigabytes in small parts would look like holding them.

Shapes: R some rows, D dim.
"""

import json
import mmap
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
