"""Stages that are skipped when their inputs have not changed, and resume when they were interrupted.

Each stage has a folder; ``stage.json`` in it says from which inputs it was made and whether it is whole. Other inputs
empty the folder; the same inputs keep what is there, so that a stage can go on from its own checkpoints.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidera.files import write_atomically
from training.processes import agreed, is_first, wait


@dataclass(frozen=True)
class Stage:
    """A stage of this run.

    Attributes:
        folder: where its results lie.
        digest: of its inputs; the input of the stages behind it.
        done: whether the folder is whole already.
    """

    folder: Path
    digest: str
    done: bool


@contextmanager
def stage(root: Path, name: str, inputs: Mapping[str, Any], together: bool = False) -> Iterator[Stage]:
    """A stage that is marked as whole when the block ends without an error.

    Args:
        inputs: all that its results depend on, as JSON.
        together: under ``torchrun``, all processes make it together; if not, the first one makes it, and the others
            then find it done.
    """
    folder = root / name
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    record = folder / "stage.json"
    if not is_first():
        if not together:
            wait()
        yield Stage(folder, digest, not together or agreed(False))
        if together:
            wait()
        return
    known = json.loads(record.read_text()) if record.exists() else {}
    if known.get("digest") != digest:
        record.unlink(missing_ok=True)  # first: a folder that is half emptied must never count as whole
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        known = {"digest": digest, "done": False}
        write_atomically(record, json.dumps(known).encode())
    yield Stage(folder, digest, bool(agreed(known["done"]) if together else known["done"]))
    if not known["done"]:
        write_atomically(record, json.dumps({"digest": digest, "done": True}).encode())
    wait()
