"""Length buckets against packing: training tokens a second of the same model on the same windows.

Buckets put windows of similar length side by side, so that little is padding. Packing puts several windows end to end
in rows of one length, with a mask that shows each token its own window alone. Both give the same losses (a test
compares).

Shapes: B rows, W items of a window, R tokens of a row, L levels.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from benchmarks.harness import Figure, shown, time_ratio
from benchmarks.made_up_walks import DOMAIN, made_up_walks, vocabulary_behind
from sidera.model.output_head import code_logits
from sidera.model.vocabulary import Vocabulary
from training.backbones import new_backbone
from training.code_loss import CodeLoss
from training.sequences import SequenceBatch, epoch_batches

ROW_TOKENS = 256
LONGEST = 51


@dataclass(frozen=True)
class PackedBatch:
    """Windows end to end.

    Attributes:
        tokens_BR: padding behind the last window of a row. Shape: int64[B, R].
        places_BR: of each token in its window. Shape: int64[B, R].
        windows_BR: number of each token's window in the row, -1 for padding. Shape: int64[B, R].
    """

    tokens_BR: Tensor
    places_BR: Tensor
    windows_BR: Tensor


def measure_packing(users: int, batch_tokens: int, rounds: int) -> dict[str, Figure]:
    """How much faster buckets are, by the processor's own time."""
    vocabulary = vocabulary_behind(0)
    buckets = list(
        epoch_batches(
            made_up_walks(users, LONGEST, seed=0),
            vocabulary,
            (DOMAIN,),
            max_items=LONGEST,
            batch_tokens=batch_tokens,
            any_domain_probability=0.0,
            seed=(0,),
        )
    )
    packed = pack(buckets, vocabulary, ROW_TOKENS, max(1, batch_tokens // ROW_TOKENS))
    tokens = sum(int((batch.tokens_BWX != vocabulary.pad).sum()) for batch in buckets)
    torch.manual_seed(0)
    backbone = new_backbone("scratch:tiny", vocabulary, LONGEST * vocabulary.tokens_per_item)
    loss = CodeLoss(backbone, vocabulary, dropout=0.1, label_smoothing=0.0).train()

    def step_buckets(_: int) -> None:
        for batch in buckets:
            loss(batch).backward()
            backbone.zero_grad()

    def step_packed(_: int) -> None:
        for batch in packed:
            packed_loss(backbone, vocabulary, batch, loss.dropout).backward()
            backbone.zero_grad()

    ratio = time_ratio(step_packed, step_buckets, list(range(rounds)), clock=time.process_time, warm_up=1)
    note = f"scratch:tiny, {tokens} tokens of {users} users, rows of {ROW_TOKENS} tokens; {ratio.note}"
    return {
        "buckets_tokens_per_cpu_second": shown(tokens / ratio.seconds_b, "tokens/s", note),
        "packed_tokens_per_cpu_second": shown(tokens / ratio.seconds_a, "tokens/s", note),
        "buckets_vs_packing": shown(ratio.median, "ratio", note),
    }


def pack(
    batches: Sequence[SequenceBatch], vocabulary: Vocabulary, row_tokens: int, batch_rows: int
) -> list[PackedBatch]:
    """The windows of some batches, longest first, each in the first row that has room."""
    windows = [
        tokens_WX[tokens_WX[:, 0] != vocabulary.pad].flatten() for batch in batches for tokens_WX in batch.tokens_BWX
    ]
    rows: list[list[Tensor]] = []
    room: list[int] = []
    for window in sorted(windows, key=len, reverse=True):
        place = next((row for row, left in enumerate(room) if left >= len(window)), None)
        if place is None:
            rows.append([])
            room.append(row_tokens)
            place = len(rows) - 1
        rows[place].append(window)
        room[place] -= len(window)
    return [
        _packed(rows[begin : begin + batch_rows], vocabulary.pad, row_tokens)
        for begin in range(0, len(rows), batch_rows)
    ]


def _packed(rows: Sequence[Sequence[Tensor]], pad: int, row_tokens: int) -> PackedBatch:
    shape = (len(rows), row_tokens)
    batch = PackedBatch(torch.full(shape, pad), torch.zeros(shape, dtype=torch.long), torch.full(shape, -1))
    for row, windows in enumerate(rows):
        begin = 0
        for number, window in enumerate(windows):
            inside = slice(begin, begin + len(window))
            batch.tokens_BR[row, inside] = window
            batch.places_BR[row, inside] = torch.arange(len(window))
            batch.windows_BR[row, inside] = number
            begin += len(window)
    return batch


def packed_loss(backbone: PreTrainedModel, vocabulary: Vocabulary, batch: PackedBatch, dropout: nn.Module) -> Tensor:
    """What ``CodeLoss`` gives for these windows, every item a target. Shape: float32[]."""
    tokens_BR, windows_BR = batch.tokens_BR, batch.windows_BR
    earlier_RR = torch.ones(tokens_BR.shape[1], tokens_BR.shape[1], dtype=torch.bool).tril()
    visible_BRR = (windows_BR[:, :, None] == windows_BR[:, None, :]) & earlier_RR
    embedded_BRD = dropout(backbone.get_input_embeddings()(tokens_BR))
    hidden_BRD = backbone.base_model(
        inputs_embeds=embedded_BRD,
        position_ids=batch.places_BR,
        attention_mask=visible_BRR[:, None],
        use_cache=False,
    ).last_hidden_state
    losses = []
    for level in range(vocabulary.num_levels):
        before_BR = (batch.places_BR % vocabulary.tokens_per_item == level) & (windows_BR >= 0)
        codes_X = tokens_BR.roll(-1, dims=1)[before_BR] - vocabulary.first_code(level)
        logits_XV = code_logits(backbone, vocabulary, dropout(hidden_BRD[before_BR]), level)
        losses.append(nn.functional.cross_entropy(logits_XV, codes_X))
    return torch.stack(losses).mean()
