"""Processes of tests, forked by a server that has imported what they need, so that none of them imports PyTorch anew.

They have a memory, signals and an exit code of their own, as a new interpreter has.
"""

import multiprocessing
import os
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    [
        "tests.faults.catalog_writer",
        "tests.faults.event_writer",
        "tests.service.served",
        "tests.training.killed",
        "tests.distributed.workers",
        "training.cli",
        "torch.utils.tensorboard",
    ]
)


class Forked:
    """A process whose output can be read line by line. Within ``with``; what still runs at its end is killed.

    Attributes:
        output: what it writes to standard output, and to standard error if ``errors``.
    """

    def __init__(self, target: Callable[..., object], *arguments: object, errors: bool = False) -> None:
        ours, theirs = PROCESSES.Pipe(duplex=False)
        self._process = PROCESSES.Process(target=_redirected, args=(theirs, errors, target, arguments))
        self._process.start()
        theirs.close()
        with ours:
            self.output = os.fdopen(os.dup(ours.fileno()), encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.join()
        self.output.close()

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._process.terminate()

    def ended(self) -> int:
        """Wait; the exit code, negative for the signal that killed it."""
        self._process.join(60)
        code = self._process.exitcode
        assert code is not None, "the process does not end"
        return code


@dataclass(frozen=True)
class Ended:
    """A process that has ended: its exit code and all that it said."""

    code: int
    said: str


def run(target: Callable[..., object], *arguments: object) -> Ended:
    """Call a function of an importable module in a process of its own and wait for its end."""
    with Forked(target, *arguments, errors=True) as process:
        said = process.output.read()
        return Ended(process.ended(), said)


def _redirected(output: "Connection[Any, Any]", errors: bool, target: Callable[..., object], arguments: Any) -> None:
    os.dup2(output.fileno(), 1)
    if errors:
        os.dup2(output.fileno(), 2)
    else:
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 (a device)
            os.dup2(nowhere.fileno(), 2)
    output.close()
    target(*arguments)
