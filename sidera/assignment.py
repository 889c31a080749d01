"""SIDs that are unique within a domain: codes of a whole domain at once, or of new items beside those that exist.

Knows a tokenizer's distances; does not know items, catalogs or text.

Every item first gets the nearest code at each level. Where more items share a prefix than leaves lie below it, those
that lose least go to the next-nearest code with room; at the last level the items of a prefix are assigned to its
codes at minimum total cost. A SID always has L codes.

Shapes: N item, M taken SID, D item vector dim, d latent dim, L level, l prefix length, V codebook size.
"""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sidera.errors import DomainFullError, DuplicateItemError, TokenizerError
from sidera.tokenizers.base import ItemTokenizer

_ROWS = 16_384


@dataclass(frozen=True)
class AssignmentReport:
    """What making SIDs unique took.

    Attributes:
        items: how many.
        collision_rate_before: 1 - different nearest codes / items.
        identical_vectors: items whose vector an earlier item has too: no tokenizer can tell these apart.
        moved_per_level: items that left their nearest codes, counted at the first level where they did.
        extra_error: mean squared distance of the latents to their codes, less the same for the nearest codes.
    """

    items: int
    collision_rate_before: float
    identical_vectors: int
    moved_per_level: tuple[int, ...]
    extra_error: float

    @property
    def collision_rate_distinct(self) -> float:
        """The collision rate before among different vectors: 1 - different nearest codes / different vectors."""
        if not self.items:
            return 0.0
        different = round(self.items * (1 - self.collision_rate_before))
        return 1 - different / (self.items - self.identical_vectors)


def assign_sids(tokenizer: ItemTokenizer, vectors_ND: np.ndarray, domain: str) -> tuple[np.ndarray, AssignmentReport]:
    """Give every item of one domain a SID of its own.

    Level by level, from the first: a prefix of l codes holds at most V_{l+1} * ... * V_L items. Its overflow moves to
    the next-nearest code of level l with room, the smallest extra squared distance first. At the last level, each
    prefix that holds two items with one code gets a minimum-cost assignment of its items to codes. Prefixes without
    either keep the nearest codes. Of items with equal costs, the earlier row is served first.

    Args:
        tokenizer: gives latents and distances.
        vectors_ND: float[N, D] item vectors.
        domain: whose items they are.

    Returns:
        int32[N, L] SIDs, no two equal, and the report.

    Raises:
        DomainFullError: there are more items than SIDs.
        TokenizerError: the vectors have another width, or hold NaN or infinity.
    """
    items = len(vectors_ND)
    levels = len(tokenizer.codebook_sizes)
    if items > tokenizer.capacity:
        raise _full(tokenizer, domain, items)
    latents_Nd = _latents(tokenizer, vectors_ND, domain)
    nearest_NL = _nearest_codes(tokenizer, latents_Nd)
    codes_NL = nearest_NL.copy()
    for level in range(levels - 1):
        _move_overflow(tokenizer, latents_Nd, codes_NL, level)
    _assign_last_level(tokenizer, latents_Nd, codes_NL)
    changed_NL = codes_NL != nearest_NL
    moved_N = changed_NL.any(axis=1)
    first_changed = changed_NL[moved_N].argmax(axis=1)
    extra = _error(tokenizer, latents_Nd[moved_N], codes_NL[moved_N]) - _error(
        tokenizer, latents_Nd[moved_N], nearest_NL[moved_N]
    )
    report = AssignmentReport(
        items=items,
        collision_rate_before=1 - len(np.unique(nearest_NL, axis=0)) / items if items else 0.0,
        identical_vectors=_identical(vectors_ND),
        moved_per_level=tuple(np.bincount(first_changed, minlength=levels).tolist()),
        extra_error=float(extra.sum() / items) if items else 0.0,
    )
    return codes_NL.astype(np.int32), report


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
        raise _full(tokenizer, domain, items + leaves.count)
    latents_Nd = _latents(tokenizer, vectors_ND, domain)
    nearest_NL = _nearest_codes(tokenizer, latents_Nd)
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


def _move_overflow(tokenizer: ItemTokenizer, latents_Nd: Tensor, codes_NL: np.ndarray, level: int) -> None:
    """Move items out of prefixes of ``level + 1`` codes that hold more items than leaves; later codes follow anew."""
    capacity = math.prod(tokenizer.codebook_sizes[level + 1 :])
    full_prefixes, full_N, counts = np.unique(codes_NL[:, : level + 1], axis=0, return_inverse=True, return_counts=True)
    overfull = np.flatnonzero(counts > capacity)
    if not len(overfull):
        return
    moved_rows: list[np.ndarray] = []
    for parent in np.unique(full_prefixes[overfull, :level], axis=0):
        in_parent = (full_prefixes[:, :level] == parent).all(axis=1)
        rows = np.flatnonzero(in_parent[full_N.reshape(-1)])
        distances = _distances(tokenizer, latents_Nd[rows], codes_NL[rows, :level])
        before = codes_NL[rows, level]
        after = spread(distances, before, capacity)
        codes_NL[rows, level] = after
        moved_rows.append(rows[after != before])
    moved = np.concatenate(moved_rows)
    for later in range(level + 1, len(tokenizer.codebook_sizes)):
        codes_NL[moved, later] = _nearest_at(tokenizer, latents_Nd[moved], codes_NL[moved, :later])


def spread(distances_NV: np.ndarray, codes_N: np.ndarray, capacity: int) -> np.ndarray:
    """Move as few items as needed until no code holds more than ``capacity`` of them.

    In rounds: of the items on overfull codes, those that lose least move first, each to its nearest code with room.

    Returns:
        int64[N] codes.
    """
    codes_N = codes_N.copy()
    size = distances_NV.shape[1]
    while True:
        counts_V = np.bincount(codes_N, minlength=size)
        surplus_V = np.maximum(counts_V - capacity, 0)
        if not surplus_V.any():
            return codes_N
        room_V = np.maximum(capacity - counts_V, 0)
        rows = np.flatnonzero(surplus_V[codes_N] > 0)
        costs = np.where(room_V > 0, distances_NV[rows], np.inf)
        targets = costs.argmin(axis=1)
        order = np.argsort(costs.min(axis=1) - distances_NV[rows, codes_N[rows]], kind="stable")
        rows, targets = rows[order], targets[order]
        leaves_source = _rank_within(codes_N[rows]) < surplus_V[codes_N[rows]]
        rows, targets = rows[leaves_source], targets[leaves_source]
        finds_room = _rank_within(targets) < room_V[targets]
        codes_N[rows[finds_room]] = targets[finds_room]


def _rank_within(groups_N: np.ndarray) -> np.ndarray:
    """How many earlier rows have the same group: int64[N]."""
    order = np.argsort(groups_N, kind="stable")
    ordered = groups_N[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(ordered) else order
    begins = np.repeat(starts, np.diff(np.append(starts, len(ordered))))
    ranks = np.empty(len(groups_N), dtype=np.int64)
    ranks[order] = np.arange(len(ordered)) - begins
    return ranks


def _assign_last_level(tokenizer: ItemTokenizer, latents_Nd: Tensor, codes_NL: np.ndarray) -> None:
    """Within each prefix where two items have one SID, assign last codes at minimum total squared distance."""
    from scipy.optimize import linear_sum_assignment  # slow to import, and serving never needs it

    if not len(codes_NL):
        return
    _, group_N = np.unique(codes_NL[:, :-1], axis=0, return_inverse=True)
    group_N = group_N.reshape(-1)
    _, sid_N, sid_counts = np.unique(codes_NL, axis=0, return_inverse=True, return_counts=True)
    clashing = np.unique(group_N[sid_counts[sid_N.reshape(-1)] > 1])
    order = np.argsort(group_N, kind="stable")
    starts = np.searchsorted(group_N[order], clashing, side="left")
    ends = np.searchsorted(group_N[order], clashing, side="right")
    for start, end in zip(starts, ends, strict=True):
        rows = order[start:end]
        distances = _distances(tokenizer, latents_Nd[rows], codes_NL[rows, :-1])
        items, codes = linear_sum_assignment(distances.astype(np.float64))
        codes_NL[rows[items], -1] = codes


def _latents(tokenizer: ItemTokenizer, vectors_ND: np.ndarray, domain: str) -> Tensor:
    parts = []
    for start in range(0, max(len(vectors_ND), 1), _ROWS):
        part = torch.from_numpy(np.array(vectors_ND[start : start + _ROWS], dtype=np.float32))
        try:
            parts.append(tokenizer.latents(part, domain))
        except TokenizerError as error:
            raise TokenizerError(f"domain {domain!r}, counting from row {start}: {error}") from error
    return torch.cat(parts)


def _nearest_codes(tokenizer: ItemTokenizer, latents_Nd: Tensor) -> np.ndarray:
    parts = [tokenizer.nearest_codes(part).cpu().numpy() for part in latents_Nd.split(_ROWS)]
    return np.concatenate(parts) if parts else np.empty((0, len(tokenizer.codebook_sizes)), dtype=np.int64)


def _nearest_at(tokenizer: ItemTokenizer, latents_Nd: Tensor, prefix_Nl: np.ndarray) -> np.ndarray:
    return np.asarray(_distances(tokenizer, latents_Nd, prefix_Nl).argmin(axis=1))


def _distances(tokenizer: ItemTokenizer, latents_Nd: Tensor, prefix_Nl: np.ndarray) -> np.ndarray:
    distances = tokenizer.distances(latents_Nd, torch.from_numpy(np.ascontiguousarray(prefix_Nl)).to(latents_Nd.device))
    return np.asarray(distances.cpu())


def _identical(vectors_ND: np.ndarray) -> int:
    """How many rows equal an earlier row, by digests, so that a large memory-mapped array is never sorted or copied."""
    seen = {hashlib.blake2b((row + 0.0).tobytes(), digest_size=16).digest() for row in vectors_ND}
    return len(vectors_ND) - len(seen)


def _error(tokenizer: ItemTokenizer, latents_Nd: Tensor, codes_NL: np.ndarray) -> np.ndarray:
    """Squared distance of each latent to its codes: float64[N]."""
    parts = [np.empty(0)]
    for start in range(0, len(codes_NL), _ROWS):
        codes = codes_NL[start : start + _ROWS]
        distances = _distances(tokenizer, latents_Nd[start : start + _ROWS], codes[:, :-1])
        parts.append(distances[np.arange(len(codes)), codes[:, -1]].astype(np.float64))
    return np.concatenate(parts)


def _full(tokenizer: ItemTokenizer, domain: str, items: int) -> DomainFullError:
    return DomainFullError(
        f"domain {domain!r} would hold {items} items, but codebook sizes {list(tokenizer.codebook_sizes)} make "
        f"{tokenizer.capacity} SIDs; fit a tokenizer with larger codebooks or more levels"
    )
