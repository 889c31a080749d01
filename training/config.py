"""The one config file of a run, as frozen dataclasses: a misspelt key or a wrong value is refused before all else."""

import difflib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from sidera.embedding import EncoderSpec
from sidera.errors import EmbeddingError
from training.backbones import shape_of
from training.collaborative import CfSource
from training.errors import ConfigError
from training.tokenizers import read_config

_STRICT = ConfigDict(extra="forbid", strict=True)


class _RangeError(ConfigError, ValueError):
    """A value out of its range. pydantic adds the section to every ``ValueError``."""


def _positive(section: object, *names: str) -> None:
    for name in names:
        if not 0 < getattr(section, name) < math.inf:
            raise _RangeError(f"{name} is {getattr(section, name)}; set a value above 0")


def _not_negative(section: object, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(section, name) < math.inf:
            raise _RangeError(f"{name} is {getattr(section, name)}; set 0 or a value above it")


def _share(section: object, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(section, name) <= 1:
            raise _RangeError(f"{name} is {getattr(section, name)}; set a share from 0 to 1")


@dataclass(frozen=True)
class OptimizerConfig:
    """How one phase of the language model is trained.

    Attributes:
        epochs: passes over the training sequences at the most.
        patience: epochs without a better validation NDCG@10 after which training stops.
        batch_tokens: tokens of a batch, padding included.
        warmup_share: share of all steps in which the learning rate rises; after that it falls as a cosine to 0.
        checkpoint_steps: steps between two checkpoints.
    """

    __pydantic_config__ = _STRICT

    epochs: int
    learning_rate: float
    batch_tokens: int = 8192
    weight_decay: float = 0.01
    warmup_share: float = 0.05
    clip_norm: float = 1.0
    patience: int = 3
    checkpoint_steps: int = 100

    def __post_init__(self) -> None:
        _positive(self, "epochs", "learning_rate", "batch_tokens", "clip_norm", "patience", "checkpoint_steps")
        _not_negative(self, "weight_decay")
        _share(self, "warmup_share")


@dataclass(frozen=True)
class AdapterConfig:
    """The LoRA adapter that each domain gets in phase 2."""

    __pydantic_config__ = _STRICT

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05
    optimizer: OptimizerConfig = OptimizerConfig(epochs=5, learning_rate=1e-3)

    def __post_init__(self) -> None:
        _positive(self, "rank", "alpha")
        _share(self, "dropout")


@dataclass(frozen=True)
class LanguageModelConfig:
    """The backbone, and how it learns.

    Attributes:
        backbone: ``scratch:tiny`` or ``scratch:small``.
        max_history: items of a history that are read.
        beam_width: beams of evaluation and of requests that do not say.
        any_domain_probability: how often ``<any_domain>`` stands for the domain tokens of a training sequence.
        dropout: of the embedded tokens and of the last hidden states while training.
        label_smoothing: share of the target's probability that goes to all codes of its level.
        validation_targets: how many validation targets per domain early stopping looks at.
    """

    __pydantic_config__ = _STRICT

    universal: OptimizerConfig
    backbone: str = "scratch:tiny"
    max_history: int = 50
    beam_width: int = 20
    any_domain_probability: float = 0.1
    dropout: float = 0.1
    label_smoothing: float = 0.0
    validation_targets: int = 500
    domain: AdapterConfig = AdapterConfig()

    def __post_init__(self) -> None:
        _positive(self, "max_history", "beam_width", "validation_targets")
        _share(self, "any_domain_probability", "dropout", "label_smoothing")
        shape_of(self.backbone)


@dataclass(frozen=True)
class TrainConfig:
    """Everything that a run depends on.

    Attributes:
        data: the folder with one folder a domain.
        out: where the bundle goes; what the run needs on the way lies beside it, in ``<out>.work``.
        domains: the domains to train on; empty: all that ``data`` holds.
        min_interactions: users with fewer events in a domain are left out of it.
        tokenizer: ``method``, and that method's own settings.
        threads: CPU threads, 0 for all cores.
    """

    __pydantic_config__ = _STRICT

    data: str
    out: str
    tokenizer: dict[str, Any]
    language_model: LanguageModelConfig
    domains: tuple[str, ...] = ()
    min_interactions: int = 0
    seed: int = 0
    encoder: EncoderSpec = field(default_factory=EncoderSpec)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 0

    def __post_init__(self) -> None:
        _not_negative(self, "min_interactions", "seed", "threads")
        read_config(self.tokenizer)

    @property
    def tokenizer_settings(self) -> dict[str, Any]:
        """The tokenizer's settings, with the run's seed where they name none."""
        return {"seed": self.seed} | self.tokenizer

    @property
    def cf_source(self) -> CfSource | None:
        """Where the tokenizer's collaborative vectors come from; None where it uses none."""
        return read_config(self.tokenizer_settings)[1].cf_source

    def digestible(self) -> dict[str, Any]:
        """The config as JSON, without what changes no result."""
        document = asdict(self)
        for place in ("data", "out", "device", "threads"):
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
        assert isinstance(annotation, type)
        section = annotation
    return section
