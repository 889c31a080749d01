"""Fits GenCDR's tokenizer (arXiv 2511.08006) in three stages, each with a checkpoint of its own.

1. universal: an RQ-VAE on all items, with masked-token modelling of the codes beside its loss.
2. domain: all of that frozen; an adapter per domain learns to reconstruct through the frozen codebooks and decoder.
3. router: all else frozen; it learns how much of z_uni and of z_dom to quantise, through an information bottleneck.

A stage begins with the best weights of the one before, and none changes what an earlier one made.

Shapes: N item, B batch, L level, D item vector dim, d latent dim.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sidera.tokenizers.gencdr import GenCdr
from training.errors import StageError
from training.tokenizers.common import FitItems, draw_items
from training.tokenizers.gencdr_config import GenCdrConfig
from training.tokenizers.gencdr_stages import DomainFit, RouterFit
from training.tokenizers.masked_codes import MaskedCodes, code_vectors, draw_masks
from training.tokenizers.quantisation import Quantised
from training.tokenizers.rqvae import RqVaeFit


def fit_gencdr(
    vectors_by_domain: Mapping[str, np.ndarray],
    config: GenCdrConfig,
    folder: Path,
    on_epoch: Callable[[str, int, float], None] | None = None,
) -> GenCdr:
    """Fit all stages, or go on where a killed fit of the same vectors and config stopped; a finished stage is read.

    A stage stops, and chooses its weights, by the held-out reconstruction error of the way that it fits: z_uni, z_dom
    alone, the two fused.

    Args:
        vectors_by_domain: float[N, D] item vectors each.
        config: settings.
        folder: of the checkpoints, ``gencdr-universal.pt``, ``gencdr-domain.pt`` and ``gencdr-router.pt``.
        on_epoch: told the stage, each epoch's number and its mean loss, after its checkpoint is written.

    Raises:
        DataError: the vectors hold NaN or infinity, or have no rows.
        NonFiniteLossError: a loss is NaN or infinite.
        StageError: a checkpoint cannot be read.
    """

    def of_stage(stage: str) -> Callable[[int, float], None] | None:
        return None if on_epoch is None else lambda epoch, loss: on_epoch(stage, epoch, loss)

    drawn = draw_items(vectors_by_domain, config)
    universal = UniversalFit(drawn, config, folder)
    universal.run(of_stage("universal"))
    model = universal.model
    assert isinstance(model, GenCdr)
    if config.domain_adapter:
        model = with_adapters(model, drawn.names, config)
        DomainFit(model, drawn, config, folder).run(of_stage("domain"))
        if config.item_router:
            RouterFit(model, drawn, config, folder).run(of_stage("router"))
    return model.eval().requires_grad_(False)


class UniversalFit(RqVaeFit):
    """Stage 1: an RQ-VAE's fit with the masked-token loss, once codes are in use; without it, that very fit."""

    model_class = GenCdr
    config: GenCdrConfig

    def __init__(self, drawn: FitItems, config: GenCdrConfig, folder: Path) -> None:
        super().__init__(drawn, config, folder)
        self.name, self.checkpoint = "gencdr (universal)", folder / "gencdr-universal.pt"
        self.masked_codes: MaskedCodes | None = None
        if config.mtm_weight:
            with torch.random.fork_rng():
                torch.manual_seed(config.seed)
                self.masked_codes = MaskedCodes(config.codebook_sizes, config.latent_dim)
            parameters = list(self.masked_codes.parameters())
            self.optimizer.add_param_group({"params": parameters, "weight_decay": config.weight_decay})

    def batch_loss(self, rows_B: Tensor, generator: torch.Generator) -> tuple[Tensor, Quantised | None]:
        """The RQ-VAE's loss + lambda L_MTM."""
        loss, made = super().batch_loss(rows_B, generator)
        if made is None or self.masked_codes is None:
            return loss, made
        return loss + self.config.mtm_weight * self.masked_token_loss(self.masked_codes, made, generator), made

    def masked_token_loss(self, masked_codes: MaskedCodes, made: Quantised, generator: torch.Generator) -> Tensor:
        """L_MTM of a batch; its gradient leaves codebooks alone that are moving averages."""
        codebooks = list(self.model.quantiser.codebooks)
        if self.ema is not None:
            codebooks = [codebook_Vd.detach() for codebook_Vd in codebooks]
        vectors_BLd = code_vectors(made.codes, codebooks, made.straight_through_Bd)
        masked_BL = draw_masks(len(vectors_BLd), len(codebooks), self.config.mask_share, generator)
        loss: Tensor = masked_codes(made.codes, vectors_BLd, masked_BL)
        return loss

    def more_state(self) -> dict[str, Any]:
        own = {} if self.masked_codes is None else self.masked_codes.state_dict()
        return super().more_state() | {"masked_codes": own}

    def take_more_state(self, state: Mapping[str, Any]) -> None:
        super().take_more_state(state)
        if self.masked_codes is not None:
            self.masked_codes.load_state_dict(state["masked_codes"])


def with_adapters(universal: GenCdr, domains: tuple[str, ...], config: GenCdrConfig) -> GenCdr:
    """The universal model's weights beside new adapters, which change nothing yet, and a new router.

    Raises:
        StageError: the universal weights do not fill all but adapters and router.
    """
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = GenCdr(
            universal.dim,
            config.codebook_sizes,
            config.latent_dim,
            config.hidden_sizes,
            domains,
            config.adapter_rank,
            config.adapter_alpha,
            config.router_hidden if config.item_router else None,
        )
    missing, unexpected = model.load_state_dict(universal.state_dict(), strict=False)
    wrong = [name for name in missing if not name.startswith(("adapters.", "router."))] + list(unexpected)
    if wrong:
        raise StageError(f"the universal stage of gencdr does not fit the next one at {wrong[0]!r}; fit it again")
    return model
