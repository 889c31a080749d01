"""The one interface of all tokenizers: vector in, codes out.

Knows one item at a time: codes are a function of the vector (and of the domain's name) alone, so that a batch and its
items one by one get the same codes. Making codes unique within a domain is ``sidera.items.assignment``.

Shapes: N item, D item vector dim, d latent dim, L level, l prefix length, V codebook size.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from sidera.errors import TokenizerError
from sidera.tokenizers.residual import nearest_of

_ENCODE_ROWS = 16_384
"""Rows that ``encode`` holds intermediate results of: memory stays flat for any number of items."""


class CodebookGroup(NamedTuple):
    """The items that were coded with one codebook.

    Attributes:
        name: of the codebook, for reports.
        codes_M: int64[M] their codes in it.
        size: codes of the codebook.
    """

    name: str
    codes_M: Tensor
    size: int


class ItemTokenizer(nn.Module, ABC):
    """A fitted tokenizer.

    Attributes:
        method: the name in a config.
        codebook_sizes: codes per level; a SID has one code per level.
        dim: width of the item vectors that it takes.
    """

    method: ClassVar[str]
    codebook_sizes: tuple[int, ...]
    dim: int

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """All that :meth:`from_config` needs to build the same tokenizer before its tensors are loaded (JSON)."""

    @classmethod
    @abstractmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Build a tokenizer without its tensors."""

    @abstractmethod
    def latents(self, vectors_ND: Tensor, domain: str) -> Tensor:
        """What is quantised: float32[N, d], each row a function of its vector alone.

        Raises:
            TokenizerError: the vectors have another width, or hold NaN or infinity.
        """

    @abstractmethod
    def distances(self, latents_Nd: Tensor, prefix_Nl: Tensor) -> Tensor:
        """Squared distance of each residual to each code of the next level: float32[N, V].

        Args:
            latents_Nd: what :meth:`latents` gave.
            prefix_Nl: int codes of the levels before; l may be 0.
        """

    @abstractmethod
    def quantised(self, codes_NL: Tensor) -> Tensor:
        """What the codes stand for in the space of the latents: float32[N, d]."""

    @abstractmethod
    def reconstruct(self, codes_NL: Tensor) -> Tensor:
        """Back in item vector space: float32[N, D]."""

    def codebook_groups(self, codes_NL: Tensor) -> list[CodebookGroup]:
        """Which codebook coded which items: one codebook a level, where a method has no others."""
        levels = enumerate(self.codebook_sizes)
        return [CodebookGroup(f"level {level + 1}", codes_NL[:, level], size) for level, size in levels]

    def routes(self, vectors_ND: Tensor, domain: str) -> dict[str, Tensor]:
        """How much of each way through the tokenizer an item takes: float32[N] by name; none without a router."""
        return {}

    @torch.inference_mode()
    def encode(self, vectors_ND: Tensor, domain: str) -> Tensor:
        """The nearest code at each level: int64[N, L]; the lower code where two are equally near.

        Raises:
            TokenizerError: the vectors have another width, or hold NaN or infinity.
        """
        codes_NL = torch.empty((len(vectors_ND), len(self.codebook_sizes)), dtype=torch.int64, device=vectors_ND.device)
        for start in range(0, len(vectors_ND), _ENCODE_ROWS):
            rows = slice(start, start + _ENCODE_ROWS)
            codes_NL[rows] = self.nearest_codes(self.latents(vectors_ND[rows], domain))
        return codes_NL

    @torch.inference_mode()
    def nearest_codes(self, latents_Nd: Tensor) -> Tensor:
        """The nearest code at each level, given latents: int64[N, L]."""
        codes_NL = torch.empty((len(latents_Nd), 0), dtype=torch.int64, device=latents_Nd.device)
        for _ in self.codebook_sizes:
            nearest_N = nearest_of(self.distances(latents_Nd, codes_NL))
            codes_NL = torch.cat([codes_NL, nearest_N[:, None]], dim=1)
        return codes_NL

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """All of it: config (JSON) and tensors."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        return {"method": self.method, **self.config()}, tensors

    @property
    def capacity(self) -> int:
        """How many items one domain can hold: the number of different SIDs."""
        capacity = 1
        for size in self.codebook_sizes:
            capacity *= size
        return capacity


def config_fields(config: Mapping[str, Any], *names: str) -> list[Any]:
    """The values of a tokenizer config's fields, in the order of their names.

    Raises:
        TokenizerError: a field is missing.
    """
    missing = [name for name in names if name not in config]
    if missing:
        raise TokenizerError(f"the tokenizer config has no field {missing[0]!r}")
    return [config[name] for name in names]


def check_vectors(vectors_ND: Tensor, dim: int) -> None:
    """Refuse what is not float[N, dim] of finite numbers.

    Raises:
        TokenizerError: another shape, or rows with NaN or infinity (the first are named).
    """
    if vectors_ND.ndim != 2 or vectors_ND.shape[1] != dim:
        raise TokenizerError(
            f"item vectors have shape {list(vectors_ND.shape)}; this tokenizer takes [items, {dim}]: "
            "use the encoder that it was fitted with"
        )
    if torch.isfinite(vectors_ND.sum()):  # terms of a finite sum are finite; a sum may overflow without a bad one
        return
    bad = torch.nonzero(~torch.isfinite(vectors_ND).all(dim=1)).flatten().tolist()
    if bad:
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        rows = ", ".join(map(str, bad[:5]))
        raise TokenizerError(f"item vectors in rows {rows}{more} hold NaN or infinity; make these vectors again")
