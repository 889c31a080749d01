"""SIDs for new items of a domain beside those that exist, which never move.

Knows a tokenizer's distances and the taken SIDs; does not know items, catalogs or text.

Shapes: N item, M taken SID, D item vector dim, d latent dim, L level, V codebook size.
"""

import math

import numpy as np
import torch
from torch import Tensor

from sidera.errors import DuplicateItemError, TokenizerError
from sidera.items.assignment import domain_full, latents_of
from sidera.tokenizers.base import ItemTokenizer


def place_new(
    tokenizer: ItemTokenizer, vectors_ND: np.ndarray, domain: str, taken_NL: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Give new items SIDs beside those that exist, which never move.

    Items are placed one by one in the order given, so one call with many items does what many calls with one item do.
    An item goes, at each level, to the nearest code below which a leaf is free; where two are equally near, to the
    lower one. The order matters only between new items that want the same leaf: the earlier one gets it.

    Args:
        tokenizer: gives latents and distances.
        vectors_ND: float[N, D] item vectors.
        domain: whose items they are; it may be one that training never saw.
        taken_NL: int[M, L] the SIDs that exist in the domain, in any order (SID order is fastest).

    Returns:
        int32[N, L] SIDs, and bool[N]: the item did not get its nearest codes.

    Raises:
        DomainFullError: there are fewer free SIDs than new items; nothing is placed.
        DuplicateItemError: two of the taken SIDs are equal.
        TokenizerError: the vectors have another width, or hold NaN or infinity; or a taken SID is not its.
    """
    leaves = _Leaves(tokenizer, domain, taken_NL)
    items = len(vectors_ND)
    if items + leaves.count > tokenizer.capacity:
        raise domain_full(tokenizer, domain, items + leaves.count)
    latents_Nd = latents_of(tokenizer, vectors_ND, domain, np.arange(items))
    nearest_NL = tokenizer.nearest_codes(latents_Nd).cpu().numpy()
    sids_NL = nearest_NL.copy()
    moved_N = np.zeros(items, dtype=bool)
    for row in range(items):
        if not leaves.is_free(nearest_NL[row]):
            sids_NL[row] = _nearest_free(tokenizer, latents_Nd[row : row + 1], leaves)
            moved_N[row] = True
        leaves.take(sids_NL[row])
    return sids_NL.astype(np.int32), moved_N


class _Leaves:
    """Which leaves of one domain's SID tree are taken. A leaf's key is its SID read as a number in mixed radix."""

    def __init__(self, tokenizer: ItemTokenizer, domain: str, taken_NL: np.ndarray) -> None:
        sizes = tokenizer.codebook_sizes
        taken_NL = np.asarray(taken_NL, dtype=np.int64).reshape(-1, len(sizes)) if len(taken_NL) == 0 else taken_NL
        if taken_NL.ndim != 2 or taken_NL.shape[1] != len(sizes):
            raise TokenizerError(
                f"taken SIDs of domain {domain!r} have shape {taken_NL.shape}; expected [_, {len(sizes)}]"
            )
        if len(taken_NL) and ((taken_NL < 0) | (taken_NL >= np.asarray(sizes))).any():
            raise TokenizerError(
                f"a taken SID of domain {domain!r} has a code outside codebook sizes {list(sizes)}; "
                "it comes from another tokenizer"
            )
        self.sizes = sizes
        self._weights_L = np.asarray([math.prod(sizes[level + 1 :]) for level in range(len(sizes))], dtype=np.int64)
        keys = taken_NL.astype(np.int64) @ self._weights_L
        self._keys = keys if (np.diff(keys) > 0).all() else np.sort(keys)
        if (np.diff(self._keys) == 0).any():
            raise DuplicateItemError(f"two taken SIDs of domain {domain!r} are equal; rebuild the catalog")
        self._new: list[dict[int, int]] = [{} for _ in sizes]

    @property
    def count(self) -> int:
        return len(self._keys) + sum(self._new[-1].values())

    def is_free(self, sid_L: np.ndarray) -> bool:
        key = int(sid_L @ self._weights_L)
        at = int(np.searchsorted(self._keys, key))
        return key not in self._new[-1] and (at == len(self._keys) or int(self._keys[at]) != key)

    def take(self, sid_L: np.ndarray) -> None:
        key = int(sid_L @ self._weights_L)
        for level, new in enumerate(self._new):
            prefix = key // int(self._weights_L[level])
            new[prefix] = new.get(prefix, 0) + 1

    def room(self, prefix: list[int]) -> np.ndarray:
        """Free leaves below each code that can follow ``prefix``: int64[V]."""
        level = len(prefix)
        width = int(self._weights_L[level])
        first = sum(code * int(weight) for code, weight in zip(prefix, self._weights_L, strict=False))
        bounds = first + width * np.arange(self.sizes[level] + 1, dtype=np.int64)
        taken_V = np.diff(np.searchsorted(self._keys, bounds))
        new = self._new[level]
        new_V = np.asarray([new.get(first // width + code, 0) for code in range(self.sizes[level])])
        return np.asarray(width - taken_V - new_V)


def _nearest_free(tokenizer: ItemTokenizer, latent_1d: Tensor, leaves: _Leaves) -> list[int]:
    prefix: list[int] = []
    for _ in leaves.sizes:
        distances_V = tokenizer.distances(latent_1d, torch.tensor([prefix], dtype=torch.int64, device=latent_1d.device))
        cost_V = np.where(leaves.room(prefix) > 0, distances_V[0].cpu().numpy(), np.inf)
        prefix.append(int(cost_V.argmin()))
    return prefix
