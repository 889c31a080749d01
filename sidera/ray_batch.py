"""``sidera batch --ray``: the parts of a batch answered by the workers of a Ray cluster, through Ray Data.

Each worker holds a recommender and answers a part at a time into its own file, just as one machine does, so a second
start goes on where the first stopped, with or without Ray. Bundle, histories and output must lie where all machines
see them. Without a cluster, one is started on this machine: loopback only, no dashboard, no usage statistics.
"""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.data

from sidera.batch import Answerer, BatchConfig, answer_part, rows_of
from sidera.errors import BatchError
from sidera.histories import part_path
from sidera.loading import load_bundle
from sidera.progress import Advance


def ray_answerer(workers: int, address: str | None = None) -> Answerer:
    """Answers parts with so many workers.

    Args:
        workers: processes that each hold a recommender.
        address: of a cluster, such as ``auto``; None: one is started on this machine.
    """
    return partial(_answer, workers, address)


class PartAnswerer:
    """What a worker runs: a batch of part numbers in, the users of each answered part out."""

    def __init__(self, bundle: str, config: BatchConfig, users: str, answers: str) -> None:
        self.recommender = load_bundle(Path(bundle), config.device).recommender
        self.config = config
        self.users, self.answers = Path(users), Path(answers)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[int]]:
        done = []
        for number in batch["part"].tolist():
            part = part_path(self.users, number)
            answer_part(self.recommender, self.config, part, part_path(self.answers, number))
            done.append(rows_of(part))
        return {"users": done}


def _answer(
    workers: int,
    address: str | None,
    bundle: Path,
    config: BatchConfig,
    users: Path,
    answers: Path,
    parts: Sequence[int],
    advance: Advance,
) -> None:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    local: dict[str, Any] = {"num_cpus": workers, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    ray.init(address=address, log_to_driver=False, logging_level="ERROR", **(local if address is None else {}))
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        rows = ray.data.from_items([{"part": number} for number in parts], override_num_blocks=len(parts))
        told = rows.map_batches(
            PartAnswerer,
            fn_constructor_args=(str(bundle.resolve()), config, str(users.resolve()), str(answers.resolve())),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(parts))),
        )
        for batch in told.iter_batches(batch_size=1, prefetch_batches=0):
            advance(int(batch["users"].sum()))
    except ray.exceptions.RayError as error:
        raise BatchError(f"a worker of Ray failed ({error}); start again to go on with the parts left") from error
    finally:
        ray.shutdown()
