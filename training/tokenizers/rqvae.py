"""Fits an RQ-VAE (TIGER, NeurIPS 2023, arXiv 2305.05065): the losses, the k-means start, restarts, stopping, resuming.

Does not know domains or texts. Inference is ``sidera.tokenizers.rqvae``.

Shapes: N item, B batch, D item vector dim, d latent dim, V codebook size.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sidera.tokenizers.residual import squared_distances
from sidera.tokenizers.rqvae import Autoencoder, RqVae
from training.kmeans import kmeans_codebook
from training.tokenizers.common import FitItems, TokenizerConfig, check, draw_items, settings_digest
from training.tokenizers.fitting import Fit, Schedule
from training.tokenizers.quantisation import EmaCodebooks, Quantisation, Quantised, Sinkhorn, quantise_for_training

PRESETS: dict[str, dict[str, Any]] = {
    "cpu": {"hidden_sizes": (256, 128), "latent_dim": 32},
    "paper": {"hidden_sizes": (512, 256, 128), "latent_dim": 32},
}
"""Encoder sizes by name. ``cpu`` is smaller than the paper's, for fits within seconds; it is the default."""


@dataclass(frozen=True)
class AutoencoderConfig(TokenizerConfig):
    """Settings of every method with an encoder.

    Attributes:
        latent_dim: width of what is quantised.
        hidden_sizes: widths of the encoder's hidden layers; the decoder's are the same, reversed.
        commitment: weight of the loss that pulls latents to their codes.
        warm_up_epochs: epochs of the bare autoencoder before k-means starts the codebooks.
        epochs: at most, after the warm-up.
        most_steps: where the epochs would take more steps, of a fit or of a stage of it, there are fewer epochs: many
            items need fewer passes.
        batch_size: items of a step.
        learning_rate: of AdamW; falls to a hundredth along a cosine over the epochs.
        weight_decay: of AdamW, on the layers' weights, never on codebooks.
        restart_below: a code that got fewer items in an epoch starts again at a random residual.
        evaluate_every: epochs between evaluations on held-out items, and between checkpoints.
        patience: evaluations without a better held-out error after which the fit stops.
    """

    latent_dim: int = 32
    hidden_sizes: tuple[int, ...] = (256, 128)
    commitment: float = 0.25
    warm_up_epochs: int = 10
    epochs: int = 100
    most_steps: int = 12_000
    batch_size: int = 256
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    restart_below: int = 1
    evaluate_every: int = 5
    patience: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "hidden_sizes", tuple(self.hidden_sizes))
        check(all(size >= 1 for size in self.hidden_sizes), "hidden_sizes", self.hidden_sizes, "of positive widths")
        for field in ("latent_dim", "epochs", "most_steps", "batch_size", "evaluate_every", "patience"):
            check(getattr(self, field) >= 1, field, getattr(self, field), "of at least 1")
        for field in ("commitment", "weight_decay", "warm_up_epochs", "restart_below"):
            check(getattr(self, field) >= 0, field, getattr(self, field), "of at least 0")
        check(self.learning_rate > 0, "learning_rate", self.learning_rate, "above 0")

    def schedule(self, items: int) -> Schedule:
        """Of the fit of encoder and codebooks on so many items."""
        whole = Schedule(
            epochs=self.warm_up_epochs + self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            evaluate_every=self.evaluate_every,
            patience=self.patience,
            seed=self.seed,
            warm_up=self.warm_up_epochs,
        )
        return whole.limited(items, self.most_steps)


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


class RqVaeFit(Fit):
    """The state of one fit between two epochs.

    Methods that add losses to an RQ-VAE's build on it: :meth:`batch_loss`, :meth:`more_state`, :meth:`take_more_state`.

    Attributes:
        drawn: the items.
        model: what is fitted.
    """

    model_class: ClassVar[type[RqVae]] = RqVae

    def __init__(self, drawn: FitItems, config: RqVaeConfig, folder: Path) -> None:
        self.drawn = drawn
        self.config = config
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            self.model = self.model_class(drawn.dim, config.codebook_sizes, config.latent_dim, config.hidden_sizes)
        start_at(self.model, drawn)
        layers = [*self.model.encoder.parameters(), *self.model.decoder.parameters()]
        groups = [{"params": layers, "weight_decay": config.weight_decay}]
        self.ema = None if config.ema_decay is None else EmaCodebooks(self.model.quantiser, config.ema_decay)
        if self.ema is None:
            groups.append({"params": list(self.model.quantiser.parameters()), "weight_decay": 0.0})
        optimizer = torch.optim.AdamW(groups, lr=config.learning_rate)
        name = self.model_class.method
        super().__init__(name, self.model, optimizer, config.schedule(self.items), folder / f"{name}.pt")
        self.made: Quantised | None = None
        self.uses: list[Tensor] = []

    @property
    def digest(self) -> str:
        return settings_digest(self.drawn.digest, self.config)

    @property
    def items(self) -> int:
        return len(self.drawn.train_ND)

    def tokenizer(self) -> RqVae:
        """What was fitted, for inference."""
        return self.model.eval().requires_grad_(False)

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

    def held_out_error(self) -> float:
        return self.drawn.held_out_error(self.model)

    def end_epoch(self, generator: torch.Generator) -> None:
        if self.made is not None:
            self._restart_dead_codes(generator)

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
            codes_N = torch.cat([squared_distances(part, codebook_Vd).argmin(1) for part in residual_Nd.split(8192)])
            if self.ema is not None:
                counts_V = torch.bincount(codes_N, minlength=len(codebook_Vd))
                self.ema.start(level, counts_V * (self.config.batch_size / len(codes_N)))
            residual_Nd -= codebook_Vd[codes_N]

    @torch.no_grad()
    def _restart_dead_codes(self, generator: torch.Generator) -> None:
        """Put codes that got too few items on the residuals of random items, as if the optimizer never knew them."""
        dead = [torch.nonzero(uses_V < self.config.restart_below).flatten() for uses_V in self.uses]
        most = max(len(dead_K) for dead_K in dead)
        if not most:
            return
        rows_K = torch.randint(self.items, (most,), generator=generator)
        residual_Kd = self.model.encoder(self.model.standardise(self.drawn.train_ND[rows_K]))
        for level, (codebook_Vd, dead_K) in enumerate(zip(self.model.quantiser.codebooks, dead, strict=True)):
            codes_K = squared_distances(residual_Kd, codebook_Vd).argmin(dim=1)
            following_Kd = residual_Kd - codebook_Vd[codes_K]
            codebook_Vd[dead_K] = residual_Kd[: len(dead_K)]
            if self.ema is not None:
                self.ema.restart(level, dead_K)
            else:
                for moment in ("exp_avg", "exp_avg_sq"):
                    self.optimizer.state[codebook_Vd][moment][dead_K] = 0.0
            residual_Kd = following_Kd


def start_at(model: Autoencoder, drawn: FitItems) -> None:
    """Take shift and scale from the items."""
    model.shift_D.copy_(drawn.train_ND.mean(dim=0))
    squares = sum(
        float((part - model.shift_D).square().sum(dtype=torch.float64)) for part in drawn.train_ND.split(8192)
    )
    model.scale.fill_((squares / drawn.train_ND.numel()) ** 0.5 or 1.0)


@torch.no_grad()
def encoded(model: Autoencoder, vectors_ND: Tensor) -> Tensor:
    """The encoder's output, in large batches: float32[N, d]."""
    return torch.cat([model.encoder(model.standardise(part)) for part in vectors_ND.split(8192)])


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
