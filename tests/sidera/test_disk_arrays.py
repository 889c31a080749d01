"""Reading arrays on disk in parts: memory keeps nothing of them, and nothing is lost."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from sidera.disk_arrays import read_rows, release

ROWS, WIDTH = 6_000, 1_024  # 24 MB
only_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def on_disk(folder: Path) -> Path:
    path = folder / "array.npy"
    array = np.lib.format.open_memmap(path, "w+", np.float32, (ROWS, WIDTH))
    for row in range(ROWS):
        array[row] = row
    return path


def mapped_bytes() -> int:
    """Pages of files that count as this process's memory."""
    lines = Path(f"/proc/{os.getpid()}/status").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssFile:", "RssShmem:")))


@only_linux
def test_an_array_that_was_read_in_parts_leaves_nothing_in_memory(tmp_path: Path) -> None:
    array = np.load(on_disk(tmp_path), mmap_mode="r")
    before = mapped_bytes()
    for start in range(0, ROWS, 500):
        assert float(read_rows(array, slice(start, start + 500))[0, 0]) == start
        assert mapped_bytes() - before < 4e6
    picked = np.arange(0, ROWS, 7)
    assert np.array_equal(read_rows(array, picked)[:, 3], picked)
    assert mapped_bytes() - before < 4e6
    assert float(array.sum()) > 0
    assert mapped_bytes() - before > 20e6  # what reading it otherwise leaves
    release(array[5:].view(np.ndarray))
    assert mapped_bytes() - before < 4e6


def test_what_was_written_is_there_after_its_pages_were_given_back(tmp_path: Path) -> None:
    path = on_disk(tmp_path)
    array = np.lib.format.open_memmap(path, "r+")
    array[7] = -1
    release(array)
    assert float(array[7, 9]) == -1
    array[8] = -2
    release(array)
    assert np.load(path, mmap_mode="r")[7:9, 0].tolist() == [-1, -2]


def test_changes_that_no_file_holds_and_arrays_in_memory_stay(tmp_path: Path) -> None:
    private = np.load(on_disk(tmp_path), mmap_mode="c")
    private[7] = -1
    release(private)
    release(private[:9])
    assert float(private[7, 9]) == -1
    array = np.arange(12.0).reshape(6, 2)
    part = read_rows(array, slice(2, 4))
    part[:] = 0
    assert array.tolist() == np.arange(12.0).reshape(6, 2).tolist()
    assert read_rows(array, np.array([5, 0])).tolist() == [[10, 11], [0, 1]]
