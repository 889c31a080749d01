"""Fits UniTok (arXiv 2511.12922): an autoencoder whose latent is quantised by experts of the domains and a shared one.

The loss is L_rec + quantisation_weight L_RQ + calibration_weight L_MI. Calibration keeps the codes of all domains about
equally telling: L_MI = Var_k[HSIC_k] - beta mean_k[HSIC_k], HSIC_k between the vectors of domain k and their z_hat.
HSIC of few samples measures how few they are, so L_MI has batches of its own with equally many items of every domain.
Inference is ``sidera.tokenizers.unitok``.

Shapes: N item, B batch, D item vector dim, d latent dim, K domain, n items of a domain, V codebook size, X expert.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sidera.tokenizers.residual import squared_distances
from sidera.tokenizers.unitok import UniTok
from training.tokenizers.common import FitItems, draw_items, settings_digest
from training.tokenizers.dependence import cka, hsic
from training.tokenizers.fitting import Fit
from training.tokenizers.mixture import Mixed, quantise_mixture, start_mixture
from training.tokenizers.rqvae import encoded, start_at
from training.tokenizers.unitok_config import UniTokConfig

_FEWEST_CALIBRATED = 64
"""A domain with fewer items to fit on takes no part in calibration: HSIC of few samples tells how few they are."""


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


class UniTokFit(Fit):
    """The state of one fit between two epochs.

    Attributes:
        drawn: the items.
        model: what is fitted.
        calibration: batches of equally many items of each domain; None where no domain has enough.
    """

    def __init__(self, drawn: FitItems, config: UniTokConfig, folder: Path) -> None:
        self.drawn = drawn
        self.config = config
        experts = len(drawn.names) if config.experts is None else config.experts
        config.check_experts(experts)
        names = drawn.names if experts == len(drawn.names) else tuple(str(number + 1) for number in range(experts))
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            self.model = UniTok(
                drawn.dim,
                config.codebook_sizes,
                config.latent_dim,
                config.hidden_sizes,
                names,
                shared_expert=config.shared_expert,
                shared_levels=config.emitted_shared_levels,
                shared_reads=config.shared_reads,
                expert_id=config.expert_id,
            )
        start_at(self.model, drawn)
        layers = [*self.model.encoder.parameters(), *self.model.decoder.parameters(), *self.model.router.parameters()]
        codebooks = list(self.model.experts.parameters())
        if self.model.shared is not None:
            codebooks += self.model.shared.parameters()
        groups = [
            {"params": layers, "weight_decay": config.weight_decay},
            {"params": codebooks, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=config.learning_rate)
        super().__init__("unitok", self.model, optimizer, config.schedule(self.items), folder / "unitok.pt")
        self.router_knows_domains = config.router_loss == "domain" and 1 < experts == len(drawn.names)
        self.calibration = DomainBatches(drawn.train_domain_N, len(drawn.names), config.calibration_items)
        self.made: Mixed | None = None
        self.own_uses: list[Tensor] = []
        self.shared_uses: list[Tensor] = []
        self.chosen_NT = torch.full((self.items, config.top_n), -1)

    @property
    def digest(self) -> str:
        return settings_digest(self.drawn.digest, self.config)

    @property
    def items(self) -> int:
        return len(self.drawn.train_ND)

    def tokenizer(self) -> UniTok:
        """What was fitted, for inference."""
        return self.model.eval().requires_grad_(False)

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
        """L_MI = Var_k[HSIC_k] - beta mean_k[HSIC_k] between vectors and their z_hat, or the same of CKA.

        The gradient passes the quantiser straight through.

        Args:
            vectors_KnD: n items of each domain, not standardised.
        """
        inputs_KnD = self.model.standardise(vectors_KnD)
        z_hat_Bd = self._quantise(self.model.encoder(inputs_KnD.flatten(0, 1))).straight_through_Bd
        measure = hsic if self.config.calibration_measure == "hsic" else cka
        dependence_K = measure(inputs_KnD, z_hat_Bd.unflatten(0, inputs_KnD.shape[:2]))
        return dependence_K.var(correction=0) - self.config.calibration_beta * dependence_K.mean()

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

    def held_out_error(self) -> float:
        return self.drawn.held_out_error(self.model)

    @torch.no_grad()
    def end_epoch(self, generator: torch.Generator) -> None:
        """Restart dead codes at residuals of random items: of those of their expert, or of all for the shared one."""
        if self.made is None:
            return
        model = self.model
        for expert in range(model.experts.experts):
            own_M = torch.nonzero((self.chosen_NT == expert).any(dim=1)).flatten()
            uses = [uses_XV[expert] for uses_XV in self.own_uses]
            if len(own_M):
                self._restart(list(model.experts.codebooks), expert, uses, own_M, generator)
        if model.shared is not None:
            self._restart(list(model.shared.codebooks), None, self.shared_uses, torch.arange(self.items), generator)

    def _restart(
        self,
        codebooks: Sequence[nn.Parameter],
        expert: int | None,
        uses: Sequence[Tensor],
        rows_M: Tensor,
        generator: torch.Generator,
    ) -> None:
        """Put the dead codes of one chain on what it is given of random items, as if the optimizer never knew them."""
        dead = [torch.nonzero(uses_V < self.config.restart_below).flatten() for uses_V in uses]
        most = max(len(dead_J) for dead_J in dead)
        if not most:
            return
        drawn_J = rows_M[torch.randint(len(rows_M), (most,), generator=generator)]
        given_Jd = encoded(self.model, self.drawn.train_ND[drawn_J])
        if expert is None:
            shared = self._quantise(given_Jd).shared
            assert shared is not None
            given_Jd = shared.residuals[0]
        for codebook, dead_J in zip(codebooks, dead, strict=True):
            own_Vd = codebook if expert is None else codebook[expert]
            following_Jd = given_Jd - own_Vd[squared_distances(given_Jd, own_Vd).argmin(dim=1)]
            own_Vd[dead_J] = given_Jd[: len(dead_J)]
            for moment in ("exp_avg", "exp_avg_sq"):
                moment_Vd = self.optimizer.state[codebook][moment]
                (moment_Vd if expert is None else moment_Vd[expert])[dead_J] = 0.0
            given_Jd = following_Jd


class DomainBatches:
    """Batches of equally many items of each domain, which pass over a domain's items in a new order every epoch.

    Attributes:
        domains: int64[n] the items of each domain that takes part: those with at least 64.
        items: n of each in a batch.
    """

    def __init__(self, domain_N: Tensor, domains: int, items: int) -> None:
        own = [torch.nonzero(domain_N == domain).flatten() for domain in range(domains)]
        self.domains = [own_n for own_n in own if len(own_n) >= _FEWEST_CALIBRATED]
        self.items = min([items, *map(len, self.domains)])
        self.start_epoch()

    def start_epoch(self) -> None:
        """Begin anew."""
        self._orders: list[Tensor] = []
        self._step = 0

    def next(self, generator: torch.Generator) -> Tensor:
        """The next items, no item twice: int64[K, n]."""
        if not self._orders:
            self._orders = [own_n[torch.randperm(len(own_n), generator=generator)] for own_n in self.domains]
        places_n = self._step * self.items + torch.arange(self.items)
        self._step += 1
        return torch.stack([order_n[places_n % len(order_n)] for order_n in self._orders])
