"""Progress of everything that takes longer than two seconds: a bar on a terminal, sparse lines in a log."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Advance = Callable[..., None]
"""``advance(n=1, note="")``: n more units are done; the note is shown behind the bar."""

_LOG_EVERY_SECONDS = 10.0


@contextmanager
def track(description: str, total: int, begin: int = 0) -> Iterator[Advance]:
    """Show how far a loop of ``total`` units has come, on standard error.

    Args:
        begin: units that were done before; the time that is left is told by the others.
    """
    if sys.stderr.isatty():
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
        ) as bar:
            task = bar.add_task(description, total=total, completed=begin, note="")

            def advance_bar(n: int = 1, note: str = "") -> None:
                bar.update(task, advance=n, note=note)

            yield advance_bar
        return

    begun = last = time.monotonic()
    done = 0

    def advance_log(n: int = 1, note: str = "") -> None:
        nonlocal done, last
        done += n
        now = time.monotonic()
        if now - last >= _LOG_EVERY_SECONDS:
            last = now
            left = (now - begun) / done * (total - begin - done) if done else 0.0
            sys.stderr.write(f"{description}: {begin + done}/{total}, {left:.0f} s left {note}\n")
            sys.stderr.flush()

    yield advance_log
