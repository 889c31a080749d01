"""The loss, and the adapters of phase 2."""

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from sidera.language_model import LanguageModel, load_backbone
from sidera.model.vocabulary import Vocabulary
from training import language_model
from training.backbones import new_backbone
from training.code_loss import CodeLoss
from training.errors import StageError
from training.language_model import Phase, train_adapter
from training.model_config import AdapterConfig, LanguageModelConfig, OptimizerConfig
from training.sequences import SequenceBatch, TrainingSequences, epoch_batches
from training.text_alignment import TitleBatch

VOCABULARY = Vocabulary((4, 6, 3), {"books": 0, "films": 1})
NAMES = ("books", "films")
LENGTHS = (1, 7, 3, 2, 5, 4)


def backbone(seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    made = new_backbone("scratch:tiny", VOCABULARY, 40)
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return made


def sequences() -> TrainingSequences:
    random = np.random.default_rng(0)
    total = sum(LENGTHS)
    return TrainingSequences(
        random.integers(0, 2, size=total).astype(np.int32),
        np.stack([random.integers(size, size=total) for size in VOCABULARY.codebook_sizes], axis=1).astype(np.int32),
        random.random(total) < 0.7,
        np.cumsum([0, *LENGTHS]),
    )


def one_batch() -> SequenceBatch:
    """All windows in one ragged batch."""
    (batch,) = epoch_batches(
        sequences(), VOCABULARY, NAMES, max_items=9, batch_tokens=10_000, any_domain_probability=0.3, seed=(0, 0)
    )
    return batch


@torch.no_grad()
def value(loss: CodeLoss, batch: SequenceBatch) -> float:
    return float(loss(batch))


def naive_losses(model: PreTrainedModel, batch: SequenceBatch, smoothing: float = 0.0) -> list[float]:
    """Of every code of every target, from the whole head, window by window without padding."""
    losses = []
    for tokens_WX, codes_WL, target_W in zip(batch.tokens_BWX, batch.codes_BWL, batch.target_BW, strict=True):
        items = int((tokens_WX[:, 0] != VOCABULARY.pad).sum())
        with torch.no_grad():
            logits_TV = model(input_ids=tokens_WX[:items].flatten()[None]).logits[0].double()
        for item in range(items):
            for level, size in enumerate(VOCABULARY.codebook_sizes):
                if target_W[item]:
                    first = VOCABULARY.first_code(level)
                    scores = logits_TV[item * VOCABULARY.tokens_per_item + level][first : first + size].log_softmax(0)
                    own = float(scores[codes_WL[item, level]])
                    losses.append(-(1 - smoothing) * own - smoothing * float(scores.mean()))
    return losses


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_the_mean_over_target_codes_of_the_whole_heads_loss_and_padding_changes_nothing(
    smoothing: float,
) -> None:
    model, batch = backbone(), one_batch()
    assert not (batch.tokens_BWX != VOCABULARY.pad).all(), "the windows differ in length"
    loss = CodeLoss(model, VOCABULARY, dropout=0.5, label_smoothing=smoothing).eval()
    naive = naive_losses(model, batch, smoothing)
    assert len(naive) == 3 * int(batch.target_BW.sum())
    assert value(loss, batch) == pytest.approx(sum(naive) / len(naive), abs=1e-5)


def test_dropout_acts_while_training_only() -> None:
    model, batch = backbone(), one_batch()
    loss = CodeLoss(model, VOCABULARY, dropout=0.5, label_smoothing=0.0)
    assert value(loss.train(), batch) != value(loss, batch)
    assert value(loss.eval(), batch) == value(loss, batch)


def test_the_loss_reaches_every_weight_and_no_later_item_changes_an_earlier_ones_loss() -> None:
    model, batch = backbone(), one_batch()
    loss = CodeLoss(model, VOCABULARY, dropout=0.0, label_smoothing=0.0).eval()
    loss(batch).backward()
    assert all(weight.grad is not None and bool(weight.grad.abs().sum() > 0) for weight in model.parameters())
    only_first = batch.target_BW.clone()
    only_first[:, 2:] = False
    shown = replace(batch, target_BW=only_first)
    changed = batch.tokens_BWX.clone()
    changed[:, 2:] = VOCABULARY.any_domain
    hidden = replace(batch, tokens_BWX=changed, target_BW=only_first)
    assert value(loss, shown) == pytest.approx(value(loss, hidden), abs=1e-5)


def phase(rank: int = 4) -> Phase:
    optimizer = OptimizerConfig(epochs=2, learning_rate=0.05, batch_tokens=64)
    config = LanguageModelConfig(
        universal=optimizer,
        max_history=8,
        loss="codebook",
        domain=AdapterConfig(rank=rank, alpha=8, optimizer=optimizer),
    )
    return Phase(sequences(), VOCABULARY, NAMES, config, seed=1)


def test_phase_2_trains_exactly_the_adapter_and_leaves_the_backbone_as_it_was(tmp_path: Path) -> None:
    model = backbone()
    before = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
    trained: list[dict[str, Tensor]] = []

    def validate(adapted: PreTrainedModel) -> dict[str, float]:
        assert adapted is model
        trained.append({name: w.detach().clone() for name, w in model.named_parameters() if w.requires_grad})
        return {"recall@10": float(len(trained))}

    report = train_adapter(phase(), model, 1, validate, tmp_path)
    assert report.best_epoch == 1
    widths = {"self_attn": 4 * (128 + 128), "mlp": 3 * (128 + 384)}
    assert sum(weight.numel() for weight in trained[0].values()) == 3 * 4 * sum(widths.values())
    assert all(not torch.equal(weight, trained[1][name]) for name, weight in trained[0].items())

    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    assert all(weight.requires_grad for weight in model.parameters())

    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert sum(weight.numel() for weight in saved.values()) == 3 * 4 * sum(widths.values())
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_an_adapter_folder_says_nothing_of_this_machine_and_is_the_same_bytes_every_time(tmp_path: Path) -> None:
    for run in ("a", "b"):
        train_adapter(phase(), backbone(), 1, lambda adapted: {"recall@10": 0.0}, tmp_path / run)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        one, other = ((tmp_path / run / "adapter" / name).read_bytes() for run in ("a", "b"))
        assert one == other
    text = (tmp_path / "a" / "adapter" / "adapter_config.json").read_text()
    assert str(tmp_path) not in text
    assert json.loads(text)["base_model_name_or_path"] is None
    assert json.loads(text)["target_modules"] == sorted(json.loads(text)["target_modules"])


def test_an_adapter_learns_from_the_targets_of_its_own_domain_only(tmp_path: Path) -> None:
    seen: list[set[int]] = []

    class Watched(CodeLoss):
        def forward(self, batch: SequenceBatch | TitleBatch) -> Tensor:
            assert isinstance(batch, SequenceBatch)
            domains_BW = batch.tokens_BWX[:, :, 0]
            seen.append(set(domains_BW[batch.target_BW].tolist()))
            return super().forward(batch)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(language_model, "CodeLoss", Watched)
        train_adapter(phase(), backbone(), 1, lambda adapted: {"recall@10": 0.0}, tmp_path)
    assert set().union(*seen) <= {VOCABULARY.domain_token("films"), VOCABULARY.any_domain}
    assert VOCABULARY.domain_token("films") in set().union(*seen)


def test_an_adapter_that_attaches_to_too_much_is_refused(tmp_path: Path) -> None:
    whole = peft.LoraConfig

    def too_much(**settings: Any) -> peft.LoraConfig:
        return whole(**settings, bias="all", modules_to_save=["lm_head"])

    with pytest.MonkeyPatch.context() as patched, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patched.setattr("training.language_model.peft.LoraConfig", too_much)
        with pytest.raises(StageError, match=r"adapter films: \d+ weights would train where \d+ belong"):
            train_adapter(phase(), backbone(), 1, lambda adapted: {"recall@10": 0.0}, tmp_path)


def test_a_bundles_adapter_in_stock_peft_gives_the_hidden_states_of_the_bank(tiny_bundle: Path) -> None:
    stages = tiny_bundle.parent / "bundle.work"
    folders = {name: stages / f"adapter-{name}" / "adapter" for name in ("books", "films", "games")}
    vocabulary = Vocabulary((8, 8, 8), {name: row for row, name in enumerate(folders)})
    model = LanguageModel(load_backbone(tiny_bundle / "backbone"), vocabulary, folders)
    torch.manual_seed(0)
    tokens_BP = torch.randint(vocabulary.first_code(0), vocabulary.size, (3, 20))
    tokens_BP[:, ::4] = vocabulary.domain_token("films")
    bank_MBPD = model.read(tokens_BP, torch.tensor([0, 1, 2]))
    for row, folder in enumerate(folders.values()):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            stock = peft.PeftModel.from_pretrained(load_backbone(tiny_bundle / "backbone"), str(folder)).eval()
        decoder: Any = stock.get_base_model().model
        with torch.no_grad():
            hidden_PD = decoder(input_ids=tokens_BP[row : row + 1]).last_hidden_state[0]
        assert torch.allclose(hidden_PD, bank_MBPD[1, row], atol=1e-5)
        assert not torch.allclose(hidden_PD, bank_MBPD[0, row], atol=1e-3), "the adapter has learned something"
