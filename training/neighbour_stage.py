"""The stage of the neighbours: their lists, and the share of each in the mixture of every domain.

The shares are those that rank the validation targets best, beside the language model as it will serve. An unseen
domain has vectors and no events, and a language model that is sure of the wrong things: its share is a setting.

Shapes: I items of a domain, S listed items, C candidates of one target, G distributions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sidera.catalog import Catalog
from sidera.items.neighbours import Found, GrownLists, Neighbours, Reading, Shares, load_neighbours, save_neighbours
from sidera.language_model import LanguageModel
from sidera.recommender import Query, Recommendation, Recommender
from training.evaluation import query_of
from training.mixture_shares import Candidates, best_shares
from training.neighbour_lists import joined, popularity_of, similar_of, transitions_of
from training.progress import track
from training.run import Run
from training.stages import Stage, stage

_ANSWERED_AT_ONCE = 32
_PROPOSED = 50
"""Items that the language model and popularity each propose for a target; its mass of others is taken for 0."""

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
        reading=Reading(config.recent, config.decay, config.nearest, config.temperature, config.smoothing),
    )


def _weighed(run: Run, model: LanguageModel, catalog: Catalog, listed: Neighbours) -> Neighbours:
    """The same lists with the shares that rank the validation targets best."""
    recommender = run.recommender(model, catalog)
    shares = {
        domain.name: shares_in(run, recommender, listed, index)
        for index, domain in enumerate(run.dataset.domains)
        if run.validation_of(index)
    }
    unseen = Shares(similar=run.config.neighbours.unseen_share)
    return Neighbours(listed.transitions, listed.similar, listed.popularity, shares, unseen, listed.reading)


def shares_in(run: Run, recommender: Recommender, listed: Neighbours, index: int) -> Shares:
    """The shares that rank one domain's validation targets best.

    Args:
        recommender: the language model as it will serve, without neighbours.
        index: of a domain with validation targets.
    """
    domain, catalog = run.dataset.domains[index], recommender.catalog
    own = run.validation_of(index)
    most = min(_PROPOSED, len(domain.item_ids))
    queries = [replace(query_of(target, run.dataset.domains), num_results=most, beam_width=most) for target in own]
    item_ids = [domain.item_ids[target.item] for target in own]
    number_I = np.array([catalog.find(domain.name, item_id) for item_id in domain.item_ids], dtype=np.int64)
    popular_P = number_I[np.argsort(-listed.popularity[number_I], kind="stable")[:most]]
    candidates = []
    for query, item_id, answer in zip(queries, item_ids, _answers(recommender, queries, domain.name), strict=True):
        history = _own_numbers(catalog, query)
        target = catalog.find(domain.name, item_id)
        candidates.append(_candidates(listed, history, _ours(catalog, domain.name, answer), popular_P, target))
    followed, near, popular, _ = best_shares(candidates).tolist()
    return Shares(followed, near, popular)


def _answers(recommender: Recommender, queries: Sequence[Query], domain: str) -> list[Recommendation]:
    """What the language model recommends, in the order of the queries."""
    answers: list[Recommendation] = []
    with track(f"neighbours {domain}: validation targets", len(queries)) as advance:
        for begin in range(0, len(queries), _ANSWERED_AT_ONCE):
            answers += recommender.recommend(queries[begin : begin + _ANSWERED_AT_ONCE])
            advance(len(answers) - begin)
    return answers


def _ours(catalog: Catalog, domain: str, answer: Recommendation) -> Found:
    """What the language model recommends, by number."""
    numbers = [catalog.find(domain, item.item_id) for item in answer.items]
    return np.array(numbers, dtype=np.int64), np.exp([item.score for item in answer.items])


def _candidates(
    listed: Neighbours,
    history: Sequence[int],
    ours: Found,
    popular_P: npt.NDArray[np.int64],
    target: int | None,
) -> Candidates:
    """What may come back for one history: all that any distribution proposes, but for the history itself.

    What neighbours leave of their share goes to the language model, as where it is served.
    """
    followers, likes = listed.followers(history), listed.likes(history)
    lists: list[Found] = [followers, likes, (popular_P, np.asarray(listed.popularity[popular_P], np.float64)), ours]
    every_C = np.setdiff1d(np.concatenate([found_S for found_S, _ in lists]), history)
    mass_GC = np.zeros((len(lists), len(every_C)))
    mass_GC[2] = listed.popularity[every_C]
    for row in (0, 1, 3):
        found_S, mass_S = lists[row]
        here_S = np.isin(found_S, every_C)
        mass_GC[row, np.searchsorted(every_C, found_S[here_S])] = mass_S[here_S]
    for row in (0, 1):
        mass_GC[row] += (1 - lists[row][1].sum()) * mass_GC[3]
    place = np.flatnonzero(every_C == target)
    return Candidates(mass_GC, int(place[0]) if len(place) else None)


def _own_numbers(catalog: Catalog, query: Query) -> list[int]:
    found = [catalog.find(domain, item_id) for domain, item_id in query.history if domain == query.domain]
    return [number for number in found if number is not None]


def _sentence(shares: Shares) -> str:
    ours = 1 - shares.transitions - shares.similar - shares.popularity
    return (
        f"language model {ours:.2f}, followers {shares.transitions:.2f}, alike {shares.similar:.2f}, "
        f"popular {shares.popularity:.2f}"
    )
