"""UniTok: an autoencoder whose latent is quantised by a mixture of experts (arXiv 2511.12922). Inference only.

A linear router with softmax, G = softmax(h(z)), picks a domain expert for each item, by its vector alone: the name of
its domain is never read, so an item of a domain that no fit saw is encoded like any other. Every expert owns a chain of
codebooks; the shared expert, always on, owns another. What an item is quantised to is

    z_hat = E_k(z) + E_share(z - E_k(z))    the shared expert reads the residual, or
    z_hat = E_k(z) + E_share(z)             it reads the latent,

with k the router's first choice. A SID holds the codes of E_k, then those of E_share where these are emitted, and says
which expert k is: within its first code, or by a level of its own. A fit that mixes more than one expert (``top_n``)
leaves SIDs that stand for the first of them alone.

Shapes: N item, D item vector dim, d latent dim, K expert, L level, l prefix length, V codebook size, R rows of a chunk.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from sidera.errors import TokenizerError
from sidera.tokenizers.base import CodebookGroup, check_vectors, config_fields
from sidera.tokenizers.expert_chains import ExpertChains
from sidera.tokenizers.residual import ResidualQuantiser, in_chunks, squared_distances
from sidera.tokenizers.rqvae import Autoencoder

_RECONSTRUCT_ROWS = 16_384

SharedReads = Literal["residual", "latent"]
ExpertId = Literal["merged", "first", "last"]


class _Codes(NamedTuple):
    """What the codes of a SID, or of a part of it, belong to: the expert int64[N], its codes and the shared ones."""

    expert_N: Tensor
    own_Nl: Tensor
    shared_Nl: Tensor


class UniTok(Autoencoder):
    """Encoder, router, chains of the experts and of the shared expert, decoder.

    Latents are the encoder's output and the router's log-probabilities, side by side: [N, d + K].

    Attributes:
        expert_names: of the K experts; the domain's, where an expert was started from one.
        chain_sizes: codebook sizes of the levels that emit codes: of the experts' levels, then of the shared ones.
        shared_levels: how many of these are the shared expert's. Where it is 0 and there is a shared expert, that one
            has as many levels as the experts and its codes are not emitted.
        shared_reads: what the shared expert quantises: what the expert left over, or the latent.
        expert_id: ``merged``: the first code is expert * V + code; ``first`` or ``last``: a level of K codes.
        codebook_sizes: of a SID's levels, with the expert.
        router: the scores h(z).
        experts, shared: their chains; ``shared`` is None without a shared expert.
    """

    method: ClassVar[str] = "unitok"

    def __init__(
        self,
        dim: int,
        chain_sizes: Sequence[int],
        latent_dim: int,
        hidden_sizes: Sequence[int],
        expert_names: Sequence[str],
        *,
        shared_expert: bool = True,
        shared_levels: int = 0,
        shared_reads: SharedReads = "residual",
        expert_id: ExpertId = "merged",
    ) -> None:
        """Make codebooks of zeros.

        Raises:
            TokenizerError: no expert, no level for one, or more SIDs than can be counted.
        """
        super().__init__(dim, latent_dim, hidden_sizes)
        own = len(chain_sizes) - shared_levels
        if not expert_names or own < 1 or shared_levels < 0 or (shared_levels and not shared_expert):
            raise TokenizerError(
                f"{len(expert_names)} experts, {len(chain_sizes)} levels, {shared_levels} of them the shared expert's: "
                "there must be an expert and a level of its own"
            )
        self.expert_names = tuple(expert_names)
        self.chain_sizes = tuple(int(size) for size in chain_sizes)
        self.shared_levels = shared_levels
        self.shared_reads = shared_reads
        self.expert_id = expert_id
        self.router = nn.Linear(latent_dim, len(expert_names))
        self.experts = ExpertChains(len(expert_names), self.chain_sizes[:own], latent_dim)
        self.shared: ResidualQuantiser | None = None
        if shared_expert:
            self.shared = ResidualQuantiser(self.chain_sizes[own:] if shared_levels else self.chain_sizes, latent_dim)
        if expert_id == "merged":
            self.codebook_sizes = (len(expert_names) * self.chain_sizes[0], *self.chain_sizes[1:])
        else:
            of_experts = (len(expert_names),)
            self.codebook_sizes = (
                of_experts + self.chain_sizes if expert_id == "first" else self.chain_sizes + of_experts
            )
        if min(self.codebook_sizes) < 1 or math.prod(self.codebook_sizes) >= 2**62:
            raise TokenizerError(
                f"codebook sizes {list(self.codebook_sizes)}: all must be at least 1, and they must make less than "
                "2**62 SIDs"
            )

    def config(self) -> dict[str, Any]:
        """The sizes, the experts and what a SID is made of."""
        return {
            "dim": self.dim,
            "chain_sizes": list(self.chain_sizes),
            "latent_dim": self.latent_dim,
            "hidden_sizes": list(self.hidden_sizes),
            "expert_names": list(self.expert_names),
            "shared_expert": self.shared is not None,
            "shared_levels": self.shared_levels,
            "shared_reads": self.shared_reads,
            "expert_id": self.expert_id,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Build one of the given sizes.

        Raises:
            TokenizerError: a field is missing.
        """
        sizes = config_fields(config, "dim", "chain_sizes", "latent_dim", "hidden_sizes", "expert_names")
        reading = ("shared_expert", "shared_levels", "shared_reads", "expert_id")
        return cls(*sizes, **dict(zip(reading, config_fields(config, *reading), strict=True)))

    @torch.inference_mode()
    def latents(self, vectors_ND: Tensor, domain: str) -> Tensor:
        """The encoder's output and the router's log-probabilities, float32[N, d + K]; the same for every domain."""
        check_vectors(vectors_ND, self.dim)

        def of_chunk(chunk_RD: Tensor) -> Tensor:
            latents_Rd = self.encoder(self.standardise(chunk_RD))
            return torch.cat([latents_Rd, self.router(latents_Rd).log_softmax(dim=1)], dim=1)

        return in_chunks(of_chunk, vectors_ND.float())

    @torch.inference_mode()
    def distances(self, latents_Nd: Tensor, prefix_Nl: Tensor) -> Tensor:
        """What each code of the next level costs: float32[N, V].

        Codes of a chain cost squared distances to what the codes before left over, with the expert that the prefix
        names, or the router's first choice where it names none yet. An expert's level costs the log-probability that
        its expert lacks to the first choice. A merged level costs squared distances, and codes of the experts that
        are not the first choice cost more than each of its own, by a share that grows with what their log-probability
        lacks: so the nearest code is always the first choice's, and an item that must move stays with it if it can.
        """
        latents_Nd, log_probs_NK = latents_Nd[:, : self.latent_dim], latents_Nd[:, self.latent_dim :]
        level = prefix_Nl.shape[1]
        if level == self._expert_level:
            return log_probs_NK.amax(dim=1, keepdim=True) - log_probs_NK
        if level == 0 and self.expert_id == "merged":
            return in_chunks(self._merged_distances, latents_Nd, log_probs_NK)
        codes = self._split(prefix_Nl.long(), log_probs_NK.argmax(dim=1))
        if codes.own_Nl.shape[1] < len(self.experts.codebook_sizes):
            return self.experts.distances(latents_Nd, codes.expert_N, codes.own_Nl)
        assert self.shared is not None
        return self.shared.distances(self._shared_input(latents_Nd, codes.expert_N, codes.own_Nl), codes.shared_Nl)

    @torch.inference_mode()
    def nearest_codes(self, latents_Nd: Tensor) -> Tensor:
        """The nearest code at each level: int64[N, L]; those of :meth:`distances` level by level, bit for bit."""
        expert_N = latents_Nd[:, self.latent_dim :].argmax(dim=1)
        latents_Nd = latents_Nd[:, : self.latent_dim]
        own_Nl = self.experts.nearest_codes(latents_Nd, expert_N)
        parts = [own_Nl]
        if self.shared is not None and self.shared_levels:
            parts.append(self.shared.nearest_codes(self._shared_input(latents_Nd, expert_N, own_Nl)))
        if self.expert_id == "merged":
            parts[0] = torch.cat([own_Nl[:, :1] + expert_N[:, None] * self.chain_sizes[0], own_Nl[:, 1:]], dim=1)
        else:
            parts.insert(0 if self.expert_id == "first" else len(parts), expert_N[:, None])
        return torch.cat(parts, dim=1)

    @torch.inference_mode()
    def quantised(self, codes_NL: Tensor) -> Tensor:
        """z_hat as far as the codes tell: float32[N, d].

        A shared expert that emits no codes adds what it makes of E_k in place of z where it reads latents, and nothing
        where it reads residuals, of which the codes know nothing.
        """
        codes = self._split(codes_NL.long(), codes_NL[:, -1].long())
        total_Nd = self.experts.lookup(codes.expert_N, codes.own_Nl)
        if self.shared is None:
            return total_Nd
        if self.shared_levels:
            return total_Nd + self.shared.lookup(codes.shared_Nl)
        if self.shared_reads == "latent":
            return total_Nd + self.shared.lookup(self.shared.nearest_codes(total_Nd))
        return total_Nd

    @torch.inference_mode()
    def reconstruct(self, codes_NL: Tensor) -> Tensor:
        """The decoder's output of :meth:`quantised`, in item vector space: float32[N, D]."""
        parts = [codes_NL.new_empty((0, self.dim), dtype=torch.float32)]
        for part_RL in codes_NL.split(_RECONSTRUCT_ROWS):
            z_hat_Rd = self.quantised(part_RL)
            parts.append(in_chunks(lambda chunk_Rd: self.decoder(chunk_Rd) * self.scale + self.shift_D, z_hat_Rd))
        return torch.cat(parts)

    def codebook_groups(self, codes_NL: Tensor) -> list[CodebookGroup]:
        """Every expert's codebooks over the items that it coded, the shared ones and the expert's level over all."""
        codes = self._split(codes_NL.long(), codes_NL[:, -1].long())
        groups = []
        for expert, name in enumerate(self.expert_names):
            own_Ml = codes.own_Nl[codes.expert_N == expert]
            for level, size in enumerate(self.experts.codebook_sizes):
                groups.append(CodebookGroup(f"expert {name}, level {level + 1}", own_Ml[:, level], size))
        for level in range(self.shared_levels):
            number = len(self.experts.codebook_sizes) + level
            groups.append(
                CodebookGroup(f"shared expert, level {number + 1}", codes.shared_Nl[:, level], self.chain_sizes[number])
            )
        if self._expert_level is not None:
            groups.append(CodebookGroup("choice of expert", codes.expert_N, len(self.expert_names)))
        return groups

    def routes(self, vectors_ND: Tensor, domain: str) -> dict[str, Tensor]:
        """The router's probability of each expert, float32[N] by "expert <name>"; the shared expert is always on."""
        probs_NK = self.latents(vectors_ND, domain)[:, self.latent_dim :].exp()
        return {f"expert {name}": probs_NK[:, expert] for expert, name in enumerate(self.expert_names)}

    @property
    def _expert_level(self) -> int | None:
        """The level that names the expert; None where the first code does so too."""
        return {"merged": None, "first": 0, "last": len(self.chain_sizes)}[self.expert_id]

    def _split(self, prefix_Nl: Tensor, last_N: Tensor) -> _Codes:
        """Take the expert out of the codes; ``last_N`` is the expert where the codes would name it last."""
        if self.expert_id == "merged":
            size = self.chain_sizes[0]
            expert_N = prefix_Nl[:, 0] // size
            chain_Nl = torch.cat([prefix_Nl[:, :1] - expert_N[:, None] * size, prefix_Nl[:, 1:]], dim=1)
        elif self.expert_id == "first":
            expert_N, chain_Nl = prefix_Nl[:, 0], prefix_Nl[:, 1:]
        else:
            expert_N, chain_Nl = last_N, prefix_Nl[:, : len(self.chain_sizes)]
        own = len(self.experts.codebook_sizes)
        return _Codes(expert_N, chain_Nl[:, :own], chain_Nl[:, own:])

    def _shared_input(self, latents_Nd: Tensor, expert_N: Tensor, own_Nl: Tensor) -> Tensor:
        if self.shared_reads == "latent":
            return latents_Nd
        return latents_Nd - self.experts.lookup(expert_N, own_Nl)

    def _merged_distances(self, latents_Rd: Tensor, log_probs_RK: Tensor) -> Tensor:
        each = [squared_distances(latents_Rd, codebook_Vd) for codebook_Vd in self.experts.codebooks[0]]
        distances_RKV = torch.stack(each, dim=1)
        first_R = log_probs_RK.argmax(dim=1)
        rows_R = torch.arange(len(first_R), device=first_R.device)
        farthest_R1 = distances_RKV[rows_R, first_R].amax(dim=1, keepdim=True)
        penalty_RK = (1 + farthest_R1) * (1 + log_probs_RK.amax(dim=1, keepdim=True) - log_probs_RK)
        penalty_RK[rows_R, first_R] = 0
        return (distances_RKV + penalty_RK[:, :, None]).flatten(1)
