"""What the fits of all tokenizer methods share: settings that every method has, which items are held out, digests."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import ConfigDict
from torch import Tensor

from sidera.disk_arrays import read_rows
from sidera.tokenizers import ItemTokenizer
from training.collaborative import CfSource
from training.errors import ConfigError, DataError

_ROWS = 16_384


@dataclass(frozen=True)
class TokenizerConfig:
    """Settings of every method.

    Attributes:
        codebook_sizes: codes per level; their product bounds the items of a domain.
        validation_share: share of the items held out of the fit, to stop it and to report errors.
        fit_items: the fit works on at most so many items, drawn from those of all domains: they are held in memory.
        seed: of every draw.
    """

    __pydantic_config__ = ConfigDict(strict=True)

    codebook_sizes: tuple[int, ...] = (256, 256, 256, 256)
    validation_share: float = 0.05
    fit_items: int = 500_000
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "codebook_sizes", tuple(self.codebook_sizes))
        if len(self.codebook_sizes) < 2 or not all(isinstance(size, int) and size >= 2 for size in self.codebook_sizes):
            raise ConfigError(
                f"tokenizer.codebook_sizes is {list(self.codebook_sizes)}; set at least two levels of at least 2 codes"
            )
        check(0 < self.validation_share < 1, "validation_share", self.validation_share, "between 0 and 1")
        check(self.fit_items >= 1, "fit_items", self.fit_items, "of at least 1")
        check(0 <= self.seed < 2**31, "seed", self.seed, "from 0 to 2147483647")
        TokenizerConfig.capacity(self, 1)

    def capacity(self, domains: int) -> int:
        """How many SIDs a domain has, in a fit of so many domains.

        Raises:
            ConfigError: more than can be counted, or settings that make no sense with so many domains.
        """
        count = math.prod(self.codebook_sizes)
        sizes = list(self.codebook_sizes)
        check(count < 2**62, "codebook_sizes", sizes, "that makes less than 2**62 SIDs: fewer levels or codes")
        return count

    @property
    def cf_source(self) -> CfSource | None:
        """Where collaborative vectors come from; None for methods and settings that use none."""
        return None


def check(holds: bool, field: str, value: object, expected: str) -> None:
    """Refuse a setting.

    Raises:
        ConfigError: naming the field, its value and what to set.
    """
    if not holds:
        raise ConfigError(f"tokenizer.{field} is {value}; set a value {expected}")


def held_out(items: int, share: float, seed: int) -> np.ndarray:
    """Which items no fit sees: bool[N]. At least one, except where there is a single item: that one is fitted on."""
    held_out_N = np.zeros(items, dtype=bool)
    if items > 1:
        count = min(items - 1, max(1, round(items * share)))
        held_out_N[np.random.default_rng([seed, 1]).permutation(items)[:count]] = True
    return held_out_N


def check_item_vectors(vectors_ND: np.ndarray, name: str) -> None:
    """Refuse what is not float[N, D] of finite numbers. Reads the rows in parts, so that they may lie on disk.

    Raises:
        DataError: another shape, or rows with NaN or infinity (the first are named).
    """
    if vectors_ND.ndim != 2 or not vectors_ND.shape[1] or not len(vectors_ND):
        raise DataError(
            f"vectors of {name} have shape {vectors_ND.shape}; expected [items, dim] with at least one item"
        )
    bad: list[int] = []
    for start in range(0, len(vectors_ND), _ROWS):
        part_RD = read_rows(vectors_ND, slice(start, start + _ROWS))
        bad += (start + np.flatnonzero(~np.isfinite(part_RD).all(axis=1))).tolist()
    if bad:
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        rows = ", ".join(map(str, bad[:5]))
        raise DataError(f"vectors of {name} hold NaN or infinity in rows {rows}{more}; make these vectors again")


@dataclass(frozen=True)
class FitItems:
    """The items that a fit works on, in memory. Items are numbered through all domains, these in alphabetical order.

    Attributes:
        names: of the domains.
        train_ND: float32[N, D] vectors of the items to fit on.
        train_domain_N: int64[N] the index of their domain in ``names``.
        train_number_N: int64[N] their numbers.
        validation_ND: float32[N, D] vectors of held-out items; of the training items where there is only one item.
        validation_domain_N: int64[N] the index of their domain.
        validation_number_N: int64[N] their numbers.
        digest: sha256 (hex) over all of these.
    """

    names: tuple[str, ...]
    train_ND: Tensor
    train_domain_N: Tensor
    train_number_N: Tensor
    validation_ND: Tensor
    validation_domain_N: Tensor
    validation_number_N: Tensor
    digest: str

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return int(self.train_ND.shape[1])

    def held_out_error(self, tokenizer: ItemTokenizer) -> float:
        """||x - x_hat||^2 / Var(x) of the held-out items, Var around the mean of the training items."""
        mean_D = self.train_ND.mean(dim=0)
        error, variance = 0.0, float((self.validation_ND - mean_D).square().sum())
        for domain, name in enumerate(self.names):
            own_ND = self.validation_ND[self.validation_domain_N == domain]
            if len(own_ND):
                error += float((own_ND - tokenizer.reconstruct(tokenizer.encode(own_ND, name))).square().sum())
        return error / variance if variance else error


def draw_items(vectors_by_domain: Mapping[str, np.ndarray], config: TokenizerConfig) -> FitItems:
    """Draw what a fit works on: at most ``config.fit_items`` items to fit on, and a tenth of that held out.

    Args:
        vectors_by_domain: float[N, D] each; arrays on disk are read row by row.
        config: says how many, and which seed.

    Raises:
        DataError: vectors hold NaN or infinity, have no rows, or differ in width.
    """
    names = tuple(sorted(vectors_by_domain))
    for name in names:
        check_item_vectors(vectors_by_domain[name], f"domain {name!r}")
    widths = {name: int(vectors_by_domain[name].shape[1]) for name in names}
    if len(set(widths.values())) > 1:
        raise DataError(f"the domains' vectors differ in width: {widths}; make all of them with one encoder")
    sizes = [len(vectors_by_domain[name]) for name in names]
    held_out_N = held_out(sum(sizes), config.validation_share, config.seed)
    random = np.random.default_rng([config.seed, 2])
    train_N = _at_most(np.flatnonzero(~held_out_N), config.fit_items, random)
    validation_N = _at_most(np.flatnonzero(held_out_N), max(1, config.fit_items // 10), random)
    if not len(validation_N):
        validation_N = train_N
    starts = np.concatenate([[0], np.cumsum(sizes)])
    digest = hashlib.sha256(json.dumps([names, sizes]).encode())
    gathered = []
    for number_N in (train_N, validation_N):
        rows_ND = np.empty((len(number_N), next(iter(widths.values()))), dtype=np.float32)
        domain_N = np.searchsorted(starts, number_N, side="right") - 1
        for domain, name in enumerate(names):
            own_N = domain_N == domain
            for part_R in np.array_split(np.flatnonzero(own_N), own_N.sum() // _ROWS + 1):
                rows_ND[part_R] = read_rows(vectors_by_domain[name], number_N[part_R] - starts[domain])
        digest.update(np.ascontiguousarray(number_N).data)
        digest.update(rows_ND.data)
        gathered += [torch.from_numpy(rows_ND), torch.from_numpy(domain_N)]
    train_ND, train_domain_N, validation_ND, validation_domain_N = gathered
    return FitItems(
        names,
        train_ND,
        train_domain_N,
        torch.from_numpy(train_N),
        validation_ND,
        validation_domain_N,
        torch.from_numpy(validation_N),
        digest.hexdigest(),
    )


def _at_most(numbers_N: np.ndarray, most: int, random: np.random.Generator) -> np.ndarray:
    if len(numbers_N) <= most:
        return numbers_N
    return np.sort(random.choice(numbers_N, most, replace=False))


def settings_digest(items_digest: str, config: TokenizerConfig, *more: str) -> str:
    """What a checkpoint belongs to: sha256 (hex) of the items, the settings and what else it depends on."""
    digest = hashlib.sha256(json.dumps(dataclasses.asdict(config), sort_keys=True).encode())
    for part in (items_digest, *more):
        digest.update(f"\0{part}".encode())
    return digest.hexdigest()
