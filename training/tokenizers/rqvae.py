"""Fits an RQ-VAE (TIGER, NeurIPS 2023, arXiv 2305.05065): the losses and the k-means start.

Does not know domains or texts. Inference is ``sidera.tokenizers.rqvae``.

Shapes: N item, B batch, D item vector dim, d latent dim, V codebook size.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sidera.tokenizers.residual import nearest_of, squared_distances
from sidera.tokenizers.rqvae import RqVae
from training.kmeans import kmeans_codebook
from training.tokenizers.autoencoder import AutoencoderConfig, AutoencoderFit, encoded
from training.tokenizers.common import FitItems, check, draw_items
from training.tokenizers.quantisation import EmaCodebooks, Quantisation, Quantised, Sinkhorn, quantise_for_training


@dataclass(frozen=True)
class RqVaeConfig(AutoencoderConfig):
    """Settings of ``method: rqvae``.

    Attributes:
        ema_decay: codebooks are moving averages, with this decay (0.99 is usual), of what falls on their codes; None
            lets them learn by gradient.
        sinkhorn_epsilon: codes of the last level are balanced within each batch of the fit by optimal transport with
            this weight of the entropy (0.003 is usual); None takes the nearest ones. ``encode`` always takes these.
        sinkhorn_iterations: of that balancing.
    """

    ema_decay: float | None = None
    sinkhorn_epsilon: float | None = None
    sinkhorn_iterations: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.sinkhorn_iterations >= 1, "sinkhorn_iterations", self.sinkhorn_iterations, "of at least 1")
        if self.ema_decay is not None:
            check(0 < self.ema_decay < 1, "ema_decay", self.ema_decay, "between 0 and 1")
        if self.sinkhorn_epsilon is not None:
            check(self.sinkhorn_epsilon > 0, "sinkhorn_epsilon", self.sinkhorn_epsilon, "above 0")

    @property
    def quantisation(self) -> Quantisation:
        """How a step quantises."""
        balance = None
        if self.sinkhorn_epsilon is not None:
            balance = Sinkhorn(self.sinkhorn_epsilon, self.sinkhorn_iterations)
        return Quantisation(self.commitment, self.ema_decay is None, balance)


def fit_rqvae(
    vectors_by_domain: Mapping[str, np.ndarray],
    config: RqVaeConfig,
    folder: Path,
    on_epoch: Callable[[int, float], None] | None = None,
) -> RqVae:
    """Fit an RQ-VAE, or go on where a killed fit of the same vectors and config stopped.

    Args:
        vectors_by_domain: float[N, D] item vectors each; the domains are fitted as one, and a share is held out.
        config: settings.
        folder: of the checkpoint, ``rqvae.pt``.
        on_epoch: told each epoch's number and mean loss, after its checkpoint is written.

    Returns:
        The tokenizer with the lowest held-out reconstruction error.

    Raises:
        DataError: the vectors hold NaN or infinity, or have no rows.
        NonFiniteLossError: a loss is NaN or infinite.
        StageError: the checkpoint cannot be read.
    """
    fit = RqVaeFit(draw_items(vectors_by_domain, config), config, folder)
    fit.run(on_epoch)
    return fit.tokenizer()


class RqVaeFit(AutoencoderFit[RqVae, RqVaeConfig]):
    """The state of one fit between two epochs.

    Methods that add losses to an RQ-VAE's build on it: :meth:`batch_loss`, :meth:`more_state`, :meth:`take_more_state`.
    """

    model_class: ClassVar[type[RqVae]] = RqVae

    def __init__(self, drawn: FitItems, config: RqVaeConfig, folder: Path) -> None:
        super().__init__(drawn, config, folder)
        self.ema = None if config.ema_decay is None else EmaCodebooks(self.model.quantiser, config.ema_decay)
        self.made: Quantised | None = None
        self.uses: list[Tensor] = []

    def new_model(self) -> RqVae:
        config = self.config
        return self.model_class(self.drawn.dim, config.codebook_sizes, config.latent_dim, config.hidden_sizes)

    def learning(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        model = self.model
        codebooks = list(model.quantiser.parameters()) if self.config.ema_decay is None else []
        return [*model.encoder.parameters(), *model.decoder.parameters()], codebooks

    def batch_loss(self, rows_B: Tensor, generator: torch.Generator) -> tuple[Tensor, Quantised | None]:
        """The loss of training items and how they were quantised; None during the warm-up.

        Args:
            rows_B: into ``drawn.train_ND``.
            generator: of the epoch's draws.
        """
        quantised = self.epoch >= self.schedule.warm_up
        return rqvae_loss(self.model, self.drawn.train_ND[rows_B], self.config.quantisation if quantised else None)

    def loss(self, rows_B: Tensor, generator: torch.Generator) -> Tensor:
        loss, self.made = self.batch_loss(rows_B, generator)
        return loss

    def start_epoch(self) -> None:
        if self.epoch == self.schedule.warm_up:
            self._start_codebooks()
        self.uses = [torch.zeros(size, dtype=torch.int64) for size in self.model.quantiser.codebook_sizes]

    def after_step(self) -> None:
        if self.made is None:
            return
        if self.ema is not None:
            self.ema.update(self.made.residuals, self.made.codes)
        for uses_V, codes_B in zip(self.uses, self.made.nearest, strict=True):
            uses_V += torch.bincount(codes_B, minlength=len(uses_V))

    def end_epoch(self, generator: torch.Generator) -> None:
        if self.made is not None:
            codebooks, rows_N = list(self.model.quantiser.codebooks), torch.arange(self.items)
            self.restart_dead_codes(
                codebooks, self.uses, rows_N, lambda latents_Jd: latents_Jd, self._forget, generator
            )

    def more_state(self) -> dict[str, Any]:
        return {} if self.ema is None else {"ema": self.ema.state_dict()}

    def take_more_state(self, state: Mapping[str, Any]) -> None:
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])

    @torch.no_grad()
    def _start_codebooks(self) -> None:
        """k-means of what each level is given, level after level (section 3.1 of the paper)."""
        residual_Nd = encoded(self.model, self.drawn.train_ND)
        for level, codebook_Vd in enumerate(self.model.quantiser.codebooks):
            centres = kmeans_codebook(residual_Nd.numpy(), len(codebook_Vd), self.config.seed + level)
            codebook_Vd.copy_(torch.from_numpy(centres))
            codes_N = torch.cat([nearest_of(squared_distances(part, codebook_Vd)) for part in residual_Nd.split(8192)])
            if self.ema is not None:
                counts_V = torch.bincount(codes_N, minlength=len(codebook_Vd))
                self.ema.start(level, counts_V * (self.config.batch_size / len(codes_N)))
            residual_Nd -= codebook_Vd[codes_N]

    def _forget(self, level: int, dead_J: Tensor) -> None:
        if self.ema is not None:
            self.ema.restart(level, dead_J)
            return
        for moment_Vd in self.moments(self.model.quantiser.codebooks[level]):
            moment_Vd[dead_J] = 0.0


def rqvae_loss(model: RqVae, vectors_BD: Tensor, how: Quantisation | None) -> tuple[Tensor, Quantised | None]:
    """Reconstruction + quantisation loss (eq. 1 and 2 of TIGER). Squares are means over components.

    The decoder's gradient passes the quantiser straight through.

    Args:
        model: the RQ-VAE.
        vectors_BD: item vectors, not standardised.
        how: None leaves the quantiser out: the loss of the bare autoencoder.
    """
    inputs_BD = model.standardise(vectors_BD)
    latents_Bd = model.encoder(inputs_BD)
    if how is None:
        return F.mse_loss(model.decoder(latents_Bd), inputs_BD), None
    made = quantise_for_training(model.quantiser, latents_Bd, how)
    return F.mse_loss(model.decoder(made.straight_through_Bd), inputs_BD) + made.loss, made
