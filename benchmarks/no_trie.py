"""GenCDR's ablation "no trie": beams over all codes of a level, whether or not an item has such a SID.

The product has no such search: it always walks the trie. Here the softmax goes over a level's whole codebook, a beam
ends with any L codes, and an answer without an item is a miss. What is mixed beside the language model (counts of
neighbours) is of items, so it takes no part; compare with a recommender without it.

Shapes: M mixed distributions, B batch, K beams, l codes so far, L levels, V codes of a level, N targets, P places.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sidera.language_model import LanguageModel
from sidera.recommender import Recommender
from training.data import DomainData
from training.evaluation import PLACES, query_of
from training.progress import track
from training.split import Target

_QUERIES_AT_ONCE = 16


@dataclass(frozen=True)
class FreeAnswers:
    """What beams without a trie give for N targets.

    Attributes:
        top_NP: item numbers of the domain's data, best first, -1 where the SID is no item's, and behind the last.
        invalid: the share of the first ``PLACES`` answers whose SID is no item's.
    """

    top_NP: npt.NDArray[np.int32]
    invalid: float


@torch.no_grad()
def free_beams(
    model: LanguageModel, prompts: Sequence[Sequence[int]], domains: Sequence[str], beams: int
) -> tuple[Tensor, Tensor]:
    """The best sequences of codes, best first, whether or not they exist.

    Args:
        prompts: as ``LanguageModel.prompt`` makes them.
        domains: the target's domain of each prompt.
        beams: K, kept at each level; fewer where fewer sequences exist.

    Returns:
        Codes int64[B, K, L], and their log-probabilities under the mixture, float32[B, K].
    """
    vocabulary, device = model.vocabulary, model.device
    size = len(prompts)
    lengths_B = torch.tensor([len(prompt) for prompt in prompts], device=device)
    tokens_BP = torch.full((size, int(lengths_B.max())), vocabulary.pad, device=device)
    for row, prompt in enumerate(prompts):
        tokens_BP[row, : len(prompt)] = torch.tensor(prompt)
    mixture = model.mixture(domains)
    num = mixture.num_distributions
    hidden_MBD, history = model.prefill(tokens_BP, lengths_B, mixture.adapters_B, num)
    log_weights_MB11 = mixture.log_weights(hidden_MBD)[..., None, None]
    hidden_MBKD = hidden_MBD[:, :, None]
    log_mass_MBK = torch.zeros(num, size, 1, device=device)
    codes_BKl = torch.empty(size, 1, 0, dtype=torch.int64, device=device)
    visible_BKS = torch.empty(size, 1, 0, dtype=torch.bool, device=device)
    scores_BK = torch.zeros(size, 1, device=device)
    for level in range(vocabulary.num_levels):
        log_mass_MBKV = log_mass_MBK[..., None] + model.code_logits(hidden_MBKD, level).log_softmax(dim=-1)
        scores_BX = (log_mass_MBKV + log_weights_MB11).logsumexp(dim=0).flatten(1)
        scores_BK, place_BK = scores_BX.topk(min(beams, scores_BX.shape[1]), dim=1)
        code_BK = place_BK % vocabulary.codebook_sizes[level]
        parent_BK = place_BK // vocabulary.codebook_sizes[level]
        log_mass_MBK = log_mass_MBKV.flatten(2).gather(2, place_BK.expand(num, -1, -1))
        rows_B1 = torch.arange(size, device=device)[:, None]
        codes_BKl = torch.cat([codes_BKl[rows_B1, parent_BK], code_BK[..., None]], dim=2)
        if level == vocabulary.num_levels - 1:
            break
        # Every beam feeds its own token, which sees what its parent saw, and itself.
        own_KK = torch.eye(place_BK.shape[1], dtype=torch.bool, device=device).expand(size, -1, -1)
        visible_BKS = torch.cat([visible_BKS[rows_B1, parent_BK], own_KK], dim=2)
        depth_BK = torch.full_like(code_BK, level)
        hidden_MBKD = model.extend(history, vocabulary.first_code(level) + code_BK, depth_BK, visible_BKS)
    return codes_BKl, scores_BK


def recommend_without_trie(
    recommender: Recommender, domains: Sequence[DomainData], asked: Sequence[Target], beams: int | None = None
) -> FreeAnswers:
    """The first places for each target's history; items of the history are passed over, as the product does.

    Args:
        beams: None for the recommender's.
    """
    numbers = [{item_id: number for number, item_id in enumerate(domain.item_ids)} for domain in domains]
    of_sid = [_item_of_sid(recommender, domain.name, numbers[row]) for row, domain in enumerate(domains)]
    top_NP = np.full((len(asked), PLACES), -1, dtype=np.int32)
    answers = invalid = 0
    by_length = sorted(range(len(asked)), key=lambda row: len(asked[row].history))
    with track("recommend without trie", len(asked)) as advance:
        for begin in range(0, len(asked), _QUERIES_AT_ONCE):
            rows = by_length[begin : begin + _QUERIES_AT_ONCE]
            queries = [query_of(asked[row], domains) for row in rows]
            prompts = [recommender.prompt(query) for query in queries]
            # The product's search spends no beam on items of the history.
            longest = max(len(query.history) for query in queries)
            width = (beams or recommender.beam_width) + longest
            codes_BKL, _ = free_beams(recommender.model, prompts, [query.domain for query in queries], width)
            for row, sids in zip(rows, codes_BKL.tolist(), strict=True):
                target = asked[row]
                seen = {item for domain, item in target.history if domain == target.domain}
                found = [of_sid[target.domain].get(tuple(sid), -1) for sid in sids]
                shown = [item for item in found if item not in seen][:PLACES]
                top_NP[row, : len(shown)] = shown
                answers += len(shown)
                invalid += shown.count(-1)
            advance(len(rows))
    return FreeAnswers(top_NP, invalid / max(1, answers))


def _item_of_sid(recommender: Recommender, domain: str, number_of: dict[str, int]) -> dict[tuple[int, ...], int]:
    """The item number in the data of every SID of a domain; -1 for items that the data do not hold."""
    catalog = recommender.catalog
    index = catalog.index(domain)
    names = [catalog.name(number)[0] for number in index.number_of_leaf.tolist()]
    sids = [tuple(sid) for sid in catalog.sids(domain).tolist()]
    return {sid: number_of.get(name, -1) for sid, name in zip(sids, names, strict=True)}
