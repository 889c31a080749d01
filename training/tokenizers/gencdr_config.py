"""The settings of GenCDR's tokenizer (arXiv 2511.08006), and what they must be."""

from dataclasses import dataclass

from training.tokenizers.common import check
from training.tokenizers.rqvae import RqVaeConfig


@dataclass(frozen=True)
class GenCdrConfig(RqVaeConfig):
    """Settings of ``method: gencdr``. Those of an RQ-VAE are of the universal stage; ``batch_size``, ``weight_decay``,
    ``evaluate_every`` and ``patience`` are of all three.

    Attributes:
        mtm_weight: lambda of the paper, which gives no number: of the masked-token loss; 0 is the ablation "w/o MTM".
        mask_share: of the levels that are hidden; at least one of an item, and never all.
        domain_adapter: False is the ablation without adapters: every item takes the universal way, and there are no
            stages 2 and 3, whatever ``item_router`` says.
        adapter_rank: of the adapters.
        adapter_alpha: the adapters' change is scaled by alpha / rank.
        adapter_dropout: share of what an adapter reads that is left out in a step of its fit.
        domain_epochs: of stage 2, at most.
        domain_learning_rate: of stage 2.
        item_router: False is the ablation without router: every item of a known domain is fused with alpha = 1/2, and
            there is no stage 3.
        router_hidden: width of the router's hidden layer.
        kl_weight: of the bottleneck's divergence from a standard normal vector.
        router_epochs: of stage 3, at most.
        router_learning_rate: of stage 3.
    """

    mtm_weight: float = 0.01
    mask_share: float = 0.3
    domain_adapter: bool = True
    adapter_rank: int = 64
    adapter_alpha: float = 32.0
    adapter_dropout: float = 0.05
    domain_epochs: int = 30
    domain_learning_rate: float = 3e-3
    item_router: bool = True
    router_hidden: int = 128
    kl_weight: float = 1e-3
    router_epochs: int = 20
    router_learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("mtm_weight", "kl_weight"):
            check(getattr(self, field) >= 0, field, getattr(self, field), "of at least 0")
        for field in ("adapter_rank", "domain_epochs", "router_hidden", "router_epochs"):
            check(getattr(self, field) >= 1, field, getattr(self, field), "of at least 1")
        for field in ("adapter_alpha", "domain_learning_rate", "router_learning_rate"):
            check(getattr(self, field) > 0, field, getattr(self, field), "above 0")
        check(0 < self.mask_share < 1, "mask_share", self.mask_share, "between 0 and 1")
        check(0 <= self.adapter_dropout < 1, "adapter_dropout", self.adapter_dropout, "of at least 0 and below 1")
