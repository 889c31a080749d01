"""Figures over all items that a fitted tokenizer gives codes: errors, and the use of codes and codebooks.

Knows vectors and codes, a part of the items at a time, so that vectors may lie on disk; does not know titles, plots or
pages. What is measured on samples is ``training.tokenization_samples``.

Shapes: N item, D item vector dim, d quantised dim, L level, V codebook size, M items of one codebook.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from sidera.tokenizers import ItemTokenizer
from sidera.tokenizers.base import CodebookGroup

_ROWS = 4096

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Spread:
    """Squared error of some items, and what their variance around any mean is made of, in sums that add up.

    Attributes:
        items: how many.
        error: their summed squared error.
        shift: their summed difference from the origin. Shape: float64[D].
        square: their summed squared distance from the origin.
    """

    items: int
    error: float
    shift: Floats
    square: float

    @classmethod
    def of(cls, rows_ND: npt.NDArray[Any], approximated_ND: npt.NDArray[Any], origin_D: npt.NDArray[Any]) -> Self:
        """Of rows and what stands for them. An ``origin_D`` near the rows keeps the sums exact."""
        shifted_ND = rows_ND - origin_D
        error = np.square(rows_ND - approximated_ND).sum(dtype=np.float64)
        square = np.square(shifted_ND).sum(dtype=np.float64)
        return cls(len(rows_ND), float(error), shifted_ND.sum(axis=0, dtype=np.float64), float(square))

    @classmethod
    def total(cls, parts: Iterable["Spread"]) -> Self:
        """Of all parts together; at least one."""
        every = list(parts)
        return cls(
            sum(part.items for part in every),
            sum(part.error for part in every),
            np.sum([part.shift for part in every], axis=0),
            sum(part.square for part in every),
        )

    def relative_to(self, fitted: "Spread") -> float | None:
        """Squared error over variance around the mean of the fitted items; None where nothing varies."""
        mean_D = fitted.shift / fitted.items
        variance = self.square - 2 * float(self.shift @ mean_D) + self.items * float(mean_D @ mean_D)
        return self.error / variance if variance > 1e-12 * self.square else None


@dataclass(frozen=True)
class DomainPass:
    """What one pass over the items of a domain gives.

    Attributes:
        codes_NL: their nearest codes, int64.
        vectors: the spread of item vectors around their reconstruction: of fitted, and of held-out items.
        latents: the spread of latents around what their codes stand for: the same.
    """

    codes_NL: npt.NDArray[np.int64]
    vectors: tuple[Spread, Spread]
    latents: tuple[Spread, Spread]


def pass_over(
    tokenizer: ItemTokenizer,
    vectors_by_domain: Mapping[str, npt.NDArray[Any]],
    held_out_by_domain: Mapping[str, npt.NDArray[np.bool_]],
) -> dict[str, DomainPass]:
    """Encode, quantise and reconstruct all items of all domains."""
    origin_D, origin_d = None, None
    passes = {}
    for name, vectors_ND in vectors_by_domain.items():
        codes = []
        parts: dict[str, list[Spread]] = {kind: [] for kind in ("fitted", "held", "fitted latents", "held latents")}
        for start in range(0, len(vectors_ND), _ROWS):
            part_ND = np.array(vectors_ND[start : start + _ROWS], dtype=np.float32)
            latents_Nd = tokenizer.latents(torch.from_numpy(part_ND), name)
            codes_NL = tokenizer.nearest_codes(latents_Nd)
            codes.append(codes_NL.cpu().numpy())
            reconstructed_ND = tokenizer.reconstruct(codes_NL).cpu().numpy()
            quantised_Nd = tokenizer.quantised(codes_NL).cpu().numpy()
            own_Nd = latents_Nd[:, : quantised_Nd.shape[1]].cpu().numpy()
            if origin_D is None or origin_d is None:
                origin_D, origin_d = part_ND[0], own_Nd[0]
            held_N = held_out_by_domain[name][start : start + _ROWS]
            for kind, rows_N in (("fitted", ~held_N), ("held", held_N)):
                parts[kind].append(Spread.of(part_ND[rows_N], reconstructed_ND[rows_N], origin_D))
                parts[f"{kind} latents"].append(Spread.of(own_Nd[rows_N], quantised_Nd[rows_N], origin_d))
        spreads = {kind: Spread.total(of_kind) for kind, of_kind in parts.items()}
        passes[name] = DomainPass(
            np.concatenate(codes),
            (spreads["fitted"], spreads["held"]),
            (spreads["fitted latents"], spreads["held latents"]),
        )
    return passes


def error_figures(passes: Mapping[str, DomainPass], names: Sequence[str]) -> dict[str, Any]:
    """Relative errors of the items of some domains, all of them and those held out, around the mean of all fitted."""
    figures = {}
    for figure, of in (("relative_reconstruction_error", "vectors"), ("quantisation_error", "latents")):
        mean = Spread.total(getattr(made, of)[0] for made in passes.values())
        every = Spread.total(part for name in names for part in getattr(passes[name], of))
        held = Spread.total(getattr(passes[name], of)[1] for name in names)
        figures[figure] = {"all": every.relative_to(mean), "held_out": held.relative_to(mean)}
    return figures


def entropy_bits(counts_V: npt.NDArray[Any]) -> float:
    """Entropy in bits of the distribution that counts make; 0 where there are none."""
    shares = counts_V[counts_V > 0] / max(counts_V.sum(), 1)
    return max(0.0, float(-(shares * np.log2(shares)).sum()))


def code_figures(tokenizer: ItemTokenizer, codes_NL: npt.NDArray[np.int64]) -> dict[str, Any]:
    """``levels``: the codes of each place of the nearest codes. ``codebooks``: those of each codebook, which are others
    where a method has several codebooks a level and routes items to them."""
    every = torch.from_numpy(codes_NL)
    levels = [CodebookGroup("", every[:, level], size) for level, size in enumerate(tokenizer.codebook_sizes)]
    return {
        "levels": [{**_use(group), "items_per_code": _counts(group).tolist()} for group in levels],
        "codebooks": [
            {"name": group.name, "items": len(group.codes_M), **_use(group)}
            for group in tokenizer.codebook_groups(every)
        ],
    }


def _counts(group: CodebookGroup) -> npt.NDArray[np.int64]:
    return np.bincount(group.codes_M.cpu().numpy(), minlength=group.size)


def _use(group: CodebookGroup) -> dict[str, Any]:
    counts_V = _counts(group)
    entropy = entropy_bits(counts_V)
    return {
        "codebook_size": group.size,
        "codebook_use": float((counts_V > 0).mean()),
        "perplexity": 2**entropy if counts_V.any() else 0.0,
        "entropy_bits": entropy,
    }
