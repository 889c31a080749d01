"""The one config file of a run, as frozen dataclasses: a misspelt key or a wrong value is refused before all else."""

import difflib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args

import yaml
from pydantic import TypeAdapter, ValidationError

from sidera.embedding import EncoderSpec
from sidera.errors import EmbeddingError
from training.collaborative import CfSource
from training.config_checks import STRICT, not_negative
from training.errors import ConfigError
from training.model_config import LanguageModelConfig
from training.neighbours_config import NeighboursConfig
from training.split import CalendarSplit
from training.tokenizers import read_config
from training.trackers import check_trackers


@dataclass(frozen=True)
class TrainConfig:
    """Everything that a run depends on.

    Attributes:
        data: the folder with one folder a domain.
        out: where the bundle goes; what the run needs on the way lies beside it, in ``<out>.work``.
        domains: the domains to train on; empty: all that ``data`` holds.
        min_interactions: users with fewer events in a domain are left out of it.
        forget: a file of users to forget, JSON lines ``{"user_id": ..., "deleted_at": ...}``; None: nobody. Their
            events up to that time are dropped before all else.
        split: calendar moments at which validation and test begin; None: by each user's last events.
        tokenizer: ``method``, and that method's own settings.
        threads: CPU threads, 0 for all cores.
        test_targets: of each domain, that the report is over; 0 for all.
        neighbours: what is mixed with the language model: items that followed, items alike, popular ones.
        trackers: where the curves of the training go: ``tensorboard``, ``wandb``, ``mlflow``, ...; none: ``[]``.
    """

    __pydantic_config__ = STRICT

    data: str
    out: str
    tokenizer: dict[str, Any]
    language_model: LanguageModelConfig
    domains: tuple[str, ...] = ()
    min_interactions: int = 0
    forget: str | None = None
    split: CalendarSplit | None = None
    seed: int = 0
    encoder: EncoderSpec = field(default_factory=EncoderSpec)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 0
    neighbours: NeighboursConfig = field(default_factory=NeighboursConfig)
    test_targets: int = 0
    trackers: tuple[str, ...] = ("tensorboard",)

    def __post_init__(self) -> None:
        not_negative(self, "min_interactions", "seed", "threads", "test_targets")
        check_trackers(self.trackers)
        read_config(self.tokenizer)

    @property
    def tokenizer_settings(self) -> dict[str, Any]:
        """The tokenizer's settings, with the run's seed where they name none."""
        return {"seed": self.seed} | self.tokenizer

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Codes per level, as the tokenizer's settings say."""
        return read_config(self.tokenizer_settings)[1].codebook_sizes

    @property
    def cf_source(self) -> CfSource | None:
        """Where the tokenizer's collaborative vectors come from; None where it uses none."""
        return read_config(self.tokenizer_settings)[1].cf_source

    def digestible(self) -> dict[str, Any]:
        """The config as JSON, without what changes no result."""
        document = asdict(self)
        for place in ("data", "out", "device", "threads", "trackers", "forget"):
            del document[place]
        document["tokenizer"].pop("cf_vectors", None)  # the place; its content has a digest of its own
        return document


def load_config(path: Path, overrides: Mapping[str, Any] | None = None) -> TrainConfig:
    """Read a YAML config; ``overrides`` replace its top-level keys.

    Raises:
        ConfigError: the file cannot be read, a key is unknown or missing, or a value is of a wrong kind or range.
    """
    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: the config cannot be read ({error}); give a YAML file") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: the config is no mapping of keys; see configs/demo.yaml for one")
    document |= {key: value for key, value in (overrides or {}).items() if value is not None}
    try:
        return TypeAdapter(TrainConfig).validate_json(json.dumps(document, default=str))
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{path}: {_sentence(first)}") from error
    except (ConfigError, EmbeddingError) as error:
        raise ConfigError(f"{path}: {error}") from error
    except TypeError as error:
        raise ConfigError(f"{path}: a key is no text ({error}); write every key as a word") from error


def _sentence(error: Mapping[str, Any]) -> str:
    place = [str(part) for part in error["loc"]]
    where = ".".join(place)
    if error["type"] == "unexpected_keyword_argument":
        known = [entry.name for entry in fields(_section(place[:-1]))]
        close = difflib.get_close_matches(place[-1], known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"the keys here are {', '.join(known)}"
        return f"{where}: unknown key; {hint}"
    if error["type"] == "missing":
        return f"{where}: missing; set it"
    if error["type"] == "value_error":
        return f"{where}: {error['ctx']['error']}".removeprefix(": ")
    if error["type"] == "float_type" and isinstance(error["input"], str):
        return f"{where}: {error['input']!r} is text in YAML; write a number such as 0.001 or 1.0e-3"
    return f"{where}: {error['msg']}; it is {error['input']!r}"


def _section(place: list[str]) -> type:
    section: type = TrainConfig
    for name in place:
        (annotation,) = (entry.type for entry in fields(section) if entry.name == name)
        (section,) = (kind for kind in get_args(annotation) or (annotation,) if kind is not NoneType)
    return section
