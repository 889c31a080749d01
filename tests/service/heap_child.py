"""A process for tests: allocates in several threads at once, and prints the heaps of ``malloc`` before and after.

Argument: ``plain``, ``shared`` for :func:`service.heap.share_one_heap` first, or the folder of a bundle store, for what
``sidera serve`` does before it loads a bundle. ``trim`` prints the process's own memory instead, in bytes: before a
list of blocks is let go of which every hundredth stays, after that, and once free pages were given back.
"""

import ctypes
import sys
import threading
from pathlib import Path

import typer

from service.heap import give_back, share_one_heap

_THREADS = 4
_BLOCK = 20_000
_BLOCKS = 5_000


def print_heaps() -> None:
    """What ``malloc_info`` knows of heaps, as XML; all threads have allocated before the first one ends."""
    _print_malloc()
    allocated = threading.Barrier(_THREADS)

    def allocate() -> None:
        kept = bytearray(_BLOCK)
        allocated.wait()
        del kept

    threads = [threading.Thread(target=allocate) for _ in range(_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _print_malloc()


def _print_malloc() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
    libc.fflush(None)


def print_memory() -> None:
    """The process's own memory at three times."""
    blocks = [bytearray(b"\1") * _BLOCK for _ in range(_BLOCKS)]
    typer.echo(_own_bytes())
    del blocks[::100]
    kept = blocks[::100]
    blocks.clear()
    typer.echo(_own_bytes())
    give_back()
    typer.echo(_own_bytes())
    kept.clear()


def _own_bytes() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty:"))


def _serve(store: str) -> None:
    from service import cli

    class Serving:
        failure = None

        def __init__(self, *_: object) -> None:
            pass

        def run(self) -> None:
            print_heaps()

    setattr(cli, "Serving", Serving)  # noqa: B010 (a stand-in, of another type)
    cli.serve(bundle_store=Path(store), port=0, host="127.0.0.1", admin_port=None, bundle=None, database=None)


if __name__ == "__main__":
    what = sys.argv[1]
    if what == "trim":
        print_memory()
    elif what in ("plain", "shared"):
        if what == "shared":
            share_one_heap()
        print_heaps()
    else:
        _serve(what)
