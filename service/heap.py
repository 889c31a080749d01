"""How much memory the process keeps beyond what it uses, with glibc's ``malloc``; with another one, nothing is changed.

glibc gives threads that allocate at the same time heaps of their own (mallopt(3), M_ARENA_MAX: eight a core). Every
bundle brings threads of its own, so over many swaps weights, tables and kept histories of one bundle come to lie in
other heaps than those of the next, between small blocks that outlive them; what is free in one heap serves no other.
The heaps that are there serve all threads instead: what a bundle leaves is what the next one takes. Threads seldom wait
for each other there: small blocks come from a cache of each thread, and one thread of a bundle computes at a time.
"""

import ctypes

_OPTIONS = {
    -8: 1,  # M_ARENA_MAX
    -1: 256 * 1024 * 1024,  # M_TRIM_THRESHOLD: what a batch frees at the end of a heap is there for the next one
    -3: 32 * 1024 * 1024,  # M_MMAP_THRESHOLD: where glibc's own ends up, which stays still once the one above is set
}
"""Of ``malloc.h``. With the first alone, an answer took about a tenth longer: pages went and came with every batch."""


def share_one_heap() -> None:
    """Let threads that have not allocated yet bring no heaps of their own; called before the service starts any."""
    set_option = getattr(_libc(), "mallopt", None)
    if set_option is not None:
        for option, value in _OPTIONS.items():
            set_option(option, value)


def give_back() -> None:
    """Give whole free pages, wherever they lie in a heap, back to the system; else glibc keeps them."""
    trim = getattr(_libc(), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)
