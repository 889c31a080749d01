"""Figures over all items: errors, and the use of codes and codebooks."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sidera.tokenizers import ItemTokenizer
from sidera.tokenizers.base import CodebookGroup
from sidera.tokenizers.rqkmeans import RqKMeans
from training.tokenization_figures import Spread, code_figures, entropy_bits, error_figures, pass_over


def two_levels() -> RqKMeans:
    """Item vectors of two components; the first level knows the first component, the second one nothing of a half."""
    tokenizer = RqKMeans(2, (2, 2), 2)
    with torch.no_grad():
        tokenizer.quantiser.codebooks[0].copy_(torch.tensor([[0.0, 0.0], [4.0, 0.0]]))
        tokenizer.quantiser.codebooks[1].copy_(torch.tensor([[0.0, 0.0], [0.0, 2.0]]))
    return tokenizer.eval().requires_grad_(False)


def vectors() -> dict[str, np.ndarray]:
    return {
        "a": np.array([[0, 0], [4, 0], [4, 3], [0, 1.5]], dtype=np.float32),
        "b": np.array([[5, 0]], dtype=np.float32),
    }


HELD_OUT = {"a": np.array([False, False, True, False]), "b": np.array([False])}


def test_errors_are_shares_of_the_variance_around_the_mean_of_all_fitted_items() -> None:
    passes = pass_over(two_levels(), vectors(), HELD_OUT)
    assert passes["a"].codes_NL.tolist() == [[0, 0], [1, 0], [1, 1], [0, 1]]
    every = np.concatenate(list(vectors().values())).astype(np.float64)
    mean = every[[0, 1, 3, 4]].mean(axis=0)
    error, variance = np.array([0, 0, 1, 0.25, 1]), np.square(every - mean).sum(axis=1)
    for names, rows, held in ((["a"], [0, 1, 2, 3], [2]), (["a", "b"], [0, 1, 2, 3, 4], [2])):
        own = error_figures(passes, names)["relative_reconstruction_error"]
        assert own["all"] == pytest.approx(error[rows].sum() / variance[rows].sum())
        assert own["held_out"] == pytest.approx(error[held].sum() / variance[held].sum())
    assert error_figures(passes, ["b"])["relative_reconstruction_error"]["held_out"] is None
    figures = error_figures(passes, ["a"])
    same = "latents of this tokenizer are the vectors"
    assert figures["quantisation_error"] == figures["relative_reconstruction_error"], same


def test_latents_may_hold_more_columns_than_are_quantised() -> None:
    class Wider(RqKMeans):
        def latents(self, vectors_ND: Tensor, domain: str) -> Tensor:
            return torch.cat([super().latents(vectors_ND, domain), torch.full((len(vectors_ND), 3), 9.0)], dim=1)

        def nearest_codes(self, latents_Nd: Tensor) -> Tensor:
            return super().nearest_codes(latents_Nd[:, :2])

    wider = Wider(2, (2, 2), 2)
    wider.load_state_dict(two_levels().state_dict())
    plain = error_figures(pass_over(two_levels(), vectors(), HELD_OUT), ["a", "b"])
    assert error_figures(pass_over(wider, vectors(), HELD_OUT), ["a", "b"]) == plain


def test_spreads_of_parts_add_up_to_the_spread_of_all_far_from_zero() -> None:
    rows = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32) + 1000
    parts = [Spread.of(rows[start : start + 100], rows[start : start + 100] + 1, rows[0]) for start in (0, 100, 200)]
    total = Spread.total(parts)
    assert total.items == 300
    variance = np.square(rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)).sum()
    assert total.relative_to(total) == pytest.approx(4 * 300 / variance, rel=1e-5)


def test_where_nothing_varies_there_is_no_error_to_tell() -> None:
    same = np.full((5, 3), 0.1, dtype=np.float32)
    spread = Spread.of(same, same + 1, same[0])
    assert spread.relative_to(spread) is None


def test_entropy_of_counts_is_in_bits() -> None:
    assert entropy_bits(np.array([4, 4, 0, 4, 4])) == 2
    assert entropy_bits(np.array([7])) == 0
    assert entropy_bits(np.zeros(3, dtype=np.int64)) == 0


def test_levels_tell_the_codes_of_each_place_and_codebooks_those_of_the_items_sent_to_them() -> None:
    class Routed(RqKMeans):
        def codebook_groups(self, codes_NL: Tensor) -> list[CodebookGroup]:
            even = codes_NL[:, 0] == 0
            return [CodebookGroup("even", codes_NL[even, 1], 2), CodebookGroup("nobody's", codes_NL[:0, 1], 2)]

    routed: ItemTokenizer = Routed(2, (2, 2), 2)
    figures = code_figures(routed, np.array([[0, 0], [0, 1], [1, 1], [1, 1]]))
    assert figures["codebooks"] == [
        {"name": "even", "items": 2, "codebook_size": 2, "codebook_use": 1.0, "perplexity": 2.0, "entropy_bits": 1.0},
        {"name": "nobody's", "items": 0, "codebook_size": 2, "codebook_use": 0.0, "perplexity": 0.0, "entropy_bits": 0},
    ]
    bits = -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))
    assert figures["levels"][1]["items_per_code"] == [1, 3]
    assert figures["levels"][1]["entropy_bits"] == pytest.approx(bits)
    assert figures["levels"][1]["perplexity"] == pytest.approx(2**bits)
    assert [group["name"] for group in code_figures(two_levels(), np.zeros((3, 2), dtype=np.int64))["codebooks"]] == [
        "level 1",
        "level 2",
    ]


def test_vectors_on_disk_are_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.tokenization_figures._ROWS", 3)
    whole = pass_over(two_levels(), vectors(), HELD_OUT)
    read: list[int] = []

    class OnDisk(np.ndarray):
        def __getitem__(self, rows: Any) -> np.ndarray:
            part = np.asarray(super().__getitem__(rows))
            read.append(len(part))
            return part

    parted = pass_over(two_levels(), {name: rows.view(OnDisk) for name, rows in vectors().items()}, HELD_OUT)
    assert max(read) == 3
    assert error_figures(parted, ["a"]) == error_figures(whole, ["a"])
