"""The sections of a config that say how the language model is made and how it learns."""

from dataclasses import dataclass
from typing import Literal

from training.backbones import is_scratch, shape_of
from training.config_checks import STRICT, RangeError, in_unit, not_negative, positive


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

    __pydantic_config__ = STRICT

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
        positive(self, "epochs", "learning_rate", "batch_tokens", "clip_norm", "patience", "checkpoint_steps")
        positive(self, "batch_parts")
        not_negative(self, "weight_decay")
        in_unit(self, "warmup_share")


@dataclass(frozen=True)
class AdapterConfig:
    """The LoRA adapter that each domain gets in phase 2.

    Attributes:
        adapter_layers: which decoder layers it touches: ``all`` of them, or the ``upper_half``.
    """

    __pydantic_config__ = STRICT

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05
    adapter_layers: Literal["all", "upper_half"] = "all"
    optimizer: OptimizerConfig = OptimizerConfig(epochs=5, learning_rate=1e-3)

    def __post_init__(self) -> None:
        positive(self, "rank", "alpha")
        in_unit(self, "dropout")


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

    __pydantic_config__ = STRICT

    kind: Literal["learned", "constant", "fixed"] = "learned"
    gamma: float | None = None
    share: float = 0.1
    most: int = 20_000
    hidden: int = 128
    kl_weight: float = 1e-3
    epochs: int = 100
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        positive(self, "share", "most", "hidden", "epochs", "learning_rate")
        in_unit(self, "share")
        not_negative(self, "kl_weight")
        if (self.gamma is not None) != (self.kind == "fixed"):
            remedy = "set gamma, from 0 to 1" if self.kind == "fixed" else "leave gamma out, or set kind: fixed"
            raise RangeError(f"kind is {self.kind} and gamma is {self.gamma}; {remedy}")
        if self.gamma is not None:
            in_unit(self, "gamma")


@dataclass(frozen=True)
class ExpertsConfig:
    """The universal LoRA experts on every linear layer of the backbone (GenCDR, arXiv 2511.08006).

    Attributes:
        count: how many; 0 for none.
        gate: ``learned`` for every token and layer, or the ``average`` of all experts, which can be merged.
    """

    __pydantic_config__ = STRICT

    count: int = 4
    rank: int = 64
    alpha: int = 128
    dropout: float = 0.05
    gate: Literal["learned", "average"] = "learned"

    def __post_init__(self) -> None:
        not_negative(self, "count")
        positive(self, "rank", "alpha")
        in_unit(self, "dropout")


@dataclass(frozen=True)
class TextAlignmentConfig:
    """Auxiliary tasks of phase 1, title to SID and SID to title, for backbones that know words (arXiv 2311.09049).

    Attributes:
        share: of all batches of an epoch, below 1; half of them for either task. 0 for none.
        max_title_tokens: tokens of a title that are read, from its first one on.
    """

    __pydantic_config__ = STRICT

    share: float = 0.1
    max_title_tokens: int = 32

    def __post_init__(self) -> None:
        positive(self, "max_title_tokens")
        if not 0 <= self.share < 1:
            raise RangeError(f"share is {self.share}; set 0 or a share below 1, the rest is for histories")


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

    __pydantic_config__ = STRICT

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
        positive(self, "max_history", "beam_width", "validation_targets")
        in_unit(self, "any_domain_probability", "dropout", "label_smoothing")
        if not self.backbone:
            raise RangeError("backbone is empty; set scratch:<preset>, a folder or a hub name")
        if is_scratch(self.backbone):
            if self.text_alignment is not None:
                raise RangeError(
                    f"text_alignment: {self.backbone} has no tokenizer that reads titles; leave text_alignment out, or "
                    "name a pretrained backbone"
                )
            most = shape_of(self.backbone).width // 8
            for name, ranked in (("experts", self.universal_experts), ("domain", self.domain)):
                if ranked is not None and ranked.rank > most:
                    raise RangeError(f"{name}.rank is {ranked.rank}; set {most} or less for {self.backbone}")

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
