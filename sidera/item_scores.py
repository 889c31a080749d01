"""The score of a given item, the obvious way: the whole sequence is read again and every code is looked up.

Slower than beam search and free of its ideas, so it is what beam search is tested against; and it scores targets that a
search would not return.

Shapes: M distributions, B batch, P prompt tokens, L levels, V codes of a level, D hidden width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sidera.language_model import LanguageModel
from sidera.model.user_router import Mixture
from sidera.trie import TrieTables


@torch.no_grad()
def item_scores(
    model: LanguageModel, tables: TrieTables, prompts: Sequence[Sequence[int]], leaves_B: Tensor, mixture: Mixture
) -> Tensor:
    """log P(leaf | prompt) under a mixture, one row of it a prompt: what a search gives. Shape: float32[B]."""
    log_mass_MB, hidden_MBD = read_items(model, tables, prompts, leaves_B, mixture.adapters_B)
    num = mixture.num_distributions
    log_weights_MB = mixture.log_weights(hidden_MBD[-num:])
    return torch.logsumexp(log_mass_MB[-num:] + log_weights_MB, dim=0)


@torch.no_grad()
def read_items(
    model: LanguageModel,
    tables: TrieTables,
    prompts: Sequence[Sequence[int]],
    leaves_B: Tensor,
    adapters_B: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """log P(leaf | prompt) under each distribution, each code normalised over its node's children.

    Args:
        prompts: the tokens of each history, ending in the target's domain token.
        leaves_B: the leaf to score for each prompt. Shape: int64[B].
        adapters_B: the adapter of each row's domain distribution; None: only the universal one. Shape: int64[B].

    Returns:
        float32[M, B], and the hidden state at each prompt's end, float[M, B, D].
    """
    log_mass_MBL, hidden_MBD = read_codes(model, tables, prompts, leaves_B, adapters_B)
    return log_mass_MBL.sum(dim=2), hidden_MBD


@torch.no_grad()
def read_codes(
    model: LanguageModel,
    tables: TrieTables,
    prompts: Sequence[Sequence[int]],
    leaves_B: Tensor,
    adapters_B: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The same code by code: log-probability of each code of a leaf, given those before it.

    Returns:
        float32[M, B, L], and the hidden state at each prompt's end, float[M, B, D].
    """
    levels, codes_LB, hidden_MBD = read_levels(model, tables, prompts, leaves_B, adapters_B)
    own = [
        logprobs_MBV.gather(2, codes_B.expand(len(logprobs_MBV), -1)[..., None])[..., 0]
        for logprobs_MBV, codes_B in zip(levels, codes_LB, strict=True)
    ]
    return torch.stack(own, dim=2), hidden_MBD


@torch.no_grad()
def read_levels(
    model: LanguageModel,
    tables: TrieTables,
    prompts: Sequence[Sequence[int]],
    leaves_B: Tensor,
    adapters_B: Tensor | None = None,
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """The same for all codes on the way to each leaf; minus infinity of a code that no item has there.

    Returns:
        For each level, float32[M, B, V] of its codes, given the leaf's codes before it; for each level the leaf's code,
        int64[B]; and the hidden state at each prompt's end, float[M, B, D].
    """
    vocabulary = model.vocabulary
    nodes_LB = tables.ancestors(leaves_B).T.contiguous()
    lengths = [len(prompt) for prompt in prompts]
    tokens_BP = torch.full((len(prompts), max(lengths) + tables.num_levels), vocabulary.pad)
    for row, prompt in enumerate(prompts):
        tokens_BP[row, : len(prompt)] = torch.tensor(prompt)
    tokens_BP = tokens_BP.to(leaves_B.device)
    rows_B = torch.arange(len(prompts), device=leaves_B.device)
    lengths_B = torch.tensor(lengths, device=leaves_B.device)
    for level in range(tables.num_levels):
        codes_B = tables.codes[level][nodes_LB[level + 1]]
        tokens_BP[rows_B, lengths_B + level] = vocabulary.first_code(level) + codes_B
    hidden_MBPD = model.read(tokens_BP, adapters_B)

    logprobs, codes_LB = [], []
    for level in range(tables.num_levels):
        logits_MBV = model.code_logits(hidden_MBPD[:, rows_B, lengths_B - 1 + level], level)
        begin_B = tables.first_child[level][nodes_LB[level]]
        end_B = tables.first_child[level][nodes_LB[level] + 1]
        siblings_BV = torch.zeros(logits_MBV.shape[1:], dtype=torch.bool, device=leaves_B.device)
        for row, (begin, end) in enumerate(zip(begin_B.tolist(), end_B.tolist(), strict=True)):
            siblings_BV[row, tables.codes[level][begin:end]] = True
        logprobs.append(logits_MBV.masked_fill(~siblings_BV, float("-inf")).log_softmax(dim=2))
        codes_LB.append(tables.codes[level][nodes_LB[level + 1]])
    return logprobs, codes_LB, hidden_MBPD[:, rows_B, lengths_B - 1]
