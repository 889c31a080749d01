"""How many items a tokenizer's ``encode`` codes in a second, in a process of its own that computes with one thread.

Rows go through a tokenizer in small chunks, of which two threads share a few microseconds of work each, so what two
threads do depends on how they wait for each other. OpenMP lets them spin, or, where another thread of the same process
ever computed (a fit, a clustering, a progress bar's neighbour), sleep: rates then halve; and beside a process that
keeps a core busy, spinning threads are many times slower than one. One thread does the same anywhere, and a service
with two cores codes for two at once.

The child is called with one JSON object: ``tokenizer`` (a folder), ``vectors`` (an .npy file of float32[N, D]),
``domain``, ``runs`` and ``out`` (where the answer goes, as JSON).
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sidera.files import write_atomically
from sidera.tokenizers import ItemTokenizer, load_tokenizer, save_tokenizer
from training.errors import StageError

_ROOT = Path(__file__).resolve().parents[1]
_WARM_UP_ROWS = 2048


def measure_speed(tokenizer: ItemTokenizer, vectors_ND: np.ndarray, domain: str, runs: int) -> dict[str, Any]:
    """Items a second of ``encode``, all vectors in one call.

    Args:
        vectors_ND: float[N, D], in memory or on disk.
        domain: whose items they are said to be.
        runs: how many such calls.

    Returns:
        ``rows``, ``runs``, ``threads``, ``best`` and ``median`` items a second, and ``cpu_median``, items in a second
        that the process computed: on a machine with nothing else to do the two are the same.

    Raises:
        StageError: the process that was measured failed.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        out = folder / "speed.json"
        save_tokenizer(tokenizer, folder / "tokenizer")
        np.save(folder / "vectors.npy", np.asarray(vectors_ND, dtype=np.float32))
        task = {"tokenizer": str(folder / "tokenizer"), "vectors": str(folder / "vectors.npy")}
        task |= {"domain": domain, "runs": str(runs), "out": str(out)}
        command = [sys.executable, "-m", "benchmarks.tokenizer_speed", json.dumps(task)]
        ended = subprocess.run(command, cwd=_ROOT, check=False).returncode  # noqa: S603 (our own words, no shell)
        if ended or not out.is_file():
            raise StageError(f"{tokenizer.method}: the process that encodes ended with {ended}; see above")
        found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
        return found


def main() -> None:
    """Do the task, and write what was found."""
    task = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    tokenizer = load_tokenizer(Path(task["tokenizer"]))
    vectors_ND = torch.from_numpy(np.load(task["vectors"], allow_pickle=False))
    tokenizer.encode(vectors_ND[:_WARM_UP_ROWS], task["domain"])
    rates, cpu_rates = [], []
    for _ in range(int(task["runs"])):
        begun, cpu_begun = time.perf_counter(), time.process_time()
        tokenizer.encode(vectors_ND, task["domain"])
        rates.append(len(vectors_ND) / (time.perf_counter() - begun))
        cpu_rates.append(len(vectors_ND) / (time.process_time() - cpu_begun))
    found = {
        "rows": len(vectors_ND),
        "runs": len(rates),
        "threads": torch.get_num_threads(),
        "best": max(rates),
        "median": statistics.median(rates),
        "cpu_median": statistics.median(cpu_rates),
    }
    write_atomically(Path(task["out"]), json.dumps(found).encode())


if __name__ == "__main__":
    main()
