"""Domains, settings, fits and models that the tests of UniTok's fit share."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sidera.tokenizers.unitok import UniTok
from training.tokenizers.common import draw_items
from training.tokenizers.unitok import UniTokFit
from training.tokenizers.unitok_config import UniTokConfig

CONFIG = UniTokConfig(
    codebook_sizes=(8, 8, 8, 8),
    hidden_sizes=(24,),
    latent_dim=8,
    warm_up_epochs=2,
    epochs=12,
    batch_size=64,
    evaluate_every=2,
)


def clustered(items: int = 150, domain: int = 0, dim: int = 20) -> np.ndarray:
    """Eight clusters on a plane of four dimensions, which differs between domains, as do places and sizes."""
    random = np.random.default_rng(domain)
    basis = random.normal(size=(4, dim))
    points = random.normal(size=(8, 4))[random.integers(8, size=items)] + 0.2 * random.normal(size=(items, 4))
    place = random.normal(size=dim)
    return np.asarray((1 + domain) * 0.03 * (points @ basis) + 0.1 * place + 1, dtype=np.float32)


def domains() -> dict[str, np.ndarray]:
    return {"films": clustered(200, 0), "games": clustered(150, 1), "shoes": clustered(100, 2)}


def a_fit(config: UniTokConfig, folder: Path, vectors: dict[str, np.ndarray] | None = None) -> UniTokFit:
    """A fit before its first epoch."""
    return UniTokFit(draw_items(vectors or domains(), config), config, folder)


def random_model(experts: int = 3, **reading: Any) -> UniTok:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = UniTok(20, (8, 8, 8), 6, [12], [str(number) for number in range(experts)], **reading)
        for parameter in (model.router.weight, *model.experts.parameters()):
            torch.nn.init.normal_(parameter)
        for codebook in model.shared.parameters() if model.shared else ():
            torch.nn.init.normal_(codebook)
    return model


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def relative_error(tokenizer: UniTok, vectors: dict[str, np.ndarray], config: UniTokConfig) -> float:
    drawn = draw_items(vectors, config)
    return drawn.held_out_error(tokenizer)
