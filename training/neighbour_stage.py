"""The stage of the neighbours: their lists, and the share of each in the mixture of every domain.

The shares are those that make the validation targets most likely, beside the language model as it will serve. An unseen
domain has vectors and no events, and a language model that is sure of the wrong things: its share is a setting.

Shapes: I items of a domain, X targets.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from sidera.catalog import Catalog
from sidera.item_scores import item_scores
from sidera.items.neighbours import Found, GrownLists, Neighbours, Reading, Shares, load_neighbours, save_neighbours
from sidera.language_model import LanguageModel
from sidera.recommender import Query, Recommender
from training.evaluation import query_of
from training.neighbour_lists import joined, mixture_shares, popularity_of, similar_of, transitions_of
from training.progress import track
from training.run import Run
from training.stages import Stage, stage

_SCORED_AT_ONCE = 64
_FILE = "neighbours.safetensors"


def neighbour_stage(
    run: Run, model: LanguageModel, catalog: Catalog, vectors: Mapping[str, npt.NDArray[np.float32]], upstream: Stage
) -> tuple[Path | None, Stage]:
    """Make the lists and weigh them; leaves ``neighbours.safetensors``. None where the config has them disabled.

    Args:
        model: the language model as it will serve.
        vectors: of each domain's items. Shape of each: float32[I, D].
    """
    config = run.config.neighbours
    with stage(run.work, "neighbours", {"upstream": upstream.digest, "config": asdict(config)}) as made:
        path = made.folder / _FILE
        if config.enabled and not made.done:
            listed = _listed(run, catalog, vectors)
            save_neighbours(_weighed(run, model, catalog, listed), path)
    if not config.enabled:
        return None, made
    shares = load_neighbours(path).shares
    run.say("neighbours: " + "; ".join(f"{name} {_sentence(own)}" for name, own in shares.items()))
    return path, made


def _listed(run: Run, catalog: Catalog, vectors: Mapping[str, npt.NDArray[np.float32]]) -> Neighbours:
    """The lists of all domains, without a share in anything."""
    config = run.config.neighbours
    transitions, similar, numbers = {}, {}, {}
    popularity = np.zeros(len(catalog), dtype=np.float32)
    for index, domain in enumerate(run.dataset.domains):
        name, count = domain.name, len(domain.item_ids)
        numbers[name] = np.array([catalog.find(name, item_id) for item_id in domain.item_ids], dtype=np.int64)
        transitions[name] = transitions_of(run.events, index, count, config)
        similar[name] = similar_of(vectors[name], config, name)
        popularity[numbers[name]] = popularity_of(run.events, index, count)
    return Neighbours(
        transitions=joined(transitions, numbers, len(catalog)),
        similar=GrownLists(joined(similar, numbers, len(catalog))),
        popularity=popularity,
        shares={},
        unseen=Shares(),
        reading=Reading(config.recent, config.decay, config.nearest, config.temperature),
    )


def _weighed(run: Run, model: LanguageModel, catalog: Catalog, listed: Neighbours) -> Neighbours:
    """The same lists with the shares that make the validation targets most likely."""
    recommender = run.recommender(model, catalog)
    shares = {
        domain.name: shares_in(run, recommender, listed, index)
        for index, domain in enumerate(run.dataset.domains)
        if run.validation_of(index)
    }
    unseen = Shares(similar=run.config.neighbours.unseen_share)
    return Neighbours(listed.transitions, listed.similar, listed.popularity, shares, unseen, listed.reading)


def shares_in(run: Run, recommender: Recommender, listed: Neighbours, index: int) -> Shares:
    """The shares that make one domain's validation targets most likely.

    Args:
        recommender: the language model as it will serve, without neighbours.
        index: of a domain with validation targets.
    """
    domain, catalog = run.dataset.domains[index], recommender.catalog
    own = run.validation_of(index)
    queries = [query_of(target, run.dataset.domains) for target in own]
    item_ids = [domain.item_ids[target.item] for target in own]
    ours_X = _likelihoods(recommender, queries, item_ids, domain.name)
    numbers = [int(catalog.find(domain.name, item_id) or 0) for item_id in item_ids]
    histories = [_own_numbers(catalog, query) for query in queries]
    followed_X = _masses(listed.followers, histories, numbers, ours_X)
    alike_X = _masses(listed.likes, histories, numbers, ours_X)
    popular_X = listed.popularity[numbers]
    followed, near, popular, _ = mixture_shares([followed_X, alike_X, popular_X, ours_X]).tolist()
    return Shares(followed, near, popular)


def _likelihoods(
    recommender: Recommender, queries: Sequence[Query], item_ids: Sequence[str], domain: str
) -> npt.NDArray[np.float64]:
    """P(target) under the language model's mixture. Shape: float64[X]."""
    model, found = recommender.model, []
    prompts = [recommender.prompt(query) for query in queries]
    leaves = [recommender.leaf(domain, item_id) for item_id in item_ids]
    with track(f"neighbours {domain}: validation targets", len(prompts)) as advance:
        for begin in range(0, len(prompts), _SCORED_AT_ONCE):
            rows = slice(begin, begin + _SCORED_AT_ONCE)
            leaves_B = torch.tensor(leaves[rows], device=model.device)
            mixture = model.mixture([domain] * len(leaves_B))
            found.append(item_scores(model, recommender.tables, prompts[rows], leaves_B, mixture).cpu())
            advance(len(leaves_B))
    likelihood_X: npt.NDArray[np.float64] = torch.cat(found).double().exp().numpy()
    return likelihood_X


def _own_numbers(catalog: Catalog, query: Query) -> list[int]:
    found = [catalog.find(domain, item_id) for domain, item_id in query.history if domain == query.domain]
    return [number for number in found if number is not None]


def _masses(
    read: Callable[[Sequence[int]], Found],
    histories: Sequence[Sequence[int]],
    numbers: Sequence[int],
    ours_X: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """The mass of each target under a distribution that reads histories. Shape: float64[X].

    Where it knows nothing of a history, the language model has its share, and so it has the language model's mass.
    """
    masses_X = ours_X.copy()
    for row, (history, number) in enumerate(zip(histories, numbers, strict=True)):
        found_S, mass_S = read(history)
        if len(found_S):
            masses_X[row] = mass_S[found_S == number].sum()
    return masses_X


def _sentence(shares: Shares) -> str:
    ours = 1 - shares.transitions - shares.similar - shares.popularity
    return (
        f"language model {ours:.2f}, followers {shares.transitions:.2f}, alike {shares.similar:.2f}, "
        f"popular {shares.popularity:.2f}"
    )
