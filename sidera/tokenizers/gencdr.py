"""GenCDR's tokenizer: an RQ-VAE with an adapter per domain and an item router (arXiv 2511.08006). Inference only.

An item of a domain that the fit saw goes two ways: through the encoder as it is, which gives z_uni, and through the
encoder with its domain's adapter, which gives z_dom. The router weighs the two: z = (1 - alpha) z_uni + alpha z_dom is
quantised. An item of any other domain takes the universal way alone: z = z_uni.

Shapes: N item, D item vector dim, d latent dim, K domain, R rows of one chunk, i inputs and o outputs of a layer,
r rank of the adapters.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from sidera.errors import TokenizerError
from sidera.tokenizers.base import check_vectors
from sidera.tokenizers.residual import in_chunks
from sidera.tokenizers.rqvae import RqVae

SHARE_WITHOUT_ROUTER = 0.5
"""alpha of every item where there is no router."""


class DomainAdapter(nn.Module):
    """A low-rank change (LoRA, arXiv 2106.09685) of every linear layer of an encoder.

    A layer gives W x + b + (alpha / r) up down x. ``up`` starts at zero, so that nothing changes at first.

    Attributes:
        down: float32[r, i] of each layer.
        up: float32[o, r] of each layer.
    """

    def __init__(self, layers: Sequence[nn.Linear], rank: int) -> None:
        super().__init__()
        self.down = nn.ParameterList(nn.Parameter(torch.empty(rank, layer.in_features)) for layer in layers)
        self.up = nn.ParameterList(nn.Parameter(torch.zeros(layer.out_features, rank)) for layer in layers)
        for down_ri in self.down:
            nn.init.uniform_(down_ri, -(down_ri.shape[1] ** -0.5), down_ri.shape[1] ** -0.5)

    def forward(self, read_Ni: Tensor, layer: int) -> Tensor:
        """up down x at one of the linear layers: float32[N, o]."""
        change_No: Tensor = (read_Ni @ self.down[layer].T) @ self.up[layer].T
        return change_No


class EncoderAdapters(nn.Module):
    """An adapter of an encoder for each domain.

    Each has parameters of its own, not a row of common ones: an optimizer leaves alone what has no gradient, so the
    adapter of a domain stays as it is, momentum and weight decay included, in a step without items of that domain.

    Attributes:
        of_domain: the adapters, in the order of the domains.
        scale: alpha / r.
    """

    def __init__(self, encoder: nn.Sequential, domains: int, rank: int, alpha: float) -> None:
        super().__init__()
        layers = [layer for layer in encoder if isinstance(layer, nn.Linear)]
        self.of_domain = nn.ModuleList(DomainAdapter(layers, rank) for _ in range(domains))
        self.scale = alpha / rank

    def forward(
        self,
        encoder: nn.Sequential,
        inputs_ND: Tensor,
        items_of: Mapping[int, int],
        dropout: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """z_dom: float32[N, d].

        Args:
            encoder: the one that the adapters were made for.
            inputs_ND: standardised item vectors, those of one domain after those of another.
            items_of: how many items of which domain, in the order of the rows.
            dropout: of what the adapters read.
        """
        hidden_Ni = inputs_ND
        adapted = itertools.count()
        for layer in encoder:
            if not isinstance(layer, nn.Linear):
                hidden_Ni = layer(hidden_Ni)
                continue
            number = next(adapted)
            read_Ni = hidden_Ni if dropout is None else dropout(hidden_Ni)
            parts = zip(items_of, read_Ni.split(list(items_of.values())), strict=True)
            changes = [self.of_domain[domain](part_Ni, number) for domain, part_Ni in parts]
            hidden_Ni = layer(hidden_Ni) + self.scale * torch.cat(changes)
        return hidden_Ni


class ItemRouter(nn.Module):
    """alpha = sigmoid(MLP(z_uni, z_dom)), through a bottleneck: a Gaussian vector, at inference its mean."""

    def __init__(self, latent_dim: int, hidden: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(2 * latent_dim, hidden)
        self.bottleneck = nn.Linear(hidden, 2 * latent_dim)
        self.output = nn.Linear(latent_dim, 1)

    def bottleneck_of(self, universal_Nd: Tensor, domain_Nd: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance of each item's bottleneck vector: float32[N, d] each."""
        hidden_NH = self.hidden(torch.cat([universal_Nd, domain_Nd], dim=1)).relu()
        mean_Nd, log_variance_Nd = self.bottleneck(hidden_NH).chunk(2, dim=1)
        return mean_Nd, log_variance_Nd

    def share_of(self, bottleneck_Nd: Tensor) -> Tensor:
        """alpha of bottleneck vectors: float32[N]."""
        share_N1: Tensor = self.output(bottleneck_Nd).sigmoid()
        return share_N1[:, 0]

    def forward(self, universal_Nd: Tensor, domain_Nd: Tensor) -> Tensor:
        """alpha at the mean of the bottleneck: float32[N]."""
        return self.share_of(self.bottleneck_of(universal_Nd, domain_Nd)[0])


class ConstantShare(nn.Module):
    """The same alpha for every item."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, universal_Nd: Tensor, domain_Nd: Tensor) -> Tensor:
        """alpha: float32[N]."""
        return universal_Nd.new_full((len(universal_Nd),), self.share)


class GenCdr(RqVae):
    """The universal encoder, quantiser and decoder of an RQ-VAE; adapters and router for the domains that it knows.

    Attributes:
        domains: that have an adapter; without any, all items take the universal way.
        adapters: of these domains; None without any.
        router: (z_uni, z_dom) -> alpha; the constant 1/2 where ``router_hidden`` is None.
    """

    method: ClassVar[str] = "gencdr"

    def __init__(
        self,
        dim: int,
        codebook_sizes: Sequence[int],
        latent_dim: int,
        hidden_sizes: Sequence[int],
        domains: Sequence[str] = (),
        adapter_rank: int = 64,
        adapter_alpha: float = 32.0,
        router_hidden: int | None = 128,
    ) -> None:
        super().__init__(dim, codebook_sizes, latent_dim, hidden_sizes)
        self.domains = tuple(domains)
        self.adapter_rank, self.adapter_alpha, self.router_hidden = adapter_rank, adapter_alpha, router_hidden
        self.adapters: EncoderAdapters | None = None
        self.router: nn.Module | None = None
        if self.domains:
            self.adapters = EncoderAdapters(self.encoder, len(self.domains), adapter_rank, adapter_alpha)
            constant = ConstantShare(SHARE_WITHOUT_ROUTER)
            self.router = constant if router_hidden is None else ItemRouter(latent_dim, router_hidden)

    def config(self) -> dict[str, Any]:
        """The sizes and the domains' names."""
        return super().config() | {
            "domains": list(self.domains),
            "adapter_rank": self.adapter_rank,
            "adapter_alpha": self.adapter_alpha,
            "router_hidden": self.router_hidden,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Build one of the given sizes, for the given domains.

        Raises:
            TokenizerError: a field is missing.
        """
        fields = ["dim", "codebook_sizes", "latent_dim", "hidden_sizes"]
        fields += ["domains", "adapter_rank", "adapter_alpha", "router_hidden"]
        missing = [field for field in fields if field not in config]
        if missing:
            raise TokenizerError(f"the tokenizer config has no field {missing[0]!r}")
        return cls(*(config[field] for field in fields))

    @torch.inference_mode()
    def latents(self, vectors_ND: Tensor, domain: str) -> Tensor:
        """(1 - alpha) z_uni + alpha z_dom, float32[N, d]; z_uni alone for a domain that has no adapter."""
        if domain not in self.domains:
            return super().latents(vectors_ND, domain)
        check_vectors(vectors_ND, self.dim)

        def of_chunk(chunk_RD: Tensor) -> Tensor:
            universal_Rd, domain_Rd = self._both_ways(chunk_RD, domain)
            return fused(universal_Rd, domain_Rd, self._share(universal_Rd, domain_Rd))

        return in_chunks(of_chunk, vectors_ND.float())

    @torch.inference_mode()
    def routes(self, vectors_ND: Tensor, domain: str) -> dict[str, Tensor]:
        """``domain``: alpha, and ``universal``: 1 - alpha, float32[N] each; alpha is 0 in a domain without adapter."""
        check_vectors(vectors_ND, self.dim)
        if domain not in self.domains:
            share_N = vectors_ND.new_zeros(len(vectors_ND), dtype=torch.float32)
        else:
            share_N = in_chunks(
                lambda chunk_RD: self._share(*self._both_ways(chunk_RD, domain)),
                vectors_ND.float(),
            )
        return {"universal": 1 - share_N, "domain": share_N}

    def _both_ways(self, vectors_ND: Tensor, domain: str) -> tuple[Tensor, Tensor]:
        inputs_ND = self.standardise(vectors_ND)
        assert self.adapters is not None
        domain_Nd = self.adapters(self.encoder, inputs_ND, {self.domains.index(domain): len(inputs_ND)})
        return self.encoder(inputs_ND), domain_Nd

    def _share(self, universal_Nd: Tensor, domain_Nd: Tensor) -> Tensor:
        assert self.router is not None
        share_N: Tensor = self.router(universal_Nd, domain_Nd)
        return share_N


def fused(universal_Nd: Tensor, domain_Nd: Tensor, share_N: Tensor) -> Tensor:
    """(1 - alpha) z_uni + alpha z_dom: float32[N, d]."""
    return (1 - share_N[:, None]) * universal_Nd + share_N[:, None] * domain_Nd
