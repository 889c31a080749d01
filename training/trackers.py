"""Where the curves of a training go: TensorBoard's files beside the stages, or any tracker that Accelerate knows."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from training.errors import ConfigError

PACKAGES = {
    "aim": "aim",
    "clearml": "clearml",
    "comet_ml": "comet_ml",
    "dvclive": "dvclive",
    "mlflow": "mlflow",
    "swanlab": "swanlab",
    "tensorboard": "tensorboard",
    "trackio": "trackio",
    "wandb": "wandb",
}
"""The package of each tracker."""


def check_trackers(names: tuple[str, ...]) -> None:
    """Refuse what could not be written.

    Raises:
        ConfigError: a tracker is not known, or its package is not installed.
    """
    for name in names:
        if name not in PACKAGES:
            raise ConfigError(f"trackers: {name!r} is not known; use some of {', '.join(PACKAGES)}, or [] for none")
        if find_spec(PACKAGES[name]) is None:
            raise ConfigError(
                f"trackers: {name} needs the package {PACKAGES[name]}, which is not installed; "
                f"pip install {PACKAGES[name]}, or take {name} out"
            )


@dataclass(frozen=True)
class Tracking:
    """Which trackers a run writes to.

    Attributes:
        trackers: their names; none: nothing is written.
        folder: where the files of those lie that write files.
    """

    trackers: tuple[str, ...] = ()
    folder: Path = Path()

    def open(self, accelerator: Any, label: str, total_steps: int) -> None:
        """Begin or go on with the curves of one phase.

        Args:
            accelerator: made with ``log_with=trackers`` and ``project_dir=folder``.
            total_steps: steps that are done. TensorBoard forgets what a killed run wrote behind them; other trackers
                begin a new run, whose steps go on from there.
        """
        options: Mapping[str, Any] = {"tensorboard": {"purge_step": total_steps + 1}}
        accelerator.init_trackers(label.replace(" ", "-"), init_kwargs=dict(options))
