"""Runs a part of a benchmark in a process of its own, so that its memory can be told apart."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.tokenizer_store import say

_ROOT = Path(__file__).resolve().parents[1]


class ChildError(Exception):
    """A process of a benchmark failed; the message ends with what it said."""


def run_child(module: str, task: str, folder: Path, **sizes: int) -> dict[str, Any]:
    """Run ``python -m module`` with a task and its sizes as JSON; returns the JSON of the last line that it prints.

    Raises:
        ChildError: the process failed.
    """
    say(f"{task} " + " and ".join(f"{size:,} {name}" for name, size in sizes.items()))
    told = json.dumps({"task": task, "folder": str(folder), **sizes})
    done = subprocess.run(  # noqa: S603 (our own words)
        [sys.executable, "-m", module, told], cwd=_ROOT, env=os.environ, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ChildError(f"the process that does {task!r} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
