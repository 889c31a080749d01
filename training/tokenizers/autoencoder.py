"""What the fits of all tokenizers with an encoder share: their settings, their start, restarts of dead codes.

Knows an autoencoder around any quantiser; does not know what a batch costs.

Shapes: N item, D item vector dim, d latent dim, V codebook size, M items to draw from, J restarted code.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from sidera.tokenizers.residual import nearest_of, squared_distances
from sidera.tokenizers.rqvae import Autoencoder
from training.tokenizers.common import FitItems, TokenizerConfig, check, settings_digest
from training.tokenizers.fitting import Fit, Schedule

PRESETS: dict[str, dict[str, Any]] = {
    "cpu": {"hidden_sizes": (256, 128), "latent_dim": 32},
    "paper": {"hidden_sizes": (512, 256, 128), "latent_dim": 32},
}
"""Encoder sizes by name. ``cpu`` is smaller than that of RQ-VAE's paper, for fits within seconds; it is the default."""

Model = TypeVar("Model", bound=Autoencoder)
Config = TypeVar("Config", bound="AutoencoderConfig")

_ROWS = 8192


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


class AutoencoderFit(Fit, Generic[Model, Config]):
    """The state of a fit of encoder, decoder and codebooks between two epochs.

    Attributes:
        drawn: the items.
        model: what is fitted.
    """

    def __init__(self, drawn: FitItems, config: Config, folder: Path) -> None:
        self.drawn = drawn
        self.config = config
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            self.model = self.new_model()
        start_at(self.model, drawn)
        layers, codebooks = self.learning()
        groups = [{"params": layers, "weight_decay": config.weight_decay}]
        if codebooks:
            groups.append({"params": codebooks, "weight_decay": 0.0})
        optimizer = torch.optim.AdamW(groups, lr=config.learning_rate)
        name = self.model.method
        super().__init__(name, self.model, optimizer, config.schedule(self.items), folder / f"{name}.pt")

    @abstractmethod
    def new_model(self) -> Model:
        """A model for these items and settings, with random layers."""

    @abstractmethod
    def learning(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The weights of all layers, and the codebooks that learn by gradient."""

    @property
    def digest(self) -> str:
        return settings_digest(self.drawn.digest, self.config)

    @property
    def items(self) -> int:
        return len(self.drawn.train_ND)

    def tokenizer(self) -> Model:
        """What was fitted, for inference."""
        return self.model.eval().requires_grad_(False)

    def held_out_error(self) -> float:
        return self.drawn.held_out_error(self.model)

    @torch.no_grad()
    def restart_dead_codes(
        self,
        codebooks: Sequence[Tensor],
        uses: Sequence[Tensor],
        rows_M: Tensor,
        given: Callable[[Tensor], Tensor],
        forget: Callable[[int, Tensor], None],
        generator: torch.Generator,
    ) -> None:
        """Put codes of a chain that got too few items on residuals of random items.

        Args:
            codebooks: float32[V, d] of each level; they are changed in place.
            uses: int64[V] of each level: items that each code got.
            rows_M: which items to draw from.
            given: what the first level is given of some items' latents, float32[J, d] of each.
            forget: told the level and the codes that start again, so that nothing remembers what they were.
            generator: of the draw.
        """
        dead = [torch.nonzero(uses_V < self.config.restart_below).flatten() for uses_V in uses]
        most = max(len(dead_J) for dead_J in dead)
        if not most:
            return
        drawn_J = rows_M[torch.randint(len(rows_M), (most,), generator=generator)]
        given_Jd = given(encoded(self.model, self.drawn.train_ND[drawn_J]))
        for level, (codebook_Vd, dead_J) in enumerate(zip(codebooks, dead, strict=True)):
            following_Jd = given_Jd - codebook_Vd[nearest_of(squared_distances(given_Jd, codebook_Vd))]
            codebook_Vd[dead_J] = given_Jd[: len(dead_J)]
            forget(level, dead_J)
            given_Jd = following_Jd

    def moments(self, parameter: nn.Parameter) -> list[Tensor]:
        """What AdamW remembers of a parameter's gradients: two tensors of its shape."""
        return [self.optimizer.state[parameter][moment] for moment in ("exp_avg", "exp_avg_sq")]


def start_at(model: Autoencoder, drawn: FitItems) -> None:
    """Take shift and scale from the items."""
    model.shift_D.copy_(drawn.train_ND.mean(dim=0))
    squares = sum(
        float((part - model.shift_D).square().sum(dtype=torch.float64)) for part in drawn.train_ND.split(_ROWS)
    )
    model.scale.fill_((squares / drawn.train_ND.numel()) ** 0.5 or 1.0)


@torch.no_grad()
def encoded(model: Autoencoder, vectors_ND: Tensor) -> Tensor:
    """The encoder's output, in large batches: float32[N, d]."""
    return torch.cat([model.encoder(model.standardise(part)) for part in vectors_ND.split(_ROWS)])
