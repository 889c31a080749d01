"""UniTok's calibration: its batches, its value, its gradient."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sidera.tokenizers import tokenizer_digest
from tests.training.tokenizers.unitok_worlds import (
    CONFIG,
    a_fit,
    clustered,
    domains,
)
from training.tokenizers.calibration import DomainBatches
from training.tokenizers.dependence import cka, hsic
from training.tokenizers.unitok import fit_unitok


@pytest.mark.parametrize("measure", ["hsic", "cka"])
def test_calibration_reaches_the_encoder_and_the_router(tmp_path: Path, measure: Any) -> None:
    config = dataclasses.replace(CONFIG, calibration_measure=measure, calibration_beta=1.0, router_loss="mixture")
    fit = a_fit(config, tmp_path)
    fit.run()
    vectors = fit.drawn.train_ND[fit.calibration.next(torch.Generator())]
    fit.optimizer.zero_grad()
    fit.calibration_loss(vectors).backward()
    for layer in (fit.model.encoder[0], fit.model.router):
        assert float(layer.weight.grad.abs().sum()) > 1e-6  # type: ignore[union-attr, operator]


@pytest.mark.parametrize(("name", "measure"), [("hsic", hsic), ("cka", cka)])
def test_calibration_is_the_variance_less_beta_of_the_mean_over_domains(
    tmp_path: Path, name: Any, measure: Callable[[Tensor, Tensor], Tensor]
) -> None:
    config = dataclasses.replace(CONFIG, calibration_beta=0.5, calibration_measure=name, epochs=2)
    fit = a_fit(config, tmp_path)
    fit.run()
    vectors = torch.stack([torch.from_numpy(clustered(70, domain)) for domain in range(3)])
    z_hat = fit.model.quantised(fit.model.encode(vectors.flatten(0, 1), "a")).unflatten(0, (3, 70))
    each = measure(vectors, z_hat)
    expected = (each - each.mean()).square().mean() - 0.5 * each.mean()
    torch.testing.assert_close(fit.calibration_loss(vectors), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("measure", ["hsic", "cka"])
def test_steps_on_calibration_alone_lower_the_variance_between_domains(tmp_path: Path, measure: Any) -> None:
    config = dataclasses.replace(CONFIG, calibration_beta=0.0, calibration_measure=measure, epochs=2)
    fit = a_fit(config, tmp_path)
    fit.run()
    vectors = fit.drawn.train_ND[fit.calibration.next(torch.Generator().manual_seed(0))]
    optimizer = torch.optim.Adam(fit.model.encoder.parameters(), lr=1e-3)
    losses = []
    for _ in range(40):
        loss = fit.calibration_loss(vectors)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.5 * losses[0]


def test_a_fit_without_calibration_draws_no_batch_for_it_and_one_with_it_ends_elsewhere(tmp_path: Path) -> None:
    without = dataclasses.replace(CONFIG, calibration_weight=0.0)
    strong = dataclasses.replace(CONFIG, calibration_weight=1000.0)
    weak = dataclasses.replace(CONFIG, calibration_weight=100.0)
    digests = {
        tokenizer_digest(fit_unitok(domains(), config, tmp_path / str(number)))
        for number, config in enumerate((without, weak, strong))
    }
    assert len(digests) == 3


def test_calibration_has_equally_many_items_of_every_domain_and_passes_over_all_of_them() -> None:
    domain = torch.tensor([0] * 130 + [1] * 70 + [2] * 7 + [4] * 64)
    batches = DomainBatches(domain, 5, 64)
    generator = torch.Generator().manual_seed(0)
    drawn = [batches.next(generator) for _ in range(3)]
    assert drawn[0].shape == (3, 64)
    assert [domain[rows].unique().tolist() for rows in drawn[0]] == [[0], [1], [4]]
    assert all(len(rows.unique()) == 64 for batch in drawn for rows in batch)
    assert len(torch.cat([batch[0] for batch in drawn]).unique()) == 130
    batches.start_epoch()
    assert not torch.equal(batches.next(generator), drawn[0])


def test_a_small_domain_lowers_the_items_of_all_and_one_too_small_takes_no_part() -> None:
    assert DomainBatches(torch.tensor([0] * 130 + [1] * 70), 2, 100).items == 70
    assert DomainBatches(torch.tensor([0] * 130 + [1] * 63), 2, 100).items == 100
    assert DomainBatches(torch.tensor([0] * 63), 1, 64).domains == []
