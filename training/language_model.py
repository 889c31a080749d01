"""Trains the language model: phase 1 on everyone's sequences, phase 2 one adapter a domain, then the mixture's weights.

Phase 1 trains all weights of a scratch backbone on the mixed chronological sequences. In phase 2 they are frozen and
each domain's LoRA adapter learns from the same sequences with that domain's events as the only targets, so that both
distributions read the same prompt. Gamma, the domain distribution's share, is the one that makes the validation targets
most likely.

Shapes: B sequences, W items of a window, L levels, D hidden width, V codes of a level, M distributions.
"""

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import peft
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from sidera.item_scores import item_log_mass
from sidera.language_model import LanguageModel, code_logits
from sidera.trie import TrieTables
from sidera.vocabulary import Vocabulary
from training.config import AdapterConfig, LanguageModelConfig
from training.errors import StageError
from training.loop import LoopReport, train_loop
from training.progress import track
from training.sequences import SequenceBatch, TrainingSequences, epoch_batches

_GAMMAS = torch.arange(21, dtype=torch.float64) / 20
_SAME_LIKELIHOOD = 1e-6
_SCORED_AT_ONCE = 64


class CodeLoss(nn.Module):
    """Cross-entropy of every code of every target, each over the codes of its level.

    Args:
        backbone: its hidden states predict the codes.
        vocabulary: where the codes lie.
        dropout: of the embedded tokens and of the last hidden states, while training. Not of the attention weights:
            that takes the fused attention kernel away, and with it half of the speed on CPUs.
        label_smoothing: share of the probability that goes to all codes of the level.
    """

    def __init__(
        self, backbone: PreTrainedModel, vocabulary: Vocabulary, dropout: float, label_smoothing: float
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.vocabulary = vocabulary
        self.dropout = nn.Dropout(dropout)
        self.label_smoothing = label_smoothing

    def forward(self, batch: SequenceBatch) -> Tensor:
        """The mean over all codes of all targets. Shape: float32[]."""
        device = self.backbone.device
        tokens_BT = batch.tokens_BWX.flatten(1).to(device)
        target_BW = batch.target_BW.to(device)
        codes_BWL = batch.codes_BWL.to(device)
        embedded_BTD = self.dropout(self.backbone.get_input_embeddings()(tokens_BT))
        hidden_BTD = self.backbone.base_model(inputs_embeds=embedded_BTD, use_cache=False).last_hidden_state
        hidden_BWXD = self.dropout(hidden_BTD).unflatten(1, (batch.tokens_BWX.shape[1], -1))
        losses = []
        for level in range(self.vocabulary.num_levels):
            logits_XV = code_logits(self.backbone, self.vocabulary, hidden_BWXD[:, :, level][target_BW], level)
            codes_X = codes_BWL[:, :, level][target_BW]
            losses.append(nn.functional.cross_entropy(logits_XV, codes_X, label_smoothing=self.label_smoothing))
        return torch.stack(losses).mean()


@dataclass(frozen=True)
class Phase:
    """What both phases need.

    Attributes:
        sequences: the training sequences.
        vocabulary: the tokens.
        domain_names: name of each domain index.
        config: the language model's settings.
        seed: the same seed gives the same weights.
    """

    sequences: TrainingSequences
    vocabulary: Vocabulary
    domain_names: tuple[str, ...]
    config: LanguageModelConfig
    seed: int

    def batches(self, sequences: TrainingSequences, batch_tokens: int) -> Callable[[int], list[SequenceBatch]]:
        """The batches of an epoch, by its number."""

        def of_epoch(epoch: int) -> list[SequenceBatch]:
            return list(
                epoch_batches(
                    sequences,
                    self.vocabulary,
                    self.domain_names,
                    max_items=self.config.max_history + 1,
                    batch_tokens=batch_tokens,
                    any_domain_probability=self.config.any_domain_probability,
                    seed=(self.seed, epoch),
                )
            )

        return of_epoch


def train_universal(
    phase: Phase, backbone: PreTrainedModel, validate: Callable[[PreTrainedModel], float], folder: Path
) -> LoopReport:
    """Phase 1: all weights of the backbone, all domains' targets."""
    loss = CodeLoss(backbone, phase.vocabulary, phase.config.dropout, phase.config.label_smoothing)
    optimizer = phase.config.universal
    return train_loop(
        "universal",
        loss,
        phase.batches(phase.sequences, optimizer.batch_tokens),
        lambda: validate(backbone),
        optimizer,
        phase.seed,
        folder,
    )


def train_adapter(
    phase: Phase,
    backbone: PreTrainedModel,
    domain: int,
    validate: Callable[[PreTrainedModel], float],
    folder: Path,
) -> LoopReport:
    """Phase 2 for one domain: a LoRA adapter on every linear layer of the frozen backbone, saved as a PEFT folder.

    The backbone is as it was when this returns. The adapter lies in ``folder / "adapter"``.

    Raises:
        StageError: the adapter attached to nothing, or more than the adapter would train.
    """
    config: AdapterConfig = phase.config.domain
    name = phase.domain_names[domain]
    torch.manual_seed(phase.seed)
    settings = peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules="all-linear"
    )
    with warnings.catch_warnings():
        # peft asks transformers for this property by the name that transformers deprecates.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        adapted = peft.get_peft_model(backbone, settings)
    _check_trainable(backbone, config.rank, name)
    loss = CodeLoss(backbone, phase.vocabulary, phase.config.dropout, phase.config.label_smoothing)
    report = train_loop(
        f"adapter {name}",
        loss,
        phase.batches(phase.sequences.only_targets_of(domain), config.optimizer.batch_tokens),
        lambda: validate(backbone),
        config.optimizer,
        phase.seed,
        folder,
    )
    _save_adapter(adapted, folder / "adapter")
    adapted.unload()
    for weight in backbone.parameters():
        weight.requires_grad_(True)
    return report


def _save_adapter(adapted: peft.PeftModel, folder: Path) -> None:
    """Write the PEFT folder: without a place on this machine, and the same bytes for the same weights."""
    adapted.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    settings = json.loads(path.read_text())
    settings |= {"base_model_name_or_path": None, "target_modules": sorted(settings["target_modules"])}
    path.write_text(json.dumps(settings, indent=2, sort_keys=True))


def _check_trainable(backbone: nn.Module, rank: int, domain: str) -> None:
    """The trained weights are exactly the two matrices of every adapted layer."""
    linears = [layer.base_layer for layer in backbone.modules() if isinstance(layer, LoraLayer)]
    expected = sum(rank * sum(linear.weight.shape) for linear in linears if isinstance(linear, nn.Linear))
    trained = sum(weight.numel() for weight in backbone.parameters() if weight.requires_grad)
    if trained != expected or expected == 0:
        raise StageError(
            f"adapter {domain}: {trained} weights would train where {expected} belong to the adapter; "
            "use a backbone with linear layers that peft can adapt"
        )


def choose_gamma(
    model: LanguageModel, tables: TrieTables, prompts: Sequence[Sequence[int]], leaves: Sequence[int], domain: str
) -> tuple[float, tuple[float, ...]]:
    """The domain distribution's share that makes the validation targets of one domain most likely.

    Args:
        model: holds the domain's adapter.
        prompts: the tokens of each target's history.
        leaves: the leaf of each target.

    Returns:
        The share, one of 0, 0.05, ... 1, the least of those that are equally likely; and the mean log-probability of a
        target with each of these.
    """
    adapter = model.adapter_index[domain]
    masses = []
    with track(f"gamma {domain}", len(prompts)) as advance:
        for begin in range(0, len(prompts), _SCORED_AT_ONCE):
            chunk = prompts[begin : begin + _SCORED_AT_ONCE]
            leaves_B = torch.tensor(leaves[begin : begin + _SCORED_AT_ONCE], device=model.device)
            masses.append(item_log_mass(model, tables, chunk, leaves_B, torch.full_like(leaves_B, adapter)))
            advance(len(chunk))
    log_mass_MX = torch.cat(masses, dim=1).cpu().double()
    log_weights_GM = torch.stack([torch.log1p(-_GAMMAS), torch.log(_GAMMAS)], dim=1)
    mean_G = torch.logsumexp(log_weights_GM[..., None] + log_mass_MX, dim=1).mean(dim=1)
    least = int((mean_G >= mean_G.max() - _SAME_LIKELIHOOD).nonzero()[0])
    return float(_GAMMAS[least]), tuple(mean_G.tolist())
