"""The process that ``benchmarks.tokenizer_scale`` measures: a fit on a sample, and a SID for every item.

Called with one JSON object: ``vectors`` (an .npy file), ``settings`` (of the tokenizer), ``folder`` (for checkpoints)
and ``out`` (where the answer goes, as JSON).

Shapes: N item, D item vector dim, L level.
"""

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tokenizer_store import timed_fit
from sidera.files import write_atomically
from sidera.items.assignment import assign_sids
from training.tokenizers import read_config

_DOMAIN = "made-up"


def main() -> None:
    """Do the task, and write what was found."""
    task = json.loads(sys.argv[1])
    vectors_ND = np.load(task["vectors"], mmap_mode="r")
    method, config = read_config(task["settings"])
    tokenizer, took = timed_fit(
        Path(task["folder"]), task, lambda folder: method.fit({_DOMAIN: vectors_ND}, config, folder, {})
    )
    begun = time.perf_counter()
    sids_NL, assignment = assign_sids(tokenizer, vectors_ND, _DOMAIN)
    seconds = time.perf_counter() - begun
    peak = peak_rss_bytes()
    found: dict[str, Any] = {
        "items": len(vectors_ND),
        "fit_seconds": took.seconds,
        "assign_seconds": seconds,
        "collision_rate": assignment.collision_rate_before,
        "identical_vectors": assignment.identical_vectors,
        "moved_per_level": list(assignment.moved_per_level),
        "shared_sids": shared_sids(sids_NL, tokenizer.codebook_sizes),
        "peak_rss_bytes": peak,
    }
    write_atomically(Path(task["out"]), json.dumps(found).encode())


def shared_sids(sids_NL: np.ndarray, sizes: tuple[int, ...]) -> int:
    """How many items have the SID of an earlier one; SIDs are compared as numbers in mixed radix."""
    weights_L = np.array([math.prod(sizes[level + 1 :]) for level in range(len(sizes))], dtype=np.int64)
    return len(sids_NL) - len(np.unique(sids_NL.astype(np.int64) @ weights_L))


def peak_rss_bytes() -> int:
    """The most memory that this process ever held, pages of files included.

    VmHWM, not ``ru_maxrss``: that one starts at what the parent held when it started this process.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main()
