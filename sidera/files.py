"""Files that are whole or not there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` to a temporary sibling, flush it to the disk, and rename it to ``path``."""
    with replaced_atomically(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replaced_atomically(path: Path) -> Iterator[Path]:
    """A temporary sibling to write; it is flushed to the disk and renamed to ``path`` when the block ends."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    yield temporary
    with temporary.open("rb") as written:
        os.fsync(written.fileno())
    temporary.replace(path)
