"""Two worker processes on this machine, for the tests of training with more than one.

:func:`run_all` forks the workers of every run, which talk over the loopback device; it is to be called in a process of
its own (:mod:`tests.processes`). What each run came to lies in ``FOLDER/<run>.pt`` and its folder.
"""

import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sidera.model.vocabulary import Vocabulary
from tests.training.killed import ended, forked
from training.backbones import new_backbone
from training.code_loss import CodeLoss
from training.loop import train_loop
from training.model_config import OptimizerConfig
from training.sequences import EpochBatches, SequenceBatch, TrainingSequences, epoch_batches
from training.text_alignment import TitleBatch

WORKERS = 2
VOCABULARY = Vocabulary((4, 6, 3), {"books": 0, "films": 1})
BATCH_TOKENS = 60
CONFIG = {"epochs": 2, "learning_rate": 0.01, "batch_tokens": BATCH_TOKENS, "checkpoint_steps": 2}


@dataclass(frozen=True)
class Job:
    """One run of the loop.

    Attributes:
        workers: processes; 1 runs without a process group.
        settings: of the optimizer, beside ``CONFIG``.
        kill_at: the second worker is killed at its so-manieth forward pass; 0 for not at all.
    """

    name: str
    workers: int = WORKERS
    sharded: bool = False
    batch_parts: int = 1
    gradient_checkpointing: bool = False
    kill_at: int = 0


JOBS = (
    Job("one", workers=1),
    Job("parts", workers=1, batch_parts=3, gradient_checkpointing=True),
    Job("ddp"),
    Job("fsdp2", sharded=True, batch_parts=2),
    Job("ddp-killed", kill_at=7),
    Job("ddp-killed"),
    Job("fsdp2-killed", sharded=True, kill_at=7),
    Job("fsdp2-killed", workers=1),
)
"""The last two runs of a name go on in the folder of the first one; the very last with another number of workers."""


def batches_of(epoch: int) -> EpochBatches:
    """A few windows of all lengths, so that batches have other numbers of rows than there are workers."""
    random = np.random.default_rng(0)
    lengths = [1, 7, 3, 2, 5, 4, 6, 2, 1, 9, 8]
    total = sum(lengths)
    codes_EL = np.stack([random.integers(size, size=total) for size in VOCABULARY.codebook_sizes], axis=1)
    sequences = TrainingSequences(
        random.integers(0, 2, size=total).astype(np.int32),
        codes_EL.astype(np.int32),
        random.random(total) < 0.7,
        np.cumsum([0, *lengths]),
    )
    return epoch_batches(
        sequences,
        VOCABULARY,
        ("books", "films"),
        max_items=8,
        batch_tokens=BATCH_TOKENS,
        any_domain_probability=0.2,
        seed=(0, epoch),
    )


def work(job: Job, folder: Path, rank: int) -> None:
    """What one worker does."""
    torch.manual_seed(0)
    backbone = new_backbone("scratch:tiny", VOCABULARY, 40)
    loss = CodeLoss(backbone, VOCABULARY, dropout=0.0, label_smoothing=0.0)
    seen = 0
    plain = CodeLoss.forward

    def forward(self: CodeLoss, batch: SequenceBatch | TitleBatch) -> torch.Tensor:
        nonlocal seen
        seen += 1
        if rank == WORKERS - 1 and seen == job.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(self, batch)

    def validate() -> dict[str, float]:
        assert rank == 0, "the first process validates"
        backbone.eval()
        with torch.no_grad():
            batches = batches_of(9)
            return {"recall@10": -sum(float(plain(loss, batch)) for batch in batches) / len(batches)}

    CodeLoss.forward = forward  # type: ignore[method-assign]
    config = OptimizerConfig(
        **CONFIG,  # type: ignore[arg-type]
        batch_parts=job.batch_parts,
        sharded=job.sharded,
        gradient_checkpointing=job.gradient_checkpointing,
    )
    train_loop("test", loss, batches_of, validate, config, 0, folder / job.name)
    torch.save(backbone.state_dict(), folder / f"{job.name}.{rank}.pt")


def run(job: Job, folder: Path) -> list[int]:
    """Fork the workers of a run; their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def worker(rank: int) -> Callable[[], None]:
        def begin() -> None:
            if job.workers > 1:
                os.environ |= {
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": str(job.workers),
                    "LOCAL_WORLD_SIZE": str(job.workers),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                    "GLOO_SOCKET_IFNAME": "lo",
                    "OMP_NUM_THREADS": "1",
                }
            work(job, folder, rank)

        return begin

    return [ended(child) for child in [forked(worker(rank)) for rank in range(job.workers)]]


def run_all(folder: Path) -> None:
    """Run all jobs, one after the other."""
    torch.set_num_threads(1)
    for job in JOBS:
        codes = run(job, folder)
        if job.kill_at:
            if codes[-1] != -signal.SIGKILL or 0 in codes:
                raise SystemExit(f"{job.name}: the workers ended with {codes}, though the last one was to be killed")
        elif any(codes):
            raise SystemExit(f"{job.name}: the workers ended with {codes}")
