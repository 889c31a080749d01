"""What the fits of all tokenizer methods share: settings that every method has, which items are held out, digests."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass

import numpy as np
from pydantic import ConfigDict

from training.collaborative import CfSource
from training.errors import ConfigError, DataError


@dataclass(frozen=True)
class TokenizerConfig:
    """Settings of every method.

    Attributes:
        codebook_sizes: codes per level; their product bounds the items of a domain.
        validation_share: share of the items held out of the fit, to stop it and to report errors.
        seed: of every draw.
    """

    __pydantic_config__ = ConfigDict(strict=True)

    codebook_sizes: tuple[int, ...] = (256, 256, 256, 256)
    validation_share: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "codebook_sizes", tuple(self.codebook_sizes))
        if len(self.codebook_sizes) < 2 or not all(isinstance(size, int) and size >= 2 for size in self.codebook_sizes):
            raise ConfigError(
                f"tokenizer.codebook_sizes is {list(self.codebook_sizes)}; set at least two levels of at least 2 codes"
            )
        check(0 < self.validation_share < 1, "validation_share", self.validation_share, "between 0 and 1")

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
        count = max(1, round(items * share))
        held_out_N[np.random.default_rng([seed, 1]).permutation(items)[:count]] = True
    return held_out_N


def check_item_vectors(vectors_ND: np.ndarray, name: str) -> None:
    """Refuse what is not float[N, D] of finite numbers.

    Raises:
        DataError: another shape, or rows with NaN or infinity (the first are named).
    """
    if vectors_ND.ndim != 2 or not vectors_ND.shape[1] or not len(vectors_ND):
        raise DataError(
            f"vectors of {name} have shape {vectors_ND.shape}; expected [items, dim] with at least one item"
        )
    bad = np.flatnonzero(~np.isfinite(vectors_ND).all(axis=1))
    if len(bad):
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        rows = ", ".join(map(str, bad[:5]))
        raise DataError(f"vectors of {name} hold NaN or infinity in rows {rows}{more}; make these vectors again")


def fit_digest(vectors_ND: np.ndarray, config: TokenizerConfig) -> str:
    """What a checkpoint belongs to: sha256 (hex) of the vectors and the settings."""
    digest = hashlib.sha256(json.dumps(dataclasses.asdict(config), sort_keys=True).encode())
    digest.update(f"{vectors_ND.dtype}{vectors_ND.shape}".encode())
    digest.update(np.ascontiguousarray(vectors_ND).data)
    return digest.hexdigest()
