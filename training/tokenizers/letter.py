"""Fits LETTER (arXiv 2405.07314): an RQ-VAE with a collaborative and a diversity loss.

The collaborative loss (L_CF of the paper) contrasts each item's quantised vector with collaborative-filtering (CF)
vectors, so that items which the same users take get similar codes. The diversity loss (L_Div) spreads the codes of a
codebook evenly, so that items spread over them. ``cf_weight: 0`` and ``diversity_weight: 0`` are the paper's ablations
of the two; with both, the fit is that of an RQ-VAE, bit for bit.

Shapes: N item, B batch, L level, d latent dim, V codebook size, C width of a domain's CF vectors.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from k_means_constrained import KMeansConstrained
from torch import Tensor
from torch.nn import functional as F

from sidera.tokenizers.letter import Letter
from sidera.tokenizers.rqvae import RqVae
from training.collaborative import CfSource, CfVectors
from training.errors import ConfigError, DataError
from training.tokenizers.autoencoder import encoded
from training.tokenizers.cf_alignment import CfAlignment
from training.tokenizers.common import FitItems, check, draw_items, settings_digest
from training.tokenizers.quantisation import Quantised
from training.tokenizers.rqvae import RqVaeConfig, RqVaeFit


@dataclass(frozen=True)
class LetterConfig(RqVaeConfig):
    """Settings of ``method: letter``.

    Attributes:
        cf_weight: alpha of the paper, of the collaborative loss; 0 is its ablation "w/o CF".
        diversity_weight: beta of the paper, of the diversity loss; 0 is its ablation "w/o diversity".
        cf_temperature: by which the cosines of the collaborative loss are divided.
        diversity_clusters: clusters of a codebook; fewer where it has less than two codes for each.
        diversity_every: epochs after which the codebooks are clustered again.
        cf_vectors: a folder of CF vectors of one's own, ``<domain>.parquet`` with columns ``item_id`` and ``vector``.
            None fits them by alternating least squares on the train part, with the settings below.
        cf_dim: their width.
        cf_iterations: of alternating least squares.
        cf_regularization: weight of the squared factors.
        cf_confidence: weight of an event beside the weight 1 of every (user, item) without one.
    """

    cf_weight: float = 0.3
    diversity_weight: float = 1e-4
    cf_temperature: float = 0.1
    diversity_clusters: int = 10
    diversity_every: int = 5
    cf_vectors: str | None = None
    cf_dim: int = 32
    cf_iterations: int = 15
    cf_regularization: float = 10.0
    cf_confidence: float = 20.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("cf_weight", "diversity_weight", "cf_regularization"):
            check(getattr(self, field) >= 0, field, getattr(self, field), "of at least 0")
        for field in ("diversity_clusters", "diversity_every", "cf_dim", "cf_iterations"):
            check(getattr(self, field) >= 1, field, getattr(self, field), "of at least 1")
        for field in ("cf_temperature", "cf_confidence"):
            check(getattr(self, field) > 0, field, getattr(self, field), "above 0")
        if self.ema_decay is not None and self.diversity_weight:
            raise ConfigError(
                "tokenizer.ema_decay leaves codebooks without gradient, which tokenizer.diversity_weight needs; "
                "leave ema_decay out or set diversity_weight to 0"
            )

    @property
    def cf_source(self) -> CfSource | None:
        """Where the CF vectors come from; None where no loss needs them."""
        if not self.cf_weight:
            return None
        return CfSource(
            folder=self.cf_vectors,
            dim=self.cf_dim,
            iterations=self.cf_iterations,
            regularization=self.cf_regularization,
            confidence=self.cf_confidence,
            seed=self.seed,
        )


def fit_letter(
    vectors_by_domain: Mapping[str, np.ndarray],
    cf_by_domain: CfVectors,
    config: LetterConfig,
    folder: Path,
    on_epoch: Callable[[int, float], None] | None = None,
) -> RqVae:
    """Fit LETTER, or go on where a killed fit of the same input stopped; resumes as exactly as an RQ-VAE's.

    It stops, and chooses its weights, by the held-out value of what it trades: reconstruction error + alpha L_CF.

    Args:
        vectors_by_domain: float[N, D] item vectors each.
        cf_by_domain: float[N, C] CF vectors each, rows of NaN for items without one; not read where ``cf_weight`` is 0.
        config: settings.
        folder: of the checkpoint, ``letter.pt``.
        on_epoch: told each epoch's number and mean loss, after its checkpoint is written.

    Raises:
        DataError: vectors with NaN or infinity, or CF vectors that do not fit the items.
        NonFiniteLossError: a loss is NaN or infinite.
        StageError: the checkpoint cannot be read.
    """
    items = {name: len(vectors_by_domain[name]) for name in sorted(vectors_by_domain)}
    cf = _matched(items, cf_by_domain) if config.cf_weight else []
    fit = LetterFit(draw_items(vectors_by_domain, config), cf, config, folder)
    fit.run(on_epoch)
    return fit.tokenizer()


class LetterFit(RqVaeFit):
    """The state of a fit between two epochs."""

    model_class = Letter
    config: LetterConfig

    def __init__(self, drawn: FitItems, cf: list[np.ndarray], config: LetterConfig, folder: Path) -> None:
        super().__init__(drawn, config, folder)
        self.alignment: CfAlignment | None = None
        self.clusters: list[Tensor] = []
        self.clustered_at = -1
        self.cf_digest = ""
        if config.cf_weight:
            self.alignment = CfAlignment(config.latent_dim, cf, config.cf_temperature)
            self.optimizer.add_param_group({"params": list(self.alignment.parameters()), "weight_decay": 0.0})
            digest = hashlib.sha256()
            for cf_NC in cf:
                digest.update(f"{cf_NC.shape}".encode() + np.ascontiguousarray(cf_NC, dtype=np.float32).tobytes())
            self.cf_digest = digest.hexdigest()

    @property
    def digest(self) -> str:
        return settings_digest(self.drawn.digest, self.config, self.cf_digest)

    def batch_loss(self, rows_B: Tensor, generator: torch.Generator) -> tuple[Tensor, Quantised | None]:
        """The RQ-VAE's loss and, once codes are in use, alpha L_CF + beta L_Div."""
        loss, made = super().batch_loss(rows_B, generator)
        if made is None:
            return loss, made
        if self.alignment is not None:
            numbers_B = self.drawn.train_number_N[rows_B]
            loss = loss + self.config.cf_weight * self.alignment(numbers_B, made.straight_through_Bd)
        if self.config.diversity_weight:
            self._cluster_when_due()
            for codebook_Vd, codes_B, cluster_V in zip(
                self.model.quantiser.codebooks, made.codes, self.clusters, strict=True
            ):
                mates_B = cluster_mates(codes_B, cluster_V, generator)
                loss = loss + self.config.diversity_weight * diversity_loss(codebook_Vd, codes_B, mates_B)
        return loss, made

    def held_out_error(self) -> float:
        """Reconstruction error + alpha L_CF: by the error alone, a fit would stop while its codes still turn to the CF
        vectors, and choose weights from before they did. L_Div is left out: it is one of codebooks, not of items.
        """
        error = super().held_out_error()
        if self.alignment is None:
            return error
        return error + self.config.cf_weight * self.held_out_contrast(self.alignment)

    @torch.no_grad()
    def held_out_contrast(self, alignment: CfAlignment) -> float:
        """L_CF of the held-out items, in batches of a step's size that are the same at every evaluation."""
        drawn, total = self.drawn, 0.0
        shuffled = torch.Generator().manual_seed(self.config.seed)
        for rows_B in torch.randperm(len(drawn.validation_ND), generator=shuffled).split(self.config.batch_size):
            codes_BL = self.model.nearest_codes(encoded(self.model, drawn.validation_ND[rows_B]))
            contrast = alignment(drawn.validation_number_N[rows_B], self.model.quantised(codes_BL))
            total += len(rows_B) * contrast.item()
        return total / len(drawn.validation_ND)

    def _cluster_when_due(self) -> None:
        due = (self.epoch - self.schedule.warm_up) // self.config.diversity_every
        if due != self.clustered_at:
            self.clustered_at = due
            self.clusters = [
                code_clusters(codebook_Vd, self.config.diversity_clusters, self.config.seed)
                for codebook_Vd in self.model.quantiser.codebooks
            ]

    def more_state(self) -> dict[str, Any]:
        return super().more_state() | {
            "alignment": {} if self.alignment is None else self.alignment.state_dict(),
            "clusters": self.clusters,
            "clustered_at": self.clustered_at,
        }

    def take_more_state(self, state: Mapping[str, Any]) -> None:
        super().take_more_state(state)
        if self.alignment is not None:
            self.alignment.load_state_dict(state["alignment"])
        self.clusters, self.clustered_at = state["clusters"], state["clustered_at"]


def diversity_loss(codebook_Vd: Tensor, codes_B: Tensor, mates_B: Tensor) -> Tensor:
    """-mean_i log (exp<e_i, e_i+> / sum_{j != i} exp<e_i, e_j>), e_i an item's code and e_i+ its mate.

    Args:
        codebook_Vd: of one level; it alone gets a gradient.
        codes_B: the items' codes.
        mates_B: for each a code to pull it to; -1 leaves the item out.

    Returns:
        The mean over the items with a mate; 0 where none has.
    """
    paired_B = mates_B >= 0
    if not paired_B.any():
        return codebook_Vd.new_zeros(())
    codes_B, mates_B = codes_B[paired_B], mates_B[paired_B]
    similarity_BV = F.embedding(codes_B, codebook_Vd) @ codebook_Vd.T
    own_BV = F.one_hot(codes_B, len(codebook_Vd)).bool()
    return F.cross_entropy(similarity_BV.masked_fill(own_BV, -torch.inf), mates_B)


def cluster_mates(codes_B: Tensor, cluster_V: Tensor, generator: torch.Generator) -> Tensor:
    """For each code a random other code of its cluster: int64[B]; -1 for a code alone in its cluster."""
    sizes_K = torch.bincount(cluster_V)
    members_V = torch.argsort(cluster_V, stable=True)
    start_K = sizes_K.cumsum(0) - sizes_K
    place_V = torch.empty_like(members_V)
    place_V[members_V] = torch.arange(len(members_V)) - start_K[cluster_V[members_V]]
    cluster_B = cluster_V[codes_B]
    others_B = sizes_K[cluster_B] - 1
    step_B = 1 + (torch.rand(len(codes_B), generator=generator) * others_B).long().clamp_max(others_B - 1)
    mates_B = members_V[start_K[cluster_B] + (place_V[codes_B] + step_B) % sizes_K[cluster_B]]
    return torch.where(others_B > 0, mates_B, -1)


def code_clusters(codebook_Vd: Tensor, clusters: int, seed: int) -> Tensor:
    """Clusters of similar size by constrained k-means: int64[V], at least two codes in each."""
    size = len(codebook_Vd)
    clusters = min(clusters, size // 2)
    if clusters == 1:
        return torch.zeros(size, dtype=torch.int64)
    clustering = KMeansConstrained(
        n_clusters=clusters,
        size_min=max(2, size // (2 * clusters)),
        size_max=min(size, 2 * -(-size // clusters)),
        n_init=1,
        max_iter=10,
        random_state=seed,
    )
    return torch.from_numpy(clustering.fit_predict(codebook_Vd.detach().double().numpy())).long()


def _matched(items: Mapping[str, int], cf_by_domain: CfVectors) -> list[np.ndarray]:
    """The CF vectors of each domain, checked against its number of items."""
    for name, count in items.items():
        given = len(cf_by_domain.get(name, ()))
        if given != count:
            raise DataError(
                f"domain {name!r} has {count} items and {given} collaborative vectors; give one an item, NaN where "
                "there is none, or set tokenizer.cf_weight to 0"
            )
    return [cf_by_domain[name] for name in items]
