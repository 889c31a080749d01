"""Stages 2 and 3 of the fit of GenCDR's tokenizer (arXiv 2511.08006): one part of a model learns, all else is frozen.

Shapes: N item, B batch, D item vector dim, d latent dim, i inputs of a layer, R rows of one part.
"""

import hashlib
import itertools
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from sidera.tokenizers.gencdr import ConstantShare, EncoderAdapters, GenCdr, ItemRouter, fused
from training.errors import NonFiniteLossError, StageError
from training.tokenizers.common import FitItems, settings_digest
from training.tokenizers.fitting import Fit, Schedule
from training.tokenizers.gencdr_config import GenCdrConfig
from training.tokenizers.quantisation import quantise_for_training

_ROWS = 8192


class FrozenFit(Fit):
    """A stage that fits one part of a model while all else stays as it is, to the bit.

    Attributes:
        part: the name of what is fitted.
        frozen: digest of all else.
    """

    part: ClassVar[str]
    stage: ClassVar[str]

    def __init__(self, model: GenCdr, drawn: FitItems, config: GenCdrConfig, folder: Path) -> None:
        self.model, self.drawn, self.config = model, drawn, config
        self.how = replace(config.quantisation, codebook_gradient=False)
        model.requires_grad_(False)
        module = model.get_submodule(self.part).requires_grad_(True)
        self.frozen = frozen_digest(model, self.part)
        schedule = self.schedule_of(config, self.items)
        optimizer = torch.optim.AdamW(
            module.parameters(), lr=schedule.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        super().__init__(f"gencdr ({self.stage})", module, optimizer, schedule, folder / f"gencdr-{self.stage}.pt")

    def schedule_of(self, config: GenCdrConfig, items: int) -> Schedule:
        """Of this stage, on so many items."""
        whole = Schedule(
            epochs=getattr(config, f"{self.stage}_epochs"),
            batch_size=config.batch_size,
            learning_rate=getattr(config, f"{self.stage}_learning_rate"),
            evaluate_every=config.evaluate_every,
            patience=config.patience,
            seed=config.seed,
        )
        return whole.limited(items, config.most_steps)

    @property
    def digest(self) -> str:
        return settings_digest(self.drawn.digest, self.config, self.frozen)

    @property
    def items(self) -> int:
        return len(self.drawn.train_ND)

    def run(self, on_epoch: Callable[[int, float], None] | None = None) -> None:
        """As :meth:`Fit.run`.

        Raises:
            StageError: something changed that is frozen.
        """
        super().run(on_epoch)
        if frozen_digest(self.model, self.part) != self.frozen:
            raise StageError(f"the {self.stage} stage of gencdr changed weights that it must not; report this")

    def start_epoch(self) -> None:
        """What is there before the first epoch counts as well: a stage never ends worse than it began."""
        if self.epoch == 0:
            self.best_error = self.held_out_error()

    def loss(self, rows_B: Tensor, generator: torch.Generator) -> Tensor:
        loss = self.stage_loss(rows_B, generator)
        if not torch.isfinite(loss):
            raise NonFiniteLossError(
                f"tokenizer {self.name}: the loss is {loss.item()} in epoch {self.epoch}; "
                f"set a lower tokenizer.{self.stage}_learning_rate"
            )
        return loss

    @abstractmethod
    def stage_loss(self, rows_B: Tensor, generator: torch.Generator) -> Tensor:
        """The loss of a batch of training items."""

    def reconstruction_loss(self, rows_B: Tensor, latents_Bd: Tensor) -> Tensor:
        """Reconstruction + commitment to the frozen codebooks, of items whose latents are given."""
        made = quantise_for_training(self.model.quantiser, latents_Bd, self.how)
        inputs_BD = self.model.standardise(self.drawn.train_ND[rows_B])
        return F.mse_loss(self.model.decoder(made.straight_through_Bd), inputs_BD) + made.loss

    def held_out_error(self) -> float:
        return self.drawn.held_out_error(self.model)


class DomainFit(FrozenFit):
    """Stage 2: the adapters of all domains, each on its domain's items alone; what is quantised is z_dom.

    Raises:
        StageError: what learns is not the adapters: rank * (inputs + outputs) of each layer, for each domain.
    """

    part, stage = "adapters", "domain"

    def __init__(self, model: GenCdr, drawn: FitItems, config: GenCdrConfig, folder: Path) -> None:
        super().__init__(model, drawn, config, folder)
        widths = [drawn.dim, *config.hidden_sizes, config.latent_dim]
        per_domain = sum(config.adapter_rank * (inputs + outputs) for inputs, outputs in itertools.pairwise(widths))
        check_trainable(model, self.part, per_domain * len(drawn.names))
        assert model.adapters is not None
        self.adapters: EncoderAdapters = model.adapters

    def stage_loss(self, rows_B: Tensor, generator: torch.Generator) -> Tensor:
        domain_B, order_B = self.drawn.train_domain_N[rows_B].sort(stable=True)
        domains, counts = (tensor.tolist() for tensor in domain_B.unique_consecutive(return_counts=True))
        rows_B = rows_B[order_B]
        inputs_BD = self.model.standardise(self.drawn.train_ND[rows_B])
        keep = 1 - self.config.adapter_dropout

        def dropout(read_Bi: Tensor) -> Tensor:
            return read_Bi * torch.empty_like(read_Bi).bernoulli_(keep, generator=generator).div_(keep)

        items_of = dict(zip(domains, counts, strict=True))
        latents_Bd = self.adapters(self.model.encoder, inputs_BD, items_of, dropout if keep < 1 else None)
        return self.reconstruction_loss(rows_B, latents_Bd)

    def held_out_error(self) -> float:
        """Of z_dom alone."""
        router, self.model.router = self.model.router, ConstantShare(1.0)
        try:
            return super().held_out_error()
        finally:
            self.model.router = router


class RouterFit(FrozenFit):
    """Stage 3: the router, one for all domains; reconstruction + commitment + the bottleneck's divergence."""

    part, stage = "router", "router"

    def __init__(self, model: GenCdr, drawn: FitItems, config: GenCdrConfig, folder: Path) -> None:
        super().__init__(model, drawn, config, folder)
        assert isinstance(model.router, ItemRouter)
        self.router: ItemRouter = model.router
        self.latents: tuple[Tensor, Tensor] | None = None

    def start_epoch(self) -> None:
        super().start_epoch()
        if self.latents is None:
            self.latents = both_latents(self.model, self.drawn)

    def stage_loss(self, rows_B: Tensor, generator: torch.Generator) -> Tensor:
        assert self.latents is not None
        universal_Bd, domain_Bd = (latents_Nd[rows_B] for latents_Nd in self.latents)
        mean_Bd, log_variance_Bd = self.router.bottleneck_of(universal_Bd, domain_Bd)
        noise_Bd = torch.randn(mean_Bd.shape, generator=generator)
        share_B = self.router.share_of(mean_Bd + (log_variance_Bd / 2).exp() * noise_Bd)
        divergence = (mean_Bd.square() + log_variance_Bd.exp() - 1 - log_variance_Bd).sum(dim=1).mean() / 2
        loss = self.reconstruction_loss(rows_B, fused(universal_Bd, domain_Bd, share_B))
        return loss + self.config.kl_weight * divergence


@torch.no_grad()
def both_latents(model: GenCdr, drawn: FitItems) -> tuple[Tensor, Tensor]:
    """z_uni and z_dom of all training items, float32[N, d] each: neither changes while the router learns."""
    assert model.adapters is not None
    universal_Nd = torch.empty(len(drawn.train_ND), model.latent_dim)
    domain_Nd = torch.empty_like(universal_Nd)
    for domain in range(len(drawn.names)):
        for rows_R in torch.nonzero(drawn.train_domain_N == domain).flatten().split(_ROWS):
            inputs_RD = model.standardise(drawn.train_ND[rows_R])
            universal_Nd[rows_R] = model.encoder(inputs_RD)
            domain_Nd[rows_R] = model.adapters(model.encoder, inputs_RD, {domain: len(rows_R)})
    return universal_Nd, domain_Nd


def check_trainable(model: GenCdr, part: str, expected: int) -> None:
    """Refuse to fit where adapters hang on nothing, or where more learns than they.

    Raises:
        StageError: a parameter of another part learns, or another number of parameters than expected.
    """
    learning = {name: parameter.numel() for name, parameter in model.named_parameters() if parameter.requires_grad}
    others = [name for name in learning if not name.startswith(f"{part}.")]
    if others or sum(learning.values()) != expected:
        raise StageError(
            f"gencdr would fit {sum(learning.values())} parameters ({', '.join(others) or part}) where {part} have "
            f"{expected}; freeze all else and attach an adapter to every linear layer of the encoder"
        )


def frozen_digest(model: GenCdr, part: str) -> str:
    """sha256 (hex) of all of a model's tensors but those of one part."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if not name.startswith(f"{part}."):
            digest.update(f"{name}\0{tuple(tensor.shape)}\0".encode() + tensor.numpy().tobytes())
    return digest.hexdigest()
