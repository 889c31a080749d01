"""Does this backbone decode trees rightly? Asked once when a bundle is loaded, before anything relies on it.

A small made-up catalog is decoded as a tree, every code of every item of it re-computed plainly, and both compared; so
is a history that goes on from a kept one. What differs is refused by name: a backbone with
other attention, positions or head than ``language_model`` assumes. Where only the lean decoder or the sharing of lower
layers makes the difference, the backbone decodes without it.
"""

import itertools
from contextlib import suppress

import numpy as np
import torch

from sidera.beam_search import SearchBatch, beam_search
from sidera.errors import BackboneError, SearchError
from sidera.item_scores import item_scores
from sidera.language_model import LanguageModel
from sidera.model.weight_formats import is_rounded
from sidera.trie import build_trie, tables_of

_TOLERANCE = 2e-3
_LOW_PRECISION_TOLERANCE = 0.3
_KEPT_BYTES = 2**30
_UNFIT = (RuntimeError, ValueError, TypeError, IndexError, AttributeError)
"""What a backbone raises that other code than ours was written for."""


def check_backbone(model: LanguageModel, max_history_items: int) -> None:
    """Compare tree decoding with plain re-computation, with and without adapters.

    Raises:
        BackboneError: the scores differ, or the longest prompt does not fit the backbone's context or window.
    """
    vocabulary = model.vocabulary
    name = type(model.backbone).__name__
    config = model.backbone.config.get_text_config()
    longest = (max_history_items + 1) * vocabulary.tokens_per_item
    if longest > model.max_tokens:
        raise BackboneError(
            f"{name} reads {model.max_tokens} tokens, a history of {max_history_items} items needs {longest}; "
            "set a smaller max_history"
        )
    layer_types = set(getattr(config, "layer_types", None) or ())
    if layer_types - {"full_attention", "sliding_attention"}:
        raise BackboneError(f"{name} has layers of {sorted(layer_types)}; use a full-attention causal model")
    window = getattr(config, "sliding_window", None)
    if window is not None and window < longest and layer_types != {"full_attention"}:
        raise BackboneError(
            f"{name} attends to a window of {window} tokens, a history of {max_history_items} items "
            f"needs {longest}; set a smaller max_history"
        )
    tolerance = _LOW_PRECISION_TOLERANCE if is_rounded(model.backbone) else _TOLERANCE
    domains = [next(iter(model.adapter_index), "unseen"), "unseen"]
    advice = "use a full-attention causal model with rotary or learned positions"
    try:
        right = _slices_match(model, tolerance) and _decodes(model, domains, min(3, max_history_items), tolerance)
    except torch.OutOfMemoryError:
        raise
    except _UNFIT as error:
        raise BackboneError(f"{name} cannot decode a tree ({error}); {advice}") from error
    except SearchError as error:
        raise BackboneError(f"{name}: {error}") from error
    if not right:
        raise BackboneError(
            f"{name} gives other scores when it decodes a tree than when it reads plain sequences; {advice}"
        )


def _slices_match(model: LanguageModel, tolerance: float) -> bool:
    """Whether the slice of the head gives the logits that the whole model gives."""
    vocabulary = model.vocabulary
    longest = min(16, model.max_tokens)
    tokens_BP = torch.arange(vocabulary.base, vocabulary.size, device=model.device)[None, :longest]
    with torch.no_grad():
        whole_BPW = model.backbone(input_ids=tokens_BP).logits.float()
    hidden_MBPD = model.read(tokens_BP, None)
    for level in range(vocabulary.num_levels):
        first = vocabulary.first_code(level)
        rows = slice(first, first + vocabulary.codebook_sizes[level])
        sliced = model.code_logits(hidden_MBPD[0], level)
        if not torch.allclose(sliced, whole_BPW[..., rows], atol=tolerance, rtol=tolerance):
            return False
    return True


def _decodes(model: LanguageModel, domains: list[str], history_items: int, tolerance: float) -> bool:
    """Whether trees decode rightly, behind a new history and behind one that has grown.

    Settles whose modules run, and what is shared.
    """
    if model.lean:
        with suppress(*_UNFIT):
            if _grows(model, domains, history_items, tolerance):
                return True
        model.use_stock_decoder()
    if model.shared_layers:
        with suppress(*_UNFIT):
            if _grows(model, domains, history_items, tolerance):
                return True
        model.share_nothing()
    return _grows(model, domains, history_items, tolerance)


def _grows(model: LanguageModel, domains: list[str], history_items: int, tolerance: float) -> bool:
    before = model.history_cache
    model.keep_histories(_KEPT_BYTES)
    try:
        return all(
            _trees_match(model, domains, items, tolerance) for items in (max(history_items - 1, 0), history_items)
        )
    finally:
        model.keep_histories(0 if before is None else before.max_bytes)


def _trees_match(model: LanguageModel, domains: list[str], history_items: int, tolerance: float) -> bool:
    vocabulary = model.vocabulary
    choices = [sorted({0, size // 2, size - 1}) for size in vocabulary.codebook_sizes]
    sids_NL = np.array(list(itertools.islice(itertools.product(*choices), 0, 200, 2)))
    trie, _ = build_trie(sids_NL, vocabulary.codebook_sizes)
    tables = tables_of([trie], model.device)
    histories = [[(domains[0], tuple(sid)) for sid in sids_NL[:history_items].tolist()], []]
    prompts = [model.prompt(history, domain) for history, domain in zip(histories, domains, strict=True)]
    longest = max(map(len, prompts))
    tokens_BP = torch.full((2, longest), vocabulary.pad)
    for row, prompt in enumerate(prompts):
        tokens_BP[row, : len(prompt)] = torch.tensor(prompt)
    mixture = model.mixture(domains)
    num_leaves = trie.num_leaves
    batch = SearchBatch(
        tokens_BP=tokens_BP.to(model.device),
        lengths_B=torch.tensor([len(prompt) for prompt in prompts], device=model.device),
        roots_B=torch.zeros(2, dtype=torch.int64, device=model.device),
        mixture=mixture,
        num_results_B=torch.full((2,), num_leaves, device=model.device),
    )
    found = beam_search(model, tables, batch, beam_width=num_leaves)
    for row, prompt in enumerate(prompts):
        leaves_B = found.leaves_BK[row]
        plain_B = item_scores(model, tables, [prompt] * num_leaves, leaves_B, mixture.repeated(row, num_leaves))
        if not torch.allclose(found.scores_BK[row], plain_B, atol=tolerance, rtol=tolerance):
            return False
    return True
