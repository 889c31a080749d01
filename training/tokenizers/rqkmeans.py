"""Fits residual k-means (QARM, arXiv 2411.11739): one clustering a level, of what the levels before left over.

Does not know domains or texts. Inference is ``sidera.tokenizers.rqkmeans``.

Shapes: N item, D item vector dim, d latent dim, V codebook size.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sidera.files import write_atomically
from sidera.tokenizers.residual import nearest_of, squared_distances
from sidera.tokenizers.rqkmeans import RqKMeans
from training.errors import StageError
from training.kmeans import kmeans_codebook
from training.progress import track
from training.tokenizers.common import TokenizerConfig, check, draw_items, settings_digest

_ROWS = 8192


@dataclass(frozen=True)
class RqKMeansConfig(TokenizerConfig):
    """Settings of ``method: rqkmeans``.

    Attributes:
        components: how many principal components of the item vectors are clustered, at most; None clusters the vectors
            themselves, as the paper does: less error in reconstruction, and three to four times the collisions.
        iterations: of k-means at each level, at most.
    """

    components: int | None = 32
    iterations: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.iterations >= 1, "iterations", self.iterations, "of at least 1")
        if self.components is not None:
            check(self.components >= 1, "components", self.components, "of at least 1")


def fit_rqkmeans(
    vectors_by_domain: Mapping[str, np.ndarray],
    config: RqKMeansConfig,
    folder: Path,
    on_level: Callable[[int, float], None] | None = None,
) -> RqKMeans:
    """Fit codebook after codebook, or go on at the level where a killed fit of the same vectors and config stopped.

    A resumed fit ends in the same codebooks: every level draws from its own seed, and the checkpoint
    (``folder / "rqkmeans.safetensors"``) holds the codebooks that are done.

    Args:
        vectors_by_domain: float[N, D] item vectors each; the domains are fitted as one, and a share is held out.
        config: settings.
        folder: of the checkpoint.
        on_level: told, after its checkpoint is written, how many levels are done and the relative reconstruction
            error of the held-out items with these.

    Raises:
        DataError: the vectors hold NaN or infinity, or have no rows.
        StageError: the checkpoint cannot be read.
    """
    drawn = draw_items(vectors_by_domain, config)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "rqkmeans.safetensors"
    digest = settings_digest(drawn.digest, config)
    done = _read(checkpoint, digest)
    latent_dim = drawn.dim if config.components is None else min(config.components, drawn.dim)
    model = RqKMeans(drawn.dim, config.codebook_sizes, latent_dim).requires_grad_(False)
    model.shift_D.copy_(drawn.train_ND.mean(dim=0))
    if config.components is not None:
        model.axes_Dd.copy_(principal_axes(drawn.train_ND, latent_dim))
    validation_Nd = (drawn.validation_ND - model.shift_D) @ model.axes_Dd
    variance = float((drawn.validation_ND - model.shift_D).square().sum()) or 1.0
    beyond = variance - float(validation_Nd.square().sum())  # what no code can tell
    train_Nd = (drawn.train_ND - model.shift_D) @ model.axes_Dd
    codebooks = list(model.quantiser.codebooks)
    with track("tokenizer rqkmeans", len(codebooks)) as advance:
        for level, codebook_Vd in enumerate(codebooks):
            if level < len(done):
                codebook_Vd.copy_(done[level])
            else:
                seed = config.seed + level
                centres = kmeans_codebook(train_Nd.numpy(), len(codebook_Vd), seed, config.iterations)
                codebook_Vd.copy_(torch.from_numpy(centres))
                _write(checkpoint, digest, codebooks[: level + 1])
            _take_away(train_Nd, codebook_Vd)
            _take_away(validation_Nd, codebook_Vd)
            error = (beyond + float(validation_Nd.square().sum())) / variance
            advance(1, f"held-out error {error:.4f}")
            if on_level is not None and level >= len(done):
                on_level(level + 1, error)
    return model.eval()


def principal_axes(vectors_ND: Tensor, count: int) -> Tensor:
    """The directions of largest variance around the mean, as orthonormal columns: float32[D, count].

    Each points to where its largest component is positive, so that equal input gives equal axes.
    """
    mean_D = vectors_ND.mean(dim=0)
    covariance_DD = torch.zeros(vectors_ND.shape[1], vectors_ND.shape[1], dtype=torch.float64)
    for part_RD in vectors_ND.split(_ROWS):
        centred_RD = (part_RD - mean_D).double()
        covariance_DD += centred_RD.T @ centred_RD
    axes_Dd = torch.linalg.eigh(covariance_DD).eigenvectors.flip(1)[:, :count]
    largest_d = axes_Dd.gather(0, axes_Dd.abs().argmax(dim=0, keepdim=True))
    return torch.as_tensor(axes_Dd * largest_d.sign(), dtype=torch.float32)


def _take_away(residual_Nd: Tensor, codebook_Vd: Tensor) -> None:
    """Subtract each row's nearest code from it, in place."""
    for part_Rd in residual_Nd.split(_ROWS):
        part_Rd -= codebook_Vd[nearest_of(squared_distances(part_Rd, codebook_Vd))]


def _write(checkpoint: Path, digest: str, codebooks: list[Tensor]) -> None:
    tensors = {f"{level}": codebook_Vd.detach() for level, codebook_Vd in enumerate(codebooks)}
    write_atomically(checkpoint, save(tensors, metadata={"digest": digest}))


def _read(checkpoint: Path, digest: str) -> list[Tensor]:
    """The codebooks of a fit of the same vectors and config; none where there is no such fit."""
    if not checkpoint.is_file():
        return []
    try:
        with safe_open(checkpoint, framework="pt") as file:
            if file.metadata() != {"digest": digest}:
                return []
            return [file.get_tensor(f"{level}") for level in range(len(file.keys()))]
    except (OSError, SafetensorError) as error:
        raise StageError(f"checkpoint {checkpoint} cannot be read ({error}); delete it") from error
