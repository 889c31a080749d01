"""Buckets and packed rows: the same losses, so that their speeds can be compared."""

import pytest
import torch
from torch import nn

from benchmarks.made_up_walks import DOMAIN, made_up_walks, vocabulary_behind
from benchmarks.packing import measure_packing, pack, packed_loss
from training.backbones import new_backbone
from training.code_loss import CodeLoss
from training.sequences import SequenceBatch, epoch_batches

VOCABULARY = vocabulary_behind(0)


def windows(users: int) -> list[SequenceBatch]:
    walks = made_up_walks(users, 12, seed=1)
    return list(
        epoch_batches(
            walks, VOCABULARY, (DOMAIN,), max_items=12, batch_tokens=10**6, any_domain_probability=0.0, seed=(0,)
        )
    )


def test_windows_packed_into_rows_give_the_loss_of_windows_padded_side_by_side() -> None:
    torch.manual_seed(0)
    backbone = new_backbone("scratch:tiny", VOCABULARY, 64).eval()
    (batch,) = windows(30)
    (packed,) = pack([batch], VOCABULARY, 64, 100)
    assert int((packed.windows_BR > 0).sum()) > 0, "rows hold several windows"
    loss = CodeLoss(backbone, VOCABULARY, dropout=0.0, label_smoothing=0.0)
    with torch.no_grad():
        together = float(packed_loss(backbone, VOCABULARY, packed, nn.Identity()))
        assert together == pytest.approx(float(loss(batch)), abs=1e-5)


def test_packing_keeps_every_token_once() -> None:
    batches = windows(40)
    packed = pack(batches, VOCABULARY, 64, 3)
    rows = torch.cat([batch.tokens_BR for batch in packed])
    assert sorted(rows[rows != VOCABULARY.pad].tolist()) == sorted(
        token for batch in batches for token in batch.tokens_BWX.flatten().tolist() if token != VOCABULARY.pad
    )


def test_the_figures_are_measured() -> None:
    figures = measure_packing(users=10, batch_tokens=512, rounds=1)
    assert set(figures) == {"buckets_tokens_per_cpu_second", "packed_tokens_per_cpu_second", "buckets_vs_packing"}
    assert all(figure.value is not None and figure.value > 0 for figure in figures.values())
