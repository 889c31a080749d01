"""What every expert of the mixture gives to the items that may come back, and the share that it has, for each target.

Shapes: N targets, G experts, C candidates of one target, S listed items, B batch, P tokens of a prompt, M
distributions of the language model.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from sidera.items.memory_reading import Found
from sidera.items.neighbours import Neighbours
from sidera.language_model import LanguageModel
from sidera.recommender import Query, Recommender
from training.data import DomainData
from training.evaluation import query_of
from training.progress import track
from training.split import Target

MEMORY = ("followers", "alike", "popularity")

_AT_ONCE = 32
_PROPOSED = 50


@dataclass(frozen=True, eq=False)
class Known:
    """What the experts know of one target.

    Attributes:
        mass_GC: what each expert gives to each candidate. Shape: float64[G, C].
        target: the target's place among the candidates; None where it is none of them.
        share_G: of the mixture, for this history. Shape: float64[G].
        left_G: of a share of 1, what an expert leaves to the language model. Shape: float64[G].
    """

    mass_GC: npt.NDArray[np.float64]
    target: int | None
    share_G: npt.NDArray[np.float64]
    left_G: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Experts:
    """The experts of one domain.

    Attributes:
        names: ``universal``, ``domain`` where an adapter serves it, then those of the memory.
        of_model: the first so many are the language model's.
        known: of each target.
    """

    names: tuple[str, ...]
    of_model: int
    known: tuple[Known, ...]


def known_to_experts(
    recommender: Recommender, listed: Neighbours, domains: Sequence[DomainData], index: int, asked: Sequence[Target]
) -> Experts:
    """Ask every expert for the targets of one domain.

    Args:
        listed: the memory, with shares in the domain.
        index: of the domain.
    """
    domain, catalog = domains[index], recommender.catalog
    most = min(_PROPOSED, len(domain.item_ids))
    queries = [replace(query_of(target, domains), num_results=most, beam_width=most) for target in asked]
    log_weights_MN = _log_weights(recommender, queries)
    of_model = len(log_weights_MN)
    names = ("universal", "domain")[:of_model]
    ours = [_proposed(recommender, queries, float(gamma), f"{domain.name}: {name}") for gamma, name in enumerate(names)]
    number_I = np.array([catalog.find(domain.name, item_id) for item_id in domain.item_ids], dtype=np.int64)
    popular_S = number_I[np.argsort(-listed.popularity[number_I], kind="stable")[:most]]
    popular = popular_S, listed.popularity[popular_S].astype(np.float64)
    known = []
    for row, (target, query) in enumerate(zip(asked, queries, strict=True)):
        found = [catalog.find(*entry) for entry in query.history if entry[0] == domain.name]
        history = [number for number in found if number is not None]
        memory = listed.known_of(domain.name, history)
        by_expert = [*(answers[row] for answers in ours), memory.followers, memory.likes, popular]
        candidate_C = np.setdiff1d(np.concatenate([found_S for found_S, _ in by_expert]), history)
        mass_GC = np.stack([_masses(own, candidate_C) for own in by_expert])
        mass_GC[-1] = listed.popularity[candidate_C]
        shares = memory.shares
        rest = max(0.0, 1 - shares.transitions - shares.similar - shares.popularity)
        place = np.flatnonzero(candidate_C == number_I[target.item])
        known.append(
            Known(
                mass_GC,
                int(place[0]) if len(place) else None,
                np.array(
                    [*rest * np.exp(log_weights_MN[:, row]), shares.transitions, shares.similar, shares.popularity]
                ),
                np.array([*[0.0] * of_model, 1 - memory.followers[1].sum(), 1 - memory.likes[1].sum(), 0.0]),
            )
        )
    return Experts((*names, *MEMORY), of_model, tuple(known))


def _log_weights(recommender: Recommender, queries: Sequence[Query]) -> npt.NDArray[np.float64]:
    """The weight of each of the language model's distributions: float64[M, N], M of 1 without an adapter."""
    model = recommender.model
    domain = queries[0].domain if queries else ""
    if domain not in model.adapter_index:
        return np.zeros((1, len(queries)))
    log_weights_MN = np.empty((2, len(queries)))
    for begin in range(0, len(queries), _AT_ONCE):
        prompts = [recommender.prompt(query) for query in queries[begin : begin + _AT_ONCE]]
        lengths = [len(prompt) for prompt in prompts]
        tokens_BP = torch.full((len(prompts), max(lengths)), model.vocabulary.pad)
        for row, prompt in enumerate(prompts):
            tokens_BP[row, : lengths[row]] = torch.tensor(prompt)
        mixture = model.mixture([domain] * len(prompts))
        gammas = torch.full((len(prompts),), model.gammas[domain], dtype=torch.float64)
        found_MB = torch.stack([torch.log1p(-gammas), torch.log(gammas)])
        if mixture.router is not None:
            lengths_B = torch.tensor(lengths, device=model.device)
            hidden_MBD, _ = model.prefill(tokens_BP.to(model.device), lengths_B, None, 1)
            found_MB = mixture.log_weights(hidden_MBD).double().cpu()
        log_weights_MN[:, begin : begin + len(prompts)] = found_MB.numpy()
    return log_weights_MN


def _proposed(recommender: Recommender, queries: Sequence[Query], gamma: float, label: str) -> list[Found]:
    """What one distribution of the language model recommends alone, by number, in the order of the queries."""
    model = _with_gamma(recommender.model, gamma)
    alone = Recommender(model, recommender.catalog, recommender.max_history, recommender.beam_width)
    found: dict[int, Found] = {}
    by_length = sorted(range(len(queries)), key=lambda row: len(queries[row].history))
    with track(label, len(queries)) as advance:
        for begin in range(0, len(queries), _AT_ONCE):
            rows = by_length[begin : begin + _AT_ONCE]
            answers = alone.recommend([queries[row] for row in rows])
            for row, answer in zip(rows, answers, strict=True):
                numbers = [alone.catalog.find(queries[row].domain, item.item_id) for item in answer.items]
                found[row] = np.array(numbers, dtype=np.int64), np.exp([item.score for item in answer.items])
            advance(len(rows))
    return [found[row] for row in range(len(queries))]


def _with_gamma(model: LanguageModel, gamma: float) -> LanguageModel:
    """The same model with one distribution alone: universal at 0, the domain's at 1."""
    alone = copy(model)
    alone.gammas, alone.router = dict.fromkeys(model.gammas, gamma), None
    alone.keep_histories(0)
    return alone


def _masses(found: Found, candidate_C: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The masses of the candidates: float64[C]. Items of the history are no candidates."""
    mass_C = np.zeros(len(candidate_C))
    here_S = np.isin(found[0], candidate_C)
    mass_C[np.searchsorted(candidate_C, found[0][here_S])] = found[1][here_S]
    return mass_C
