"""``sidera train --ray-workers N``: the same pipeline in the workers of Ray Train.

Ray's ``TorchTrainer`` starts the workers and their process group; each of them then calls ``training.pipeline.train``,
which finds the others as it does under ``torchrun``, so the stages are those of any other run and a second start goes
on from them. Data, output and working folder must lie where all machines see them. Without a cluster, one is started on
this machine (:mod:`sidera.jobs.ray_session`).
"""

import io
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stderr
from pathlib import Path
from threading import Thread
from typing import Any

from sidera.bundle import open_bundle
from sidera.errors import SideraError
from sidera.jobs.ray_session import ray_session
from sidera.manifest import Manifest
from training.config import TrainConfig
from training.errors import ConfigError, StageError, TrainingError
from training.pipeline import choose_device, train
from training.processes import LONGEST_WAIT, is_first

_SAID, _SHOWN = "said", "shown"


def train_with_ray(
    config: TrainConfig, workers: int, say: Callable[[str], None], address: str | None = None
) -> Manifest:
    """Run the pipeline in so many workers, each with a GPU where the cluster has one for each of them.

    Args:
        workers: processes, of ``config.threads`` CPUs each, or of one where the config says nothing.
        say: told in a sentence what each stage did.
        address: of a cluster, such as ``auto``; None: one is started on this machine.

    Raises:
        ModuleNotFoundError: Ray is not installed.
        TrainingError, SideraError: what went wrong in a worker, where, and what to do.
    """
    cpus = config.threads or 1
    if address is None:
        choose_device(config.device)  # now, not when Ray has waited for a GPU in vain
    place = Path(config.out).absolute().with_name(Path(config.out).name + ".work") / "ray"
    with ray_session(workers * cpus, address) as ray:
        from ray.train import RunConfig, ScalingConfig, TrainingFailedError
        from ray.train.torch import TorchConfig, TorchTrainer

        gpu = config.device != "cpu" and ray.cluster_resources().get("GPU", 0) >= workers
        if config.device == "cuda" and not gpu:
            raise ConfigError(f"device: the Ray cluster has no GPU for each of {workers} workers; set auto or cpu")
        with _listening(say) as tell:
            trainer = TorchTrainer(
                _worker(config, Path.cwd(), tell),
                torch_config=TorchConfig(
                    backend="cpu:gloo,cuda:nccl" if gpu else "gloo", timeout_s=int(LONGEST_WAIT.total_seconds())
                ),
                scaling_config=ScalingConfig(
                    num_workers=workers, use_gpu=gpu, resources_per_worker={"CPU": cpus} | ({"GPU": 1} if gpu else {})
                ),
                run_config=RunConfig(name="train", storage_path=str(place)),
            )
            try:
                trainer.fit()
            except TrainingFailedError as error:
                raise cause_of(error, getattr(error, "worker_failures", {})) from error
            finally:
                shutil.rmtree(place, ignore_errors=True)  # Ray's own notes; nothing of the run
    return open_bundle(Path(config.out)).manifest


def cause_of(error: Exception, failures: Mapping[int, Exception]) -> Exception:
    """What to raise for a failed run: the sentence that a worker raised on purpose, if one did.

    Args:
        error: what Ray raised.
        failures: what each worker raised, by its number; a worker that died has an error of Ray's.
    """
    for failure in failures.values():
        if isinstance(failure, (TrainingError, SideraError)):
            return failure
    died = [number for number, failure in failures.items() if type(failure).__module__.startswith("ray.")]
    if died:
        return StageError(f"worker {died[0]} of Ray died; start again to go on from the last checkpoint")
    return error


def _worker(config: TrainConfig, folder: Path, tell: Callable[[str, str], None]) -> Callable[[], None]:
    """What each worker runs, in the folder that the config's places are relative to."""

    def work() -> None:
        os.chdir(folder)
        with redirect_stderr(_Told(tell)) if is_first() else nullcontext():
            train(config, lambda sentence: tell(_SAID, sentence))

    return work


class _Told(io.TextIOBase):
    """A stream whose text is told to the process that started the workers."""

    def __init__(self, tell: Callable[[str, str], None]) -> None:
        self._tell = tell

    def write(self, text: str) -> int:
        self._tell(_SHOWN, text)
        return len(text)


@contextmanager
def _listening(say: Callable[[str], None]) -> Iterator[Callable[[str, str], None]]:
    """Within: what the first worker says is said here, and what it shows on standard error is shown here."""
    from ray.util.queue import Queue

    queue: Any = Queue(actor_options={"num_cpus": 0})

    def listen() -> None:
        while (told := queue.get()) is not None:
            kind, text = told
            if kind == _SAID:
                say(text)
            else:
                sys.stderr.write(text)

    listener = Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield lambda kind, text: queue.put((kind, text))
    finally:
        queue.put(None)
        listener.join()
