"""Trains the language model: phase 1 on everyone's sequences, phase 2 one adapter a domain.

Phase 1 trains all weights of a scratch backbone, or the universal experts and new token rows of a pretrained one, on
the mixed chronological sequences. In phase 2 all of that is frozen and each domain's LoRA adapter learns from the same
sequences with that domain's events as the only targets, so that both distributions read the same prompt.

Shapes: V rows of the embedding, D hidden width.
"""

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import peft
import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from sidera.model.linear_layers import linear_layers, upper_half
from sidera.model.vocabulary import Vocabulary
from sidera.trie import Trie
from training.code_loss import CodeLoss
from training.errors import StageError
from training.loop import LoopReport, Scores, train_loop
from training.model_config import LanguageModelConfig
from training.new_rows import NewRows
from training.processes import is_first
from training.sequences import EpochBatches, SequenceBatch, TrainingSequences, epoch_batches
from training.siblings import Siblings
from training.text_alignment import MixedBatches, TitleBatch, Titles
from training.trackers import Tracking
from training.trainable import adapter_size, check_trainable, prepare_universal


@dataclass(frozen=True)
class Phase:
    """What both phases need.

    Attributes:
        sequences: the training sequences.
        vocabulary: the tokens.
        domain_names: name of each domain index.
        config: the language model's settings.
        seed: the same seed gives the same weights.
        tracking: where the curves of the training go.
        tries: the trie of each domain index, for a loss over siblings.
        titles: the catalog's titles, for text alignment.
    """

    sequences: TrainingSequences
    vocabulary: Vocabulary
    domain_names: tuple[str, ...]
    config: LanguageModelConfig
    seed: int
    tracking: Tracking | None = None
    tries: tuple[Trie, ...] | None = None
    titles: Titles | None = None

    def loss(self, backbone: PreTrainedModel, rows: NewRows | None) -> CodeLoss:
        """What the config says is learned.

        Raises:
            StageError: the tries of a loss over siblings are not there, or not of these sequences' items.
        """
        config, siblings = self.config, None
        if config.loss == "children":
            if self.tries is None:
                raise StageError("loss: children needs the tries of the catalog; give them to the phase")
            siblings = Siblings(self.tries, self.vocabulary.codebook_sizes, backbone.device)
            siblings.check(self.sequences.domain_E, self.sequences.codes_EL)
        return CodeLoss(backbone, self.vocabulary, config.dropout, config.label_smoothing, rows, siblings)

    def batches_with_titles(self, batch_tokens: int) -> Callable[[int], Sequence[SequenceBatch | TitleBatch]]:
        """The batches of an epoch of phase 1, by its number: histories, and titles where the config says so.

        Raises:
            StageError: the titles are not there.
        """
        histories, alignment, titles = (
            self.batches(self.sequences, batch_tokens),
            self.config.text_alignment,
            self.titles,
        )
        if alignment is None or not alignment.share:
            return histories
        if titles is None:
            raise StageError("text_alignment needs the titles of the catalog; give them to the phase")

        def of_epoch(epoch: int) -> MixedBatches:
            return MixedBatches(
                histories(epoch),
                titles,
                self.vocabulary,
                self.domain_names,
                share=alignment.share,
                batch_tokens=batch_tokens,
                seed=(self.seed, epoch),
            )

        return of_epoch

    def batches(self, sequences: TrainingSequences, batch_tokens: int) -> Callable[[int], EpochBatches]:
        """The batches of an epoch, by its number."""

        def of_epoch(epoch: int) -> EpochBatches:
            return epoch_batches(
                sequences,
                self.vocabulary,
                self.domain_names,
                max_items=self.config.max_history + 1,
                batch_tokens=batch_tokens,
                any_domain_probability=self.config.any_domain_probability,
                seed=(self.seed, epoch),
            )

        return of_epoch


def train_universal(
    phase: Phase, backbone: PreTrainedModel, validate: Callable[[PreTrainedModel], Scores], folder: Path
) -> LoopReport:
    """Phase 1, all domains' targets: all weights of a scratch backbone, experts and new rows of a pretrained one.

    The experts are added here, and stay on the backbone.

    Raises:
        StageError: other weights would train than belong to phase 1, or what the config's loss needs is not there.
    """
    rows = prepare_universal(backbone, phase.config, phase.vocabulary)
    optimizer = phase.config.universal
    return train_loop(
        "universal",
        phase.loss(backbone, rows),
        phase.batches_with_titles(optimizer.batch_tokens),
        lambda: validate(backbone),
        optimizer,
        phase.seed,
        folder,
        phase.tracking,
    )


def train_adapter(
    phase: Phase,
    backbone: PreTrainedModel,
    domain: int,
    validate: Callable[[PreTrainedModel], Scores],
    folder: Path,
    new_token: bool = False,
) -> LoopReport:
    """Phase 2 for one domain: a LoRA adapter on the linear layers of the frozen backbone, saved as a PEFT folder.

    The backbone is as it was when this returns. The adapter lies in ``folder / "adapter"``.

    Args:
        backbone: the universal model, its experts included.
        new_token: for a domain that phase 1 has not seen: its token's row trains too, from ``<any_domain>``'s on, and
            is in the backbone when this returns. No other prompt holds that token, so no other score changes.

    Raises:
        StageError: the adapter attached to nothing, more than the adapter would train, or what the config's loss needs
            is not there.
    """
    config = phase.config.domain
    assert config is not None, "without adapters there is no phase 2"
    name = phase.domain_names[domain]
    torch.manual_seed(phase.seed)
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules="all-linear" if config.adapter_layers == "all" else upper_half(backbone),
        fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in linear_layers(backbone).values()),
    )
    with warnings.catch_warnings():
        # peft asks transformers for this property by the name that transformers deprecates.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        adapted = peft.get_peft_model(backbone, settings)
    check_trainable(f"adapter {name}", backbone, adapter_size(backbone, config.rank))
    rows = _domain_row(backbone, phase.vocabulary, name) if new_token else None
    loss = phase.loss(backbone, rows)
    report = train_loop(
        f"adapter {name}",
        loss,
        phase.batches(phase.sequences.only_targets_of(domain), config.optimizer.batch_tokens),
        lambda: validate(backbone),
        config.optimizer,
        phase.seed,
        folder,
        phase.tracking,
    )
    if is_first():
        _save_adapter(adapted, folder / "adapter")
    adapted.unload()
    for weight in backbone.parameters():
        weight.requires_grad_(True)
    return report


@torch.no_grad()
def _domain_row(backbone: PreTrainedModel, vocabulary: Vocabulary, domain: str) -> NewRows:
    """The row of a domain's token, which begins as that of ``<any_domain>``."""
    token = vocabulary.domain_token(domain)
    weight_VD = backbone.get_input_embeddings().get_parameter("weight")
    weight_VD[token] = weight_VD[vocabulary.any_domain]
    return NewRows(backbone, token, token + 1, with_head=False)


def _save_adapter(adapted: peft.PeftModel, folder: Path) -> None:
    """Write the PEFT folder: without a place on this machine, and the same bytes for the same weights."""
    adapted.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    settings = json.loads(path.read_text())
    settings |= {"base_model_name_or_path": None, "target_modules": sorted(settings["target_modules"])}
    path.write_text(json.dumps(settings, indent=2, sort_keys=True))
