"""Tokens a second of phase 2 against ``transformers.Trainer`` with ``peft``: one model, one data set, one batch size.

Both train the same LoRA adapter on the same sequences in float32 with AdamW, and predict the same codes. The Trainer
groups sequences of similar length, which is the best that it offers; its rows are as many as fill the same batch of
tokens at the mean length. Counted are tokens of sequences, without padding.
"""

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import torch
from transformers import PreTrainedModel, Trainer, TrainingArguments

from benchmarks.harness import Figure, at_least, shown, time_ratio
from benchmarks.made_up_walks import DOMAIN, made_up_walks, vocabulary_behind
from sidera.model.vocabulary import Vocabulary
from training.language_model import Phase, train_adapter
from training.model_config import AdapterConfig, LanguageModelConfig, OptimizerConfig
from training.pretrained import FoundBackbone, load_pretrained
from training.sequences import TrainingSequences

LEAST = 1.5
RANK, ALPHA, DROPOUT, RATE = 16, 32, 0.05, 1e-3
_IGNORED = -100


def measure_training(found: FoundBackbone, users: int, batch_tokens: int, rounds: int) -> dict[str, Figure]:
    """The ratio of the two, and the tokens a second of each."""
    vocabulary = vocabulary_behind(found.rows)
    longest = 20
    walks = made_up_walks(users, longest, seed=0)
    tokens = len(walks.domain_E) * vocabulary.tokens_per_item
    ours = load_pretrained(found, vocabulary, "cpu", seed=0)
    theirs = load_pretrained(found, vocabulary, "cpu", seed=0)

    def train_ours(seed: int) -> None:
        _train_ours(ours, walks, vocabulary, longest, batch_tokens, seed)

    def train_theirs(seed: int) -> None:
        _train_theirs(theirs, walks, vocabulary, batch_tokens, seed)

    ratio = time_ratio(train_theirs, train_ours, list(range(rounds)), warm_up=1)
    note = f"{tokens} tokens of {users} users, batches of {batch_tokens} tokens, LoRA of rank {RANK}; {ratio.note}"
    return {
        "training_tokens_per_second": shown(tokens / ratio.seconds_b, "tokens/s", note),
        "trainer_peft_tokens_per_second": shown(tokens / ratio.seconds_a, "tokens/s", note),
        "training_vs_trainer_peft": at_least(ratio.median, LEAST, "ratio", note),
    }


def _train_ours(
    backbone: PreTrainedModel,
    walks: TrainingSequences,
    vocabulary: Vocabulary,
    longest: int,
    batch_tokens: int,
    seed: int,
) -> None:
    optimizer = OptimizerConfig(epochs=1, learning_rate=RATE, batch_tokens=batch_tokens)
    config = LanguageModelConfig(
        universal=optimizer,
        backbone="a pretrained one",
        max_history=longest,
        dropout=0.0,
        loss="codebook",
        label_smoothing=0.0,
        any_domain_probability=0.0,
        domain=AdapterConfig(rank=RANK, alpha=ALPHA, dropout=DROPOUT, optimizer=optimizer),
    )
    phase = Phase(walks, vocabulary, (DOMAIN,), config, seed)
    with tempfile.TemporaryDirectory() as folder:
        train_adapter(phase, backbone, 0, lambda adapted: {"recall@10": 0.0}, Path(folder))


def _train_theirs(
    backbone: PreTrainedModel, walks: TrainingSequences, vocabulary: Vocabulary, batch_tokens: int, seed: int
) -> None:
    rows = [_row(walks, index, vocabulary) for index in range(len(walks.begin_S) - 1)]
    mean = sum(len(row["input_ids"]) for row in rows) / len(rows)
    settings = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=DROPOUT, target_modules="all-linear")
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        adapted = peft.get_peft_model(backbone, settings)
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=1,
            per_device_train_batch_size=max(1, round(batch_tokens / mean)),
            learning_rate=RATE,
            weight_decay=0.01,
            warmup_steps=0.05,
            lr_scheduler_type="cosine",
            max_grad_norm=1.0,
            train_sampling_strategy="group_by_length",
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            seed=seed,
        )
        Trainer(adapted, arguments, train_dataset=rows, data_collator=_Padding(vocabulary.pad)).train()
        adapted.unload()


def _row(walks: TrainingSequences, index: int, vocabulary: Vocabulary) -> dict[str, list[int]]:
    """One sequence as the Trainer takes it: the loss is on codes, never on domain tokens."""
    begin, end = int(walks.begin_S[index]), int(walks.begin_S[index + 1])
    items = [vocabulary.item_tokens(DOMAIN, sid) for sid in walks.codes_EL[begin:end].tolist()]
    tokens = [token for item in items for token in item]
    labels = [token for item in items for token in [_IGNORED, *item[1:]]]
    return {"input_ids": tokens, "labels": labels}


class _Padding:
    """Pads a batch on the right to its longest row."""

    def __init__(self, pad: int) -> None:
        self._pad = pad

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        longest = max(len(row["input_ids"]) for row in rows)

        def padded(name: str, value: int) -> torch.Tensor:
            return torch.tensor([row[name] + [value] * (longest - len(row[name])) for row in rows])

        tokens_BT = padded("input_ids", self._pad)
        mask_BT = (tokens_BT != self._pad).long()
        return {"input_ids": tokens_BT, "attention_mask": mask_BT, "labels": padded("labels", _IGNORED)}
