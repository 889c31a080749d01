"""The processes of one run: ``torchrun`` or Ray Train starts them, the first one writes.

Without either there is one process, and nothing here waits for anything. With them, all processes run the same
program; what only one may do (fitting a tokenizer, writing a file) the first one does while the others wait. They need
one folder that all of them see. PyTorch is imported only where there are several processes.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

Value = TypeVar("Value")

LONGEST_WAIT = timedelta(days=1)
"""The others wait while the first process fits a tokenizer; where a process dies, ``torchrun`` ends all of them."""


def join(device: str) -> None:
    """Find the other processes that ``torchrun`` or Ray Train has started; nothing happens without them.

    Args:
        device: ``cpu`` or ``cuda``; each process takes the GPU of its number.
    """
    if not several():
        return
    import torch.distributed as dist
    from accelerate import PartialState
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    if not dist.is_initialized():
        # After a restart torchrun's store still holds the addresses of the workers that ended.
        store, rank, size = next(rendezvous("env://", timeout=LONGEST_WAIT))
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        dist.init_process_group(
            backend="gloo" if device == "cpu" else "cpu:gloo,cuda:nccl",
            store=PrefixStore(f"attempt-{attempt}", store),
            rank=rank,
            world_size=size,
            timeout=LONGEST_WAIT,
        )
    PartialState(cpu=device == "cpu")  # what Accelerate knows of the process group, and each process's GPU


def several() -> bool:
    """Whether ``torchrun`` or Ray Train has started more than one process: both say so in the same variables."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return int(os.environ.get("RANK", "0")) == 0


def wait() -> None:
    """Wait until every process is here."""
    if several():
        import torch.distributed as dist

        dist.barrier()


def agreed(value: Value) -> Value:
    """The first process's value, in every process."""
    if not several():
        return value
    import torch.distributed as dist

    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


@contextmanager
def first_goes_first() -> Iterator[None]:
    """The block runs in the first process, then in the others, which find what it has written."""
    if not is_first():
        wait()
    yield
    if is_first():
        wait()
