"""SIDs that are unique within a domain, for all of its items at once.

Knows a tokenizer's distances; does not know items, catalogs or text. Vectors are read in parts and may lie on disk:
beside the codes, memory holds the latents of one part, and the distances of items that must leave an overfull prefix.

Every item first gets the nearest code at each level. Where more items share a prefix than leaves lie below it, those
that lose least go to the next-nearest code with room; at the last level the items of a prefix are assigned to its
codes at minimum total cost. A SID always has L codes.

Shapes: N item, R row of a part, D item vector dim, d latent dim, L level, l prefix length, V codebook size.
"""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sidera.disk_arrays import read_rows
from sidera.errors import DomainFullError, TokenizerError
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
        vectors_ND: float[N, D] item vectors, in memory or on disk.
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
        raise domain_full(tokenizer, domain, items)
    rows = _DomainRows(tokenizer, vectors_ND, domain)
    nearest_NL = rows.nearest_codes()
    codes_NL = nearest_NL.copy()
    for level in range(levels - 1):
        _move_overflow(rows, codes_NL, level)
    _assign_last_level(rows, codes_NL)
    changed_NL = codes_NL != nearest_NL
    moved = np.flatnonzero(changed_NL.any(axis=1))
    extra = rows.errors(moved, codes_NL) - rows.errors(moved, nearest_NL)
    report = AssignmentReport(
        items=items,
        collision_rate_before=1 - len(np.unique(_keys(nearest_NL, tokenizer.codebook_sizes))) / items if items else 0.0,
        identical_vectors=_identical(vectors_ND),
        moved_per_level=tuple(np.bincount(changed_NL[moved].argmax(axis=1), minlength=levels).tolist()),
        extra_error=float(extra.sum() / items) if items else 0.0,
    )
    return codes_NL, report


def latents_of(tokenizer: ItemTokenizer, vectors_ND: np.ndarray, domain: str, rows_R: np.ndarray) -> Tensor:
    """The latents of some rows: float32[R, d].

    Raises:
        TokenizerError: the vectors have another width, or hold NaN or infinity; the message names domain and row.
    """
    parts = []
    for start in range(0, max(len(rows_R), 1), _ROWS):
        part_R = rows_R[start : start + _ROWS]
        stretch = len(part_R) > 0 and bool((np.diff(part_R) == 1).all())  # is read as such, not row by row
        picked_RD = read_rows(vectors_ND, slice(part_R[0], part_R[-1] + 1) if stretch else part_R)
        try:
            parts.append(tokenizer.latents(torch.from_numpy(picked_RD.astype(np.float32, copy=False)), domain))
        except TokenizerError as error:
            first = f", counting from row {part_R[0]}" if stretch else ""
            raise TokenizerError(f"domain {domain!r}{first}: {error}") from error
    return torch.cat(parts)


def domain_full(tokenizer: ItemTokenizer, domain: str, items: int) -> DomainFullError:
    """The error of a domain that cannot hold so many items."""
    return DomainFullError(
        f"domain {domain!r} would hold {items} items, but codebook sizes {list(tokenizer.codebook_sizes)} make "
        f"{tokenizer.capacity} SIDs; fit a tokenizer with larger codebooks or more levels"
    )


class _DomainRows:
    """The items of one domain, as rows whose latents are computed when they are asked for."""

    def __init__(self, tokenizer: ItemTokenizer, vectors_ND: np.ndarray, domain: str) -> None:
        self.tokenizer = tokenizer
        self.vectors_ND = vectors_ND
        self.domain = domain

    def nearest_codes(self) -> np.ndarray:
        """The nearest codes of all items: int32[N, L]."""
        codes_NL = np.empty((len(self.vectors_ND), len(self.tokenizer.codebook_sizes)), dtype=np.int32)
        for start in range(0, len(codes_NL), _ROWS):
            rows_R = np.arange(start, min(start + _ROWS, len(codes_NL)))
            codes_NL[rows_R] = self.tokenizer.nearest_codes(self._latents(rows_R)).cpu().numpy()
        return codes_NL

    def distances(self, rows_R: np.ndarray, prefix_Rl: np.ndarray) -> np.ndarray:
        """Squared distances to the codes that can follow each row's prefix: float32[R, V]."""
        return self._distances(self._latents(rows_R), prefix_Rl)

    def nearest_at(self, rows_R: np.ndarray, prefix_Rl: np.ndarray) -> np.ndarray:
        """The nearest code after each row's prefix: int64[R]."""
        parts = [np.empty(0, dtype=np.int64)]
        for start in range(0, len(rows_R), _ROWS):
            part = slice(start, start + _ROWS)
            parts.append(self.distances(rows_R[part], prefix_Rl[part]).argmin(axis=1))
        return np.concatenate(parts)

    def errors(self, rows_R: np.ndarray, codes_NL: np.ndarray) -> np.ndarray:
        """Squared distance of each row's latent to what its codes stand for: float64[R]."""
        parts = [np.empty(0)]
        for start in range(0, len(rows_R), _ROWS):
            part_R = rows_R[start : start + _ROWS]
            latents_Rd = self._latents(part_R)
            quantised_Rd = self.tokenizer.quantised(torch.from_numpy(codes_NL[part_R]).to(latents_Rd.device))
            # Latents may hold more than is quantised, behind it: a router's scores, for instance.
            gap_Rd = latents_Rd[:, : quantised_Rd.shape[1]] - quantised_Rd
            parts.append(gap_Rd.double().square().sum(dim=1).cpu().numpy())
        return np.concatenate(parts)

    def _latents(self, rows_R: np.ndarray) -> Tensor:
        return latents_of(self.tokenizer, self.vectors_ND, self.domain, rows_R)

    def _distances(self, latents_Rd: Tensor, prefix_Rl: np.ndarray) -> np.ndarray:
        prefix = torch.from_numpy(np.ascontiguousarray(prefix_Rl, dtype=np.int64)).to(latents_Rd.device)
        return np.asarray(self.tokenizer.distances(latents_Rd, prefix).cpu())


def _keys(codes_Nl: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """Code prefixes as numbers in mixed radix, in the order of the prefixes: int64[N]."""
    keys_N = np.zeros(len(codes_Nl), dtype=np.int64)
    for level in range(codes_Nl.shape[1]):
        keys_N = keys_N * sizes[level] + codes_Nl[:, level]
    return keys_N


def _move_overflow(items: _DomainRows, codes_NL: np.ndarray, level: int) -> None:
    """Move items out of prefixes of ``level + 1`` codes that hold more items than leaves; later codes follow anew."""
    sizes = items.tokenizer.codebook_sizes
    capacity = math.prod(sizes[level + 1 :])
    prefixes, counts = np.unique(_keys(codes_NL[:, : level + 1], sizes), return_counts=True)
    overfull = prefixes[counts > capacity]
    if not len(overfull):
        return
    key_N = _keys(codes_NL[:, : level + 1], sizes)
    moved_rows: list[np.ndarray] = []
    for parent in np.unique(overfull // sizes[level]):
        rows = np.flatnonzero(key_N // sizes[level] == parent)
        counts_V = np.bincount(codes_NL[rows, level], minlength=sizes[level])
        rows = rows[counts_V[codes_NL[rows, level]] > capacity]
        before = codes_NL[rows, level]
        settled_V = np.where(counts_V > capacity, 0, counts_V)
        after = spread(items.distances(rows, codes_NL[rows, :level]), before, capacity, settled_V)
        codes_NL[rows, level] = after
        moved_rows.append(rows[after != before])
    moved = np.sort(np.concatenate(moved_rows))
    for later in range(level + 1, len(sizes)):
        codes_NL[moved, later] = items.nearest_at(moved, codes_NL[moved, :later])


def spread(distances_NV: np.ndarray, codes_N: np.ndarray, capacity: int, settled_V: np.ndarray) -> np.ndarray:
    """Move as few items as needed until no code holds more than ``capacity`` of them.

    In rounds: of the items on overfull codes, those that lose least move first, each to its nearest code with room.

    Args:
        distances_NV: of each item to each code.
        codes_N: where the items are.
        capacity: of a code.
        settled_V: how many other items each code holds; they stay, and are no more than ``capacity``.

    Returns:
        int64[N] codes.
    """
    codes_N = codes_N.copy()
    size = distances_NV.shape[1]
    while True:
        counts_V = np.bincount(codes_N, minlength=size) + settled_V
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


def _assign_last_level(items: _DomainRows, codes_NL: np.ndarray) -> None:
    """Within each prefix where two items have one SID, assign last codes at minimum total squared distance."""
    from scipy.optimize import linear_sum_assignment  # slow to import, and serving never needs it

    sizes = items.tokenizer.codebook_sizes
    group_N = _keys(codes_NL[:, :-1], sizes)
    sids, counts = np.unique(_keys(codes_NL, sizes), return_counts=True)
    rows = np.flatnonzero(np.isin(group_N, np.unique(sids[counts > 1] // sizes[-1])))
    rows = rows[np.argsort(group_N[rows], kind="stable")]
    ends = np.flatnonzero(np.diff(group_N[rows], append=-1)) + 1
    begin = 0
    while begin < len(rows):
        # As many whole groups as a part holds, at least one, have their distances computed together.
        within = ends[np.searchsorted(ends, begin, side="right") :]
        fitting = within[: max(1, int(np.searchsorted(within, begin + _ROWS, side="right")))]
        part_R = rows[begin : fitting[-1]]
        distances_RV = items.distances(part_R, codes_NL[part_R, :-1])
        start = begin
        for end in fitting:
            group = rows[start:end]
            chosen, codes = linear_sum_assignment(distances_RV[start - begin : end - begin].astype(np.float64))
            codes_NL[group[chosen], -1] = codes
            start = end
        begin = int(fitting[-1])


def _identical(vectors_ND: np.ndarray) -> int:
    """How many rows equal an earlier row, by 64-bit digests, so that a large array is never sorted or copied."""
    digests_N = np.empty(len(vectors_ND), dtype=np.uint64)
    for start in range(0, len(vectors_ND), _ROWS):
        part_RD = read_rows(vectors_ND, slice(start, start + _ROWS)) + 0.0  # -0 and 0 are one number
        for row, vector_D in enumerate(part_RD, start):
            digest = hashlib.blake2b(vector_D.tobytes(), digest_size=8).digest()
            digests_N[row] = int.from_bytes(digest, "little")
    return len(digests_N) - len(np.unique(digests_N))
