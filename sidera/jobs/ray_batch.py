"""``sidera batch --ray`` and ``sidera embed --ray``: the parts of a job made by the workers of a Ray cluster.

Ray Data hands out the parts. Each worker holds what a part needs and writes a part at a time into its own file, just as
one machine does, so a second start goes on where the first stopped, with or without Ray. Bundle, input and output must
lie where all machines see them. Without a cluster, one is started on this machine (:mod:`sidera.jobs.ray_session`).
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sidera.errors import BatchError
from sidera.items.item_encoder import ItemEncoder, load_item_encoder
from sidera.jobs.batch import Answerer
from sidera.jobs.batch_part import BatchConfig, answer_part, rows_of
from sidera.jobs.histories import part_path
from sidera.jobs.item_batch import EmbedConfig, Embedder, embed_part
from sidera.jobs.ray_session import import_ray, ray_session
from sidera.loading import load_bundle
from sidera.progress import Advance


def ray_answerer(workers: int, address: str | None = None) -> Answerer:
    """Answers parts with so many workers.

    Args:
        workers: processes that each hold a recommender.
        address: of a cluster, such as ``auto``; None: one is started on this machine.

    Raises:
        ModuleNotFoundError: Ray is not installed.
    """
    import_ray(address)
    return partial(_answer, workers, address)


def ray_embedder(workers: int, address: str | None = None) -> Embedder:
    """Makes the vectors of parts with so many workers, which each hold an encoder; see :func:`ray_answerer`."""
    import_ray(address)
    return partial(_embed, workers, address)


class PartAnswerer:
    """What a worker of ``sidera batch`` runs: a batch of part numbers in, the users of each answered part out."""

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
        return {"rows": done}


class PartEmbedder:
    """What a worker of ``sidera embed`` runs: a batch of part numbers in, the items of each finished part out."""

    def __init__(self, bundle: str, config: EmbedConfig, items: str, vectors: str) -> None:
        self.encoder: ItemEncoder = load_item_encoder(Path(bundle), config.device)
        self.items, self.vectors = Path(items), Path(vectors)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[int]]:
        done = []
        for number in batch["part"].tolist():
            part = part_path(self.items, number)
            embed_part(self.encoder, part, part_path(self.vectors, number))
            done.append(rows_of(part))
        return {"rows": done}


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
    arguments = (str(bundle.resolve()), config, str(users.resolve()), str(answers.resolve()))
    _work(workers, address, PartAnswerer, arguments, parts, advance)


def _embed(
    workers: int,
    address: str | None,
    bundle: Path,
    config: EmbedConfig,
    items: Path,
    vectors: Path,
    parts: Sequence[int],
    advance: Advance,
) -> None:
    arguments = (str(bundle.resolve()), config, str(items.resolve()), str(vectors.resolve()))
    _work(workers, address, PartEmbedder, arguments, parts, advance)


def _work(
    workers: int,
    address: str | None,
    worker: type[PartAnswerer] | type[PartEmbedder],
    arguments: tuple[Any, ...],
    parts: Sequence[int],
    advance: Advance,
) -> None:
    with ray_session(workers, address) as ray:
        from ray.data import ActorPoolStrategy, DataContext, from_items

        try:
            context = DataContext.get_current()
            context.enable_progress_bars = False
            rows = from_items([{"part": number} for number in parts], override_num_blocks=len(parts))
            told = rows.map_batches(
                worker,
                fn_constructor_args=arguments,
                batch_size=1,
                compute=ActorPoolStrategy(size=min(workers, len(parts))),
            )
            for batch in told.iter_batches(batch_size=1, prefetch_batches=0):
                advance(int(batch["rows"].sum()))
        except ray.exceptions.RayError as error:
            raise BatchError(f"a worker of Ray failed ({error}); start again to go on with the parts left") from error
