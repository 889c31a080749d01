"""One heap for all threads, and free pages given back, in processes of their own; with glibc alone."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="the C library is not glibc"
)


def output(what: str) -> str:
    command = [sys.executable, "-m", "tests.service.heap_child", what]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout


def heaps(what: str) -> list[int]:
    """How many there were before threads began, and when they had all allocated."""
    return [told.count("<heap nr=") for told in output(what).split("</malloc>")[:2]]


def test_threads_share_one_heap_once_it_is_asked_for() -> None:
    assert heaps("plain") == [1, 5]
    assert heaps("shared") == [1, 1]


def test_threads_of_the_service_bring_no_heaps(tmp_path: Path) -> None:
    before, after = heaps(str(tmp_path))
    assert before == after


def test_free_memory_between_blocks_in_use_is_given_back() -> None:
    full, freed, given_back = map(int, output("trim").split())
    assert full - freed < 0.1 * full
    assert full - given_back > 0.5 * full
