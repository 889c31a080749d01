"""The one config file of a run, as frozen dataclasses: a misspelt key or a wrong value is refused before all else."""

import difflib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from sidera.embedding import EncoderSpec
from sidera.errors import EmbeddingError
from training.backbones import is_scratch, shape_of
from training.collaborative import CfSource
from training.errors import ConfigError
from training.split import CalendarSplit
from training.tokenizers import read_config
from training.trackers import check_trackers

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
        patience: epochs without a better validation Recall@10 after which training stops. NDCG@10 breaks ties, and of
            epochs that are equal in both the later one counts as better.
        batch_tokens: tokens of a batch, padding included, of all processes together.
        warmup_share: share of all steps in which the learning rate rises; after that it falls as a cosine to 0.
        checkpoint_steps: steps between two checkpoints.
        precision: of the products; weights stay as they are.
        batch_parts: how many parts each process works through a batch in, one after the other. Gradients are those of
            the whole batch; more parts need less memory.
        gradient_checkpointing: compute hidden states again for the gradient, which takes less memory and more time.
        sharded: under ``torchrun``, share out weights, gradients and the optimizer's state (FSDP2) among the
            processes; without it each of them holds all (DDP).
    """

    __pydantic_config__ = _STRICT

    epochs: int
    learning_rate: float
    batch_tokens: int = 8192
    weight_decay: float = 0.1
    warmup_share: float = 0.05
    clip_norm: float = 1.0
    patience: int = 3
    checkpoint_steps: int = 100
    precision: Literal["float32", "bfloat16"] = "float32"
    batch_parts: int = 1
    gradient_checkpointing: bool = False
    sharded: bool = False

    def __post_init__(self) -> None:
        _positive(self, "epochs", "learning_rate", "batch_tokens", "clip_norm", "patience", "checkpoint_steps")
        _positive(self, "batch_parts")
        _not_negative(self, "weight_decay")
        _share(self, "warmup_share")


@dataclass(frozen=True)
class AdapterConfig:
    """The LoRA adapter that each domain gets in phase 2.

    Attributes:
        adapter_layers: which decoder layers it touches: ``all`` of them, or the ``upper_half``.
    """

    __pydantic_config__ = _STRICT

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05
    adapter_layers: Literal["all", "upper_half"] = "all"
    optimizer: OptimizerConfig = OptimizerConfig(epochs=5, learning_rate=1e-3)

    def __post_init__(self) -> None:
        _positive(self, "rank", "alpha")
        _share(self, "dropout")


@dataclass(frozen=True)
class RouterConfig:
    """What decides how much of the domain's own distribution a request gets: gamma.

    Attributes:
        kind: ``learned``: the user router, where validation targets are likelier with it than with a constant;
            ``constant``: one per domain, the best on validation; ``fixed``: ``gamma``.
        gamma: of every request, 0 to 1; for ``fixed`` alone.
        share: of the (user, domain) pairs with at least 4 events. Their last train event is held out from all training,
            for the router to learn from.
        most: held-out events of a domain at the most.
        hidden: width of the router's bottleneck and of the layer behind it.
        kl_weight: of the bottleneck's divergence from a standard normal vector.
        epochs: passes over the held-out events at the most.
    """

    __pydantic_config__ = _STRICT

    kind: Literal["learned", "constant", "fixed"] = "learned"
    gamma: float | None = None
    share: float = 0.1
    most: int = 20_000
    hidden: int = 128
    kl_weight: float = 1e-3
    epochs: int = 100
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        _positive(self, "share", "most", "hidden", "epochs", "learning_rate")
        _share(self, "share")
        _not_negative(self, "kl_weight")
        if (self.gamma is not None) != (self.kind == "fixed"):
            remedy = "set gamma, from 0 to 1" if self.kind == "fixed" else "leave gamma out, or set kind: fixed"
            raise _RangeError(f"kind is {self.kind} and gamma is {self.gamma}; {remedy}")
        if self.gamma is not None:
            _share(self, "gamma")


@dataclass(frozen=True)
class ExpertsConfig:
    """The universal LoRA experts on every linear layer of the backbone (GenCDR, arXiv 2511.08006).

    Attributes:
        count: how many; 0 for none.
        gate: ``learned`` for every token and layer, or the ``average`` of all experts, which can be merged.
    """

    __pydantic_config__ = _STRICT

    count: int = 4
    rank: int = 64
    alpha: int = 128
    dropout: float = 0.05
    gate: Literal["learned", "average"] = "learned"

    def __post_init__(self) -> None:
        _not_negative(self, "count")
        _positive(self, "rank", "alpha")
        _share(self, "dropout")


@dataclass(frozen=True)
class TextAlignmentConfig:
    """Auxiliary tasks of phase 1, title to SID and SID to title, for backbones that know words (arXiv 2311.09049).

    Attributes:
        share: of all batches of an epoch, below 1; half of them for either task. 0 for none.
        max_title_tokens: tokens of a title that are read, from its first one on.
    """

    __pydantic_config__ = _STRICT

    share: float = 0.1
    max_title_tokens: int = 32

    def __post_init__(self) -> None:
        _positive(self, "max_title_tokens")
        if not 0 <= self.share < 1:
            raise _RangeError(f"share is {self.share}; set 0 or a share below 1, the rest is for histories")


@dataclass(frozen=True)
class LanguageModelConfig:
    """The backbone, and how it learns.

    Attributes:
        backbone: ``scratch:tiny``, ``scratch:small`` or ``scratch:base``, all of whose weights train in phase 1; or the
            folder or Hugging Face hub name of a pretrained causal model, of which only experts and new token rows do.
        max_history: items of a history that are read.
        beam_width: beams of evaluation and of requests that do not say.
        any_domain_probability: how often ``<any_domain>`` stands for the domain tokens of a training sequence.
        dropout: of the embedded tokens and of the last hidden states while training.
        loss: what a code's probability is normalised over in training: the whole ``codebook`` of its level, or, as
            decoding does, the ``children`` of its prefix in its domain's trie.
        label_smoothing: share of the target's probability that goes to all codes that it is normalised over.
        text_alignment: mixes titles into phase 1 of a pretrained backbone with a tokenizer; None: histories alone.
        validation_targets: how many validation targets per domain early stopping looks at.
        experts: the universal experts; None: none for a scratch backbone, the default ones for a pretrained one.
        domain: the adapters of phase 2; None: no domain has one, and the universal distribution speaks alone.
        router: weighs the universal and the domain's distribution.
    """

    __pydantic_config__ = _STRICT

    universal: OptimizerConfig
    backbone: str = "scratch:tiny"
    max_history: int = 50
    beam_width: int = 20
    any_domain_probability: float = 0.1
    dropout: float = 0.1
    loss: Literal["codebook", "children"] = "children"
    label_smoothing: float = 0.1
    text_alignment: TextAlignmentConfig | None = None
    validation_targets: int = 500
    experts: ExpertsConfig | None = None
    domain: AdapterConfig | None = AdapterConfig()
    router: RouterConfig = RouterConfig()

    def __post_init__(self) -> None:
        _positive(self, "max_history", "beam_width", "validation_targets")
        _share(self, "any_domain_probability", "dropout", "label_smoothing")
        if not self.backbone:
            raise _RangeError("backbone is empty; set scratch:<preset>, a folder or a hub name")
        if is_scratch(self.backbone):
            if self.text_alignment is not None:
                raise _RangeError(
                    f"text_alignment: {self.backbone} has no tokenizer that reads titles; leave text_alignment out, or "
                    "name a pretrained backbone"
                )
            most = shape_of(self.backbone).width // 8
            for name, ranked in (("experts", self.universal_experts), ("domain", self.domain)):
                if ranked is not None and ranked.rank > most:
                    raise _RangeError(f"{name}.rank is {ranked.rank}; set {most} or less for {self.backbone}")

    @property
    def universal_experts(self) -> ExpertsConfig | None:
        """The experts of this backbone; None where it has none."""
        if self.experts is None:
            return None if is_scratch(self.backbone) else ExpertsConfig()
        return self.experts if self.experts.count else None

    @property
    def router_share(self) -> float:
        """Share of the (user, domain) pairs that hold an event out for the router; 0 where none is fitted."""
        return self.router.share if self.domain is not None and self.router.kind == "learned" else 0.0


@dataclass(frozen=True)
class NeighboursConfig:
    """What is mixed with the language model's distributions: items that followed, items alike, popular ones.

    Attributes:
        enabled: whether anything is.
        window: how many events apart two items of a sequence still count, 1/sqrt(distance) each.
        backward: what an item counts for the one behind it, as a share of what it counts for the one before.
        smoothing: a list of followers with a count of c has a mass of c / (c + smoothing), the language model the rest.
        discount: what the count of each follower is less when a list is read, in favour of the language model.
        longest: items of a list of followers at the most.
        half_life_days: in this time a transition loses half of its count, where events have real times; null: none.
        nearest: items of a list of alike ones.
        temperature: of the softmax over their cosines, at least 0.02: below, float32 knows no weights.
        recent: the newest items of a history whose lists are read.
        decay: what an item counts beside the next newer one.
        borrowing: what an item with fewer than 5 train events gets of its nearest ones' mass among followers, beside 1
            for what it has itself; 0: nothing.
        reader_width: of the vectors by which a reader, learned from a domain's events and texts, reads whole histories;
            of the mass of items alike it has the share that ranks validation targets best. 0: no reader.
        reader_passes: over the train targets of a domain, for its reader; three that are no better end them.
        reader_most_items: domains with more items have no reader: it looks at all of them for each history.
        unseen_share: the share of items alike in a domain that training never saw; the language model has the rest. Two
            thirds of it are the followers' where events have brought any.
        router: whether each history has its own shares, where they rank validation targets better; else fixed ones.
    """

    __pydantic_config__ = _STRICT

    enabled: bool = True
    window: int = 10
    backward: float = 0.2
    smoothing: float = 20.0
    discount: float = 0.5
    longest: int = 100
    half_life_days: float | None = None
    nearest: int = 60
    temperature: float = 0.1
    recent: int = 5
    decay: float = 0.6
    borrowing: float = 1.0
    reader_width: int = 128
    reader_passes: int = 20
    reader_most_items: int = 100_000
    unseen_share: float = 0.9
    router: bool = True

    def __post_init__(self) -> None:
        _positive(self, "window", "longest", "nearest", "temperature", "recent", "reader_passes")
        if self.half_life_days is not None:
            _positive(self, "half_life_days")
        if self.temperature < 0.02:
            raise _RangeError(f"temperature is {self.temperature}; set 0.02 or a value above it")
        _share(self, "backward", "decay")
        _not_negative(self, "smoothing", "discount", "borrowing", "reader_width", "reader_most_items")
        if not 0 <= self.unseen_share <= 0.99:
            raise _RangeError(
                f"unseen_share is {self.unseen_share}; set a share from 0 to 0.99: items need some chance"
            )


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

    __pydantic_config__ = _STRICT

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
    neighbours: NeighboursConfig = NeighboursConfig()
    test_targets: int = 0
    trackers: tuple[str, ...] = ("tensorboard",)

    def __post_init__(self) -> None:
        _not_negative(self, "min_interactions", "seed", "threads", "test_targets")
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
