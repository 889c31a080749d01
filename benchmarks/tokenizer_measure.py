"""What one fitted tokenizer does to items: collisions, unique SIDs, errors, use of its codebooks, CKA, batches.

Knows tokenizers by their interface; does not know how they were fitted, nor what a number is to reach.

Shapes: N item, M some of them, D item vector dim, d latent dim, L level.
"""

import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.tokenizer_data import BenchItems, Vectors
from benchmarks.tokenizer_store import say
from sidera.items.assignment import assign_sids
from sidera.tokenizers import ItemTokenizer
from training.tokenizers.common import TokenizerConfig
from training.tokenizers.dependence import cka

FEWEST_CKA_ITEMS = 8
"""CKA of fewer items of a domain says nothing."""

_ROWS = 16_384


def measure_unique(tokenizer: ItemTokenizer, vectors: Vectors) -> dict[str, Any]:
    """Per domain: collisions of the nearest codes, SIDs that two items share once they are assigned, and the time."""
    found = {}
    for name, vectors_ND in vectors.items():
        say(f"{tokenizer.method}: SIDs of {name}")
        begun = time.perf_counter()
        sids_NL, report = assign_sids(tokenizer, vectors_ND, name)
        seconds = time.perf_counter() - begun
        found[name] = {
            "items": report.items,
            "identical_vectors": report.identical_vectors,
            "collision_rate": report.collision_rate_before,
            "collision_rate_distinct": report.collision_rate_distinct,
            "shared_sids": report.items - len(np.unique(sids_NL, axis=0)),
            "moved_per_level": list(report.moved_per_level),
            "seconds": seconds,
        }
    return found


def measure_errors(tokenizer: ItemTokenizer, items: BenchItems, config: TokenizerConfig) -> dict[str, Any]:
    """Squared errors ||x - x_hat||^2 and squared distances to the fitted items' mean, summed per domain.

    Of seen domains the held-out items count, of unseen domains all.
    """
    mean_D = items.fitted_mean(config)
    held_out_by_domain = items.held_out(config)
    found: dict[str, Any] = {"seen": {}, "unseen": {}}
    for kind, vectors in (("seen", items.seen), ("unseen", items.unseen)):
        for name, vectors_ND in vectors.items():
            counted_ND = vectors_ND[held_out_by_domain[name]] if kind == "seen" else vectors_ND
            error = variance = 0.0
            for part_MD in _parts(counted_ND):
                x_hat_MD = tokenizer.reconstruct(tokenizer.encode(part_MD, name))
                error += float((part_MD.double() - x_hat_MD.double()).square().sum())
                variance += float((part_MD.double() - torch.from_numpy(mean_D)).square().sum())
            found[kind][name] = {"items": len(counted_ND), "error": error, "variance": variance}
    return found


def measure_use(tokenizer: ItemTokenizer, items: BenchItems, config: TokenizerConfig) -> dict[str, Any]:
    """Of each codebook: the items of the fit that it coded, its size, and the share of its codes that some item has."""
    held_out_by_domain = items.held_out(config)
    codes = [
        tokenizer.encode(part_MD, name)
        for name, vectors_ND in items.seen.items()
        for part_MD in _parts(vectors_ND[~held_out_by_domain[name]])
    ]
    return {
        group.name: {
            "items": len(group.codes_M),
            "size": group.size,
            "use": len(torch.unique(group.codes_M)) / group.size,
        }
        for group in tokenizer.codebook_groups(torch.cat(codes))
    }


def measure_cka(tokenizer: ItemTokenizer, items: BenchItems, config: TokenizerConfig, most: int) -> dict[str, Any]:
    """CKA of item vectors and what their codes stand for, per seen domain, on equally many held-out items of each.

    Args:
        most: items of a domain; fewer where the smallest domain has fewer held out. None is measured where that has
            fewer than ``FEWEST_CKA_ITEMS``.
    """
    held_out_by_domain = items.held_out(config)
    each = min(most, *(int(held_out_N.sum()) for held_out_N in held_out_by_domain.values()))
    found: dict[str, Any] = {"items": each, "domains": {}}
    if each < FEWEST_CKA_ITEMS:
        return found
    for name, vectors_ND in items.seen.items():
        rows_M = np.flatnonzero(held_out_by_domain[name])
        rows_M = np.sort(np.random.default_rng([config.seed, 3]).choice(rows_M, each, replace=False))
        vectors_MD = torch.from_numpy(np.array(vectors_ND[rows_M], dtype=np.float32))
        quantised_Md = tokenizer.quantised(tokenizer.encode(vectors_MD, name))
        found["domains"][name] = float(cka(vectors_MD, quantised_Md.float()))
    return found


def count_single_differs(tokenizer: ItemTokenizer, vectors: Vectors, rows: int) -> dict[str, Any]:
    """How many items get other latents or codes alone than in a batch, bit for bit; in every domain."""
    differ = compared = 0
    for name, vectors_ND in vectors.items():
        batch_MD = torch.from_numpy(mixed_vectors({name: vectors_ND}, rows))
        latents_Md, codes_ML = tokenizer.latents(batch_MD, name), tokenizer.encode(batch_MD, name)
        for row in range(rows):
            one_1D = batch_MD[row : row + 1]
            same = torch.equal(tokenizer.latents(one_1D, name)[0], latents_Md[row])
            differ += not (same and torch.equal(tokenizer.encode(one_1D, name)[0], codes_ML[row]))
        compared += rows
    return {"differ": differ, "compared": compared}


def of_sizes(tokenizer: ItemTokenizer, sizes: Mapping[str, Any]) -> ItemTokenizer:
    """A tokenizer of the same method with other sizes, never fitted: as fast as a fitted one.

    Weights are random; what has the same shape in ``tokenizer`` is taken from there.

    Args:
        sizes: replace those of the same names in its config.
    """
    config = tokenizer.config()
    config |= {name: value for name, value in sizes.items() if name in config}
    fitted = tokenizer.state_dict()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        made = type(tokenizer).from_config(config)
        for name, tensor in made.state_dict().items():
            if name in fitted and fitted[name].shape == tensor.shape:
                tensor.copy_(fitted[name])
            elif not tensor.any():
                tensor.normal_()
    return made.eval().requires_grad_(False)


def mixed_vectors(vectors: Vectors, rows: int) -> np.ndarray:
    """``rows`` vectors of all domains in a random order, some of them twice where there are fewer: float32[rows, D]."""
    all_ND = np.concatenate([vectors_ND[:rows] for vectors_ND in vectors.values()])
    order = np.random.default_rng(0).permutation(len(all_ND))
    return np.array(all_ND[np.resize(order, rows)], dtype=np.float32)


def _parts(vectors_ND: np.ndarray) -> Iterator[Tensor]:
    for start in range(0, len(vectors_ND), _ROWS):
        yield torch.from_numpy(np.array(vectors_ND[start : start + _ROWS], dtype=np.float32))
