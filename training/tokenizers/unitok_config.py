"""Settings of UniTok (arXiv 2511.12922)."""

from dataclasses import dataclass
from typing import Any, Literal

from sidera.tokenizers.unitok import ExpertId, SharedReads
from training.errors import ConfigError
from training.tokenizers.autoencoder import PRESETS as AUTOENCODER_PRESETS
from training.tokenizers.autoencoder import AutoencoderConfig
from training.tokenizers.common import check

PRESETS: dict[str, dict[str, Any]] = AUTOENCODER_PRESETS | {
    "paper": {"hidden_sizes": (2048, 1024, 512, 256, 128, 64), "latent_dim": 32}
}
"""Encoder sizes by name; ``paper`` are those of the paper."""


@dataclass(frozen=True)
class UniTokConfig(AutoencoderConfig):
    """Settings of ``method: unitok``.

    ``codebook_sizes`` are those of the experts' levels and then of the shared levels; the level that names the expert,
    or the first one times the number of experts, comes on top. The paper's ablations are ``calibration_weight: 0``
    ("w/o MI"), ``shared_expert: false`` ("w/o shared") and both ``experts: 1`` and ``shared_expert: false``
    ("w/o TokenMoE": one chain for the items of all domains).

    Attributes:
        experts: how many; None has one for each domain, started from its items. Any other number of experts starts
            from as many clusters of the latents.
        top_n: experts that z_hat mixes while fitting; a SID stands for the likeliest of them alone.
        router_loss: what the router learns by. ``domain``: cross-entropy with the items' domains, on latents that it
            does not move. ``mixture``: the gradient of the other losses through the weights of the mixture, which is
            all that it has where there is not one expert for each domain.
        shared_expert: whether there is one.
        shared_reads: what it quantises: what the experts leave over, or the latent itself.
        shared_levels: how many of the levels are its own; with 0 it is fitted, but its codes are not emitted. None
            gives it half of the levels, rounded down, and none where there is no shared expert.
        expert_id: how a SID names its expert: ``merged`` makes the first code expert * V + code, ``first`` and ``last``
            add a level with one code for each expert.
        quantisation_weight: lambda_RQ of the paper.
        calibration_weight: lambda_MI, 0 for no calibration; the paper has 0.03, for ``hsic``, and 100 moves ``cka``.
        calibration_beta: what the mean over domains weighs beside the variance; the paper has 1.
        calibration_measure: ``hsic`` as in the paper, or ``cka``, its normalised form. Of vectors with hundreds of
            dimensions HSIC is a few thousandths, and so is its gradient beside those of the other losses.
        calibration_items: of each domain in a batch for calibration; fewer where a domain that takes part has fewer.
    """

    experts: int | None = None
    top_n: int = 1
    router_loss: Literal["domain", "mixture"] = "domain"
    shared_expert: bool = True
    shared_reads: SharedReads = "residual"
    shared_levels: int | None = None
    expert_id: ExpertId = "merged"
    quantisation_weight: float = 1.0
    calibration_weight: float = 0.0
    calibration_beta: float = 0.02
    calibration_measure: Literal["hsic", "cka"] = "cka"
    calibration_items: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.shared_reads in ("residual", "latent"), "shared_reads", self.shared_reads, "of residual or latent")
        check(self.expert_id in ("merged", "first", "last"), "expert_id", self.expert_id, "of merged, first or last")
        check(self.router_loss in ("domain", "mixture"), "router_loss", self.router_loss, "of domain or mixture")
        measure = self.calibration_measure
        check(measure in ("hsic", "cka"), "calibration_measure", measure, "of hsic or cka")
        check(self.experts is None or self.experts >= 1, "experts", self.experts, "of at least 1")
        check(self.top_n >= 1, "top_n", self.top_n, "of at least 1")
        for field in ("calibration_weight", "calibration_beta"):
            check(getattr(self, field) >= 0, field, getattr(self, field), "of at least 0")
        check(self.quantisation_weight > 0, "quantisation_weight", self.quantisation_weight, "above 0")
        check(self.calibration_items >= 64, "calibration_items", self.calibration_items, "of at least 64")
        if self.shared_levels is not None:
            most = len(self.codebook_sizes) - 1 if self.shared_expert else 0
            check(
                0 <= self.shared_levels <= most,
                "shared_levels",
                self.shared_levels,
                f"from 0 to {most}, so that a level is left for the experts"
                if self.shared_expert
                else "of 0, as tokenizer.shared_expert is false",
            )
        if self.experts is not None:
            self.check_experts(self.experts)

    def check_experts(self, experts: int) -> None:
        """Refuse settings that make no sense with a number of experts.

        Raises:
            ConfigError: an item would be mixed of more experts than there are, or SIDs would name the only one.
        """
        if self.top_n > experts:
            raise ConfigError(
                f"tokenizer.top_n is {self.top_n}, but there are {experts} experts; set it to at most {experts}"
            )
        if experts == 1 and self.expert_id != "merged":
            raise ConfigError(
                f"tokenizer.expert_id is {self.expert_id}, but there is 1 expert, whose level would say nothing; set "
                "expert_id to merged or tokenizer.experts to at least 2"
            )

    def capacity(self, domains: int) -> int:
        """How many SIDs a domain has: those of every expert's chain."""
        experts = domains if self.experts is None else self.experts
        if self.experts is not None or domains > 1:
            self.check_experts(experts)
        count = experts * super().capacity(domains)
        sizes = list(self.codebook_sizes)
        check(count < 2**62, "codebook_sizes", sizes, "that makes less than 2**62 SIDs, those of all experts together")
        return count

    @property
    def emitted_shared_levels(self) -> int:
        """How many levels of a SID are the shared expert's."""
        if self.shared_levels is not None:
            return self.shared_levels
        return len(self.codebook_sizes) // 2 if self.shared_expert else 0
