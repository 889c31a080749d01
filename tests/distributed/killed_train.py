"""``sidera train CONFIG`` for ``torchrun``, in which the second worker is killed once, in the middle of an epoch.

Run as ``torchrun ... -m tests.distributed.killed_train CONFIG MARKER``; the marker is a file that says it has happened.
"""

import os
import signal
import sys
from pathlib import Path

from torch import Tensor

from sidera.cli import main
from training.code_loss import CodeLoss
from training.sequences import SequenceBatch
from training.text_alignment import TitleBatch

KILLED_AT = 5


def kill_once(marker: Path) -> None:
    """Let the second worker die at its fifth batch, if none has died before."""
    plain = CodeLoss.forward
    seen = 0

    def forward(self: CodeLoss, batch: SequenceBatch | TitleBatch) -> Tensor:
        nonlocal seen
        seen += 1
        if seen == KILLED_AT and os.environ["RANK"] == "1" and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(self, batch)

    CodeLoss.forward = forward  # type: ignore[method-assign]


if __name__ == "__main__":
    kill_once(Path(sys.argv[2]))
    main(["train", sys.argv[1]])
