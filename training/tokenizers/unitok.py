"""Fits UniTok (arXiv 2511.12922): an autoencoder whose latent is quantised by experts of the domains and a shared one.

The loss is L_rec + quantisation_weight L_RQ + calibration_weight L_MI (:mod:`training.tokenizers.calibration`).
Inference is ``sidera.tokenizers.unitok``.

Shapes: N item, B batch, D item vector dim, d latent dim, K domain, n items of a domain, V codebook size, X expert.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sidera.tokenizers.unitok import UniTok
from training.tokenizers.autoencoder import AutoencoderFit, encoded
from training.tokenizers.calibration import DomainBatches, calibration_loss
from training.tokenizers.common import FitItems, draw_items
from training.tokenizers.dependence import cka, hsic
from training.tokenizers.mixture import Mixed, quantise_mixture, start_mixture
from training.tokenizers.unitok_config import UniTokConfig


def fit_unitok(
    vectors_by_domain: Mapping[str, np.ndarray],
    config: UniTokConfig,
    folder: Path,
    on_epoch: Callable[[int, float], None] | None = None,
) -> UniTok:
    """Fit UniTok, or go on where a killed fit of the same vectors and config stopped, as exactly as an RQ-VAE's.

    It stops, and chooses its weights, by the held-out reconstruction error from emitted codes.

    Args:
        vectors_by_domain: float[N, D] item vectors each.
        config: settings.
        folder: of the checkpoint, ``unitok.pt``.
        on_epoch: told each epoch's number and mean loss, after its checkpoint is written.

    Raises:
        ConfigError: ``top_n`` or ``expert_id`` make no sense with this number of domains.
        DataError: the vectors hold NaN or infinity, or have no rows.
        NonFiniteLossError: a loss is NaN or infinite.
        StageError: the checkpoint cannot be read.
    """
    fit = UniTokFit(draw_items(vectors_by_domain, config), config, folder)
    fit.run(on_epoch)
    return fit.tokenizer()


class UniTokFit(AutoencoderFit[UniTok, UniTokConfig]):
    """The state of one fit between two epochs.

    Attributes:
        calibration: batches of equally many items of each domain.
    """

    def __init__(self, drawn: FitItems, config: UniTokConfig, folder: Path) -> None:
        super().__init__(drawn, config, folder)
        experts = self.model.experts.experts
        self.router_knows_domains = config.router_loss == "domain" and 1 < experts == len(drawn.names)
        self.calibration = DomainBatches(drawn.train_domain_N, len(drawn.names), config.calibration_items)
        self.made: Mixed | None = None
        self.own_uses: list[Tensor] = []
        self.shared_uses: list[Tensor] = []
        self.chosen_NT = torch.full((self.items, config.top_n), -1)

    def new_model(self) -> UniTok:
        config, names = self.config, self.drawn.names
        experts = len(names) if config.experts is None else config.experts
        config.check_experts(experts)
        return UniTok(
            self.drawn.dim,
            config.codebook_sizes,
            config.latent_dim,
            config.hidden_sizes,
            names if experts == len(names) else tuple(str(number + 1) for number in range(experts)),
            shared_expert=config.shared_expert,
            shared_levels=config.emitted_shared_levels,
            shared_reads=config.shared_reads,
            expert_id=config.expert_id,
        )

    def learning(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        model = self.model
        codebooks = list(model.experts.parameters())
        if model.shared is not None:
            codebooks += model.shared.parameters()
        return [*model.encoder.parameters(), *model.decoder.parameters(), *model.router.parameters()], codebooks

    def loss(self, rows_B: Tensor, generator: torch.Generator) -> Tensor:
        """L_rec and, after the warm-up, the quantisation and the calibration loss."""
        config = self.config
        inputs_BD = self.model.standardise(self.drawn.train_ND[rows_B])
        latents_Bd = self.model.encoder(inputs_BD)
        if self.epoch < self.schedule.warm_up:
            return F.mse_loss(self.model.decoder(latents_Bd), inputs_BD)
        self.made = self._quantise(latents_Bd)
        self.chosen_NT[rows_B] = self.made.chosen_BT
        loss = F.mse_loss(self.model.decoder(self.made.straight_through_Bd), inputs_BD)
        loss = loss + config.quantisation_weight * self.made.loss
        if self.router_knows_domains:
            scores_BK = self.model.router(latents_Bd.detach())
            loss = loss + F.cross_entropy(scores_BK, self.drawn.train_domain_N[rows_B])
        if config.calibration_weight and self.calibration.domains:
            vectors_KnD = self.drawn.train_ND[self.calibration.next(generator)]
            loss = loss + config.calibration_weight * self.calibration_loss(vectors_KnD)
        return loss

    def calibration_loss(self, vectors_KnD: Tensor) -> Tensor:
        """L_MI between vectors and their z_hat, by HSIC or CKA.

        The gradient passes the quantiser straight through.

        Args:
            vectors_KnD: n items of each domain, not standardised.
        """
        inputs_KnD = self.model.standardise(vectors_KnD)
        z_hat_Bd = self._quantise(self.model.encoder(inputs_KnD.flatten(0, 1))).straight_through_Bd
        measure = hsic if self.config.calibration_measure == "hsic" else cka
        z_hat_Knd = z_hat_Bd.unflatten(0, inputs_KnD.shape[:2])
        return calibration_loss(inputs_KnD, z_hat_Knd, measure, self.config.calibration_beta)

    def _quantise(self, latents_Bd: Tensor) -> Mixed:
        config = self.config
        return quantise_mixture(
            self.model, latents_Bd, config.top_n, config.commitment, router_gradient=not self.router_knows_domains
        )

    def start_epoch(self) -> None:
        model, config = self.model, self.config
        if self.epoch == self.schedule.warm_up:
            latents_Nd = encoded(model, self.drawn.train_ND)
            domains = len(self.drawn.names)
            start_mixture(model, latents_Nd, self.drawn.train_domain_N, domains, config.top_n, config.seed)
        self.own_uses = [torch.zeros(book.shape[:2], dtype=torch.int64) for book in model.experts.codebooks]
        shared = [] if model.shared is None else list(model.shared.codebooks)
        self.shared_uses = [torch.zeros(len(book), dtype=torch.int64) for book in shared]
        self.calibration.start_epoch()

    def after_step(self) -> None:
        if self.made is None:
            return
        expert_P = self.made.chosen_BT.flatten()
        for uses_XV, codes_P in zip(self.own_uses, self.made.own.codes, strict=True):
            counts = torch.bincount(expert_P * uses_XV.shape[1] + codes_P, minlength=uses_XV.numel())
            uses_XV += counts.view_as(uses_XV)
        if self.made.shared is not None:
            for uses_V, codes_B in zip(self.shared_uses, self.made.shared.codes, strict=True):
                uses_V += torch.bincount(codes_B, minlength=len(uses_V))

    @torch.no_grad()
    def end_epoch(self, generator: torch.Generator) -> None:
        """Restart dead codes at residuals of random items: of those of their expert, or of all for the shared one."""
        if self.made is None:
            return
        model = self.model
        chains = list(model.experts.codebooks)
        for expert in range(model.experts.experts):
            own_M = torch.nonzero((self.chosen_NT == expert).any(dim=1)).flatten()
            uses = [uses_XV[expert] for uses_XV in self.own_uses]
            if len(own_M):
                forget = functools.partial(self._forget, chains, expert)
                own = [codebook_XVd[expert] for codebook_XVd in chains]
                self.restart_dead_codes(own, uses, own_M, lambda latents_Jd: latents_Jd, forget, generator)
        if model.shared is not None:
            shared = list(model.shared.codebooks)
            forget = functools.partial(self._forget, shared, None)
            self.restart_dead_codes(
                shared, self.shared_uses, torch.arange(self.items), self._given_to_shared, forget, generator
            )

    def _given_to_shared(self, latents_Jd: Tensor) -> Tensor:
        shared = self._quantise(latents_Jd).shared
        assert shared is not None
        return shared.residuals[0]

    def _forget(self, codebooks: Sequence[nn.Parameter], expert: int | None, level: int, dead_J: Tensor) -> None:
        for moment_Vd in self.moments(codebooks[level]):
            (moment_Vd if expert is None else moment_Vd[expert])[dead_J] = 0.0
