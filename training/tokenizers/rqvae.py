"""Fits an RQ-VAE (TIGER, NeurIPS 2023, arXiv 2305.05065): the losses, the k-means start, restarts, stopping, resuming.

Does not know domains or texts. Inference is ``sidera.tokenizers.rqvae``.

Shapes: N item, B batch, D item vector dim, d latent dim, V codebook size.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sidera.files import write_atomically
from sidera.tokenizers.residual import squared_distances
from sidera.tokenizers.rqvae import RqVae
from training.errors import NonFiniteLossError, StageError
from training.kmeans import kmeans_codebook
from training.progress import track
from training.tokenizers.common import TokenizerConfig, check, check_item_vectors, fit_digest, held_out
from training.tokenizers.quantisation import EmaCodebooks, Quantisation, Quantised, Sinkhorn, quantise_for_training

PRESETS: dict[str, dict[str, Any]] = {
    "cpu": {"hidden_sizes": (256, 128), "latent_dim": 32},
    "paper": {"hidden_sizes": (512, 256, 128), "latent_dim": 32},
}
"""Encoder sizes by name. ``cpu`` is smaller than the paper's, for fits within seconds; it is the default."""


@dataclass(frozen=True)
class RqVaeConfig(TokenizerConfig):
    """Settings of ``method: rqvae``.

    Attributes:
        latent_dim: width of what is quantised.
        hidden_sizes: widths of the encoder's hidden layers; the decoder's are the same, reversed.
        commitment: weight of the loss that pulls latents to their codes.
        warm_up_epochs: epochs of the bare autoencoder before k-means starts the codebooks.
        epochs: at most, after the warm-up.
        batch_size: items of a step.
        learning_rate: of AdamW; falls to a hundredth along a cosine over the epochs.
        weight_decay: of AdamW, on the layers' weights, never on codebooks.
        restart_below: a code that got fewer items in an epoch starts again at a random residual.
        ema_decay: codebooks are moving averages, with this decay (0.99 is usual), of what falls on their codes; None
            lets them learn by gradient.
        sinkhorn_epsilon: codes of the last level are balanced within each batch of the fit by optimal transport with
            this weight of the entropy (0.003 is usual); None takes the nearest ones. ``encode`` always takes these.
        sinkhorn_iterations: of that balancing.
        evaluate_every: epochs between evaluations on held-out items, and between checkpoints.
        patience: evaluations without a better held-out error after which the fit stops.
    """

    latent_dim: int = 32
    hidden_sizes: tuple[int, ...] = (256, 128)
    commitment: float = 0.25
    warm_up_epochs: int = 10
    epochs: int = 100
    batch_size: int = 256
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    restart_below: int = 1
    ema_decay: float | None = None
    sinkhorn_epsilon: float | None = None
    sinkhorn_iterations: int = 50
    evaluate_every: int = 5
    patience: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "hidden_sizes", tuple(self.hidden_sizes))
        check(all(size >= 1 for size in self.hidden_sizes), "hidden_sizes", self.hidden_sizes, "of positive widths")
        for field in ("latent_dim", "epochs", "batch_size", "evaluate_every", "patience", "sinkhorn_iterations"):
            check(getattr(self, field) >= 1, field, getattr(self, field), "of at least 1")
        for field in ("commitment", "weight_decay", "warm_up_epochs", "restart_below"):
            check(getattr(self, field) >= 0, field, getattr(self, field), "of at least 0")
        check(self.learning_rate > 0, "learning_rate", self.learning_rate, "above 0")
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
    vectors_ND: np.ndarray,
    config: RqVaeConfig,
    folder: Path,
    on_epoch: Callable[[int, float], None] | None = None,
) -> RqVae:
    """Fit an RQ-VAE, or go on where a killed fit of the same vectors and config stopped.

    A resumed fit ends in the same weights, bit for bit on one machine: every epoch draws from its own seed, and a
    checkpoint (``folder / "rqvae.pt"``, read with ``weights_only=True``) holds all that one epoch leaves to the next.

    Args:
        vectors_ND: float[N, D] item vectors of all domains; a share of them is held out.
        config: settings.
        folder: of the checkpoint.
        on_epoch: told each epoch's number and mean loss, after its checkpoint is written.

    Returns:
        The tokenizer with the lowest held-out reconstruction error.

    Raises:
        DataError: the vectors hold NaN or infinity, or have no rows.
        NonFiniteLossError: a loss is NaN or infinite.
        StageError: the checkpoint cannot be read.
    """
    return run_fit(RqVaeFit(vectors_ND, config, folder), on_epoch)


def run_fit(fit: "RqVaeFit", on_epoch: Callable[[int, float], None] | None) -> RqVae:
    """Resume a fit, run it to its end, and give the tokenizer with its best weights."""
    fit.resume()
    with track(f"tokenizer {fit.model.method}", fit.last_epoch) as advance:
        advance(fit.epoch)
        while not fit.finished:
            loss = fit.run_epoch()
            advance(1, f"loss {loss:.4f}, held-out error {fit.best_error:.4f}")
            if on_epoch is not None:
                on_epoch(fit.epoch, loss)
        advance(fit.last_epoch - fit.epoch)
    fit.model.load_state_dict(fit.best)
    return fit.model.eval().requires_grad_(False)


class RqVaeFit:
    """The state of one fit between two epochs, and the way from one epoch to the next.

    Methods that add losses to an RQ-VAE's build on it; see :meth:`loss`, :meth:`more_state`, :meth:`take_more_state`.
    """

    model_class: ClassVar[type[RqVae]] = RqVae

    def __init__(self, vectors_ND: np.ndarray, config: RqVaeConfig, folder: Path) -> None:
        check_item_vectors(vectors_ND, "the fit")
        folder.mkdir(parents=True, exist_ok=True)
        self.config = config
        self.checkpoint = folder / f"{self.model_class.method}.pt"
        self.last_epoch = config.warm_up_epochs + config.epochs
        held_out_N = held_out(len(vectors_ND), config.validation_share, config.seed)
        vectors = torch.from_numpy(np.ascontiguousarray(vectors_ND, dtype=np.float32))
        self.train_ND = vectors[torch.from_numpy(~held_out_N)]
        self.validation_ND = vectors[torch.from_numpy(held_out_N)] if held_out_N.any() else self.train_ND
        self.digest = fit_digest(vectors_ND, config)
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            self.model = self.model_class(
                vectors.shape[1], config.codebook_sizes, config.latent_dim, config.hidden_sizes
            )
        self.model.shift_D.copy_(self.train_ND.mean(dim=0))
        spread = (self.train_ND - self.model.shift_D).square().mean().sqrt()
        self.model.scale.copy_(spread if float(spread) > 0 else torch.ones(()))
        layers = [*self.model.encoder.parameters(), *self.model.decoder.parameters()]
        groups = [{"params": layers, "weight_decay": config.weight_decay}]
        self.ema = None if config.ema_decay is None else EmaCodebooks(self.model.quantiser, config.ema_decay)
        if self.ema is None:
            groups.append({"params": list(self.model.quantiser.parameters()), "weight_decay": 0.0})
        self.optimizer = torch.optim.AdamW(groups, lr=config.learning_rate)
        self.epoch = 0
        self.best: dict[str, Tensor] = self._weights()
        self.best_error = float("inf")
        self.evaluations_without_gain = 0

    @property
    def finished(self) -> bool:
        return self.epoch >= self.last_epoch or self.evaluations_without_gain >= self.config.patience

    def run_epoch(self) -> float:
        """One pass over the training items; evaluation, restarts and a checkpoint where due. Returns the mean loss."""
        config, quantiser = self.config, self.model.quantiser
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + self.epoch)
        quantised = self.epoch >= config.warm_up_epochs
        if self.epoch == config.warm_up_epochs:
            self._start_codebooks()
        self._set_learning_rate()
        uses = [torch.zeros(size, dtype=torch.int64) for size in quantiser.codebook_sizes]
        total = 0.0
        order_N = torch.randperm(len(self.train_ND), generator=generator)
        for step, rows_B in enumerate(order_N.split(config.batch_size)):
            loss, made = self.loss(rows_B, generator)
            if not torch.isfinite(loss):
                raise NonFiniteLossError(
                    f"tokenizer {self.model.method}: the loss is {loss.item()} in epoch {self.epoch}, step {step}; "
                    "set a lower tokenizer.learning_rate"
                )
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += loss.item() * len(rows_B)
            if made is None:
                continue
            if self.ema is not None:
                self.ema.update(made.residuals, made.codes)
            for uses_V, codes_B in zip(uses, made.nearest, strict=True):
                uses_V += torch.bincount(codes_B, minlength=len(uses_V))
        self.epoch += 1
        if quantised:
            due = (self.epoch - config.warm_up_epochs) % config.evaluate_every == 0 or self.epoch == self.last_epoch
            if due:
                self._evaluate()
            self._restart_dead_codes(uses, generator)
            if due or self.finished:
                self._save()
        return total / len(self.train_ND)

    def loss(self, rows_B: Tensor, generator: torch.Generator) -> tuple[Tensor, Quantised | None]:
        """The loss of training items and how they were quantised; None during the warm-up.

        Args:
            rows_B: into ``train_ND``.
            generator: of the epoch's draws.
        """
        quantised = self.epoch >= self.config.warm_up_epochs
        return rqvae_loss(self.model, self.train_ND[rows_B], self.config.quantisation if quantised else None)

    def more_state(self) -> dict[str, Any]:
        """What an epoch leaves to the next besides the state of an RQ-VAE's fit; goes into the checkpoint."""
        return {}

    def take_more_state(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`more_state`."""

    def resume(self) -> None:
        """Take over the checkpoint of a fit of the same vectors and config, if there is one."""
        if not self.checkpoint.is_file():
            return
        try:
            state = torch.load(self.checkpoint, weights_only=True)
        except Exception as error:
            raise StageError(f"checkpoint {self.checkpoint} cannot be read ({error}); delete it") from error
        if state["digest"] != self.digest:
            return
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        self.best = state["best"]
        self.epoch = state["epoch"]
        self.best_error = state["best_error"]
        self.evaluations_without_gain = state["evaluations_without_gain"]
        self.take_more_state(state["more"])

    def _save(self) -> None:
        buffer = io.BytesIO()
        torch.save(
            {
                "digest": self.digest,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "ema": None if self.ema is None else self.ema.state_dict(),
                "best": self.best,
                "epoch": self.epoch,
                "best_error": self.best_error,
                "evaluations_without_gain": self.evaluations_without_gain,
                "more": self.more_state(),
            },
            buffer,
        )
        write_atomically(self.checkpoint, buffer.getvalue())

    def _weights(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}

    def _set_learning_rate(self) -> None:
        done = self.epoch / self.last_epoch
        share = 0.01 + 0.99 * 0.5 * (1 + float(np.cos(np.pi * done)))
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * share

    @torch.no_grad()
    def _start_codebooks(self) -> None:
        """k-means of what each level is given, level after level (section 3.1 of the paper)."""
        residual_Nd = torch.cat(
            [self.model.encoder(self.model.standardise(part)) for part in self.train_ND.split(8192)]
        )
        for level, codebook_Vd in enumerate(self.model.quantiser.codebooks):
            centres = kmeans_codebook(residual_Nd.numpy(), len(codebook_Vd), self.config.seed + level)
            codebook_Vd.copy_(torch.from_numpy(centres))
            codes_N = torch.cat([squared_distances(part, codebook_Vd).argmin(1) for part in residual_Nd.split(8192)])
            if self.ema is not None:
                counts_V = torch.bincount(codes_N, minlength=len(codebook_Vd))
                self.ema.start(level, counts_V * (self.config.batch_size / len(codes_N)))
            residual_Nd = residual_Nd - codebook_Vd[codes_N]

    def _evaluate(self) -> None:
        codes_NL = self.model.encode(self.validation_ND, domain="")
        error = float((self.validation_ND - self.model.reconstruct(codes_NL)).square().sum())
        variance = float((self.validation_ND - self.model.shift_D).square().sum())
        relative = error / variance if variance else error
        if relative < self.best_error:
            self.best_error, self.evaluations_without_gain, self.best = relative, 0, self._weights()
        else:
            self.evaluations_without_gain += 1

    @torch.no_grad()
    def _restart_dead_codes(self, uses: list[Tensor], generator: torch.Generator) -> None:
        """Put codes that got too few items on the residuals of random items, as if the optimizer never knew them."""
        dead = [torch.nonzero(uses_V < self.config.restart_below).flatten() for uses_V in uses]
        most = max(len(dead_K) for dead_K in dead)
        if not most:
            return
        rows_K = torch.randint(len(self.train_ND), (most,), generator=generator)
        residual_Kd = self.model.encoder(self.model.standardise(self.train_ND[rows_K]))
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
